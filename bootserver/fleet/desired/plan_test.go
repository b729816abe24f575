package desired

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ingot"
	"ingot/bootserver/fleet"
)

// described reports the keys of a schema without a description.
func described(t *testing.T, text []byte) {
	t.Helper()
	var walk func(path string, v any)
	keys := 0
	walk = func(path string, v any) {
		m, is := v.(map[string]any)
		if !is {
			return
		}
		if properties, has := m["properties"].(map[string]any); has {
			for k, p := range properties {
				keys++
				if d, _ := p.(map[string]any)["description"].(string); d == "" {
					t.Errorf("%s.%s has no description", path, k)
				}
				walk(path+"."+k, p)
			}
		}
		walk(path, m["items"])
	}
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	if walk("", v); keys < 30 {
		t.Errorf("the schema has %d keys", keys)
	}
}

// sim is a fleet in memory that does what plans say.
type sim struct {
	facts Facts
	last  Content
}

// images are those of the simulated store.
var images = []string{"node:1", "node:2", "db:1"}

func newSim() *sim {
	s := &sim{facts: Facts{Now: time.Unix(1000, 0).UTC(), By: fleet.Actor{Kind: "token", Name: "ci"},
		Images: map[string]Image{}, Known: images, Moving: map[ingot.MachineID]Moving{}, Back: map[string]Moving{}}}
	for i, name := range images {
		s.facts.Images[name] = Image{ImageRef: fleet.ImageRef{Image: ingot.Digest(fmt.Sprint("sha256:", i)), Name: name}}
	}
	return s
}

// carry does a part of a plan, or all of it.
func (s *sim) carry(p Plan, part func(i int) bool) {
	places := map[ingot.MachineID]int{}
	for i, m := range s.facts.Machines {
		places[m.ID] = i
	}
	for i, c := range p.Changed {
		if !part(i) {
			continue
		}
		at, known := places[c.Decision.Machine.ID]
		if !known {
			s.facts.Machines = append(s.facts.Machines, c.Decision.Machine)
		} else {
			s.facts.Machines[at] = c.Decision.Machine
		}
	}
	for _, f := range p.Forget {
		s.facts.Machines = slices.DeleteFunc(s.facts.Machines, func(m fleet.Machine) bool { return m.ID == f.ID })
	}
}

func (s *sim) start(p Plan) {
	for _, r := range p.Rollouts {
		for _, id := range r.Machines {
			s.facts.Moving[id] = Moving{"r1", r.Image.Image}
		}
	}
}

func all(int) bool { return true }

// apply applies files, and returns what was planned.
func (s *sim) apply(text string, o Options) (Plan, error) {
	p, faults := Parse([]File{{"f.yaml", []byte(text)}}).Plan(s.last, s.facts, o)
	if err := faults.Err(); err != nil {
		return p, err
	}
	s.carry(p, all)
	s.start(p)
	s.last = stored(p.Next).Done()
	return p, nil
}

// stored is a content after it was stored and read.
func stored(c Content) Content {
	b, err := c.Pack()
	if err == nil {
		c, err = Unpack(b)
	}
	if err != nil {
		panic(err)
	}
	return c
}

func (s *sim) machine(name string) fleet.Machine {
	for _, m := range s.facts.Machines {
		if m.Name == name {
			return m
		}
	}
	return fleet.Machine{}
}

func said(p Plan) string {
	var list []string
	for _, l := range p.Lines {
		list = append(list, fmt.Sprintf("%s %s %s: %s", l.Do, l.Kind, l.Name, strings.Join(l.What, "; ")))
	}
	for _, n := range p.Notes {
		list = append(list, "note: "+n)
	}
	return strings.Join(list, "\n")
}

const oneFile = `
machines:
  - {name: n1, macs: '52:54:00:00:01:01', labels: {rack: r1}}
  - {name: n2, macs: '52:54:00:00:01:02', state: pending}
  - {name: n3, macs: '52:54:00:00:01:03', image: db:1}
labels:
  - {machines: 'n[1-3]', set: {row: a}}
rules:
  - {mac: '52:54:*', approve: true}
assignments:
  - {to: rack=r1, image: node:1}
pins:
  - {machines: n3, why: special}
`

