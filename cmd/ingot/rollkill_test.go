package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/testvm/storm"
)

// The fleet of the test: so many machines in so many racks, of each of which so many may be unavailable.
const (
	fleetMachines = 12
	fleetRacks    = 3
	fleetBudget   = 1
	manyKills     = 50   // in so many, every kind of end comes
	badImage      = "v3" // no boot of it becomes healthy; of v4 two in five fail
)

// fakeFleet is a server with machines that stay on and with rollouts, and is killed.
type fakeFleet struct {
	*field
	random *rand.Rand
	in     io.Writer // of the machines' process
	kills  int
	most   int // kills
	at     time.Time
	since  time.Time // the server that runs began
	asked  map[ingot.MachineID]asked
	ends   map[string]int // rollouts by how they ended, and stops by their reason
}

// asked is the boot in which a machine was told to reboot.
type asked struct {
	boot ingot.BootID
	at   time.Time
}

// TestRolloutsOfAKilledServer: rollouts of good, bad and flaky images move simulated machines, and the server
// is killed at random moments and started again. By what the API says, the budget of each rack is kept,
// machines are moved once in each direction, nothing moves after a stop, an abort gives back what was there,
// and a restart changes no plan. INGOT_TEST_ROUNDS says how many kills (make test-all: 50), INGOT_TEST_SEED
// repeats the choices.
func TestRolloutsOfAKilledServer(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	kills, seed := 5, uint64(time.Now().UnixNano())
	if os.Getenv("INGOT_TEST_ALL") != "" {
		kills = manyKills
	}
	if n, err := strconv.Atoi(os.Getenv("INGOT_TEST_ROUNDS")); err == nil {
		kills = n
	}
	if n, err := strconv.ParseUint(os.Getenv("INGOT_TEST_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("INGOT_TEST_SEED=%d", seed)
	f := newFakeFleet(t, seed, kills)
	lanes := []*lane{{fakeFleet: f, selector: "rack=k0", runs: "v1", first: badImage},
		{fakeFleet: f, selector: "rack!=k0", runs: "v1", first: "v2"}}
	for end := time.Now().Add(time.Duration(kills) * 12 * time.Second); ; time.Sleep(30 * time.Millisecond) {
		machines := f.machines()
		f.reboot(machines)
		over := true
		for _, l := range lanes {
			l.step(machines)
			over = over && l.id == ""
		}
		switch {
		case over && f.kills >= f.most:
			t.Logf("%d kills; %v", f.kills, f.ends)
			if f.ends["halted"] == 0 || f.ends["back"] == 0 || kills >= manyKills && f.ends["done"] == 0 {
				t.Error("no rollout halted, was aborted, or was done")
			}
			return
		case time.Now().After(end):
			t.Fatalf("after %d kills, %+v and %+v do not end", f.kills, lanes[0], lanes[1])
		case f.kills < f.most && time.Now().After(f.at):
			f.kill(lanes)
		}
	}
}

func newFakeFleet(t *testing.T, seed uint64, kills int) *fakeFleet {
	t.Helper()
	size := sizes{loader: 20_000, kernel: 64 << 10, initramfs: 96 << 10, root: 128 << 10}
	f := &fakeFleet{field: newFieldOf(t, size, time.Duration(kills)*20*time.Second+time.Minute),
		random: rand.New(rand.NewPCG(seed, 0)), most: kills, asked: map[ingot.MachineID]asked{}, ends: map[string]int{}}
	f.write(faultSettings)
	digests := f.fill(size, "v2", "v3", "v4")
	f.serve()
	f.since = time.Now()
	conf, err := json.Marshal(storm.FleetConfig{Storm: storm.Config{Machines: fleetMachines, Card: f.crowd.Card,
		Retry: 300 * time.Millisecond}, Seed: seed, Broken: map[ingot.Digest]int{digests[1]: 100, digests[2]: 40}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := f.crowd.Command(f.ctx, os.Args[0], string(conf))
	cmd.Env = append(os.Environ(), "INGOT_TEST_IS=fleet")
	cmd.Stderr = &f.log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.lan.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); _ = cmd.Wait() }) // it is gone with the LAN
	f.in = in
	for n := range fleetMachines {
		fmt.Fprintln(f.in, n)
	}
	f.until("machines to become healthy", func() bool {
		list := f.machines()
		return len(list) == fleetMachines && !slices.ContainsFunc(list, func(m api.Machine) bool { return !healthy(m) })
	})
	for _, m := range f.machines() {
		_, err := f.api().Label(f.ctx, string(m.ID), api.LabelRequest{Set: map[string]string{
			"rack": fmt.Sprint("k", f.number(m)%fleetRacks)}})
		f.must(err)
	}
	f.plan()
	return f
}

func (f *fakeFleet) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fakeFleet) machines() []api.Machine {
	f.t.Helper()
	list, err := f.api().Machines(f.ctx)
	f.must(err)
	return list
}

