package rollout

import (
	"fmt"
	"slices"
	"time"

	"ingot"
	"ingot/internal/count"
)

// Step is what changes next. All of it is stored in one transaction, if the rollout and the machines
// that are moved are still as they were.
type Step struct {
	Rollout Rollout  // with the next generation, if anything changed
	Members []Member // those that changed
	Moves   []Move
	Actions []Action
	More    bool // there is more to do at once: a transaction is bounded
}

// Empty reports whether nothing changes.
func (s Step) Empty() bool {
	return len(s.Members) == 0 && len(s.Moves) == 0 && len(s.Actions) == 0 && s.Rollout.Generation == 0
}

// Move is the assignment of an image to a machine.
type Move struct {
	Machine ingot.MachineID
	To      Image
	// what the machine must be assigned, and since when; else an operator decided in the meantime
	Assigned Image
	Since    time.Time
	Back     bool // what it had before the rollout
}

// MaxStep limits the members of a Step: a transaction reads and writes at most state.MaxRecords.
const MaxStep = 40

// Next returns what changes next.
func Next(r Rollout, members []Member, f Fleet, now time.Time) Step {
	return standard.next(r, members, f, now)
}

// rules are the parts of Next that tests replace by faulty ones, to see whether that is found.
type rules struct {
	room   func(limit, unavailable int) int // how many more machines may become unavailable
	domain func(Member) string
	class  func(Boot) Class
	stays  func(State) bool // only a person moves the rollout on
	goesOn func(State) bool // machines may reboot because of it
}

var standard = rules{
	room:   func(limit, unavailable int) int { return limit - unavailable },
	domain: func(m Member) string { return m.Domain },
	class:  Classify,
	stays:  State.Stopped,
	goesOn: func(s State) bool { return s == Canary || s == Wave },
}

// decider computes one Step.
type decider struct {
	rules
	r       Rollout
	members []Member // a copy, sorted by place
	changed []bool
	f       Fleet
	now     time.Time
	n       int // members that changed
	moves   []Move
	actions []Action
	touched bool // the rollout itself changed
}

func (ru rules) next(r Rollout, members []Member, f Fleet, now time.Time) Step {
	if r.State.Ended() || r.State == Preparing {
		return Step{}
	}
	d := &decider{rules: ru, r: r, members: slices.Clone(members), f: f, now: now}
	slices.SortFunc(d.members, byPlace)
	d.changed = make([]bool, len(d.members))
	d.observe()
	if d.n < MaxStep { // else the rest is observed first
		d.act()
	}
	return d.step()
}

func (d *decider) step() Step {
	if d.n == 0 && !d.touched {
		return Step{}
	}
	s := Step{Rollout: d.r, Moves: d.moves, Actions: d.actions, More: d.n >= MaxStep || len(d.actions) == MaxActions}
	s.Rollout.Generation++
	if d.r.State.Ended() {
		s.Rollout.Count = Counts(EndedStandings(d.r, d.members))
	}
	for i, is := range d.changed {
		if is {
			s.Members = append(s.Members, d.members[i])
		}
	}
	return s
}

// change notes that a member changed.
func (d *decider) change(i int) *Member {
	if !d.changed[i] {
		d.changed[i] = true
		d.n++
	}
	return &d.members[i]
}

func (d *decider) set(r Rollout) { d.r, d.touched = r, true }

// act judges, goes on, moves machines, and orders them to reboot.
func (d *decider) act() {
	if d.withdraw() { // before anything else: the next step goes on
		return
	}
	if d.r.State == Aborting {
		d.goBack()
		return
	}
	if d.stays(d.r.State) {
		return
	}
	if d.judge(); d.r.State.Stopped() {
		return
	}
	for d.advance() {
		if d.r.State.Ended() || d.r.State.Stopped() {
			return
		}
	}
	if d.r.State == Canary || d.r.State == Wave {
		d.move()
		d.order()
	}
}

// judge stops the rollout if there is a reason to.
func (d *decider) judge() {
	if d.f.Ledger != d.r.Ledger {
		r := d.r.stop(Paused, Stop{Reason: Restored, Text: "paused: the state was restored from a backup, and what " +
			"happened since is not known"}, d.now)
		r.Ledger = d.f.Ledger
		d.set(r)
		return
	}
	if why := d.f.Refused[d.r.Image.Image]; why != "" {
		d.set(d.r.stop(Paused, Stop{Reason: ImageMissing,
			Text: fmt.Sprintf("paused: %s cannot be served: %s", d.r.Image.Name, why)}, d.now))
		return
	}
	if stop, is := d.canaryGivenUp(); is {
		d.set(d.r.stop(Halted, stop, d.now))
		return
	}
	if stop, is := d.failing(); is {
		d.set(d.r.stop(Halted, stop, d.now))
		return
	}
	if stop, is := d.unreadable(); is {
		d.set(d.r.stop(Paused, stop, d.now))
		return
	}
	if stop, is := d.trouble(); is {
		d.set(d.r.stop(Paused, stop, d.now))
		return
	}
	if stop, is := d.stuck(); is {
		d.set(d.r.stop(Paused, stop, d.now))
	}
}

