package web

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
)

func TestLabelChange(t *testing.T) {
	q, err := labelChange("rack=r1, role= a- \n b=x")
	if err != nil || fmt.Sprint(q.Set, q.Remove) != "map[b:x rack:r1 role:] [a]" {
		t.Errorf("labelChange = %v, %v", q, err)
	}
	for _, bad := range []string{"rack", "-", "a=b c"} {
		if _, err := labelChange(bad); err == nil {
			t.Errorf("labelChange(%q) = nil; want an error", bad)
		}
	}
}

func TestStatus(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	image := api.ImageRef{Image: ingot.DigestOf([]byte("1")), Name: "node:1"}
	other := api.ImageRef{Image: ingot.DigestOf([]byte("2")), Name: "node:2"}
	m := api.Machine{ID: "m-1", State: api.Approved, LastSeen: now.Add(-time.Minute)}
	m.Assignment.ImageRef = image
	good := api.Boot{Image: image, Outcome: ingot.OutcomeHealthy, Ended: now.Add(-time.Hour)}
	with := func(change func(m *api.Machine, b *api.Boot)) status {
		m, b := m, good
		change(&m, &b)
		return statusOf(&m, &b, now)
	}
	for _, c := range []struct {
		name string
		got  status
		want state
		fact string
	}{
		{"never booted", statusOf(&m, nil, now), off, "not booted yet"},
		{"healthy", with(func(*api.Machine, *api.Boot) {}), healthy, "node:1"},
		{"another image is assigned", with(func(m *api.Machine, _ *api.Boot) { m.Assignment.ImageRef = other }), outdated,
			"node:1"},
		{"one boot of another image", with(func(_ *api.Machine, b *api.Boot) {
			b.Image, b.Once = other, &api.Once{}
		}), healthy, "node:2"},
		{"not heard from", with(func(m *api.Machine, _ *api.Boot) { m.LastSeen = now.Add(-6 * time.Minute) }), silent,
			"6\u00a0min"},
		{"shut down", with(func(m *api.Machine, b *api.Boot) {
			m.LastSeen, b.Auth.Down = now.Add(-3*time.Hour), true
		}), off, "3\u00a0h"},
		{"under way", with(func(_ *api.Machine, b *api.Boot) {
			b.Outcome, b.Events = "", []api.Event{{Event: ingot.Event{Stage: ingot.StageTicket}}}
		}), booting, "root"},
		{"failed", with(func(_ *api.Machine, b *api.Boot) {
			b.Outcome = ingot.OutcomeFailed
			b.Events = []api.Event{{Event: ingot.Event{Stage: ingot.StageVolumes, Error: "x"}}}
		}), failed, "at volumes"},
		{"silent", with(func(_ *api.Machine, b *api.Boot) { b.Outcome = ingot.OutcomeSilent }), silent, "1\u00a0h"},
		{"held", with(func(m *api.Machine, _ *api.Boot) { m.Setback = &api.Setback{At: now.Add(-7 * time.Hour)} }), held,
			"7\u00a0h"},
		{"fell back", with(func(m *api.Machine, b *api.Boot) {
			m.Setback, m.Assignment.ImageRef = &api.Setback{To: image}, other
		}), outdated, "node:1"},
		{"pending", with(func(m *api.Machine, _ *api.Boot) { m.State = api.Pending }), pending, ""},
		{"a question", with(func(m *api.Machine, _ *api.Boot) { m.Ask = &api.Question{} }), question, "a question"},
	} {
		if c.got.State != c.want || c.fact != "" && c.got.Fact != c.fact {
			t.Errorf("%s: %s, %q; want %s, %q", c.name, c.got.State, c.got.Fact, c.want, c.fact)
		}
	}
}

// TestTimeline: the stages of a boot beside those of the usual one.
func TestTimeline(t *testing.T) {
	start := time.Unix(1e9, 0)
	boot := func(id string, outcome ingot.Outcome, scale time.Duration, stages ...ingot.Stage) api.Boot {
		b := api.Boot{ID: ingot.BootID(id), Started: start, Outcome: outcome}
		for i, s := range stages {
			b.Events = append(b.Events, api.Event{Event: ingot.Event{Stage: s}, At: start.Add(time.Duration(i+1) * scale)})
		}
		b.Ended = start.Add(time.Duration(len(stages)) * scale)
		return b
	}
	list := []api.Boot{boot("1", ingot.OutcomeHealthy, time.Second, ingot.Stages...),
		boot("2", ingot.OutcomeHealthy, 2*time.Second, ingot.Stages...),
		boot("3", ingot.OutcomeHealthy, 3*time.Second, ingot.Stages...)}
	broken := boot("4", ingot.OutcomeFailed, 2*time.Second, ingot.Stages[:8]...)
	broken.Events = append(broken.Events, api.Event{Event: ingot.Event{Stage: ingot.StageVolumes, Error: "no disk"},
		At: start.Add(30 * time.Second)})
	broken.Ended = start.Add(30 * time.Second)
	usual, n := usualOf(append(list, broken), broken.ID)
	if n != 3 || usual[ingot.StageRoot] != 2*time.Second {
		t.Fatalf("usual = %v of %d; want 2 s of 3", usual, n)
	}
	d := bootData{Boot: &broken, Took: 30 * time.Second}
	d.timeline(usual, broken.Ended)
	var states []string
	for _, g := range d.Groups {
		for _, s := range g.Stages {
			states = append(states, fmt.Sprintf("%s %s/%s reached=%t failed=%t", s.Stage, s.Took, s.Usual, s.Reached, s.Failed))
		}
	}
	if got := strings.Join(states, "\n"); !strings.Contains(got, "root 2.0/2.0 reached=true failed=false") ||
		!strings.Contains(got, "volumes 14.0/2.0 reached=false failed=true") ||
		!strings.Contains(got, "switch –/2.0 reached=false failed=false") {
		t.Errorf("the timeline is\n%s", got)
	}
	if d.Usual != 24*time.Second || d.Ticks[5].Text != "25" {
		t.Errorf("usual %s, ticks %v", d.Usual, d.Ticks)
	}
}

