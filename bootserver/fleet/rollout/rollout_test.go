package rollout

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"ingot"
)

var start = time.Date(2027, 3, 5, 10, 0, 0, 0, time.UTC) // a Friday

// bench is a rollout over machines that a test moves by hand.
type bench struct {
	t       *testing.T
	now     time.Time
	r       Rollout
	members []Member
	f       Fleet
}

func newBench(t *testing.T, n int, p Policy) *bench {
	t.Helper()
	b := &bench{t: t, now: start, f: Fleet{Machines: map[ingot.MachineID]Machine{}, Refused: map[ingot.Digest]string{},
		Listening: start.Add(-time.Hour)}}
	if p.How == "" {
		p.How = NextBoot
	}
	var list []Candidate
	for i := range n {
		id := ingot.MachineID(fmt.Sprintf("m%02d", i))
		m := Machine{Assigned: oldImage, Since: start.Add(-time.Hour), Boots: []Boot{{ID: ingot.BootID(id), Number: 1,
			Image: oldImage.Image, Outcome: ingot.OutcomeHealthy, Heard: start}}}
		b.f.Machines[id] = m
		list = append(list, Candidate{ID: id, Name: string(id), Machine: m})
	}
	r := Rollout{ID: "r1", Image: newImage, State: Planned, Since: start, Policy: p.WithDefaults(0, 2)}
	var err error
	if b.r, b.members, err = Plan(r, list); err != nil {
		t.Fatal(err)
	}
	return b
}

// tick lets time pass, in which all machines are heard that have a healthy boot, and stores what Next
// returns.
func (b *bench) tick(d time.Duration) {
	b.t.Helper()
	b.now = b.now.Add(d)
	for id, m := range b.f.Machines {
		last := &m.Boots[len(m.Boots)-1]
		if last.Outcome == ingot.OutcomeHealthy && last.Reason != "mute" {
			last.Heard = b.now
		}
		b.f.Machines[id] = m
	}
	for n := 0; ; n++ {
		s := Next(b.r, b.members, b.f, b.now)
		if s.Empty() {
			return
		}
		if n == 1000 {
			b.t.Fatalf("there is always more to do: %+v", s)
		}
		b.r = s.Rollout
		for _, c := range s.Members {
			b.members[c.Place] = c
		}
		for _, mv := range s.Moves {
			m := b.f.Machines[mv.Machine]
			m.Assigned, m.Since, m.GaveUp = mv.To, b.now, false
			b.f.Machines[mv.Machine] = m
		}
		for _, a := range s.Actions {
			if a.Withdraw != 0 {
				b.orderIs(a.Machine, ingot.OrderWithdrawn)
				continue
			}
			m := b.f.Machines[a.Machine]
			m.Boots = slices.Clone(m.Boots)
			m.Boots[len(m.Boots)-1].Order = &Order{Rollout: b.r.ID, Counter: 1, Given: b.now}
			b.f.Machines[a.Machine] = m
			b.orderIs(a.Machine, ingot.OrderGiven)
		}
	}
}

// orderIs changes the state of a machine's order.
func (b *bench) orderIs(id ingot.MachineID, s ingot.OrderState) {
	b.t.Helper()
	m := b.f.Machines[id]
	m.Boots = slices.Clone(m.Boots)
	last := &m.Boots[len(m.Boots)-1]
	if last.Order == nil {
		b.t.Fatalf("%s was not ordered to reboot", id)
	}
	o := *last.Order
	o.State, o.At, o.Text = s, b.now, "is "+string(s)
	o.Open = slices.Contains([]ingot.OrderState{ingot.OrderGiven, ingot.OrderReceived, ingot.OrderDraining}, s)
	o.Pending = o.Open || s == ingot.OrderRebooting
	last.Order = &o
	b.f.Machines[id] = m
}

