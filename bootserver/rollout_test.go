package bootserver

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/operator"
	"ingot/bootserver/state"
	"ingot/image"
)

// restart is a server that remembers nothing but its state: what moves rollouts on is new.
func (h *house) restart() {
	began := h.clock
	h.server.rollouts = operator.NewRollouts(operator.RolloutsConfig{State: h.state, Catalog: h.catalog,
		Healing: h.HealingPolicy, Now: h.now, Elapsed: func() time.Duration { return h.clock.Sub(began) }, Log: h.log})
}

// pass lets time go by, in which machines that run a healthy system report, and moves rollouts on.
func (h *house) pass(d time.Duration) {
	h.t.Helper()
	h.clock = h.clock.Add(d)
	for part := range slices.Chunk(h.state.Machines(), state.MaxRecords/2) {
		h.update(func(tx state.Tx) {
			for _, m := range part {
				if b, has := tx.Boot(m.Boot); has && b.Outcome == ingot.OutcomeHealthy {
					b.Auth.Heard = h.clock
					tx.StoreBoot(b)
				}
			}
		})
	}
	h.server.rollouts.Tick(h.t.Context())
}

func (h *house) update(f func(tx state.Tx)) {
	h.t.Helper()
	if err := h.state.Update(func(tx state.Tx) error { f(tx); return nil }); err != nil {
		h.t.Fatal(err)
	}
}

// fakes makes approved machines that run an image well.
func (h *house) fakes(n int, im image.Image) {
	h.t.Helper()
	ref := fleet.ImageRef{Image: im.Digest, Name: im.Name.String()}
	for i := range n {
		m := fleet.Machine{ID: ingot.MachineID(fmt.Sprintf("m-%012x", i)), Name: fmt.Sprintf("fake%03d", i),
			State: fleet.Approved, Labels: map[string]string{"rack": fmt.Sprint("r", i%4)}, FirstSeen: h.clock,
			Assignment: fleet.Assignment{ImageRef: ref, Since: h.clock}, LastHealthy: ref, Healthy: []fleet.ImageRef{ref}}
		h.update(func(tx state.Tx) { tx.StoreMachine(m) })
		h.fakeBoot(m.ID, ingot.OutcomeHealthy)
	}
}

// fakeBoot boots a machine into what it boots next, with an outcome if that is the image's.
func (h *house) fakeBoot(id ingot.MachineID, o ingot.Outcome) {
	h.t.Helper()
	h.update(func(tx state.Tx) {
		m, _ := tx.Machine(id)
		ref, err := fleet.Next(m)
		if err != nil {
			return
		}
		before, _ := tx.Boot(m.Boot)
		b := fleet.Boot{ID: ingot.NewBootID([16]byte([]byte(fmt.Sprintf("%.12s%04d", string(id)[2:], before.Number+1)))),
			Machine: id, Number: before.Number + 1, Before: before.ID, Image: ref, Order: m.Orders, Started: h.clock,
			Events: []fleet.Event{{Event: ingot.Event{Stage: ingot.StageInitramfs}, At: h.clock}}}
		b.Outcome, b.Ended, b.Auth.Heard = ingot.OutcomeHealthy, h.clock, h.clock
		if m.LastHealthy.Image != ref.Image && o != ingot.OutcomeHealthy {
			b.Outcome, b.Reason = o, "stage init: panic"
			b.Events = append(b.Events, fleet.Event{Event: ingot.Event{Stage: ingot.StageInit, Error: "panic",
				Code: ingot.FailureInit}, At: h.clock})
		}
		m.Boot = b.ID
		m = fleet.ApplyOutcome(m, b, fleet.Policy{}, func(ingot.Digest) bool { return true }, h.clock)
		if b.Outcome == ingot.OutcomeHealthy {
			m.LastHealthy = ref
		}
		tx.StoreMachine(m)
		tx.StoreBoot(b)
	})
}

func (h *house) startRollout(q api.RolloutRequest) api.Rollout {
	h.t.Helper()
	p, err := h.api.StartRollout(h.t.Context(), q)
	if err != nil {
		h.t.Fatal(err)
	}
	return p.Rollout
}

