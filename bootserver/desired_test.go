package bootserver

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/booter"
	"ingot/bootserver/catalog"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/desired"
	"ingot/bootserver/operator"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/image"
)

func fleetFile(text string) api.DesiredRequest {
	return api.DesiredRequest{Files: []api.DesiredFile{{Name: "fleet.yaml", Content: text}}}
}

func (h *house) apply(q api.DesiredRequest) api.DesiredPlan {
	h.t.Helper()
	p, err := h.api.ApplyDesired(h.t.Context(), q)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// everything is what a state remembers of machines, and of what happened.
func (h *house) everything() string {
	h.t.Helper()
	_, last, err := h.state.Changes(state.Query{Limit: 1})
	_, lastAction, err2 := h.state.Changes(state.Query{Limit: 1, Audit: true})
	if err := errors.Join(err, err2); err != nil {
		h.t.Fatal(err)
	}
	return fmt.Sprintf("%+v\n%+v\n%d %d", h.state.Machines(), h.state.Desired(), last, lastAction)
}

const rackFile = `
machines:
  - {name: n1, macs: '52:54:00:00:09:01', labels: {rack: r1}}
  - {name: n2, macs: '52:54:00:00:09:02', labels: {rack: r1}}
  - {name: n3, macs: '52:54:00:00:09:03', labels: {rack: r2}, image: lab:v2}
rules:
  - {mac: '52:54:00:00:0a:*', approve: true, labels: {kind: virtual}, image: lab:v1}
assignments:
  - {to: rack=r1, image: lab:v1}
pins:
  - {machines: n2, why: certified}
`

// TestApplyTwice: what files say is made, and made again it changes nothing. A broken file changes
// nothing at all. What the fleet is printed as changes nothing either.
func TestApplyTwice(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.put("v2")
	p := h.apply(fleetFile(rackFile))
	if len(p.Changes) != 5 || len(p.Problems) > 0 {
		t.Errorf("the changes are %+v, %v", p.Changes, p.Problems)
	}
	m, err := h.api.Machine(t.Context(), "n2")
	if err != nil || m.Assignment.Name != "lab:v1" || m.State != api.Approved || m.Pin == nil || m.Pin.Why != "certified" {
		t.Errorf("n2 is %+v, %v", m, err)
	}
	before := h.everything()
	if p := h.apply(fleetFile(rackFile)); len(p.Changes) > 0 || h.everything() != before {
		t.Errorf("the second time changes %+v, and\n%s\nbecomes\n%s", p.Changes, before, h.everything())
	}
	broken := strings.Replace(rackFile, "rack: r2", "rack: r3", 1) + "  - {machines: n9}\n"
	_, err = h.api.ApplyDesired(t.Context(), fleetFile(broken))
	if !isProblem(err, api.CodeInvalidFleet) || !strings.Contains(err.Error(), "fleet.yaml:12:16: pins: no machine is "+
		"named n9; write \"n1\", or add it to machines") || h.everything() != before {
		t.Errorf("a broken file: %v; the state is\n%s\nwant\n%s", err, h.everything(), before)
	}
	s, err := h.api.Desired(t.Context())
	if err != nil || s.Generation != 1 || s.Following {
		t.Fatalf("the fleet is %+v, %v", s, err)
	}
	d, err := h.api.DiffDesired(t.Context(), fleetFile(s.YAML))
	if err != nil || len(d.Changes) > 0 || h.everything() != before {
		t.Errorf("what the fleet is printed as changes %+v, %v:\n%s", d.Changes, err, s.YAML)
	}
	h.audited(t)
}

// audited checks what the audit log has of one application.
func (h *house) audited(t *testing.T) {
	t.Helper()
	actions, _, err := h.state.Changes(state.Query{Audit: true})
	count := map[fleet.Code]int{}
	for _, c := range actions {
		count[c.Code]++
		if c.Actor.Kind != "local" {
			t.Errorf("the audit log says that %q did %s", c.Actor, c.Code)
		}
	}
	if err != nil || count[fleet.ActionFleetApply] != 1 || count[fleet.ActionApply] != 3 {
		t.Errorf("the audit log has %v, %v", count, err)
	}
}

// TestChangedSincePlan: what another operator changed between a plan and its application is seen.
func TestChangedSincePlan(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.put("v2")
	h.apply(fleetFile(rackFile))
	q := fleetFile(strings.Replace(rackFile, "{rack: r2}", "{rack: r2, role: db}", 1))
	plan, err := h.api.DiffDesired(t.Context(), q)
	if err != nil || len(plan.Changes) != 1 {
		t.Fatalf("%+v, %v", plan, err)
	}
	for _, set := range []map[string]string{{"role": "web"}, {"own": "x"}} {
		if _, err := h.api.Label(t.Context(), "n3", api.LabelRequest{Set: set}); err != nil {
			t.Fatal(err)
		}
		q.Basis = plan.Basis
		if _, err := h.api.ApplyDesired(t.Context(), q); !isProblem(err, api.CodeChanged) {
			t.Errorf("after %v: %v; want %s", set, err, api.CodeChanged)
		}
	}
	q.Basis = ""
	if plan, err = h.api.DiffDesired(t.Context(), q); err != nil || len(plan.Changes) != 1 {
		t.Fatalf("%+v, %v", plan, err)
	}
	q.Basis = plan.Basis
	h.apply(q)
	if m, err := h.api.Machine(t.Context(), "n3"); err != nil || m.Labels["role"] != "db" || m.Labels["own"] != "x" {
		t.Errorf("the labels are %v, %v", m.Labels, err)
	}
}

// TestAppliedRules: rules of a file approve machines, after those of the configuration; a restart and a
// restore keep them, and their images stay in the store.
func TestAppliedRules(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.put("v2")
	h.SetPolicy(fleet.BootPolicy{Rules: []fleet.Rule{{MAC: "52:54:00:00:0a:01",
		Labels: map[string]string{"kind": "first"}}}})
	h.apply(fleetFile(rackFile))
	arrives := func(mac string) api.Machine {
		t.Helper()
		if _, err := h.Observe(client.Sighting{Client: client.Client{MAC: mac}}); err != nil {
			t.Fatal(err)
		}
		m, err := h.api.Machine(t.Context(), mac)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := arrives("52:54:00:00:0a:01"); m.State != api.Pending || m.Labels["kind"] != "first" {
		t.Errorf("a rule of the configuration comes second: %+v", m)
	}
	if m := arrives("52:54:00:00:0a:02"); m.State != api.Approved || m.Assignment.Name != "lab:v1" ||
		m.Labels["kind"] != "virtual" {
		t.Errorf("the rule of the file did not apply: %+v", m)
	}
	var backup bytes.Buffer
	if err := h.state.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	h.apply(func() api.DesiredRequest { q := fleetFile("rules: []\n"); q.Prune = true; return q }())
	if m := arrives("52:54:00:00:0a:03"); m.State != api.Pending {
		t.Errorf("after --prune the rule applies: %+v", m)
	}
	if _, err := h.server.operator().Restore(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	if m := arrives("52:54:00:00:0a:04"); m.State != api.Approved {
		t.Errorf("after a restore the rule does not apply: %+v", m)
	}
	if rules := operator.DesiredRules(h.state, h.log); len(rules) != 1 {
		t.Errorf("a server that starts has the rules %v", rules)
	}
}

// TestFollowsAfterCrash: a server that died after the record flipped, and before all machines followed,
// goes on when it is back; until then, nothing else is applied.
func TestFollowsAfterCrash(t *testing.T) {
	h := newHouse(t)
	v1 := h.put("v1")
	h.put("v2")
	h.fakes(60, v1)
	var b strings.Builder
	b.WriteString("labels:\n  - {machines: 'fake[000-059]', set: {row: a}}\n" +
		"assignments:\n  - {to: row=a, image: lab:v2}\nrollout: {above: 59}\n")
	h.crashed(fleetFile(b.String()))
	half := h.state.Machines()
	labelled := 0
	for _, m := range half {
		if m.Labels["row"] == "a" {
			labelled++
		}
	}
	if labelled == len(half) {
		t.Fatal("the crash came after everything")
	}
	h.restart()
	for range 3 { // a server's ticks
		h.server.advance(t.Context())
	}
	for _, m := range h.state.Machines() {
		if m.Labels["row"] != "a" {
			t.Fatalf("%s has the labels %v", m.Name, m.Labels)
		}
	}
	if list := h.server.operator().Rollouts(); len(list) != 1 || list[0].Machines != 60 || list[0].Image.Name != "lab:v2" {
		t.Errorf("the rollouts are %+v", list)
	}
	if r := h.state.Desired(); r.Following || len(r.Problems) > 0 {
		t.Errorf("the record says that machines follow: %v, %v", r.Following, r.Problems)
	}
	before := h.everything()
	if p := h.apply(fleetFile(b.String())); len(p.Changes) > 0 || h.everything() != before {
		t.Errorf("applying it again changes %+v", p.Changes)
	}
}

// crashed stores what applying a file stores first, and lets a part of the machines follow.
func (h *house) crashed(q api.DesiredRequest) {
	h.t.Helper()
	p := desired.Parse([]desired.File{{Name: "f", Content: []byte(q.Files[0].Content)}})
	im, err := h.catalog.Resolve(h.t.Context(), "lab:v2")
	if err != nil {
		h.t.Fatal(err)
	}
	f := desired.Facts{Machines: h.state.Machines(), Now: h.clock, Images: map[string]desired.Image{
		"lab:v2": {ImageRef: fleet.ImageRef{Image: im.Digest, Name: "lab:v2"}}}}
	plan, faults := p.Plan(desired.Content{}, f, desired.Options{})
	content, err := plan.Next.Pack()
	if err = errors.Join(faults.Err(), err); err != nil {
		h.t.Fatal(err)
	}
	h.update(func(tx state.Tx) {
		tx.PutDesired(desired.Record{Generation: 1, At: h.clock, Content: content, Following: true,
			By: fleet.Actor{Kind: "local", Name: "root"}})
	})
	h.update(func(tx state.Tx) {
		for _, c := range plan.Changed[:17] {
			tx.StoreMachine(c.Decision.Machine)
		}
	})
}

// TestAppliedRollout: an assignment that changes many machines goes out as a rollout by the policy of the
// file. While it is under way, and after it was aborted, applying the file again changes nothing.
func TestAppliedRollout(t *testing.T) {
	h := newHouse(t)
	v1 := h.put("v1")
	h.put("v2")
	h.fakes(24, v1)
	const text = "assignments:\n  - {to: all, image: lab:v2, rollout: {canary: 2, waves: [50%, 100%], bake: 1m, " +
		"how: auto, drain: required}}\n"
	dry := fleetFile(text)
	dry.DryRun = true
	if p := h.apply(dry); len(p.Changes) != 2 || p.Changes[1].Do != "rollout" ||
		!strings.Contains(strings.Join(p.Changes[1].What, ""), "24 machines get lab:v2 by a rollout: 2 canary, waves 50%,") {
		t.Errorf("the plan is %+v", p.Changes)
	}
	p := h.apply(fleetFile(text))
	if len(p.Rollouts) != 1 {
		t.Fatalf("the application is %+v", p)
	}
	h.pass(time.Second)
	r := h.rollout(p.Rollouts[0])
	if r.State != "canary" || *r.Policy.Canary != 2 || r.Policy.Bake != time.Minute ||
		r.Policy.Drain != ingot.DrainRequired || r.Policy.How != "auto" || !strings.HasPrefix(r.By, "local ") {
		t.Errorf("the rollout is %+v", r)
	}
	again := func(when string) {
		t.Helper()
		before := h.everything()
		if p := h.apply(fleetFile(text)); len(p.Changes) > 0 || len(p.Notes) != 1 || h.everything() != before {
			t.Errorf("%s, applying it again changes %+v, with the notes %q", when, p.Changes, p.Notes)
		}
	}
	again("while it is under way")
	if _, err := h.api.ChangeRollout(t.Context(), r.ID, "abort", ""); err != nil {
		t.Fatal(err)
	}
	h.pass(time.Second)
	h.pass(time.Second)
	again("after it was aborted")
	q := fleetFile(text)
	q.Retry = true
	if p := h.apply(q); len(p.Rollouts) != 1 {
		t.Errorf("with retry: %+v", p)
	}
}

// TestPrintedDuringRollout: what a fleet is printed as in the middle of a rollout changes nothing, nor does
// it tie machines to the images that they had.
func TestPrintedDuringRollout(t *testing.T) {
	h := newHouse(t)
	v1 := h.put("v1")
	h.put("v2")
	h.fakes(24, v1)
	h.apply(fleetFile("assignments:\n  - {to: all, image: lab:v2}\n"))
	h.pass(time.Second)
	s, err := h.api.Desired(t.Context())
	if err != nil || strings.Contains(s.YAML, "lab:v1") {
		t.Errorf("%v\n%s", err, s.YAML)
	}
	if d, err := h.api.DiffDesired(t.Context(), fleetFile(s.YAML)); err != nil || len(d.Changes) > 0 {
		t.Errorf("%+v, %v", d.Changes, err)
	}
}

// BenchmarkApply applies a file with 10,000 machines: all are new, then a label of each changes, then
// nothing does. After that the fleet is printed as a file.
//
//	go test ./bootserver -run '^$' -bench Apply -benchtime 1x
func BenchmarkApply(b *testing.B) {
	const machines = 10_000
	root := b.TempDir()
	images, err := image.Open(b.Context(), root)
	if err != nil {
		b.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		b.Fatal(err)
	}
	putSmall(b, images, keys, "v1")
	file := func(role string) api.DesiredRequest {
		var text strings.Builder
		text.WriteString("machines:\n")
		for i := range machines {
			fmt.Fprintf(&text, "  - {name: node%05d, macs: '02:00:00:%02x:%02x:%02x', serial: S%09d, "+
				"labels: {rack: r%d, role: %s}}\n", i, i>>16, i>>8&255, i&255, i*7919, i/40, role)
		}
		return fleetFile(text.String() + "assignments:\n  - {to: all, image: lab:v1}\n")
	}
	for b.Loop() {
		s, err := bolt.Open(b.Context(), filepath.Join(b.TempDir(), state.Folder))
		if err != nil {
			b.Fatal(err)
		}
		c := catalog.New(images)
		boot := booter.New(booter.Config{State: s, Catalog: c, Keys: signerOf(b, images), Now: time.Now})
		o := newServer(images, c, s, boot, time.Now, quiet).operator()
		for _, step := range []struct {
			metric, role string
			changes      int
		}{{"new-ms", "db", machines + 1}, {"changed-ms", "web", machines}, {"same-ms", "web", 0}} {
			start := time.Now()
			p, err := o.ApplyDesired(b.Context(), file(step.role))
			if err != nil || len(p.Changes) != step.changes || len(p.Problems) > 0 {
				b.Fatalf("%s: %d changes, %v, %v", step.metric, len(p.Changes), p.Problems, err)
			}
			b.ReportMetric(float64(time.Since(start).Milliseconds()), step.metric)
		}
		start := time.Now()
		if _, err := o.Desired(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "get-ms")
		b.ReportMetric(float64(len(s.Desired().Content))/(1<<10), "record-KiB")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op") // the metrics above are what is measured
}
