package rollout

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"ingot"
)

// chooser makes the choices of a history.
type chooser interface{ below(n int) int }

type rapidChooser struct{ t *rapid.T }

func (c rapidChooser) below(n int) int { return rapid.IntRange(0, n-1).Draw(c.t, "n") }

type randChooser struct{ *rand.Rand }

func (c randChooser) below(n int) int { return c.IntN(n) }

// simMachine is a machine of the model, as it really is.
type simMachine struct {
	id       ingot.MachineID
	domain   string
	retired  bool
	off      bool
	pinned   bool
	kept     bool // it was pinned for a while: an abort of that time left it as it is
	other    string
	assigned Image
	since    time.Time
	had      Image     // when the rollout began
	ordered  bool      // an operator assigned it something after the rollout did
	moves    [2]int    // by direction
	moved    time.Time // by the rollout
	number   int       // of its latest boot then
	failures int
	gaveUp   bool
	boots    []Boot
	alive    bool
	faults   int // boots of the image that will still fail
	trouble  int // boots that will still fail for other reasons
	held     bool
	busy     bool
	unread   bool         // the records of its boots are damaged, but for the latest
	older    bool         // its image takes no orders
	asked    ingot.BootID // the boot that the rollout ordered to reboot
	resumes  int          // before that
	gone     bool         // an operator made the server forget it
}

// shut reports whether it shut down in order a while ago.
func (m *simMachine) shut(now time.Time) bool {
	b := m.latest()
	return b.Down && now.Sub(b.Heard) > 10*time.Minute
}

func (m *simMachine) latest() *Boot { return &m.boots[len(m.boots)-1] }

// model is a fleet, a store with one rollout, and what is checked.
type model struct {
	chooser
	planted
	r        Rollout
	policy   Policy
	ledger   string
	members  []Member
	machines []*simMachine
	now      time.Time // of the server's clock
	listen   time.Time
	stepped  time.Time
	jumped   bool
	closed   bool
	refused  map[ingot.Digest]string
	onlyElse bool // no boot fails because of the image
	calm     bool // nothing happens any more but what the rollout does
	resumes  int
	counter  uint64 // of the latest order
	boots    int
	ticks    int
}

var (
	oldImage = Image{"sha256:old", "node:7"}
	newImage = Image{"sha256:new", "node:8"}
)

// planted is Next with a fault, or without.
type planted struct {
	rules rules
	see   func(*Fleet)  // what it takes the facts for
	want  func(*Policy) // what it takes the policy for
	make  func(*Step)   // what it makes of what it decided
}

// next is Next.
func (x *model) next(r Rollout, members []Member, f Fleet, now time.Time) Step {
	if x.see != nil {
		f.Machines = maps.Clone(f.Machines)
		x.see(&f)
	}
	if x.want != nil {
		x.want(&r.Policy)
	}
	s := x.rules.next(r, members, f, now)
	if s.Rollout.Policy = x.policy; x.make != nil {
		x.make(&s)
	}
	return s
}

// newModel makes a fleet of healthy machines and a rollout.
func newModel(c chooser, p planted) (*model, error) {
	x := &model{chooser: c, planted: p, now: time.Unix(1_800_000_000, 0).UTC(), refused: map[ingot.Digest]string{}}
	x.listen = x.now
	policy := Policy{Canary: c.below(3), Bake: time.Duration(c.below(20)) * time.Minute, Patience: 30 * time.Minute,
		MaxUnavailable: Amount{Machines: 1 + c.below(3)}, Waves: [][]int{{100}, {50, 100}, {10, 50, 100}}[c.below(3)]}
	if c.below(2) == 0 {
		policy.Spread = "rack"
	}
	policy.How = []How{Auto, Auto, Reboot, NextBoot}[c.below(4)]
	older := c.below(3) // of four machines
	if c.below(6) == 0 {
		policy.PauseAfter = []int{c.below(len(policy.Waves))}
	}
	n := 3 + c.below(14)
	x.onlyElse = c.below(3) == 0
	bad := c.below(4)
	var list []Candidate
	for i := range n {
		m := &simMachine{id: ingot.MachineID(fmt.Sprintf("m%02d", i)), assigned: oldImage, had: oldImage, since: x.now,
			alive: true}
		if policy.Spread != "" {
			m.domain = fmt.Sprintf("r%d", i%3)
		}
		x.machines = append(x.machines, m)
		x.reboot(m)
		x.finish(m, ingot.OutcomeHealthy)
		if !x.onlyElse && c.below(4) < bad {
			m.faults = 1 + c.below(3)
		}
		if c.below(4) == 0 {
			m.trouble = 1 + c.below(2)
		}
		m.older = c.below(4) < older
		list = append(list, Candidate{ID: m.id, Name: string(m.id), Domain: m.domain})
	}
	f := x.facts()
	for i := range list {
		list[i].Machine = f.Machines[list[i].ID]
	}
	r := Rollout{ID: "r1", Number: 1, Generation: 1, Image: newImage, Policy: policy.WithDefaults(0, 2), State: Planned,
		Since: x.now}
	x.policy = r.Policy
	if err := r.Policy.Check(); err != nil {
		return nil, err
	}
	var err error
	x.r, x.members, err = Plan(r, list)
	return x, err
}