// TestLongDrain: a machine may drain for longer than the rollout's patience, which begins when it reboots and when it
// boots; one that never comes back, and one whose hook fails, pause the rollout.
func TestLongDrain(t *testing.T) {
	b := newBench(t, 4, Policy{Canary: 1, How: Auto, Drain: ingot.DrainRequired})
	b.tick(time.Second)
	b.orderIs("m00", ingot.OrderDraining)
	b.tick(5 * time.Hour)
	b.want(Canary, 0)
	b.orderIs("m00", ingot.OrderRebooting)
	b.tick(DefaultPatience - time.Minute)
	b.want(Canary, 0)
	b.boot("m00", func(boot *Boot) { boot.Outcome, boot.Started = "", b.now })
	b.tick(DefaultPatience - time.Minute)
	b.want(Canary, 0)
	b.tick(2 * time.Minute)
	b.want(Paused, 0)
	b.stopped(Inconclusive, "too little is known", "m00")

	b = newBench(t, 4, Policy{Canary: 1, How: Auto, Drain: ingot.DrainRequired})
	b.tick(time.Second)
	b.orderIs("m00", ingot.OrderDrainFailed)
	b.tick(time.Second)
	b.want(Paused, 0)
	b.stopped(Inconclusive, "1 machine did not reboot as ordered; missing: m00: is drain-failed")
}

// TestOrderWaitsForBudget: a machine that was moved is not ordered to reboot while as many as may be are unavailable.
func TestOrderWaitsForBudget(t *testing.T) {
	none := Policy{Canary: 0, Waves: []int{100}, How: Reboot, MaxUnavailable: Amount{Machines: 1}}
	b := newBench(t, 4, none)
	b.f.Closed = true
	b.tick(time.Second)
	b.f.Closed = false
	s := Next(b.r, b.members, b.f, b.now) // the move, and nothing else
	if len(s.Moves) != 1 || len(s.Actions) != 0 {
		t.Fatalf("%d moves and %d orders in one step; want 1 and 0", len(s.Moves), len(s.Actions))
	}
	b.r = s.Rollout
	b.members[s.Members[0].Place] = s.Members[0]
	moved := b.f.Machines[s.Moves[0].Machine]
	moved.Assigned, moved.Since = newImage, b.now
	b.f.Machines[s.Moves[0].Machine] = moved
	ill := b.f.Machines["m03"]
	ill.Boots = slices.Clone(ill.Boots)
	ill.Boots[0].Unwell = true
	b.f.Machines["m03"] = ill
	b.tick(time.Second)
	if o := b.f.Machines["m00"].Boots[0].Order; o != nil {
		t.Fatalf("m00 is ordered to reboot while m03 is not healthy: %+v", o)
	}
	ill.Boots[0].Unwell = false
	b.tick(time.Second)
	if o := b.f.Machines["m00"].Boots[0].Order; o == nil {
		t.Error("m00 is not ordered to reboot although all are healthy")
	}
}

// boot adds a boot of the assigned image to a machine.
func (b *bench) boot(id ingot.MachineID, change func(*Boot)) {
	m := b.f.Machines[id]
	boot := Boot{ID: ingot.BootID(fmt.Sprint(id, len(m.Boots))), Number: len(m.Boots) + 1, Image: m.Assigned.Image,
		Before: m.Boots[len(m.Boots)-1].ID, Outcome: ingot.OutcomeHealthy, Delivered: true, Heard: b.now}
	if change != nil {
		change(&boot)
	}
	m.Boots = append(slices.Clone(m.Boots), boot)
	b.f.Machines[id] = m
}

// bootMoved boots every machine that has the image and does not run it.
func (b *bench) bootMoved() {
	for id, m := range b.f.Machines {
		if m.Assigned == newImage && m.Boots[len(m.Boots)-1].Image != newImage.Image {
			b.boot(id, nil)
		}
	}
}

func (b *bench) want(s State, wave int) {
	b.t.Helper()
	if b.r.State != s || b.r.Wave != wave {
		b.t.Fatalf("it is %s in wave %d: %+v; want %s in wave %d", b.r.State, b.r.Wave, b.r.Stop, s, wave)
	}
}

func (b *bench) stopped(reason Reason, text ...string) {
	b.t.Helper()
	if b.r.Stop == nil || b.r.Stop.Reason != reason {
		b.t.Fatalf("it stopped for %+v; want %s", b.r.Stop, reason)
	}
	for _, part := range text {
		if !strings.Contains(b.r.Stop.Text, part) {
			b.t.Errorf("it stopped with %q; want %q in it", b.r.Stop.Text, part)
		}
	}
}