// TestApply: what a file says is made, once, in words that name each change.
func TestApply(t *testing.T) {
	s := newSim()
	p, err := s.apply(oneFile, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := `add rule the rule for mac 52:54:*: approves
add assignment rack=r1: image node:1
add machine n1: approved; card 52:54:00:00:01:01; label rack=r1; label row=a; image node:1
add machine n2: pending; card 52:54:00:00:01:02; label row=a
add machine n3: approved; card 52:54:00:00:01:03; label row=a; image db:1; kept out of rollouts`
	if got := said(p); got != want {
		t.Errorf("the plan is\n%s\nwant\n%s", got, want)
	}
	if m := s.machine("n1"); m.Assignment.Name != "node:1" || m.Labels["row"] != "a" || m.State != fleet.Approved {
		t.Errorf("n1 is %+v", m)
	}
	before := s.last
	if p, err = s.apply(oneFile, Options{}); err != nil || len(p.Lines)+len(p.Changed)+len(p.Notes) > 0 {
		t.Errorf("the second time: %s, %v", said(p), err)
	}
	if !before.Same(s.last) {
		t.Errorf("the second time something else is stored:\n%+v\nand\n%+v", before, s.last)
	}
	p, err = s.apply(strings.NewReplacer("rack: r1", "rack: r2", "to: rack=r1", "to: rack=r2", "node:1", "node:2",
		"special", "odd", "state: pending", "state: retired").Replace(oneFile), Options{})
	want = `add assignment rack=r2: image node:2
remove assignment rack=r1: its machines keep node:1
change machine n1: label rack=r2 set (was r1); assigned node:2: fleet file, rack=r2 (was node:1)
change machine n2: retired (was pending)
change machine n3: kept out of rollouts: odd`
	if got := said(p); err != nil || got != want {
		t.Errorf("the plan is\n%s, %v\nwant\n%s", got, err, want)
	}
}

// TestPrune: what files do not say any more stays, with a note, until --prune; and that takes nothing
// that the files' sections do not own, that an operator changed since, and no machine.
func TestPrune(t *testing.T) {
	s := newSim()
	if _, err := s.apply(oneFile, Options{}); err != nil {
		t.Fatal(err)
	}
	const less = `
machines: [{name: n1, macs: '52:54:00:00:01:01'}]
rules: []
`
	p, err := s.apply(less, Options{})
	if err != nil || len(p.Lines) > 0 {
		t.Errorf("without --prune: %s, %v", said(p), err)
	}
	for _, want := range []string{"not in these files any more, and left (--prune removes them): labels rack of n1",
		"not in these files any more, and left as they are: machines n2, n3",
		"not in these files any more, and left, after theirs (--prune removes it): the rule for mac 52:54:*"} {
		if !strings.Contains(said(p), "note: "+want) {
			t.Errorf("nothing says %q:\n%s", want, said(p))
		}
	}
	// An operator changes a label of the section labels, and sets one of his own.
	for i, m := range s.facts.Machines {
		m.Labels = maps.Clone(m.Labels)
		m.Labels["own"] = "x"
		if m.Name == "n2" {
			m.Labels["row"] = "b"
		}
		s.facts.Machines[i] = m
	}
	p, err = s.apply(less, Options{Prune: true})
	want := `remove rule the rule for mac 52:54:*: approves
change machine n1: label rack=r1 removed`
	if got := said(p); err != nil || got != want {
		t.Errorf("--prune with the sections machines and rules: %v\n%s\nwant\n%s", err, got, want)
	}
	p, err = s.apply("labels: []\npins: []\n", Options{Prune: true})
	want = `change machine n1: label row=a removed
change machine n3: label row=a removed; takes part in rollouts again`
	if got := said(p); err != nil || got != want {
		t.Errorf("--prune with the sections labels and pins: %v\n%s\nwant\n%s", err, got, want)
	}
	if len(s.facts.Machines) != 3 || s.machine("n2").Labels["row"] != "b" || s.machine("n1").Labels["own"] != "x" {
		t.Errorf("the machines are %+v", s.facts.Machines)
	}
}

// TestForget: machines are deleted only with --forget, and only those that files had.
func TestForget(t *testing.T) {
	s := newSim()
	if _, err := s.apply(oneFile, Options{}); err != nil {
		t.Fatal(err)
	}
	s.facts.Machines = append(s.facts.Machines, fleet.Machine{ID: "m-other", Name: "other", State: fleet.Approved})
	p, err := s.apply("machines: [{name: n1, macs: '52:54:00:00:01:01', labels: {rack: r1}}]\n",
		Options{Prune: true, Forget: true})
	want := `remove machine n2: deleted, with its boots
remove machine n3: deleted, with its boots`
	if got := said(p); err != nil || got != want || len(s.facts.Machines) != 2 || s.machine("other").ID == "" {
		t.Errorf("%v\n%s\nwant\n%s; left: %+v", err, got, want, s.facts.Machines)
	}
}

// many is a file with n machines in one rack and their assignment.
func many(n int, image, more string) string {
	var b strings.Builder
	b.WriteString("machines:\n")
	for i := range n {
		fmt.Fprintf(&b, "  - {name: n%03d, macs: '52:54:00:00:02:%02x', labels: {rack: r1}}\n", i, i)
	}
	fmt.Fprintf(&b, "assignments:\n  - {to: rack=r1, image: %s}\n%s", image, more)
	return b.String()
}

// TestManyMachines: machines without an image get their first one at once; more than ten that have another
// one get it by a rollout, which a second application does not start again, nor one that was aborted.
func TestManyMachines(t *testing.T) {
	s := newSim()
	p, err := s.apply(many(12, "node:1", "pins: [{machines: n011, why: x}]\n"), Options{})
	if err != nil || len(p.Rollouts) > 0 || s.machine("n000").Assignment.Name != "node:1" {
		t.Fatalf("the first image: %+v, %v", p.Rollouts, err)
	}
	two := many(12, "node:2", "pins: [{machines: n011, why: x}]\nrollout: {canary: 3, spread: rack}\n")
	p, err = s.apply(two, Options{})
	if err != nil || len(p.Rollouts) != 1 || len(p.Rollouts[0].Machines) != 11 {
		t.Fatalf("the second image: %+v, %v", p.Rollouts, err)
	}
	for _, want := range []string{"rollout assignment rack=r1: 11 machines get node:2 by a rollout: 3 canary, waves " +
		"10%,50%,100%, at most 10% unavailable of each rack", "note: pinned machines of rack=r1 keep their images: n011"} {
		if !strings.Contains(said(p), want) {
			t.Errorf("the plan does not say %q:\n%s", want, said(p))
		}
	}
	if p, err = s.apply(two, Options{}); err != nil || len(p.Lines) > 0 ||
		!strings.Contains(said(p), "rollout r1 brings node:2 to 11 machines") {
		t.Errorf("while the rollout is under way: %s, %v", said(p), err)
	}
	if _, err := s.apply(many(12, "db:1", ""), Options{}); err == nil ||
		!strings.Contains(err.Error(), "belongs to rollout r1, which has not ended; wait for it, or end it: ingot rollout "+
			"abort r1") {
		t.Errorf("another image meanwhile: %v", err)
	}
	s.facts.Moving, s.facts.Back = nil, map[string]Moving{"rack=r1": {"r1", s.facts.Images["node:2"].Image}}
	if p, err = s.apply(two, Options{}); err != nil || len(p.Rollouts) > 0 || !strings.Contains(said(p), "was aborted") {
		t.Errorf("after the rollout was aborted: %s, %v", said(p), err)
	}
	s.facts.Moving = map[ingot.MachineID]Moving{}
	if p, err = s.apply(two, Options{Retry: true}); err != nil || len(p.Rollouts) != 1 {
		t.Errorf("with --retry: %s, %v", said(p), err)
	}
	s = newSim()
	for _, image := range []string{"node:1", "node:2"} {
		if p, err = s.apply(many(12, image, "rollout: {above: 12}\n"), Options{}); err != nil || len(p.Rollouts) > 0 {
			t.Errorf("with a bound of 12 machines: %+v, %v", p.Rollouts, err)
		}
	}
}

// drawFile draws a file about eight machines.
func drawFile(r *rapid.T) string {
	var b strings.Builder
	some := func(what string) bool { return rapid.Bool().Draw(r, what) }
	word := func(what string, list ...string) string { return rapid.SampledFrom(list).Draw(r, what) }
	b.WriteString("machines:\n")
	for i := range 8 {
		if !some("listed") {
			continue
		}
		fmt.Fprintf(&b, "  - {name: n%d, macs: '52:54:00:00:01:%02x'", i, i)
		if some("state") {
			b.WriteString(", state: " + word("state", "approved", "pending", "retired"))
		}
		if some("labels") {
			fmt.Fprintf(&b, ", labels: {rack: %s, x: y}", word("rack", "r1", "r2"))
		}
		if some("image") {
			b.WriteString(", image: " + word("image", append(images, None)...))
		}
		b.WriteString("}\n")
	}
	if some("rules") {
		fmt.Fprintf(&b, "rules:\n  - {mac: '52:%s', approve: true}\n", word("rule", "*", "54:*"))
	}
	if some("assignments") {
		fmt.Fprintf(&b, "assignments:\n  - {to: rack=%s, image: %s}\n", word("to", "r1", "r2"), word("image", images...))
	}
	if some("policy") {
		fmt.Fprintf(&b, "rollout: {above: %d}\n", rapid.IntRange(0, 3).Draw(r, "above"))
	}
	if some("pins") {
		fmt.Fprintf(&b, "pins:\n  - {machines: x, why: %s}\n", word("why", "a", "b c"))
	}
	return b.String()
}

// disturb is what operators and time do between files.
func (s *sim) disturb(r *rapid.T) {
	for i, m := range s.facts.Machines {
		switch rapid.IntRange(0, 8).Draw(r, "disturbance") {
		case 0:
			m.Labels = map[string]string{"rack": rapid.SampledFrom([]string{"r1", "r2", "r3"}).Draw(r, "rack")}
		case 1:
			m.Labels = nil
		case 2:
			m.Assignment.ImageRef = s.facts.Images[rapid.SampledFrom(images).Draw(r, "image")].ImageRef
		case 3:
			m.Pin = &fleet.Mark{Why: "by hand: x"}
		case 4:
			m.Pin = nil
		case 5:
			m.State = rapid.SampledFrom([]fleet.State{fleet.Approved, fleet.Pending, fleet.Retired}).Draw(r, "state")
		case 6:
			m.Name = ""
		}
		s.facts.Machines[i] = m
	}
	if rapid.Bool().Draw(r, "rollouts end") {
		clear(s.facts.Moving)
	}
}

// TestLaws: for any files, fleets and operators between them: applying the same again changes nothing;
// what a fleet is exported as changes nothing; a plan that was interrupted anywhere is completed by what
// was stored, to the same fleet; and files with faults have no plan.
func TestLaws(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := newSim()
		for range rapid.IntRange(1, 4).Draw(r, "files") {
			text := drawFile(r)
			o := Options{Prune: rapid.Bool().Draw(r, "prune"), Forget: rapid.Bool().Draw(r, "forget")}
			p, faults := Parse([]File{{"f.yaml", []byte(text)}}).Plan(s.last, s.facts, o)
			if len(faults) == 0 {
				s.interrupted(r, p)
				again, faults := Parse([]File{{"f.yaml", []byte(text)}}).Plan(s.last, s.facts, o)
				if len(faults)+len(again.Lines)+len(again.Changed)+len(again.Forget) > 0 || !again.Next.Same(s.last) {
					r.Fatalf("applying this again changes something: %v\n%s\n%s", faults, said(again), text)
				}
			}
			s.disturb(r)
			s.exported(r)
		}
	})
}