func (h *house) rollout(id string) api.RolloutDetail {
	h.t.Helper()
	r, err := h.api.Rollout(h.t.Context(), id)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// TestRolloutHaltsAtTheCanary: a real machine whose image is broken halts the rollout, with the reason in
// one sentence, and an abort gives everybody back what they had.
func TestRolloutHaltsAtTheCanary(t *testing.T) {
	h := newHouseOf(t)
	h.attempt("", "")
	v1, v2 := h.put("v1"), h.put("v2")
	h.fakes(5, v1)
	canary := 6 // machines are sorted by name: all, so that the real one is among them
	r := h.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all",
		Policy: api.RolloutPolicy{Canary: &canary, MaxUnavailable: api.Amount{Machines: 6}}})
	h.pass(time.Second)
	if m, err := h.api.Machine(t.Context(), "node01"); err != nil || m.Assignment.Name != "lab:v2" ||
		m.Assignment.Why != "rollout r1, the canary" {
		t.Fatalf("the canary is assigned %+v, %v", m.Assignment, err)
	}
	if _, err := h.api.RemoveImage(t.Context(), "lab:v1"); !isProblem(err, api.CodeImageInUse) {
		t.Errorf("removing the image to go back to: %v; want %s", err, api.CodeImageInUse)
	}
	for range fleet.DefaultAttempts {
		h.attempt(ingot.StageSwitch, "/sbin/init: no such file")
		h.pass(time.Second)
	}
	d := h.rollout(r.ID)
	if want := "halted in the canary: node01 failed with lab:v2 until it was given up: stage switch: /sbin/init: no " +
		"such file"; d.State != "halted" || d.Stop.Text != want {
		t.Fatalf("it is %s: %+v; want %q", d.State, d.Stop, want)
	}
	if e := d.Stop.Evidence; len(e) != 1 || e[0].Name != "node01" || e[0].Boot == "" {
		t.Errorf("the evidence is %+v", e)
	}
	h.pass(48 * time.Hour)
	if d = h.rollout(r.ID); d.State != "halted" {
		t.Errorf("after two days it is %s", d.State)
	}
	if _, err := h.api.ChangeRollout(t.Context(), r.ID, "abort", "broken"); err != nil {
		t.Fatal(err)
	}
	h.restart()
	h.pass(time.Second)
	for _, m := range h.state.Machines() {
		if m.Assignment.Image != v1.Digest {
			t.Errorf("after the abort %s is assigned %s", m.Hostname(), m.Assignment.Name)
		}
	}
	if d = h.rollout(r.ID); d.State != "back" || d.Count["back"] != 6 {
		t.Errorf("after the abort it is %s, with %v", d.State, d.Count)
	}
	if b, _ := h.attempt("", ""); h.bootOf(b).Image.Image == v2.Digest {
		t.Error("the machine boots the bad image after the abort")
	}
	if _, err := h.api.ChangeRollout(t.Context(), r.ID, "resume", ""); !isProblem(err, api.CodeRolloutEnded) {
		t.Errorf("resuming what is over: %v; want %s", err, api.CodeRolloutEnded)
	}
	h.wantEvents("rollout r1 of lab:v2 is canary", "rollout r1 of lab:v2 is halted: halted in the canary",
		"rollout r1 of lab:v2 is aborting: broken", "rollout r1 of lab:v2 is back")
}

func (h *house) bootOf(id ingot.BootID) fleet.Boot {
	b, _ := h.state.Boot(id)
	return b
}