func panicked(boot *Boot) {
	boot.Outcome, boot.Code, boot.Stage = ingot.OutcomeFailed, ingot.FailureInit, ingot.StageInit
	boot.Reason = "stage init: panic"
}

func TestGoodImageEndsInDone(t *testing.T) {
	b := newBench(t, 20, Policy{Canary: 2, MaxUnavailable: Amount{Machines: 20}})
	b.tick(time.Second)
	b.want(Canary, 0)
	b.bootMoved()
	b.tick(time.Second)
	b.want(Baking, 0)
	b.tick(14 * time.Minute)
	b.want(Baking, 0)
	b.tick(time.Minute)
	b.want(Wave, 2) // the canaries are 10 % already: wave 1 has nobody
	for _, wave := range []int{2, 3} {
		b.want(Wave, wave)
		b.bootMoved()
		b.tick(time.Second)
		b.want(Baking, wave)
		b.tick(15 * time.Minute)
	}
	b.want(Done, 3)
	if text := b.r.Log[len(b.r.Log)-1].Why; text != "20 machines have node:8" {
		t.Errorf("it ends with %q", text)
	}
}

func TestCanaryThatIsGivenUpHalts(t *testing.T) {
	b := newBench(t, 20, Policy{Canary: 1})
	b.tick(time.Second)
	b.boot("m00", panicked)
	b.tick(time.Second)
	b.want(Canary, 0)
	b.boot("m00", panicked)
	b.tick(time.Second)
	b.want(Halted, 0)
	b.stopped(CanaryGivenUp, "halted in the canary", "m00", "node:8", "stage init: panic")
	if e := b.r.Stop.Evidence[0]; e.Machine != "m00" || e.Code != ingot.FailureInit || e.Boot == "" {
		t.Errorf("its evidence is %+v", e)
	}
	b.tick(time.Hour)
	b.want(Halted, 0)

	var err error
	if b.r, err = Resume(b.r, "local root", "", b.now); err != nil {
		t.Fatal(err)
	}
	b.tick(time.Second)
	b.want(Canary, 0)
	if m := b.f.Machines["m01"]; m.Assigned != newImage {
		t.Errorf("no other machine is the canary: m01 is assigned %s", m.Assigned.Name)
	}
	if b.r, err = Abort(b.r, "local root", "", b.now); err != nil {
		t.Fatal(err)
	}
	b.tick(time.Second)
	b.want(Back, 0)
	for id, m := range b.f.Machines {
		if m.Assigned != oldImage {
			t.Errorf("%s is assigned %s after the abort", id, m.Assigned.Name)
		}
	}
}

func TestInfrastructurePausesAndNeverHalts(t *testing.T) {
	for name, change := range map[string]func(*Boot){
		"the server is away": func(b *Boot) { b.Outcome, b.Code = ingot.OutcomeFailed, ingot.FailureServerAway },
		"the root comes too slowly": func(b *Boot) {
			b.Outcome, b.Code, b.Stage = ingot.OutcomeFailed, ingot.FailureDeadline, ingot.StageTicket
		},
		"silent before the kernel": func(b *Boot) {
			b.Outcome, b.Delivered, b.Stage = ingot.OutcomeSilent, false, ingot.StageLoader
		},
		"a broken disk": func(b *Boot) { b.Outcome, b.Code = ingot.OutcomeFailed, ingot.FailureVolume },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 20, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 10}})
			b.tick(time.Second)
			for _, id := range []ingot.MachineID{"m00", "m01", "m00", "m00"} {
				b.boot(id, change)
				b.tick(time.Second)
			}
			b.want(Wave, 1)
			b.boot("m02", change)
			b.tick(time.Second)
			b.want(Paused, 1)
			b.stopped(Infrastructure, "3 machines", "m00, m01, m02")
		})
	}
}