// interrupted carries a part of a plan out, and then what remains by what was stored. The outcome is that
// of a plan that was carried out at once.
func (s *sim) interrupted(r *rapid.T, p Plan) {
	whole := &sim{facts: s.facts}
	whole.facts.Machines = slices.Clone(s.facts.Machines)
	whole.facts.Moving = maps.Clone(s.facts.Moving)
	whole.carry(p, all)
	whole.start(p)
	next := stored(p.Next)
	done := rapid.SliceOfN(rapid.Bool(), len(p.Changed), len(p.Changed)).Draw(r, "done before the crash")
	p.Forget = nil
	s.carry(p, func(i int) bool { return done[i] })
	rest, problems := next.Rest(s.facts)
	s.carry(rest, all)
	s.start(rest)
	byID := func(a, b fleet.Machine) int { return strings.Compare(string(a.ID), string(b.ID)) }
	slices.SortFunc(s.facts.Machines, byID)
	slices.SortFunc(whole.facts.Machines, byID)
	if len(problems) > 0 || !equal(s.facts.Machines, whole.facts.Machines) ||
		!maps.Equal(s.facts.Moving, whole.facts.Moving) {
		r.Fatalf("after a crash: %v\n%+v\nwant\n%+v", problems, s.facts.Machines, whole.facts.Machines)
	}
	if rest, _ := next.Rest(s.facts); len(rest.Changed)+len(rest.Forget)+len(rest.Rollouts) > 0 {
		r.Fatalf("there is always something left:\n%s", said(rest))
	}
	s.last = next.Done()
}