func TestLines(t *testing.T) {
	lines := linesOf("[    1.500000] Linux\nplain [x]\n[  2.0] Kernel panic - not syncing\n\n")
	if len(lines) != 3 || lines[0].Time != "1.50" || lines[0].Text != "Linux" || lines[1].Time != "" ||
		lines[1].Text != "plain [x]" || !lines[2].Bad || lines[0].Bad {
		t.Errorf("lines = %+v", lines)
	}
}

// TestStylesAreLocal: no rule asks what the whole page contains. With such a rule, a browser takes 150 ms and more to
// replace one of 1,000 cells, instead of one.
func TestStylesAreLocal(t *testing.T) {
	for _, name := range []string{"style.css", "more.css", "tokens.css"} {
		text, err := files.ReadFile("static/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if found := regexp.MustCompile(`(html|body|main|:root|\*)[^,{}]*:has\([^,{]*`).FindString(string(text)); found != "" {
			t.Errorf("%s has %s", name, found)
		}
	}
}

// TestCellsHaveKeys: cells that look different have different keys, in both templates, so that an open page gets the
// one that changed.
func TestCellsHaveKeys(t *testing.T) {
	m := api.Machine{ID: "m-1", Name: "node1"}
	base := status{Machine: &m, State: booting, Fact: "root", Done: .5}
	list := map[string]status{"base": base}
	other := base
	other.Machine = &api.Machine{ID: "m-1", Name: "node<2>"}
	list["another name"] = other
	for name, change := range map[string]func(s *status){"state": func(s *status) { s.State = failed },
		"fact": func(s *status) { s.Fact = "volumes" }, "progress": func(s *status) { s.Done = .6 },
		"rollout": func(s *status) { s.Moved = "r1" }, "another rollout": func(s *status) { s.Moved = "r2" }} {
		other := base
		change(&other)
		list[name] = other
	}
	for _, template := range []string{"fleet-cell", "fleet-mark"} {
		for a, x := range list {
			for b, y := range list {
				one, err := execute(template, x)
				another, err2 := execute(template, y)
				if err != nil || err2 != nil {
					t.Fatal(err, err2)
				}
				if string(one) != string(another) && x.key(template) == y.key(template) {
					t.Errorf("%s: %s and %s have one key, and are\n%s\n%s", template, a, b, one, another)
				}
			}
		}
	}
	if got, _ := execute("fleet-cell", list["another name"]); !strings.Contains(string(got), "<b>node&lt;2&gt;</b>") {
		t.Errorf("the cell of node<2> is %s", got)
	}
	for template, sign := range map[string]string{"fleet-cell": `aria-label="moved by rollout r1"`,
		"fleet-mark": ` data-r>`} {
		moved, _ := execute(template, list["rollout"])
		still, _ := execute(template, base)
		if !strings.Contains(string(moved), sign) || strings.Contains(string(still), sign) {
			t.Errorf("%s of a machine that a rollout moved is %s, and of another %s", template, moved, still)
		}
	}
	r := rack{ID: "r", Name: "r1", Up: 1, All: 2, Counts: []count{{healthy, 1}, {off, 1}}}
	failing := r
	failing.Counts = []count{{failed, 1}, {off, 1}}
	if r.key("fleet-group") == failing.key("fleet-group") || r.key("fleet-group") != r.key("fleet-group") {
		t.Error("the key of a group does not follow its counts")
	}
}