func TestSilentKernelCountsAgainstTheImage(t *testing.T) {
	b := newBench(t, 20, Policy{Canary: 1})
	b.tick(time.Second)
	for range 2 {
		b.boot("m00", func(b *Boot) { b.Outcome, b.Stage, b.Reason = ingot.OutcomeSilent, ingot.StageKernel, "no report" })
	}
	b.tick(time.Second)
	b.want(Halted, 0)
}

func TestLateFaultsAreSeen(t *testing.T) {
	b := newBench(t, 30, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 30}, Bake: time.Hour})
	b.tick(time.Second)
	b.bootMoved()
	b.tick(time.Second)
	b.want(Baking, 1)
	for i := range 5 { // these go silent
		id := ingot.MachineID(fmt.Sprintf("m%02d", i))
		m := b.f.Machines[id]
		m.Boots[len(m.Boots)-1].Reason = "mute"
		b.f.Machines[id] = m
	}
	b.tick(Silence - time.Second)
	b.want(Baking, 1)
	b.tick(2 * time.Second)
	b.want(Halted, 1)
	b.stopped(FailingBoots, "not heard from")
}

// TestHaltNamesWhatItCounts: of machines that fail in one step, the halt names those whose boots were counted until
// the verdict, says how many more there are, and has all of them as evidence.
func TestHaltNamesWhatItCounts(t *testing.T) {
	b := newBench(t, 9, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 9}})
	b.tick(time.Second)
	for i := range 4 {
		b.boot(ingot.MachineID(fmt.Sprintf("m%02d", i)), func(b *Boot) { b.Outcome = ingot.OutcomeFailed })
	}
	b.tick(time.Second)
	b.stopped(FailingBoots, "3 of 3 boots of node:8 failed", "; m00, m01, m02; 1 more failed since")
	if list := b.r.Stop.Evidence; len(list) != 4 || list[3].Name != "m03" {
		t.Errorf("evidence is %+v; want that of four machines", list)
	}
}

// TestLateHealthIsCountedOnce: a boot that was taken for silent, and turns out to be healthy, is evidence
// for the image once, however often the server looks at it.
func TestLateHealthIsCountedOnce(t *testing.T) {
	b := newBench(t, 4, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 4}})
	b.tick(time.Second)
	b.boot("m00", func(b *Boot) { b.Outcome = ingot.OutcomeSilent })
	b.tick(time.Second)
	m := b.f.Machines["m00"]
	m.Boots[1].Outcome = ingot.OutcomeHealthy
	b.f.Machines["m00"] = m
	b.tick(time.Second)
	if s := Next(b.r, b.members, b.f, b.now); !s.Empty() {
		t.Errorf("it is counted again: %+v", s.Members)
	}
	if list := b.members[0].Results; len(list) != 2 || !list[0].Void || list[1].Class != Good {
		t.Errorf("results are %+v; want a void one and a good one", list)
	}
}

func TestCrashCountsAsFailure(t *testing.T) {
	b := newBench(t, 4, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 4}})
	b.tick(time.Second)
	m := b.f.Machines["m00"]
	m.Boots[0].Crash = "panic of the image before"
	b.boot("m00", nil)
	b.boot("m01", nil)
	b.tick(time.Second)
	m = b.f.Machines["m01"]
	m.Boots[1].Crash = "BUG: unable to handle page fault"
	b.boot("m01", func(b *Boot) { b.Outcome = ingot.OutcomeOpen })
	b.tick(time.Second)
	if r, _ := b.members[0].last(); r.Class != Good {
		t.Errorf("a crash of the image before counts: %+v", r)
	}
	if r, _ := b.members[1].last(); r.Class != Bad || !strings.Contains(r.Reason, "page fault") {
		t.Errorf("a crash of the image does not count: %+v", r)
	}
}

func TestInconclusivePauses(t *testing.T) {
	b := newBench(t, 4, Policy{Canary: 1, How: Reboot})
	b.tick(time.Second)
	b.tick(DefaultPatience + time.Minute)
	b.want(Paused, 0)
	b.stopped(Inconclusive, "missing: m00: it is given") // its order

	b = newBench(t, 4, Policy{Canary: 1, How: NextBoot})
	b.tick(time.Second)
	b.tick(24 * time.Hour) // nobody rebooted it, and it is healthy
	b.want(Canary, 0)
}

