package machines

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"ingot"
	"ingot/bootserver/api"
)

// TestRolloutFlags: faults in flags are found before the server is asked.
func TestRolloutFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--to all": "",
		"--to all --waves 5%,100% --max-unavailable 3 --window=Mon-Fri": "window",
		"--to all --waves ten":         `"ten" is not a percentage`,
		"--to all --max-unavailable 0": "neither a number of machines",
	} {
		var f startFlags
		c := &cobra.Command{Use: "start"}
		f.add(c)
		if err := c.ParseFlags(strings.Fields(args)); err != nil {
			t.Fatal(err)
		}
		err := f.parse()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("rollout start %s: %v; want %q", args, err, want)
		}
	}
}

// TestRolloutIsShown: the reason, the evidence, what failed machines share, and what to do next.
func TestRolloutIsShown(t *testing.T) {
	canary := 1
	r := api.RolloutDetail{Rollout: api.Rollout{ID: "r7", Image: api.ImageRef{Name: "node:8"}, Selector: "rack=r1",
		State: "halted", Wave: 1, Waves: 4, Machines: 20, Count: map[string]int{"good": 3, "bad": 2, "waiting": 15},
		Policy: api.RolloutPolicy{Canary: &canary, Waves: []int{10, 100}, How: "next-boot", Test: api.RolloutTest{Usual: 0.01,
			Bad: 0.1}},
		Stop: &api.RolloutStop{Reason: "failing-boots", Text: "halted in wave 1: 2 of 5 boots of node:8 failed",
			Evidence: []api.RolloutEvidence{{Name: "node02", Stage: ingot.StageInit, Code: ingot.FailureInit,
				Reason: "panic"}}}},
		Budget: []api.RolloutBudget{{Domain: "r1", Machines: 20, Unavailable: 2, Most: 2}}, Stops: 5.75, Good: -2.99,
		Curve:  []api.RolloutPoint{{Ratio: -0.1}, {Bad: true, Ratio: 2.2}},
		Common: []api.RolloutShared{{Kind: "driver", Value: "mlx5_core", Failed: 2, OfBad: 2, OfGood: 3}}}
	var s strings.Builder
	rolloutText(&s, r, time.Now())
	for _, want := range []string{"halted in wave 1 of 3", "halted in wave 1: 2 of 5 boots of node:8 failed",
		"3 good, 2 bad, 15 waiting", "budget of r1", "2 of 20 machines are unavailable, 2 may be", "init-panic",
		"1 of 2 boots failed (usual 1 %, bad 10 %); it is at 2.20: stops at 5.75, starts anew at -2.99",
		"driver mlx5_core: 2 of 2 that failed, 0 of 3 healthy ones", "ingot rollout resume r7", "ingot rollout abort r7"} {
		if !strings.Contains(s.String(), want) {
			t.Errorf("there is no %q in\n%s", want, &s)
		}
	}
	s.Reset()
	planText(&s, api.RolloutPlan{Rollout: r.Rollout, Machines: []api.PlannedMachine{{Name: "node01"},
		{Name: "node02", Wave: 2, Out: "pinned"}}})
	for _, want := range []string{"the canary", "node01", "not moved now, pinned: node02", "started: r7"} {
		if !strings.Contains(s.String(), want) {
			t.Errorf("there is no %q in\n%s", want, &s)
		}
	}
}
