package web

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
)

func TestNatural(t *testing.T) {
	names := []string{"node10", "node2", "node", "a1b10", "a1b9", "node2a", "node02"}
	slices.SortFunc(names, natural)
	if got := strings.Join(names, " "); got != "a1b9 a1b10 node node2 node02 node2a node10" {
		t.Errorf("sorted: %s", got)
	}
}

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
		return statusOf(m, &b, now)
	}
	for _, c := range []struct {
		name string
		got  status
		want state
		fact string
	}{
		{"never booted", statusOf(m, nil, now), off, "not booted yet"},
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

func TestPackagesCompared(t *testing.T) {
	changes, same := compare(
		[]api.Package{{Name: "a", Version: "1"}, {Name: "b", Version: "1"}, {Name: "c", Version: "1"}},
		[]api.Package{{Name: "b", Version: "2"}, {Name: "c", Version: "1"}, {Name: "d", Version: "1"}})
	if got := fmt.Sprint(changes, same); got != "[{removed − a 1 } {added + d  1} {changed ~ b 1 2}] 1" {
		t.Errorf("compare = %s", got)
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