func (x *model) machine(id ingot.MachineID) *simMachine {
	for _, m := range x.machines {
		if m.id == id {
			return m
		}
	}
	return nil
}

// reboot begins a boot.
func (x *model) reboot(m *simMachine) {
	x.boots++
	b := Boot{ID: ingot.BootID(fmt.Sprint("b", x.boots)), Number: len(m.boots) + 1, Image: m.assigned.Image,
		Stage: ingot.StageKernel}
	if m.gaveUp {
		b.Image = oldImage.Image
	}
	if len(m.boots) > 0 {
		last := m.latest()
		b.Before = last.ID
		if last.Outcome == ingot.OutcomeOpen {
			x.finish(m, ingot.OutcomeSilent)
		}
	}
	m.boots = append(m.boots, b)
}

// finish ends the latest boot of a machine.
func (x *model) finish(m *simMachine, o ingot.Outcome) {
	b := m.latest()
	b.Outcome, b.Ended, b.Delivered = o, x.now, true
	switch {
	case o == ingot.OutcomeHealthy:
		b.Stage, b.Heard, m.alive = ingot.StageHealthy, x.now, true
		if b.Image == m.assigned.Image {
			m.failures, m.gaveUp = 0, false
		}
		return
	case b.Image == newImage.Image && m.assigned.Image == newImage.Image && b.Delivered:
		b.Reason = "it broke"
	}
	m.alive = false
}

// outcome lets the latest boot of a machine come out as the model wants.
func (x *model) outcome(m *simMachine) {
	b := m.latest()
	if b.Outcome != ingot.OutcomeOpen {
		return
	}
	switch {
	case m.trouble > 0:
		m.trouble--
		b.Code, b.Stage, b.Reason = ingot.FailureServerAway, ingot.StageTicket, "the server was away"
		x.finish(m, ingot.OutcomeFailed)
		if x.below(2) == 0 {
			b.Outcome, b.Code, b.Delivered, b.Stage = ingot.OutcomeSilent, "", false, ingot.StageLoader
		}
	case b.Image == newImage.Image && m.faults > 0:
		m.faults--
		x.finish(m, []ingot.Outcome{ingot.OutcomeFailed, ingot.OutcomeSilent}[x.below(2)])
		if m.failures++; m.failures >= 2 && m.assigned.Image == newImage.Image {
			m.gaveUp = true
		}
	default:
		x.finish(m, ingot.OutcomeHealthy)
	}
}

// pass lets time go by, with heartbeats.
func (x *model) pass(d time.Duration) {
	x.now = x.now.Add(d)
	for _, m := range x.machines {
		if b := m.latest(); m.alive && b.Outcome == ingot.OutcomeHealthy {
			b.Heard = x.now
		}
	}
}

func (x *model) facts() Fleet {
	f := Fleet{Machines: map[ingot.MachineID]Machine{}, Listening: x.listen, Stepped: x.stepped, Closed: x.closed,
		Refused: maps.Clone(x.refused), Ledger: x.ledger}
	for _, m := range x.machines {
		if m.gone {
			continue
		}
		facts := Machine{Retired: m.retired, Off: m.off, Shut: m.shut(x.now), Held: m.held, Pinned: m.pinned, Other: m.other,
			Assigned: m.assigned, Since: m.since, GaveUp: m.gaveUp, Boots: slices.Clone(m.boots[max(0, len(m.boots)-8):])}
		for i := range facts.Boots {
			facts.Boots[i].Order = x.orderNow(facts.Boots[i].Order)
		}
		if m.older {
			facts.NoOrder = "its image takes none"
		}
		if m.busy {
			facts.Busy = "it waits for an answer"
		}
		if m.unread && !m.moved.IsZero() && m.latest().Number > m.number+1 {
			facts.Unreadable, facts.Boots = "its records are damaged", facts.Boots[len(facts.Boots)-1:]
		}
		f.Machines[m.id] = facts
	}
	return f
}