func (h *house) wantEvents(want ...string) {
	h.t.Helper()
	list, err := h.api.Events(h.t.Context(), api.EventsRequest{Newest: true, Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	text := ""
	for _, e := range list.Events {
		text += e.Text + "\n"
	}
	for _, w := range want {
		if !strings.Contains(text, w) {
			h.t.Errorf("the ledger does not say %q", w)
		}
	}
}

// TestRolloutReachesEverybody: a good image reaches all machines but those that are kept out, through any
// number of restarts.
func TestRolloutReachesEverybody(t *testing.T) {
	h := newHouse(t)
	v1, v2 := h.put("v1"), h.put("v2")
	h.fakes(130, v1) // more than one transaction stores
	h.restart()
	if _, err := h.api.Pin(t.Context(), "fake007", "certified"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.SwitchOff(t.Context(), "fake009", "broken fan"); err != nil {
		t.Fatal(err)
	}
	r := h.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all",
		Policy: api.RolloutPolicy{Spread: "rack", MaxUnavailable: api.Amount{Percent: 30}}})
	if _, err := h.api.StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v2", Selector: "rack=r1"}); !isProblem(err,
		api.CodeNobodyToMove) && !isProblem(err, api.CodeRolloutMachines) {
		t.Errorf("a second rollout of the same machines: %v", err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 400 {
		if random.IntN(5) == 0 {
			h.restart()
		}
		h.pass(time.Minute)
		for _, m := range h.state.Machines() {
			if b := h.bootOf(m.Boot); b.Image.Image != m.Assignment.Image && random.IntN(3) > 0 {
				h.fakeBoot(m.ID, ingot.OutcomeHealthy)
			}
		}
		if h.rollout(r.ID).State == "done" {
			break
		}
	}
	d := h.rollout(r.ID)
	if d.State != "done" {
		t.Fatalf("it is %s in wave %d: %+v %v", d.State, d.Wave, d.Stop, d.Count)
	}
	for _, m := range h.state.Machines() {
		if out := m.Name == "fake007" || m.Name == "fake009"; (m.Assignment.Image == v2.Digest) == out {
			t.Errorf("%s is assigned %s", m.Name, m.Assignment.Name)
		}
	}
	list, err := h.api.RolloutMachines(t.Context(), r.ID)
	if err != nil || len(list) != 130 || d.Count["good"] != 128 {
		t.Errorf("%d machines, %v, %v", len(list), d.Count, err)
	}
}

// TestRolloutPlan: a dry run starts nothing, and says what would be done.
func TestRolloutPlan(t *testing.T) {
	h := newHouse(t)
	v1 := h.put("v1")
	putSmall(t, h.images, h.keys, "v2", func(m *ingot.ImageManifest) { m.KernelRelease, m.MinRAM = "6.12.99", 1<<40 })
	h.fakes(12, v1)
	m, _ := h.state.Machine("m-000000000003")
	m.Facts.RAM = 1 << 30
	h.update(func(tx state.Tx) { tx.StoreMachine(m) })
	if _, err := h.api.Pin(t.Context(), "fake004", ""); err != nil {
		t.Fatal(err)
	}
	p, err := h.api.StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v2", Selector: "fake[000-005]", DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if list := h.server.operator().Rollouts(); len(list) != 0 || !p.DryRun || len(p.Machines) != 6 {
		t.Errorf("after a dry run of %d machines there are %d rollouts", len(p.Machines), len(list))
	}
	text := fmt.Sprintf("%+v", p)
	for _, want := range []string{"Out:pinned", "it has 1024 MiB of memory", "kernel:  → 6.12.99",
		"MB for each machine"} {
		if !strings.Contains(text, want) {
			t.Errorf("the plan does not say %q:\n%s", want, text)
		}
	}
	for selector, code := range map[string]api.Code{"nobody": api.CodeInvalidRollout, "rack=r9": api.CodeInvalidRollout,
		"fake004": api.CodeNobodyToMove} {
		_, err := h.api.StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v2", Selector: selector})
		if !isProblem(err, code) {
			t.Errorf("a rollout to %s: %v; want %s", selector, err, code)
		}
	}
	if _, err := h.api.StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v2", Selector: "all",
		Policy: api.RolloutPolicy{Waves: []int{50}}}); !isProblem(err, api.CodeInvalidRollout) {
		t.Errorf("waves that do not reach everybody: %v", err)
	}
}

// TestRolloutSaysWhatFailedMachinesShare: machines that failed have a driver in common.
func TestRolloutSaysWhatFailedMachinesShare(t *testing.T) {
	h := newHouse(t)
	v1 := h.put("v1")
	h.put("v2")
	h.fakes(20, v1)
	for i, m := range h.state.Machines() {
		m.Facts.NICs = []ingot.NIC{{Driver: []string{"ixgbe", "mlx5_core"}[i%2]}}
		h.update(func(tx state.Tx) { tx.StoreMachine(m) })
	}
	none := 0
	r := h.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all",
		Policy: api.RolloutPolicy{Canary: &none, Waves: []int{100}, MaxUnavailable: api.Amount{Machines: 20}}})
	h.pass(time.Second)
	for _, m := range h.state.Machines() {
		o := ingot.OutcomeHealthy
		if m.Facts.NICs[0].Driver == "mlx5_core" {
			o = ingot.OutcomeFailed
		}
		h.fakeBoot(m.ID, o)
	}
	h.pass(time.Second)
	d := h.rollout(r.ID)
	if d.State != "halted" || d.Stop.Reason != "failing-boots" {
		t.Fatalf("it is %s: %+v", d.State, d.Stop)
	}
	found := false
	for _, s := range d.Common {
		found = found || s == api.RolloutShared{Kind: "driver", Value: "mlx5_core", Failed: 10, OfBad: 10, OfGood: 10}
	}
	if !found {
		t.Errorf("the machines that failed share %+v", d.Common)
	}
	y, err := h.api.Why(t.Context(), "fake001")
	for _, want := range []string{
		"It belongs to rollout r1 of lab:v2, in wave 1. The rollout is halted: halted in wave 1: ",
		"Machines that failed have in common:", "driver mlx5_core (10 of 10 that failed, 0 of 10 healthy ones)"} {
		if err != nil || !strings.Contains(y.Words, want) {
			t.Errorf("why says %q, %v; want %q", y.Words, err, want)
		}
	}
}