func TestKeptOutNeitherMovesNorBlocks(t *testing.T) {
	b := newBench(t, 7, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 6}})
	for id, change := range map[ingot.MachineID]func(*Machine){
		"m00": func(m *Machine) { m.Pinned = true }, "m01": func(m *Machine) { m.Held = true },
		"m02": func(m *Machine) { m.Off = true }, "m03": func(m *Machine) { m.Retired = true },
		"m04": func(m *Machine) { m.Other = "r2" }, "m06": func(m *Machine) { m.Busy = "its next boot is decided" }} {
		m := b.f.Machines[id]
		change(&m)
		b.f.Machines[id] = m
	}
	b.tick(time.Second)
	b.bootMoved()
	b.tick(time.Second)
	b.tick(DefaultBake)
	b.want(Done, 1)
	for id, m := range b.f.Machines {
		if moved := m.Assigned == newImage; moved != (id == "m05") {
			t.Errorf("%s moved: %v", id, moved)
		}
	}
}

// TestRebootThatNeverComesBack: a machine that shuts down for the rollout and does not boot is not off;
// it uses the budget.
func TestRebootThatNeverComesBack(t *testing.T) {
	b := newBench(t, 6, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 1}})
	b.tick(time.Second)
	m := b.f.Machines["m00"]
	m.Boots[0].Down, m.Shut = true, true
	b.f.Machines["m00"] = m
	b.tick(time.Minute)
	b.tick(time.Minute)
	for id, m := range b.f.Machines {
		if m.Assigned == newImage && id != "m00" {
			t.Errorf("%s was moved while m00 does not come back", id)
		}
	}
}

func TestOperatorsLaterWordWins(t *testing.T) {
	b := newBench(t, 6, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 6}})
	b.tick(time.Second)
	other := Image{"sha256:other", "other:1"}
	m := b.f.Machines["m00"]
	m.Assigned, m.Since = other, b.now.Add(time.Second)
	b.f.Machines["m00"] = m
	m = b.f.Machines["m01"]
	m.Since = b.now.Add(time.Second) // the same image, by an operator
	b.f.Machines["m01"] = m
	b.tick(2 * time.Second)
	b.r, _ = Abort(b.r, "local root", "", b.now)
	b.tick(time.Second)
	b.want(Back, 1)
	for id, want := range map[ingot.MachineID]Image{"m00": other, "m01": newImage, "m02": oldImage} {
		if got := b.f.Machines[id].Assigned; got != want {
			t.Errorf("%s is assigned %s; want %s", id, got.Name, want.Name)
		}
	}
}

// TestOperatorsWordBeforeTheMove: a machine that an operator assigns another image while it waits is left out, and
// blocks nothing. One that is assigned what it had belongs to the rollout again.
func TestOperatorsWordBeforeTheMove(t *testing.T) {
	b := newBench(t, 6, Policy{Waves: []int{50, 100}, MaxUnavailable: Amount{Machines: 6}})
	assign := func(id ingot.MachineID, to Image) {
		m := b.f.Machines[id]
		m.Assigned, m.Since = to, b.now
		b.f.Machines[id] = m
	}
	assign("m04", Image{Image: "sha256:other", Name: "other:1"})
	assign("m05", Image{Image: "sha256:other", Name: "other:1"})
	list, _ := Look(b.r, b.members, b.f, b.now)
	if s := list[4]; s.Is != "outside" || s.Why != "an operator assigned it other:1 since the rollout was started" {
		t.Errorf("it is %s: %s; want it outside", s.Is, s.Why)
	}
	assign("m05", oldImage)
	for range 4 {
		b.tick(time.Second)
		b.bootMoved()
		b.tick(DefaultBake + time.Minute)
	}
	b.want(Done, 2)
	if a, m := b.f.Machines["m04"].Assigned, b.members[4]; a.Name != "other:1" || !m.Moved.IsZero() {
		t.Errorf("after the rollout m04 is assigned %s, moved at %s; want the operator's word", a.Name, m.Moved)
	}
	if a := b.f.Machines["m05"].Assigned; a != newImage {
		t.Errorf("after the rollout m05 is assigned %s; want the rollout's image", a.Name)
	}
}