// tick computes a step from facts, which may be late, and stores it, unless the server dies before.
func (x *model) tick() error {
	r, members, f, now := x.r, slices.Clone(x.members), x.facts(), x.now
	s := x.next(r, members, f, now)
	if x.ticks++; x.ticks%4 == 0 {
		if again := x.next(stored(r), storedAll(members), f, now); !same(s, again) {
			return fmt.Errorf("a restarted server would do something else: %+v, and not %+v", again, s)
		}
	}
	if err := x.checkWithdrawn(s, f); err != nil {
		return err
	}
	switch c := x.below(12); {
	case c == 0:
		return nil // the server dies before it stores the step
	case c == 1 && !x.calm: // something happens in between
		if err := x.event(); err != nil {
			return err
		}
	}
	if err := x.apply(s, f, now); err != nil {
		return err
	}
	if x.below(8) == 0 { // the same step twice
		return x.apply(s, f, now)
	}
	return nil
}

func same(a, b Step) bool {
	one, _ := json.Marshal(a)
	other, _ := json.Marshal(b)
	return string(one) == string(other)
}

func stored[T any](v T) (w T) {
	b, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(b, &w)
	}
	if err != nil {
		panic(err)
	}
	return w
}

func storedAll(list []Member) []Member {
	out := make([]Member, len(list))
	for i := range list {
		out[i] = stored(list[i])
	}
	return out
}

// apply stores a step as the server does: if nothing that it was computed from has changed.
func (x *model) apply(s Step, f Fleet, now time.Time) error {
	if s.Empty() || s.Rollout.Generation != x.r.Generation+1 {
		return nil
	}
	for _, mv := range s.Moves {
		m := x.machine(mv.Machine)
		if m == nil || m.gone || m.assigned != mv.Assigned || !m.since.Equal(mv.Since) ||
			!mv.Back && (m.pinned || m.retired || m.busy) {
			return nil
		}
	}
	if x.stale(s.Actions) {
		return nil
	}
	if err := errors.Join(x.check(s, f, now), x.checkOrders(s, f, now)); err != nil {
		return err
	}
	x.obey(s.Actions, now)
	x.r = s.Rollout
	for _, c := range s.Members {
		at := slices.IndexFunc(x.members, func(m Member) bool { return m.Machine == c.Machine })
		x.members[at] = c
		if s.Rollout.State == Aborting || s.Rollout.State == Back { // it cannot go back, as far as the step knew
			m := x.machine(c.Machine)
			m.kept = m.kept || c.Left != "" && f.Refused[m.had.Image] != ""
		}
		counted := map[ingot.BootID]bool{}
		for _, res := range c.Results {
			if !res.Void && !res.Late && counted[res.Boot] {
				return fmt.Errorf("boot %s of %s is counted twice: %+v", res.Boot, c.Name, c.Results)
			}
			counted[res.Boot] = counted[res.Boot] || !res.Void && !res.Late
		}
	}
	for _, mv := range s.Moves {
		m := x.machine(mv.Machine)
		m.assigned, m.since, m.failures, m.gaveUp = mv.To, now, 0, false
		direction := 0
		if mv.Back {
			direction = 1
		} else {
			m.moved, m.number = now, m.latest().Number
			if m.latest().Image == newImage.Image { // it runs the image already
				m.number--
			}
		}
		if m.moves[direction]++; m.moves[direction] > 1 {
			return fmt.Errorf("%s was moved twice in one direction", m.id)
		}
	}
	return x.checkEnd()
}

