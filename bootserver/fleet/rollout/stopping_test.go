package rollout

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"ingot"
)

// scene is a fault of an image.
type scene struct {
	name    string
	machine float64 // share of the machines on which each boot fails
	boot    float64 // share of all boots that fail
	from    int     // it begins at this machine
}

const fleetSize = 200

// ran is how one rollout went.
type ran struct {
	state State
	moved int // machines that were moved
}

// play runs one rollout over a fleet of simulated machines, of which ten may be unavailable at a time.
func play(t testing.TB, s scene, r *rand.Rand) ran {
	t.Helper()
	now := time.Unix(1_800_000_000, 0).UTC()
	f := Fleet{Machines: make(map[ingot.MachineID]Machine, fleetSize), Listening: now.Add(-time.Hour)}
	list := make([]Candidate, fleetSize)
	broken := map[ingot.MachineID]bool{}
	for i := range list {
		id := ingot.MachineID(fmt.Sprintf("node%03d", i))
		m := Machine{Assigned: oldImage, Since: now, Boots: []Boot{{ID: ingot.BootID(id + "-0"), Number: 1,
			Image: oldImage.Image, Outcome: ingot.OutcomeHealthy, Heard: now, Delivered: true}}}
		f.Machines[id], list[i] = m, Candidate{ID: id, Name: string(id), Machine: m}
		broken[id] = i >= s.from && r.Float64() < s.machine
	}
	p := Policy{Canary: DefaultCanary, MaxUnavailable: Amount{Machines: 10}}.WithDefaults(FloorRate, 2)
	ro, members, err := Plan(Rollout{ID: "r1", Image: newImage, State: Planned, Since: now, Policy: p}, list)
	if err != nil {
		t.Fatal(err)
	}
	moved := map[ingot.MachineID]time.Time{}
	for range 5000 {
		now = now.Add(time.Minute)
		for i := range list {
			id := list[i].ID
			m := f.Machines[id]
			if at, was := moved[id]; was && now.After(at) {
				m = boot(m, broken[id] || r.Float64() < s.boot)
			}
			m.Boots = slices.Clone(m.Boots)
			m.Boots[len(m.Boots)-1].Heard = now
			f.Machines[id] = m
		}
		for more := true; more; {
			st := Next(ro, members, f, now)
			if st.Empty() {
				break
			}
			more, ro = st.More, st.Rollout
			for _, c := range st.Members {
				members[c.Place] = c
			}
			for _, mv := range st.Moves {
				m := f.Machines[mv.Machine]
				m.Assigned, m.Since = mv.To, now
				f.Machines[mv.Machine], moved[mv.Machine] = m, now
			}
		}
		if ro.State.Stopped() || ro.State.Ended() {
			return ran{ro.State, len(moved)}
		}
	}
	t.Fatalf("it does not end: %s in wave %d", ro.State, ro.Wave)
	return ran{}
}

// boot boots a machine that was moved and does not run the image yet. After two failures in a row it
// falls back to the image before.
func boot(m Machine, fails bool) Machine {
	last := m.Boots[len(m.Boots)-1]
	if m.GaveUp || last.Image == newImage.Image && last.Outcome == ingot.OutcomeHealthy {
		return m
	}
	b := Boot{ID: ingot.BootID(fmt.Sprint(m.Boots[0].ID, len(m.Boots))), Number: last.Number + 1, Image: newImage.Image,
		Delivered: true, Outcome: ingot.OutcomeHealthy}
	if fails {
		b.Outcome, b.Code, b.Stage, b.Reason = ingot.OutcomeFailed, ingot.FailureInit, ingot.StageInit, "panic"
	}
	m.Boots = append(slices.Clone(m.Boots), b)
	if fails && last.Outcome == ingot.OutcomeFailed {
		m.GaveUp = true
		m.Boots = append(m.Boots, Boot{ID: b.ID + "-back", Number: b.Number + 1, Image: oldImage.Image,
			Outcome: ingot.OutcomeHealthy, Delivered: true})
	}
	return m
}

// scenes are the faults that docs/ROLLOUTS.md gives figures for, with the bounds that they must keep.
var scenes = []struct {
	scene
	median, p95 int     // machines that were moved when it stops
	least, most float64 // share of the runs that stop
}{
	{scene{"always", 1, 0, 0}, 1, 1, 1, 1},
	{scene{"30% of machines", 0.3, 0, 0}, 12, 31, 1, 1},
	{scene{"30% of boots", 0, 0.3, 0}, 12, 31, 1, 1},
	{scene{"10% of machines", 0.1, 0, 0}, 45, 121, 0.98, 1},
	{scene{"10% of boots", 0, 0.1, 0}, 45, 121, 0.98, 1},
	{scene{"30% of machines from the 100th", 0.3, 0, 100}, 141, 141, 1, 1},
	{scene{"5% of machines", 0.05, 0, 0}, fleetSize, fleetSize, 0.3, 1},
	{scene{"5% of boots", 0, 0.05, 0}, fleetSize, fleetSize, 0.3, 1},
	{scene{"1% of boots", 0, 0.01, 0}, fleetSize, fleetSize, 0, 0.01},
	{scene{"1% of machines", 0.01, 0, 0}, fleetSize, fleetSize, 0, 0.03},
}

// results are the machines that were moved in the runs that stopped, sorted, and how many of these
// runs were paused as inconclusive: the wave lacked its quorum before the test had decided.
func results(t testing.TB, s scene, runs int) (stopped []int, paused int) {
	for i := range runs {
		r := play(t, s, rand.New(rand.NewPCG(uint64(i), 14)))
		if r.state == Paused {
			paused++
		}
		if r.state.Stopped() {
			stopped = append(stopped, r.moved)
		}
	}
	slices.Sort(stopped)
	return stopped, paused
}

func percentile(sorted []int, p float64) int {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

// TestStopping: how many machines a faulty image reaches, by the real decisions.
func TestStopping(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates a thousand rollouts")
	}
	const runs = 100
	for _, s := range scenes {
		t.Run(s.name, func(t *testing.T) {
			stopped, paused := results(t, s.scene, runs)
			share := float64(len(stopped)) / runs
			median, p95 := percentile(stopped, 0.5), percentile(stopped, 0.95)
			t.Logf("%d of %d stopped, %d of them paused; machines moved: median %d, p95 %d", len(stopped), runs, paused,
				median, p95)
			if share < s.least || share > s.most {
				t.Errorf("%.2f of the runs stopped; want %.2f to %.2f", share, s.least, s.most)
			}
			if median > s.median || p95 > s.p95 {
				t.Errorf("median %d and p95 %d machines; want at most %d and %d", median, p95, s.median, s.p95)
			}
		})
	}
}

// BenchmarkStopping reports how many of 200 machines a faulty image reaches, in 1,000 rollouts each.
func BenchmarkStopping(b *testing.B) {
	const runs = 1000
	for _, s := range scenes {
		b.Run(s.name, func(b *testing.B) {
			for b.Loop() {
				stopped, paused := results(b, s.scene, runs)
				b.ReportMetric(float64(len(stopped))/runs*100, "%stopped")
				b.ReportMetric(float64(paused)/runs*100, "%paused")
				b.ReportMetric(float64(percentile(stopped, 0.5)), "machines-p50")
				b.ReportMetric(float64(percentile(stopped, 0.95)), "machines-p95")
			}
		})
	}
}