func TestNoMovesOutsideOfTheWindow(t *testing.T) {
	b := newBench(t, 3, Policy{Canary: 1})
	b.f.Closed = true
	b.tick(48 * time.Hour)
	b.want(Canary, 0)
	if b.f.Machines["m00"].Assigned == newImage {
		t.Error("a machine was moved outside of the window")
	}
	b.f.Closed = false
	b.tick(time.Second)
	if b.f.Machines["m00"].Assigned != newImage {
		t.Error("no machine was moved in the window")
	}
}

// TestWindowOpensAgain: after a weekend the rollout goes on with the machines that can be moved, and does
// not pause for those that cannot.
func TestWindowOpensAgain(t *testing.T) {
	b := newBench(t, 6, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 2}})
	m := b.f.Machines["m05"]
	m.Boots[0].Outcome = ingot.OutcomeSilent
	b.f.Machines["m05"] = m
	b.tick(time.Second)
	b.bootMoved()
	b.f.Closed = true
	b.tick(65 * time.Hour)
	b.want(Wave, 1)
	b.f.Closed = false
	b.tick(time.Second)
	b.want(Wave, 1)
	if b.f.Machines["m01"].Assigned != newImage {
		t.Error("no machine was moved when the window opened")
	}
}

// TestRestoreBringsNothingBackToLife: a rollout that a backup brings back waits for a person.
func TestRestoreBringsNothingBackToLife(t *testing.T) {
	b := newBench(t, 6, Policy{Waves: []int{100}})
	b.f.Ledger = "another"
	b.tick(time.Second)
	b.want(Paused, 1)
	b.stopped(Restored, "restored from a backup")
	b.r, _ = Resume(b.r, "local root", "", b.now)
	b.tick(time.Second)
	b.want(Wave, 1)
}

func TestPlannedPause(t *testing.T) {
	b := newBench(t, 10, Policy{Canary: 1, PauseAfter: []int{0}})
	b.tick(time.Second)
	b.bootMoved()
	b.tick(time.Second)
	b.tick(DefaultBake)
	b.want(Paused, 1)
	b.stopped(ByPlan, "the canary is over")
	b.r, _ = Resume(b.r, "local root", "", b.now)
	b.tick(time.Second)
	b.want(Wave, 2)
}

func TestClockJumpEndsNoBake(t *testing.T) {
	b := newBench(t, 3, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 3}})
	b.tick(time.Second)
	b.bootMoved()
	b.tick(time.Second)
	b.want(Baking, 1)
	b.now = b.now.Add(time.Hour)
	b.f.Stepped = b.now
	b.tick(time.Second)
	b.want(Baking, 1)
	b.tick(DefaultBake)
	b.want(Done, 1)
}

// TestRestartDuringBake: a server that was away for a moment goes on with the bake as soon as it has
// heard all machines, and takes none for silent.
func TestRestartDuringBake(t *testing.T) {
	b := newBench(t, 3, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 3}})
	b.tick(time.Second)
	b.bootMoved()
	b.tick(time.Second)
	b.now = b.now.Add(DefaultBake)
	b.f.Listening = b.now
	if s := Next(b.r, b.members, b.f, b.now.Add(time.Second)); !s.Empty() {
		t.Errorf("before it heard a machine it goes to %s", s.Rollout.State)
	}
	b.tick(2 * time.Second)
	b.want(Done, 1)
}

// TestMachineThatRunsTheImage: a machine that runs the image already, as after an abort, needs no reboot.
func TestMachineThatRunsTheImage(t *testing.T) {
	b := newBench(t, 2, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 1}})
	m := b.f.Machines["m00"]
	m.Boots[0].Image = newImage.Image
	b.tick(time.Second)
	b.tick(time.Second)
	b.bootMoved() // the other one
	b.tick(time.Second)
	b.want(Baking, 1)
	b.tick(15 * time.Minute)
	b.want(Done, 1)
}