// healthy reports whether the latest boot of a machine is.
func healthy(m api.Machine) bool { return m.Latest != nil && m.Latest.Outcome == ingot.OutcomeHealthy }

// fellBack reports whether a machine boots its assigned image no more.
func fellBack(m api.Machine) bool {
	return m.Setback != nil && m.Setback.Gave.Image == m.Assignment.Image
}

// plan chooses when the server dies next: half of the time close to when it looks at its rollouts.
func (f *fakeFleet) plan() {
	const look = 2 * time.Second
	f.at = f.since.Add(time.Duration(f.random.Int64N(int64(4 * time.Second))))
	if f.random.IntN(2) == 0 {
		f.at = f.since.Add(look - 50*time.Millisecond + time.Duration(f.random.Int64N(int64(150*time.Millisecond))))
	}
}

// reboot resets some of the healthy machines that should run another image.
func (f *fakeFleet) reboot(machines []api.Machine) {
	for _, m := range machines {
		a := f.asked[m.ID]
		if !healthy(m) || m.Latest.Image == m.Assignment.Image || fellBack(m) || f.random.IntN(3) == 0 ||
			a.boot == m.Boot && time.Since(a.at) < 5*time.Second {
			continue
		}
		f.asked[m.ID] = asked{m.Boot, time.Now()}
		fmt.Fprintln(f.in, f.number(m))
	}
}

// number returns the number of a machine in its process: the end of its MAC address.
func (f *fakeFleet) number(m api.Machine) int {
	f.t.Helper()
	n, err := strconv.ParseUint(string(m.ID[len(m.ID)-6:]), 16, 24)
	f.must(err)
	return int(n)
}

// lane is a part of the fleet, to which rollouts come one after another.
type lane struct {
	*fakeFleet
	selector string
	runs     string // version of the last good image
	first    string // version of the first rollout
	image    string // version of the present one
	id       string // of the present rollout; empty: there is none
	before   map[ingot.MachineID]api.ImageRef
	moved    map[ingot.MachineID]time.Time // by the rollout, so far
	abortAt  int                           // an operator aborts it when so many machines were moved; -1: never
	stopped  map[ingot.MachineID]api.Assignment
	died     int // kills before it stopped
	resumes  int
}

// of returns the machines of the lane.
func (l *lane) of(machines []api.Machine) (list []api.Machine) {
	for _, m := range machines {
		if (m.Labels["rack"] == "k0") == (l.selector == "rack=k0") {
			list = append(list, m)
		}
	}
	return list
}

// upToDate reports whether all machines run what they should, or fell back from it.
func upToDate(machines []api.Machine) bool {
	return !slices.ContainsFunc(machines, func(m api.Machine) bool {
		return !healthy(m) || m.Latest.Image != m.Assignment.Image && !fellBack(m)
	})
}

// step looks at the lane's rollout, and is its operator.
func (l *lane) step(machines []api.Machine) {
	l.t.Helper()
	if l.id == "" {
		if l.kills < l.most && upToDate(l.of(machines)) {
			l.begin(l.of(machines))
		}
		return
	}
	list, err := l.api().RolloutMachines(l.ctx, l.id)
	l.must(err)
	r, err := l.api().Rollout(l.ctx, l.id)
	l.must(err)
	machines = l.of(l.machines()) // after the rollout: what was moved in between counts as not moved
	l.check(r, list, machines)
	switch r.State {
	case "done", "back":
		l.end(r, machines)
	case "halted", "paused":
		l.stop(r, machines)
	default:
		if l.stopped = nil; l.most < manyKills && l.kills >= l.most && l.image != badImage { // time is short
			l.abortAt = 0
		}
		if r.State != "aborting" && l.abortAt >= 0 && len(l.moved) >= l.abortAt {
			l.change("abort")
		}
	}
}