// unreadable finds that nothing can be found out of what the rollout did, or of when machines may be
// moved. One machine of which nothing is known counts as not healthy; others go on.
func (d *decider) unreadable() (Stop, bool) {
	if why := d.f.Unreadable; why != "" {
		return Stop{Reason: Unreadable, Text: "paused: " + why}, true
	}
	var list []Evidence
	for i := range d.members {
		m := &d.members[i]
		now, known := d.f.Machines[m.Machine]
		switch {
		case !known || !m.touched() || m.GivenUp || !now.counts(m):
			continue
		case now.Unreadable == "":
			return Stop{}, false
		}
		list = append(list, Evidence{Machine: m.Machine, Name: m.Name, Reason: now.Unreadable})
	}
	if len(list) == 0 {
		return Stop{}, false
	}
	return Stop{Reason: Unreadable, Evidence: list, Text: "paused: what the machines that were moved did cannot be " +
		"read; " + named(list)}, true
}

// canaryGivenUp finds canaries that were given up since a person last resumed the rollout.
func (d *decider) canaryGivenUp() (Stop, bool) {
	var list []Evidence
	for i := range d.members {
		if m := &d.members[i]; m.Wave == 0 && m.GivenUp && m.GaveUp > d.r.Seen && m.touched() {
			list = append(list, evidenceOf(m, Bad))
		}
	}
	if len(list) == 0 {
		return Stop{}, false
	}
	first := list[0]
	return Stop{Reason: CanaryGivenUp, Evidence: list, Text: fmt.Sprintf("halted in the canary: %s failed with %s until "+
		"it was given up: %s", first.Name, d.r.Image.Name, first.Reason)}, true
}

// failing applies the test. Its text names the machines whose boots were counted; what failed in the same step
// after the verdict is evidence as well, and comes last.
func (d *decider) failing() (Stop, bool) {
	points := Curve(d.r, d.members)
	if n := len(points); n == 0 || points[n-1].Verdict != Bad {
		return Stop{}, false
	}
	bad, counted := 0, map[ingot.MachineID]bool{}
	for _, p := range points {
		if p.Bad {
			bad++
			counted[p.Machine] = true
		}
	}
	var list, since []Evidence
	for i := range d.members {
		m := &d.members[i]
		if counted[m.Machine] {
			list = append(list, evidenceOf(m, Bad))
			continue
		}
		if slices.ContainsFunc(m.Results, func(r Result) bool { return r.Class == Bad && !r.Void && r.Seq > d.r.Seen }) {
			since = append(since, evidenceOf(m, Bad))
		}
	}
	t := d.r.Policy.Test
	text := fmt.Sprintf("halted in %s: %d of %d boots of %s failed, where %.3g %% is usual; %s", WaveName(d.r.Wave), bad,
		len(points), d.r.Image.Name, 100*t.Usual, named(list))
	if len(since) > 0 {
		text += fmt.Sprintf("; %d more failed since", len(since))
	}
	return Stop{Reason: FailingBoots, Evidence: append(list, since...), Text: text}, true
}

// trouble finds machines with failures that say nothing of the image.
func (d *decider) trouble() (Stop, bool) {
	var list []Evidence
	for i := range d.members {
		m := &d.members[i]
		if slices.ContainsFunc(m.Results, func(r Result) bool { return r.Class == Elsewhere && r.Seq > d.r.Seen }) {
			list = append(list, evidenceOf(m, Elsewhere))
		}
	}
	if len(list) < d.r.Policy.Trouble {
		return Stop{}, false
	}
	return Stop{Reason: Infrastructure, Evidence: list, Text: fmt.Sprintf("paused: boots of %s failed for "+
		"reasons that another image would meet as well (link, server or disks); %s", count.Of(len(list), "machine"),
		named(list))}, true
}

// evidenceOf describes the latest result of a class.
func evidenceOf(m *Member, c Class) Evidence {
	e := Evidence{Machine: m.Machine, Name: m.Name, Reason: "it does not boot the image any more"}
	for _, r := range slices.Backward(m.Results) {
		if r.Class == c && !r.Void {
			e.Boot, e.Stage, e.Code, e.Reason = r.Boot, r.Stage, r.Code, r.Reason
			break
		}
	}
	return e
}

// named names the first machines of a list, with the reason of the first.
func named(list []Evidence) string {
	const most = 3
	text := ""
	for i, e := range list[:min(len(list), most)] {
		if i > 0 {
			text += ", "
		}
		text += e.Name
	}
	if more := len(list) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if len(list) > 0 && list[0].Reason != "" {
		text += ": " + list[0].Reason
	}
	return text
}

// goBack assigns to each machine that was moved what it had before.
func (d *decider) goBack() {
	left := false
	for i := range d.members {
		m := &d.members[i]
		if !m.touched() {
			continue
		}
		if d.n >= MaxStep {
			left = true
			break
		}
		c := d.change(i)
		why := d.f.Refused[c.From.Image]
		switch {
		case d.f.Machines[c.Machine].Pinned:
			c.Left = "it is pinned to what it has"
			continue
		case why != "":
			c.Left = fmt.Sprintf("it cannot go back to %s: %s", c.From.Name, why)
			continue
		}
		d.moves = append(d.moves, Move{Machine: c.Machine, To: c.From, Assigned: d.r.Image, Since: c.Moved, Back: true})
		c.Gone = d.now
	}
	if !left {
		d.set(d.r.enter(Back, "", "every machine that was moved is assigned what it had before", d.now))
	}
}