// TestBakeNeedsHealthyMachines: a wave does not end while a machine of it reports that it is not healthy.
func TestBakeNeedsHealthyMachines(t *testing.T) {
	b := newBench(t, 20, Policy{Canary: 1})
	b.tick(time.Second)
	b.bootMoved()
	b.tick(time.Second)
	b.want(Baking, 0)
	unwell := func(is bool) {
		for _, m := range b.f.Machines {
			if last := &m.Boots[len(m.Boots)-1]; last.Image == newImage.Image {
				last.Unwell = is
			}
		}
	}
	unwell(true)
	b.tick(30 * time.Minute)
	b.want(Baking, 0)
	unwell(false)
	b.tick(time.Second)
	b.want(Wave, 1)
}

// TestBakeNeedsTheQuorum: a wave does not end when machines that were good are given up while it bakes.
func TestBakeNeedsTheQuorum(t *testing.T) {
	b := newBench(t, 10, Policy{Waves: []int{100}, MaxUnavailable: Amount{Machines: 10}})
	b.tick(time.Second)
	b.bootMoved()
	b.tick(time.Second)
	b.want(Baking, 1)
	for _, id := range []ingot.MachineID{"m00", "m01"} {
		b.f.Machines[id].Boots[1].Crash = "BUG"
		b.boot(id, panicked)
		b.tick(time.Second)
		b.boot(id, func(boot *Boot) { boot.Image = oldImage.Image })
	}
	b.tick(20 * time.Minute)
	b.want(Wave, 1)
	b.tick(46 * time.Minute)
	b.want(Paused, 1)
	b.stopped(Inconclusive, "less than 90 % of the machines are healthy with the image")
}

func TestPlanSpreads(t *testing.T) {
	var list []Candidate
	for i := range 12 {
		c := Candidate{ID: ingot.MachineID(fmt.Sprint("m", i)), Name: fmt.Sprint("m", i), Domain: fmt.Sprint("r", i/4),
			Machine: Machine{Assigned: oldImage}}
		c.Pinned = i == 0
		list = append(list, c)
	}
	r := Rollout{Image: newImage, Policy: Policy{Canary: 3, Waves: []int{50, 100}}}
	r, members, err := Plan(r, list)
	if err != nil {
		t.Fatal(err)
	}
	var canaries []string
	waves := map[int]int{}
	for _, m := range members {
		waves[m.Wave]++
		if m.Wave == 0 {
			canaries = append(canaries, m.Domain)
		}
	}
	if !slices.Equal(canaries, []string{"r0", "r1", "r2"}) || r.Waves != 3 || members[11].Name != "m0" {
		t.Errorf("the canaries are of %v, %d waves, the last is %s", canaries, r.Waves, members[11].Name)
	}
	if waves[1] != 3 || waves[2] != 6 {
		t.Errorf("machines by wave: %v", waves)
	}
	list = list[:1]
	if _, _, err := Plan(r, list); !errors.Is(err, ErrNobody) {
		t.Errorf("a plan without machines is %v; want %v", err, ErrNobody)
	}
}

func TestWindow(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	at := func(day, hour, minute int) time.Time { // the 1st is a Monday
		return time.Date(2027, 3, day, hour, minute, 0, 0, berlin)
	}
	for _, c := range []struct {
		window string
		at     time.Time
		open   bool
	}{
		{"Mon-Fri 09:00-16:00 Europe/Berlin", at(5, 9, 0), true},
		{"Mon-Fri 09:00-16:00 Europe/Berlin", at(5, 16, 0), false},
		{"Mon-Fri 09:00-16:00 Europe/Berlin", at(6, 10, 0), false},
		{"Sat,Sun 00:00-24:00", at(6, 23, 59), true},
		{"Fri-Mon 10:00-11:00", at(7, 10, 30), true},
		{"Fri 22:00-04:00", at(6, 3, 59), true},
		{"Fri 22:00-04:00", at(5, 3, 59), false},
	} {
		w, err := ParseWindow(c.window)
		if err != nil || w.Open(c.at) != c.open {
			t.Errorf("%s at %s: open %v, %v; want %v", c.window, c.at, w.Open(c.at), err, c.open)
		}
	}
	for _, bad := range []string{"", "Mon", "Mon-Fri", "Mon-Fri 9-16", "Mon-Fry 09:00-10:00", "Mon 09:00-09:00",
		"Mon 09:00-25:00", "Mon 09:00-10:00 Europe/Berlin x"} {
		if _, err := ParseWindow(bad); err == nil {
			t.Errorf("the window %q is accepted", bad)
		}
	}
}