// begin starts a rollout; sometimes the server dies between two looks at its plan.
func (l *lane) begin(machines []api.Machine) {
	l.t.Helper()
	good := "v1"
	if l.runs == "v1" {
		good = "v2"
	}
	l.image = cmp.Or(l.first, []string{good, good, badImage, "v4"}[l.random.IntN(4)])
	l.first, l.resumes, l.stopped, l.moved = "", 0, nil, map[ingot.MachineID]time.Time{}
	if l.abortAt = -1; l.image != badImage && l.random.IntN(3) == 0 {
		l.abortAt = l.random.IntN(len(machines))
	}
	l.before = map[ingot.MachineID]api.ImageRef{}
	for _, m := range machines {
		l.before[m.ID] = m.Assignment.ImageRef
	}
	q := api.RolloutRequest{Image: "storm:" + l.image, Selector: l.selector, DryRun: true,
		Policy: api.RolloutPolicy{Waves: []int{50, 100}, Spread: "rack", MaxUnavailable: api.Amount{Machines: fleetBudget},
			Bake: 1}}
	planned, err := l.api().StartRollout(l.ctx, q)
	l.must(err)
	if l.random.IntN(3) == 0 && l.kills < l.most {
		l.die()
	}
	q.DryRun = false
	started, err := l.api().StartRollout(l.ctx, q)
	l.must(err)
	if !reflect.DeepEqual(started.Machines, planned.Machines) {
		l.t.Errorf("the plan changes from\n%+v to\n%+v", planned.Machines, started.Machines)
	}
	l.id = started.Rollout.ID
	l.t.Logf("rollout %s of %s to %s: aborted at %d", l.id, l.image, l.selector, l.abortAt)
}

// check checks what must hold at any moment. The machines were asked for after the rollout.
func (l *lane) check(r api.RolloutDetail, list []api.RolloutMachine, machines []api.Machine) {
	l.t.Helper()
	now := map[ingot.MachineID]api.Machine{}
	for _, m := range machines {
		now[m.ID] = m
	}
	out := map[string]int{}
	for _, m := range list {
		at, was := l.moved[m.Machine]
		if was && !m.Moved.Equal(at) {
			l.t.Errorf("%s: %s was moved at %s, and now at %s", l.id, m.Machine, at, m.Moved)
		}
		if !m.Moved.IsZero() {
			l.moved[m.Machine] = m.Moved
		}
		machine := now[m.Machine]
		runs := healthy(machine) && (m.Moved.IsZero() || machine.Latest.Image == r.Image.Image || fellBack(machine))
		if !runs && m.Back.IsZero() {
			out[machine.Labels["rack"]]++
		}
	}
	for rack, n := range out {
		if n > fleetBudget && r.State != "aborting" && r.State != "back" {
			l.t.Errorf("%s, %s: %d machines of rack %s are unavailable: %+v", l.id, r.State, n, rack, list)
		}
	}
}

// stop is an operator who finds a rollout stopped: after a death of the server he resumes or aborts it.
func (l *lane) stop(r api.RolloutDetail, machines []api.Machine) {
	l.t.Helper()
	if l.stopped == nil {
		l.t.Logf("%s is %s: %s", l.id, r.State, r.Stop.Text)
		l.ends[r.State]++
		l.died, l.stopped = l.kills, map[ingot.MachineID]api.Assignment{}
		for _, m := range machines {
			l.stopped[m.ID] = m.Assignment
		}
	}
	for _, m := range machines {
		if was := l.stopped[m.ID]; !m.Assignment.Since.Equal(was.Since) || m.Assignment.ImageRef != was.ImageRef {
			l.t.Errorf("%s is %s, and %s was assigned %+v after %+v", l.id, r.State, m.ID, m.Assignment, was)
		}
	}
	if r.Stop == nil || r.Stop.Text == "" || r.State == "halted" && len(r.Stop.Evidence) == 0 {
		l.t.Errorf("%s of %s is %s: %+v", l.id, l.image, r.State, r.Stop)
	}
	const looked = 2500 * time.Millisecond // the server that runs has looked at its rollouts
	if l.kills < l.most && l.kills == l.died || time.Since(l.since) < looked {
		return
	}
	if l.image != badImage && l.abortAt < 0 && l.resumes < 3 {
		l.resumes++
		l.change("resume")
		return
	}
	l.change("abort")
}

// change is a command of the operator; the server may die at once.
func (l *lane) change(verb string) {
	l.t.Helper()
	_, err := l.api().ChangeRollout(l.ctx, l.id, verb, "a test")
	var p api.Problem
	if errors.As(err, &p) && (p.Code == api.CodeRolloutEnded || p.Code == api.CodeRolloutState) {
		return // it went on in the meantime
	}
	l.must(err)
	l.stopped = nil
	if l.random.IntN(2) == 0 {
		l.at = time.Now()
	}
}