// check checks a step against the facts that it was computed from.
func (x *model) check(s Step, f Fleet, now time.Time) error {
	if x.r.State.Stopped() && (s.Rollout.State != x.r.State || len(s.Moves) > 0) {
		return fmt.Errorf("the rollout was %s, and goes to %s with %d moves without a person", x.r.State, s.Rollout.State,
			len(s.Moves))
	}
	if s.Rollout.State == Halted && x.r.State != Halted {
		if err := x.checkHalt(*s.Rollout.Stop); err != nil {
			return err
		}
	}
	if s.Rollout.State == Paused && x.r.State != Paused && s.Rollout.Stop.Text == "" {
		return errors.New("it paused without a reason")
	}
	moves := map[string]int{}
	for _, mv := range s.Moves {
		if mv.Back {
			continue
		}
		m := f.Machines[mv.Machine]
		sim := x.machine(mv.Machine)
		if m.Pinned || m.Retired || m.Off || m.Shut || m.Held || m.Busy != "" || m.Other != "" {
			return fmt.Errorf("%s was moved although it is kept out", mv.Machine)
		}
		if sim.ordered && sim.moved.IsZero() && m.Assigned.Image != sim.had.Image {
			return fmt.Errorf("%s was moved although an operator assigned it %s after the start", mv.Machine, m.Assigned.Name)
		}
		if x.machine(mv.Machine).gaveUp {
			return fmt.Errorf("%s was moved although it fell back", mv.Machine)
		}
		moves[sim.domain]++
		if err := x.checkWave(s, mv.Machine, now); err != nil {
			return err
		}
	}
	if err := x.checkWaveEnds(s, f, now); err != nil {
		return err
	}
	return x.checkBudget(moves, f, now)
}

// checkWaveEnds: a wave ends after its bake, with its quorum of machines that run the image, all of which
// are healthy then, and with a word of each of its machines that can say one.
func (x *model) checkWaveEnds(s Step, f Fleet, now time.Time) error {
	if s.Rollout.Wave == x.r.Wave && s.Rollout.State != Done {
		return nil
	}
	if baked := now.Sub(x.r.Since); x.r.State == Baking && baked < x.policy.Bake && !x.jumped {
		return fmt.Errorf("wave %d baked for %s of %s", x.r.Wave, baked, x.policy.Bake)
	}
	running, all := 0, 0
	for _, m := range x.members {
		if at := slices.IndexFunc(s.Members, func(c Member) bool { return c.Machine == m.Machine }); at >= 0 {
			if c := s.Members[at]; c.Moved.Equal(m.Moved) { // else it is moved now, in the next wave
				m = c
			}
		}
		facts, known := f.Machines[m.Machine]
		if !known || m.Wave > x.r.Wave || m.Left != "" || !m.Gone.IsZero() {
			continue
		}
		moved, runs := !m.Moved.IsZero(), m.good()
		away := facts.Retired || facts.Off || facts.Shut && (!moved || runs)
		switch {
		case moved && m.GivenUp:
			if m.GaveUp > s.Rollout.Seen {
				all++
			}
		case moved && runs:
			running, all = running+1, all+1
			if !away && ill(&f, facts, now) {
				return fmt.Errorf("wave %d ends although %s is not healthy", x.r.Wave, m.Machine)
			}
		case moved && !away:
			return fmt.Errorf("wave %d ends although %s has said nothing", x.r.Wave, m.Machine)
		case !moved && !away && facts.out() == "" && facts.Assigned != newImage && ill(&f, facts, now):
			all++
		}
	}
	quorum := x.policy.Quorum
	if x.r.Wave == 0 {
		quorum = 100
	}
	if running*100 < all*quorum {
		return fmt.Errorf("wave %d ends with %d of %d machines", x.r.Wave, running, all)
	}
	return nil
}

// checkHalt: each halt names machines that failed because of the image.
func (x *model) checkHalt(stop Stop) error {
	if x.onlyElse {
		return fmt.Errorf("it halted although no boot failed because of the image: %s", stop.Text)
	}
	if len(stop.Evidence) == 0 || stop.Text == "" {
		return errors.New("it halted without evidence")
	}
	for _, e := range stop.Evidence {
		if e.Reason == "" || e.Name == "" {
			return fmt.Errorf("it halted for %+v", e)
		}
	}
	return nil
}

// ill reports whether a machine is not available, by the model's own account.
func ill(f *Fleet, m Machine, now time.Time) bool {
	b := m.Boots[len(m.Boots)-1]
	heard := b.Heard
	for _, t := range []time.Time{f.Listening, f.Stepped} {
		if t.After(heard) {
			heard = t
		}
	}
	return b.Outcome != ingot.OutcomeHealthy || b.Down || b.Unwell || m.Unreadable != "" || now.Sub(heard) > Silence
}