// exported checks that what the fleet is exported as changes nothing.
func (s *sim) exported(r *rapid.T) {
	text, err := Export(s.last, s.facts).YAML()
	if err != nil {
		r.Fatal(err)
	}
	p := Parse([]File{{"get.yaml", text}})
	plan, faults := p.Plan(s.last, s.facts, Options{})
	if len(faults)+len(plan.Lines)+len(plan.Changed) > 0 {
		r.Fatalf("what was exported changes something: %v\n%s\n%s", faults, said(plan), text)
	}
	s.remade(r, string(text))
}

// remade checks that what a fleet is exported as makes that fleet out of nothing.
func (s *sim) remade(r *rapid.T, text string) {
	fresh := newSim()
	fresh.last.Spec.Assignments = s.last.Spec.Assignments // labels that they name may be gone
	if _, err := fresh.apply(text, Options{}); err != nil {
		r.Fatalf("%v\n%s", err, text)
	}
	about := func(machines []fleet.Machine) (list []string) {
		for _, m := range machines {
			if m.State == fleet.Pending && m.Name == "" && m.Assignment.Image == "" {
				continue
			}
			why := "not pinned"
			if m.Pin != nil {
				why = "pinned: " + m.Pin.Why
			}
			list = append(list, fmt.Sprintf("%s %q %s %v %s", m.ID, m.Name, m.State, m.Labels, why))
		}
		slices.Sort(list)
		return list
	}
	if got, want := about(fresh.facts.Machines), about(s.facts.Machines); !slices.Equal(got, want) {
		r.Fatalf("what was exported makes\n%s\nwant\n%s\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"), text)
	}
}