// end checks what a rollout leaves.
func (l *lane) end(r api.RolloutDetail, machines []api.Machine) {
	l.t.Helper()
	l.ends[r.State]++
	l.t.Logf("%s is %s: %v", l.id, r.State, r.Count)
	for _, m := range machines {
		want := l.before[m.ID].Image
		if r.State == "done" {
			want = r.Image.Image
		}
		if m.Assignment.Image != want {
			l.t.Errorf("%s of %s is %s: %s is assigned %s, and had %s", l.id, l.image, r.State, m.ID, m.Assignment.Name,
				l.before[m.ID].Name)
		}
	}
	events, err := l.api().Events(l.ctx, api.EventsRequest{Newest: true, Limit: 10_000})
	l.must(err)
	moves := map[string]int{}
	for _, e := range events.Events {
		if e.Rollout == l.id && e.Machine != "" {
			moves[string(e.Machine)+" to "+e.Image.Name]++
		}
	}
	for move, n := range moves {
		if n > 1 {
			l.t.Errorf("%s moved %s %d times", l.id, move, n)
		}
	}
	if len(moves) < len(l.moved) {
		l.t.Errorf("%s moved %d machines, and the ledger has %v", l.id, len(l.moved), moves)
	}
	if r.State == "done" && l.image < badImage {
		l.runs = l.image
	}
	l.id = ""
}

// seenRollout is what the API says of a rollout.
type seenRollout struct {
	detail   api.RolloutDetail
	machines []api.RolloutMachine
}

func (l *lane) seen() (s seenRollout) {
	l.t.Helper()
	var err error
	s.detail, err = l.api().Rollout(l.ctx, l.id)
	l.must(err)
	s.machines, err = l.api().RolloutMachines(l.ctx, l.id)
	l.must(err)
	return s
}

// kill lets the server die, and compares what it says of rollouts before and after.
func (f *fakeFleet) kill(lanes []*lane) {
	f.t.Helper()
	before := map[*lane]seenRollout{}
	for _, l := range lanes {
		if l.id != "" {
			before[l] = l.seen()
		}
	}
	f.die()
	for l, was := range before {
		l.compare(was, l.seen())
	}
}

// die lets the server die and starts it again. What it said before is on the disk: so is a later change.
func (f *fakeFleet) die() {
	f.t.Helper()
	m := f.machines()[0]
	_, err := f.api().Label(f.ctx, string(m.ID), api.LabelRequest{Set: map[string]string{"kills": strconv.Itoa(f.kills)}})
	f.must(err)
	f.must(f.server.Process.Kill())
	if err := <-f.ended; err == nil {
		f.t.Error("the server ended by itself, before it was killed")
	}
	f.serve()
	f.kills++
	f.since = time.Now()
	f.plan()
}

// compare checks that a server goes on where the one before it died.
func (l *lane) compare(before, after seenRollout) {
	l.t.Helper()
	a, b := before.detail, after.detail
	if len(b.Log) < len(a.Log) || !reflect.DeepEqual(a.Log, b.Log[:len(a.Log)]) {
		l.t.Errorf("%s: its states were\n%+v, and are\n%+v", l.id, a.Log, b.Log)
	}
	if (a.State == "halted" || a.State == "paused") && (a.State != b.State || !reflect.DeepEqual(a.Stop, b.Stop)) {
		l.t.Errorf("%s was %s: %+v, and is %s: %+v", l.id, a.State, a.Stop, b.State, b.Stop)
	}
	for i, m := range before.machines {
		n := after.machines[i]
		same := m.Machine == n.Machine && m.Domain == n.Domain && (m.Wave == n.Wave || n.Wave == 0) &&
			(m.Moved.IsZero() || m.Moved.Equal(n.Moved) && m.From == n.From) && (m.Back.IsZero() || m.Back.Equal(n.Back)) &&
			len(n.Results) >= len(m.Results)
		for k := 0; same && k < len(m.Results); k++ {
			x, y := m.Results[k], n.Results[k]
			same = x.Boot == y.Boot && x.Seq == y.Seq && x.Class == y.Class
		}
		if a.State == b.State && b.State == "halted" {
			same = same && m.Moved.Equal(n.Moved)
		}
		if !same {
			l.t.Errorf("%s: %s was\n%+v, and is\n%+v", l.id, m.Machine, m, n)
		}
	}
}