// checkBudget: the machines of a domain that are not available, and those that were moved and have said
// nothing, are never more than allowed because of a move.
func (x *model) checkBudget(moves map[string]int, f Fleet, now time.Time) error {
	for domain, n := range moves {
		out, all := 0, 0
		for _, sim := range x.machines {
			m, known := f.Machines[sim.id]
			if !known || sim.domain != domain || m.Retired || m.Off {
				continue
			}
			said := sim.said(m)
			if m.Shut && (sim.moved.IsZero() || said) {
				continue
			}
			all++
			if ill(&f, m, now) || !sim.moved.IsZero() && !said {
				out++
			}
		}
		if most := x.policy.MaxUnavailable.Of(all); out+n > most {
			return fmt.Errorf("%d of %d machines of domain %q are unavailable, %d more were moved, and %d may be",
				out, all, domain, n, most)
		}
	}
	return nil
}

// said reports whether a machine that was moved has said something conclusive of the image, or belongs to the
// rollout no more.
func (m *simMachine) said(facts Machine) bool {
	for _, b := range facts.Boots {
		if b.Number > m.number && b.Image == newImage.Image && b.Outcome == ingot.OutcomeHealthy {
			return true
		}
	}
	return facts.GaveUp || facts.Assigned != newImage || !facts.Since.Equal(m.moved)
}

// checkWave: a machine of wave k is moved only after the waves before had their quorum and their bake.
func (x *model) checkWave(s Step, id ingot.MachineID, now time.Time) error {
	at := slices.IndexFunc(s.Members, func(m Member) bool { return m.Machine == id })
	if at < 0 || !s.Members[at].Moved.Equal(now) {
		return fmt.Errorf("%s was moved, and that is not stored", id)
	}
	wave := s.Members[at].Wave // a canary that left may have been replaced by it
	if wave == 0 {
		return nil
	}
	begun := false
	for _, e := range s.Rollout.Log {
		begun = begun || e.Wave >= wave && (e.State == Wave || e.State == Paused)
	}
	if !begun {
		return fmt.Errorf("%s of wave %d was moved in wave %d", id, wave, s.Rollout.Wave)
	}
	return nil
}

// checkEnd: after an abort each machine has what it had, unless an operator's later word says otherwise.
func (x *model) checkEnd() error {
	if x.r.State != Back {
		return nil
	}
	for _, m := range x.machines {
		if !m.moved.IsZero() && !m.ordered && !m.kept && !m.gone && m.assigned != m.had {
			return fmt.Errorf("after the abort %s has %s, and had %s", m.id, m.assigned.Name, m.had.Name)
		}
	}
	return nil
}

// event is something that happens by itself or by an operator.
func (x *model) event() error {
	m := x.machines[x.below(len(x.machines))]
	switch x.below(33) {
	case 0, 1, 2, 3: // machines that were moved reboot
		for _, m := range x.machines {
			stale := m.assigned == newImage && m.latest().Image != newImage.Image && m.latest().Outcome != ingot.OutcomeOpen
			if stale && !m.gaveUp && x.below(3) > 0 {
				x.reboot(m)
			}
		}
	case 4, 5, 6:
		for _, m := range x.machines {
			if x.below(4) > 0 {
				x.outcome(m)
			}
		}
	case 7: // machines that failed try again
		for _, m := range x.machines {
			if !m.alive && m.latest().Outcome != ingot.OutcomeOpen {
				x.reboot(m)
			}
		}
	case 8:
		if !x.onlyElse || m.latest().Outcome != ingot.OutcomeOpen { // a boot that is cut short counts
			x.reboot(m)
		}
	case 9: // a late report
		if b := m.latest(); b.Outcome == ingot.OutcomeSilent && b.Delivered && m.faults == 0 {
			x.finish(m, ingot.OutcomeHealthy)
		}
	case 10: // it hangs, or is heard again
		if !x.onlyElse && m.latest().Outcome == ingot.OutcomeHealthy {
			if m.alive = !m.alive; m.alive {
				m.latest().Down = false
			}
		}
	case 11:
		m.pinned, m.kept = !m.pinned, true
	case 12:
		m.off = !m.off
	case 13:
		m.retired = !m.retired
	case 14:
		return x.operate()
	case 15: // an operator's word
		to := []Image{{"sha256:other", "other:1"}, newImage, oldImage}[x.below(3)]
		m.assigned, m.since, m.ordered, m.gaveUp, m.failures = to, x.now, true, false, 0
	case 16: // the clock is set
		d := time.Duration(x.below(7200)-3600) * time.Second
		x.now, x.jumped = x.now.Add(d), true
		x.stepped = x.now
	case 17: // the server restarts
		x.listen = x.now
	case 18:
		x.closed = !x.closed
		if x.below(4) == 0 {
			m.other = "r2"
		}
	case 19: // an image is removed from the store, unless the rollout needs it; or its key is not trusted
		if x.below(3) == 0 {
			x.refused[newImage.Image] = "it was removed"
		} else {
			delete(x.refused, newImage.Image)
		}
	case 20, 21, 22, 23: // what machines do with orders
		for _, m := range x.machines {
			if x.below(3) > 0 {
				x.carryOut(m)
			}
		}
	case 24, 25:
		x.orderByHand(m)
	default:
		x.machineEvent(m)
	}
	return nil
}