// TestHalfStoredRolloutIsDropped: a server that died while it stored the machines of a rollout drops it.
func TestHalfStoredRolloutIsDropped(t *testing.T) {
	h := newHouse(t)
	v1 := h.put("v1")
	h.put("v2")
	h.fakes(3, v1)
	r := h.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all"})
	whole, _ := h.state.Rollout(r.ID)
	whole.State = "preparing"
	h.update(func(tx state.Tx) { tx.PutRollout(whole) })
	if n := len(h.server.operator().Rollouts()); n != 0 {
		t.Errorf("%d rollouts are shown that are stored by half", n)
	}
	h.restart()
	h.pass(time.Second)
	if len(h.state.Rollouts()) != 0 || len(h.state.Members(r.ID)) != 0 {
		t.Error("it is there after a restart")
	}
}

// TestRolloutSurvivesRestarts: a server that ends and begins again at 50 moments of a rollout moves each
// machine once, stays within the budget of each rack, and ends with everybody on one image.
func TestRolloutSurvivesRestarts(t *testing.T) {
	for seed, bad := range []int{0, 2, 30} { // percent of the boots that fail
		t.Run(fmt.Sprintf("%d percent", bad), func(t *testing.T) {
			h := newHouse(t)
			v1, v2 := h.put("v1"), h.put("v2")
			h.fakes(40, v1)
			h.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all",
				Policy: api.RolloutPolicy{Spread: "rack", MaxUnavailable: api.Amount{Machines: 2}, Bake: 3 * time.Minute}})
			random := rand.New(rand.NewPCG(uint64(seed), 14))
			for range 50 {
				for range 1 + random.IntN(8) {
					h.pass(time.Duration(1+random.IntN(90)) * time.Second)
					h.wantBudget(v2, 2)
					h.rebootSome(random, bad)
				}
				h.reopen()
			}
			for range 400 {
				if r, _ := h.state.Rollout("r1"); r.State.Ended() || r.State.Stopped() {
					break
				}
				h.pass(time.Minute)
				h.rebootSome(random, bad)
			}
			r, _ := h.state.Rollout("r1")
			want := v2
			if r.State.Stopped() {
				want = v1
				aborted, err := rollout.Abort(r, "a test", "", h.clock)
				if err != nil {
					t.Fatal(err)
				}
				h.update(func(tx state.Tx) { tx.PutRollout(aborted) })
				h.reopen()
				h.pass(time.Second)
			}
			t.Logf("it ends %s after wave %d: %+v", r.State, r.Wave, r.Stop)
			for _, m := range h.state.Machines() {
				if m.Assignment.Image != want.Digest {
					t.Errorf("%s is assigned %s", m.Name, m.Assignment.Name)
				}
			}
			h.wantMovedOnce(want.Digest == v1.Digest)
		})
	}
}