// large is a file with n machines with every identifier, in racks of 40, and an assignment for each rack.
func large(n int) []byte {
	var b strings.Builder
	b.WriteString("machines:\n")
	x := uint64(88172645463325252)
	next := func() uint64 { x ^= x << 13; x ^= x >> 7; x ^= x << 17; return x }
	for i := range n {
		fmt.Fprintf(&b, "  - name: node%05d\n    macs: 02:%02x:%02x:%02x:%02x:%02x\n    uuid: %08x-%04x-4%03x-8%03x-%012x\n"+
			"    serial: S%010d\n    labels: {rack: r%d, role: compute}\n", i, byte(next()), byte(next()), byte(i>>16),
			byte(i>>8), byte(i), uint32(next()), uint16(next()), next()&0xfff, next()&0xfff,
			next()&0xffffffffffff, next()%1e10, i/40)
	}
	b.WriteString("assignments:\n")
	for i := range (n + 39) / 40 {
		fmt.Fprintf(&b, "  - {to: rack=r%d, image: node:1}\n", i)
	}
	return []byte(b.String())
}

// TestLarge: 10,000 machines with random identifiers fit into one record.
func TestLarge(t *testing.T) {
	s := newSim()
	p, err := s.apply(string(large(10_000)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.Next.Pack()
	if err != nil || len(p.Changed) != 10_000 {
		t.Errorf("%d machines change, %v", len(p.Changed), err)
	}
	t.Logf("the record has %d KiB", len(b)>>10)
}

// BenchmarkPlan reads a file with 10,000 machines and compares it with a fleet that is like that.
func BenchmarkPlan(b *testing.B) {
	s, text := newSim(), large(10_000)
	if _, err := s.apply(string(text), Options{}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		p, faults := Parse([]File{{"f.yaml", text}}).Plan(s.last, s.facts, Options{})
		if len(faults)+len(p.Lines) > 0 {
			b.Fatal(faults, said(p))
		}
	}
}