// machineEvent is something that happens to one machine.
func (x *model) machineEvent(m *simMachine) {
	b := m.latest()
	runs := b.Outcome == ingot.OutcomeHealthy
	switch x.below(7) {
	case 0: // its kernel crashes, which the next boot says
		if runs && !x.onlyElse {
			b.Crash = "BUG"
			x.reboot(m)
		}
	case 1: // it shuts down in order
		if runs && m.alive {
			b.Down, m.alive = true, false
		}
	case 2: // its reports say that it is not healthy, or that it is again
		if runs {
			b.Unwell = !b.Unwell
		}
	case 3:
		m.busy = !m.busy
	case 4: // with an image of before the rollout
		if m.moved.IsZero() {
			m.held = !m.held
		}
	case 5:
		m.unread = !m.unread
	case 6:
		switch x.below(6) {
		case 0:
			m.gone = true
		case 1: // a backup is restored
			x.ledger += "x"
		case 2: // nobody trusts the key of the image before any more, or somebody does
			if x.refused[oldImage.Image] == "" {
				x.refused[oldImage.Image] = "its key is not trusted"
			} else {
				delete(x.refused, oldImage.Image)
			}
		}
	}
}

// operate is an operator's command.
func (x *model) operate() error {
	before := x.r
	var err error
	switch x.below(5) {
	case 0:
		x.r, err = Pause(x.r, "admin", "", x.now)
	case 1, 2, 3:
		if x.r, err = Resume(x.r, "admin", "", x.now); err == nil {
			x.resumes++
		}
	case 4:
		if x.below(3) == 0 {
			x.r, err = Abort(x.r, "admin", "", x.now)
		}
	}
	if err != nil && !reflect.DeepEqual(x.r, before) {
		return fmt.Errorf("a command that failed changed the rollout: %w", err)
	}
	return nil
}

// history runs a model for a number of events, and then to its end.
func history(c chooser, p planted, events int) error {
	x, err := newModel(c, p)
	if err != nil {
		return err
	}
	for range events {
		x.pass(time.Duration(1+c.below(600)) * time.Second)
		if err := x.event(); err != nil {
			return err
		}
		for range 1 + c.below(3) {
			if err := x.tick(); err != nil {
				return fmt.Errorf("%w (state %s, wave %d)", err, x.r.State, x.r.Wave)
			}
		}
	}
	return x.finishes()
}

// finishes: a good image with finitely many faults ends in done, or in a stop that a person resumes;
// and what is kept out does not block it.
func (x *model) finishes() error {
	x.closed, x.calm = false, true
	clear(x.refused)
	for _, m := range x.machines {
		m.trouble, m.unread, m.latest().Unwell = 0, false, false
		if m.faults = 0; m.ordered {
			m.pinned = true
		}
	}
	for range 4000 {
		if x.r.State.Ended() {
			return nil
		}
		if x.r.State.Stopped() {
			x.r, _ = Resume(x.r, "admin", "", x.now)
			x.resumes++
		}
		x.pass(30 * time.Second)
		for _, m := range x.machines {
			x.carryOut(m)
			stale := m.assigned.Image != m.latest().Image && !m.gaveUp
			if stale || !m.alive {
				if m.latest().Outcome == ingot.OutcomeOpen {
					x.finish(m, ingot.OutcomeHealthy)
				} else {
					x.reboot(m)
				}
			}
			x.outcome(m)
		}
		if err := x.tick(); err != nil {
			return err
		}
	}
	return fmt.Errorf("it does not end: %s in wave %d since %s: %s", x.r.State, x.r.Wave, x.r.Since, x.describe())
}