func FuzzParseWindow(f *testing.F) {
	f.Add("Mon-Fri 09:00-16:00 Europe/Berlin")
	f.Fuzz(func(t *testing.T, text string) {
		if w, err := ParseWindow(text); err == nil && w.From == w.To {
			t.Errorf("%q has no hours", text)
		}
	})
}

func TestCommon(t *testing.T) {
	traits := func(product, driver string) Traits { return Traits{"product": {product}, "driver": {driver}} }
	failed := []Traits{traits("R640", "mlx5_core"), traits("R650", "mlx5_core"), traits("R640", "mlx5_core")}
	healthy := []Traits{traits("R640", "ixgbe"), traits("R640", "ixgbe"), traits("R650", "ixgbe"), traits("R640", "igb")}
	got := Common(failed, healthy)
	if len(got) != 1 || got[0] != (Shared{"driver", "mlx5_core", 3, 3, 0, 4}) {
		t.Errorf("they have in common %+v", got)
	}
	if got := Common(failed, nil); len(got) != 2 {
		t.Errorf("without healthy machines they have in common %+v", got)
	}
}

func TestUsualRate(t *testing.T) {
	var past []Past
	add := func(image ingot.Digest, age time.Duration, c Class, own bool) {
		past = append(past, Past{Image: image, Started: start.Add(-age), Class: c, Rollout: own})
	}
	day := 24 * time.Hour
	add("a", 60*day, Good, false) // proves it, and is too old to count
	add("a", 40*day, Bad, false)
	add("a", 3*day, Bad, false)
	add("a", 3*day, Elsewhere, false)
	add("a", 2*day, Bad, true)
	add("b", 2*day, Bad, false) // was never healthy
	for range 3 {
		add("a", day, Good, false)
	}
	if rate, n := UsualRate(past, start); rate != 0.25 || n != 4 {
		t.Errorf("the rate is %v of %d; want 0.25 of 4", rate, n)
	}
	if test := TestFor(0.001); test.Usual != 0.01 || test.Bad != 0.1 || !test.Valid() {
		t.Errorf("the test has %+v", test)
	}
	if test := TestFor(0.9); test.Bad != 0.5 || !test.Valid() {
		t.Errorf("the test has %+v", test)
	}
}

func TestPolicyCheck(t *testing.T) {
	good := Policy{Canary: 1}.WithDefaults(0, 2)
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Policy){
		"waves that fall":     func(p *Policy) { p.Waves = []int{50, 10, 100} },
		"waves that repeat":   func(p *Policy) { p.Waves = []int{50, 50, 100} },
		"waves that end":      func(p *Policy) { p.Waves = []int{50} },
		"a wave that is not":  func(p *Policy) { p.PauseAfter = []int{3} },
		"an unknown way":      func(p *Policy) { p.How = "kick" },
		"a quorum above all":  func(p *Policy) { p.Quorum = 101 },
		"equal rates":         func(p *Policy) { p.Test.Bad = p.Test.Usual },
		"more than 100%":      func(p *Policy) { p.MaxUnavailable = Amount{Percent: 101} },
		"negative canaries":   func(p *Policy) { p.Canary = -1 },
		"an endless bake":     func(p *Policy) { p.Bake = 1 << 62 },
		"no patience at all":  func(p *Policy) { p.Patience = 1 },
		"certainty of a test": func(p *Policy) { p.Test.Alpha = 1 },
	} {
		p := good
		if change(&p); p.Check() == nil {
			t.Errorf("%s are accepted", name)
		}
	}
	for text, want := range map[string]Amount{"3": {Machines: 3}, "10%": {Percent: 10}} {
		if got, err := ParseAmount(text); err != nil || got != want || got.String() != text {
			t.Errorf("ParseAmount(%q) = %v, %v", text, got, err)
		}
	}
}