// reopen ends the server and its state, and begins with what is stored.
func (h *house) reopen() {
	h.t.Helper()
	if err := h.state.Close(); err != nil {
		h.t.Fatal(err)
	}
	st, err := openState(filepath.Join(h.images.Root(), "state"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.state = st
	h.begin(h.port)
}

// rebootSome boots some of the machines that have another image than they run; some of the boots fail.
func (h *house) rebootSome(random *rand.Rand, bad int) {
	for _, m := range h.state.Machines() {
		b := h.bootOf(m.Boot)
		next, err := fleet.Next(m)
		if err != nil || b.Image.Image == next.Image && b.Outcome == ingot.OutcomeHealthy || random.IntN(3) == 0 {
			continue
		}
		o := ingot.OutcomeHealthy
		if random.IntN(100) < bad {
			o = ingot.OutcomeFailed
		}
		h.fakeBoot(m.ID, o)
	}
}

// wantBudget checks how many machines of each rack have the image and do not run it well.
func (h *house) wantBudget(im image.Image, most int) {
	h.t.Helper()
	out := map[string]int{}
	for _, m := range h.state.Machines() {
		b := h.bootOf(m.Boot)
		if m.Assignment.Image == im.Digest && (b.Image.Image != im.Digest || b.Outcome != ingot.OutcomeHealthy) &&
			m.Setback == nil {
			out[m.Labels["rack"]]++
		}
	}
	for rack, n := range out {
		if n > most {
			h.t.Fatalf("%d machines of %s have the image and do not run it", n, rack)
		}
	}
}

// wantMovedOnce checks in the ledger that each machine was moved once in each direction.
func (h *house) wantMovedOnce(back bool) {
	h.t.Helper()
	list, _, err := h.state.Changes(state.Query{Limit: 10_000})
	if err != nil {
		h.t.Fatal(err)
	}
	moves := map[string]int{}
	for _, c := range list {
		if c.Code == fleet.CodeImageAssigned && c.Rollout == "r1" {
			moves[string(c.Machine)+" "+c.Image.Name]++
		}
	}
	for move, n := range moves {
		if n != 1 || strings.HasSuffix(move, "v1") && !back {
			h.t.Errorf("%s: %d times", move, n)
		}
	}
	if len(moves) == 0 {
		h.t.Error("the ledger has no move")
	}
}

// orderlyFakes makes approved machines that run an image well, prove their reports and take orders if it does.
func (h *house) orderlyFakes(n int, im image.Image) {
	h.t.Helper()
	h.fakes(n, im)
	for _, m := range h.state.Machines() {
		h.orderlyBoot(m.ID)
	}
}

// orderlyBoot makes the latest boot of a fake one whose agent reports.
func (h *house) orderlyBoot(id ingot.MachineID) {
	h.t.Helper()
	h.update(func(tx state.Tx) {
		m, _ := tx.Machine(id)
		b, _ := tx.Boot(m.Boot)
		b.Auth.Half, b.Report = make(ingot.Half, 32), &ingot.Report{Healthy: true}
		tx.StoreBoot(b)
	})
}

// obey lets fakes go on with their orders: to the state that how says, and back with the next boot if that is
// rebooting.
func (h *house) obey(how func(m fleet.Machine) ingot.OrderStep) {
	h.t.Helper()
	for _, m := range h.state.Machines() {
		b := h.bootOf(m.Boot)
		if b.Ordered == nil || !b.Ordered.Open(h.clock) {
			continue
		}
		s := how(m)
		s.Counter = b.Ordered.Counter
		h.update(func(tx state.Tx) {
			d := fleet.NewDecision(m, b, fleet.BootPolicy{}, nil, fleet.Actor{}, h.clock)
			if err := d.OrderStep(s); err != nil {
				h.t.Fatal(err)
			}
			tx.StoreBoot(d.Boot)
			tx.Record(d.Changes...)
		})
		if s.State == ingot.OrderRebooting {
			h.fakeBoot(m.ID, ingot.OutcomeHealthy)
			h.orderlyBoot(m.ID)
		}
	}
}

func reboots(fleet.Machine) ingot.OrderStep { return ingot.OrderStep{State: ingot.OrderRebooting} }

// TestRolloutOrdersReboots: machines that take orders are ordered to drain and reboot, as many as may be away; one that
// runs an older image is waited for; the server restarts all the time, and each machine is ordered once.
func TestRolloutOrdersReboots(t *testing.T) {
	h := newHouse(t)
	v1 := putSmall(t, h.images, h.keys, "v1", orderly)
	v2 := putSmall(t, h.images, h.keys, "v2", orderly)
	old := h.put("old")
	h.orderlyFakes(12, v1)
	h.update(func(tx state.Tx) { // one runs an older image
		m, _ := tx.Machine("m-000000000005")
		m.Assignment.ImageRef = fleet.ImageRef{Image: old.Digest, Name: old.Name.String()}
		tx.StoreMachine(m)
	})
	h.fakeBoot("m-000000000005", ingot.OutcomeHealthy)
	h.orderlyBoot("m-000000000005")
	p, err := h.api.StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v2", Selector: "all", DryRun: true})
	if text := fmt.Sprintf("%+v", p); err != nil || !strings.Contains(text, "an older ingot built it; somebody has to "+
		"reboot it") || !strings.Contains(text, "11 machines are ordered to reboot; for 1 other a wave waits") {
		t.Errorf("the plan says %s, %v", text, err)
	}
	all := api.RolloutRequest{Image: "lab:v2", Selector: "all", Policy: api.RolloutPolicy{How: "reboot"}}
	if _, err := h.api.StartRollout(t.Context(), all); !isProblem(err, api.CodeNotOrderable) ||
		!strings.Contains(err.Error(), "fake005") {
		t.Errorf("--how reboot with a machine that takes no orders: %v", err)
	}
	all.Policy = api.RolloutPolicy{How: "auto", Drain: ingot.DrainRequired, Bake: time.Second,
		MaxUnavailable: api.Amount{Machines: 3}}
	r := h.startRollout(all)
	ordered, waited := map[ingot.BootID]uint64{}, 0
	for range 300 {
		h.pass(time.Minute)
		away := 0
		for _, m := range h.state.Machines() {
			if o := h.bootOf(m.Boot).Ordered; o != nil && o.Open(h.clock) {
				away++
				if o.Rollout != r.ID || o.Drain != ingot.DrainRequired || strings.Join(o.Hooks, " ") != "batch db" {
					t.Fatalf("the order of %s is %+v", m.Name, o)
				}
				if n := ordered[m.Boot]; n != 0 && n != o.Counter {
					t.Fatalf("%s is ordered to reboot twice in one boot", m.Name)
				}
				ordered[m.Boot] = o.Counter
			}
		}
		if away > 3 {
			t.Fatalf("%d machines are ordered to reboot; 3 may be away", away)
		}
		h.restart()
		h.obey(reboots)
		if d := h.rollout(r.ID); d.State == "done" || d.Stop != nil {
			break
		}
		if m, _ := h.state.Machine("m-000000000005"); m.Assignment.Image == v2.Digest &&
			h.bootOf(m.Boot).Image != m.Assignment.ImageRef {
			if waited++; waited > 90 { // longer than the rollout's patience
				h.fakeBoot(m.ID, ingot.OutcomeHealthy) // somebody reboots it
			}
		}
	}
	if d := h.rollout(r.ID); d.State != "done" || len(ordered) != 11 {
		t.Errorf("it is %s: %+v, %v; %d machines were ordered to reboot", d.State, d.Stop, d.Count, len(ordered))
	}
	h.wantEvents("ordered to reboot after draining (batch, db) by rollout r1: the canary of lab:v2")
}

// TestFailedDrainPausesRollout: a machine that does not reboot pauses the rollout at once, with its reason; other
// orders are withdrawn; and a resume orders it once more.
func TestFailedDrainPausesRollout(t *testing.T) {
	h := newHouse(t)
	v1 := putSmall(t, h.images, h.keys, "v1", orderly)
	putSmall(t, h.images, h.keys, "v2", orderly)
	h.orderlyFakes(6, v1)
	none := 0
	r := h.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all", Policy: api.RolloutPolicy{Canary: &none,
		Waves: []int{100}, Drain: ingot.DrainRequired, MaxUnavailable: api.Amount{Machines: 3}, Bake: time.Second}})
	h.pass(time.Second)
	h.obey(func(m fleet.Machine) ingot.OrderStep {
		if m.Name == "fake001" {
			return ingot.OrderStep{State: ingot.OrderDrainTimedOut, Hook: "batch", Error: "sleep did not end within 5m0s"}
		}
		return ingot.OrderStep{State: ingot.OrderReceived}
	})
	h.pass(time.Second)
	d := h.rollout(r.ID)
	if want := "paused in wave 1: 1 machine did not reboot as ordered; missing: fake001: does not reboot, " +
		"because drain hook batch took too long: sleep did not end within 5m0s"; d.State != "paused" ||
		d.Stop.Reason != "inconclusive" || d.Stop.Text != want {
		t.Fatalf("it is %s: %+v; want %q", d.State, d.Stop, want)
	}
	for _, name := range []ingot.MachineID{"m-000000000000", "m-000000000002"} {
		m, _ := h.state.Machine(name)
		if o := h.bootOf(m.Boot).Ordered; o == nil || o.State != ingot.OrderWithdrawn {
			t.Errorf("the order of %s is %+v; want it withdrawn", m.Name, o)
		}
	}
	h.pass(24 * time.Hour)
	if d = h.rollout(r.ID); d.State != "paused" {
		t.Errorf("after a day it is %s", d.State)
	}
	if _, err := h.api.ChangeRollout(t.Context(), r.ID, "resume", ""); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		h.pass(time.Minute)
		h.obey(reboots)
	}
	if d = h.rollout(r.ID); d.State != "done" {
		t.Errorf("after a resume it is %s: %+v", d.State, d.Stop)
	}
}