// TestHistories: histories with kills, late and repeated reports, clock jumps, operators' commands, images
// that go away and records that cannot be read keep every rule. make test-all plays 10,000.
func TestHistories(t *testing.T) {
	if given := flag.Lookup("rapid.checks"); given.Value.String() == given.DefValue &&
		os.Getenv("INGOT_TEST_ALL") != "" {
		_ = given.Value.Set("10000")
	}
	rapid.Check(t, func(t *rapid.T) {
		if err := history(rapidChooser{t}, planted{rules: standard}, rapid.IntRange(5, 60).Draw(t, "events")); err != nil {
			t.Fatal(err)
		}
	})
}

// TestPlantedFaults: each fault in Next, in what it knows or in what it makes of it is found by the histories.
func TestPlantedFaults(t *testing.T) {
	plants := map[string]func(*planted){
		"budget off by one": func(p *planted) {
			p.rules.room = func(limit, unavailable int) int { return limit - unavailable + 1 }
		},
		"resumes itself": func(p *planted) { p.rules.stays = func(s State) bool { return s == Halted } },
		"forgets a domain": func(p *planted) {
			p.rules.domain = func(m Member) string {
				if m.Domain == "r1" {
					return m.Name
				}
				return m.Domain
			}
		},
		"lets orders stand": func(p *planted) { p.rules.goesOn = func(State) bool { return true } },
		"treats infrastructure as image": func(p *planted) {
			p.rules.class = func(b Boot) Class {
				if c := Classify(b); c != Elsewhere {
					return c
				}
				return Bad
			}
		},
		"takes silence for health": func(p *planted) {
			p.see = func(f *Fleet) { f.Listening = f.Listening.Add(1e6 * time.Hour) }
		},
		"does not see what is held":     blind(func(m *Machine) { m.Held = false }),
		"does not see questions":        blind(func(m *Machine) { m.Busy = "" }),
		"believes what it cannot read":  blind(func(m *Machine) { m.Unreadable = "" }),
		"does not hear that it is ill":  blind(func(m *Machine) { m.Boots[len(m.Boots)-1].Unwell = false }),
		"does not bake":                 func(p *planted) { p.want = func(p *Policy) { p.Bake = 0 } },
		"content with half the quorum":  func(p *planted) { p.want = func(p *Policy) { p.Quorum = 45 } },
		"forgets a machine in an abort": func(p *planted) { p.make = func(s *Step) { s.Moves = withoutOne(s.Moves, true) } },
		"forgets whom it moved": func(p *planted) {
			p.make = func(s *Step) {
				s.Members = slices.DeleteFunc(s.Members, func(m Member) bool {
					return slices.ContainsFunc(s.Moves, func(mv Move) bool { return mv.Machine == m.Machine && !mv.Back })
				})
			}
		},
	}
	for name, plant := range plants {
		t.Run(name, func(t *testing.T) {
			p := planted{rules: standard}
			plant(&p)
			for seed := range uint64(3000) {
				play := func(p planted) error {
					c := randChooser{rand.New(rand.NewPCG(seed, 1))}
					return history(c, p, 5+c.below(50))
				}
				if err := play(p); err != nil {
					t.Logf("seed %d: %v", seed, err)
					if err := play(planted{rules: standard}); err != nil {
						t.Errorf("seed %d without the fault: %v", seed, err)
					}
					return
				}
			}
			t.Error("the histories did not find it")
		})
	}
}

// blind plants that something of machines is not seen.
func blind(to func(*Machine)) func(*planted) {
	return func(p *planted) {
		p.see = func(f *Fleet) {
			for id, m := range f.Machines {
				m.Boots = slices.Clone(m.Boots)
				to(&m)
				f.Machines[id] = m
			}
		}
	}
}

// withoutOne drops the last move in a direction.
func withoutOne(moves []Move, back bool) []Move {
	if n := len(moves); n > 0 && moves[n-1].Back == back {
		return moves[:n-1]
	}
	return moves
}

// describe says what each machine of the rollout is to its wave.
func (x *model) describe() (text string) {
	d := decider{rules: x.rules, r: x.r, members: x.members, f: x.facts(), now: x.now}
	for i := range d.members {
		m := &d.members[i]
		s, why := d.standingOf(m)
		text += fmt.Sprintf("\n%s wave %d: %d %s", m.Name, m.Wave, s, why)
	}
	return text
}