// TestConsoleHasStages: what the server saw comes before what the kernel says, each stage begins where the one
// before it ended, and all times are since the first packet.
func TestConsoleHasStages(t *testing.T) {
	start := time.Date(2026, 12, 1, 10, 0, 0, 0, time.UTC)
	b := api.Boot{Started: start}
	add := func(s ingot.Stage, at, uptime float64, bytes int64, problem string) {
		second := float64(time.Second)
		b.Events = append(b.Events, api.Event{At: start.Add(time.Duration(at * second)), Event: ingot.Event{Stage: s,
			Uptime: time.Duration(uptime * second), Bytes: bytes, Error: problem}})
	}
	add(ingot.StageDHCP, 1, 0, 0, "")
	add(ingot.StageLoader, 2, 0, 1<<20, "")
	add(ingot.StageInitramfs, 4, 0, 0, "")
	text := "[    0.500000] Linux\nno time\n[    3.250000] network eth0\n[    4.000000] ticket\n"
	if lines, whole := withStages(b, linesOf(text)); whole || len(lines) != 4 || lines[0].Time != "0.50" {
		t.Errorf("without an uptime the console is %v, %t; want it as it is", lines, whole)
	}
	add(ingot.StageInit, 8.2, 3.5, 0, "") // was on its way for 0.2 s
	add(ingot.StageTicket, 8.7, 4.2, 0, "")
	add(ingot.StageRoot, 9, 4.5, 0, "the root is damaged")
	b.Outcome = ingot.OutcomeFailed
	lines, whole := withStages(b, linesOf(text))
	got := ""
	for _, l := range lines {
		got += strings.TrimSpace(l.Stage+" "+l.Time+" "+l.Text) + "\n"
	}
	const want = "dhcp  DHCP\n1.00 server: DHCP\nloader  Loader\n2.00 server: loader, 1.0\u00a0MiB\n" +
		"initramfs  Initramfs\n4.00 server: initramfs\ninit  Init\n5.00 Linux\nno time\n7.75 network eth0\n" +
		"ticket  Ticket\n8.50 ticket\nroot  Root\n"
	if got != want || !whole {
		t.Errorf("the console is\n%s; want\n%s", got, want)
	}
	if lines, whole := withStages(b, nil); !whole || len(lines) != 9 {
		t.Errorf("a silent machine's console is %v, %t; want what the server saw", lines, whole)
	}
}

func TestPackagesCompared(t *testing.T) {
	from := api.Contents{Packages: []api.Package{{Name: "a", Version: "1", Size: 5 << 10}, {Name: "b", Version: "1"},
		{Name: "c", Version: "1", Size: 7}, {Name: "e", Version: "1", Size: 9}}, Other: 100}
	to := api.Contents{Packages: []api.Package{{Name: "b", Version: "2", Size: 2 << 10},
		{Name: "c", Version: "1", Size: 7},
		{Name: "d", Version: "1", Size: 1 << 10}, {Name: "e", Version: "1", Size: 4 << 10}}, Other: 100}
	changes, same := compare(from, to)
	if got := fmt.Sprint(changes, same); got != "[{removed − a 1  0} {added + d  1 0} {changed ~ b 1 2 0}] 2" {
		t.Errorf("compare without sizes = %s", got)
	}
	from.Measured, to.Measured = true, true
	changes, same = compare(from, to)
	if got := fmt.Sprint(changes, same); got != "[{removed − a 1  -5120} {added + d  1 1024} {changed ~ e 1 1 4087} "+
		"{changed ~ b 1 2 2048}] 1" {
		t.Errorf("compare = %s", got)
	}
	want := "Unpacked size: +2.0" + format.NBSP + "KiB. e grew most, by 4.0" + format.NBSP + "KiB."
	if got := grown(from, to, changes); got != want {
		t.Errorf("grown = %q; want %q", got, want)
	}
}

// TestContentsDrawn: what is small is drawn together, and nothing is lost.
func TestContentsDrawn(t *testing.T) {
	d := imagesData{Contents: api.Contents{Measured: true, Other: 30 << 20}}
	for i := range 40 {
		d.Contents.Packages = append(d.Contents.Packages, api.Package{Name: fmt.Sprint("p", i), Size: int64(i) << 20})
	}
	d.draw()
	if len(d.Parts) != mostTiles+2 || len(d.Wide.Tiles) != len(d.Parts) || d.Parts[0].Name != "p39" {
		t.Fatalf("%d rows, %d tiles, the first %v; want %d", len(d.Parts), len(d.Wide.Tiles), d.Parts[0], mostTiles+2)
	}
	var sum int64
	for _, tile := range d.Narrow.Tiles {
		sum += tile.Size
	}
	if sum != d.Total || d.Total != 810<<20 {
		t.Errorf("the tiles are %d bytes in all; want %d", sum, d.Total)
	}
	if r := d.Parts[mostTiles]; r.Name != "25"+format.NBSP+"others" || !r.Rest {
		t.Errorf("the rest is %v; want 25 others", r)
	}
}

// TestScriptIsSmall: all script together, and the pages name no other host.
func TestScriptIsSmall(t *testing.T) {
	script := 0
	foreign := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9.-]+\.[a-z]{2,}`)
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := files.ReadFile(name)
		if strings.HasSuffix(name, ".js") {
			script += len(text)
		}
		if found := foreign.FindString(string(text)); found != "" && !strings.Contains(found, "www.w3.org") {
			t.Errorf("%s names %s", name, found)
		}
		return err
	})
	if err != nil || script == 0 || script > 20<<10 {
		t.Errorf("%d bytes of script, %v; want at most 20 KiB, before compression", script, err)
	}
}
