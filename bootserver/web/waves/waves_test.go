package waves

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
)

var noon = time.Date(2026, 12, 1, 12, 0, 0, 0, time.Local)

// machine returns the i-th one of a wave.
func machine(i, wave int, is string, classes ...string) api.RolloutMachine {
	m := api.RolloutMachine{Machine: ingot.MachineID(fmt.Sprint("m-", i)), Name: fmt.Sprint("node", i), Wave: wave, Is: is}
	for n, c := range classes {
		m.Results = append(m.Results, api.RolloutResult{Boot: "b", Seq: n + 1, Class: c, Reason: "why " + c})
	}
	return m
}

func TestMembers(t *testing.T) {
	void := machine(9, 1, "moving", "good", "bad")
	void.Results[1].Void = true
	for _, c := range []struct {
		m    api.RolloutMachine
		want string
	}{
		{machine(1, 0, "good", "bad", "good"), "healthy healthy 1 good, 1 bad - /machines/m-1/boots/b"},
		{machine(2, 0, "bad", "bad", "bad"), "failed given up 2 bad why bad /machines/m-2/boots/b"},
		{machine(3, 0, "moving", "bad"), "failed failed, tries again 1 bad why bad /machines/m-3/boots/b"},
		{machine(4, 0, "moving", "elsewhere"),
			"booting assigned, to boot it 1 elsewhere why elsewhere /machines/m-4/boots/b"},
		{machine(5, 0, "moving"), "booting assigned, to boot it - - /machines/m-5"},
		{machine(6, 0, "waiting"), "- not moved yet - - /machines/m-6"},
		{machine(7, 0, "has it"), "done has it already - - /machines/m-7"},
		{machine(8, 0, "back"), "aborted taken back - - /machines/m-8"},
		{void, "booting assigned, to boot it 1 good why bad /machines/m-9/boots/b"},
	} {
		m := Members([]api.RolloutMachine{c.m})[0]
		or := func(s string) string { return map[bool]string{true: "-", false: s}[s == ""] }
		got := strings.Join([]string{or(string(m.Mark)), m.Outcome(), or(m.Boots), or(m.Note), m.Link}, " ")
		if got != c.want {
			t.Errorf("%s, %d results: %q; want %q", c.m.Is, len(c.m.Results), got, c.want)
		}
	}
}

func TestWaves(t *testing.T) {
	r := api.Rollout{Waves: 4, Wave: 2, State: "halted", Since: noon, Policy: api.RolloutPolicy{Waves: []int{10, 50, 100}},
		Log: []api.RolloutEntry{{At: noon.Add(-3 * time.Hour), State: "canary"},
			{At: noon.Add(-2 * time.Hour), State: "wave", Wave: 1}, {At: noon.Add(-time.Hour), State: "wave", Wave: 2},
			{At: noon, State: "halted", Wave: 2}}}
	var list []api.RolloutMachine
	for i := range 6 {
		left := machine(100+i, 2, "outside")
		left.Why = "off"
		list = append(list, left)
	}
	list = append(list, machine(1, 0, "good", "good"), machine(2, 2, "bad", "bad"), machine(3, 2, "waiting"))
	for i := range 60 {
		list = append(list, machine(200+i, 3, "waiting"))
	}
	var got []string
	for _, w := range StripOf(r, list).Waves {
		got = append(got, fmt.Sprintf("%s: %d of %d, %s, %d chips, %d ticks, %s", w.Name, w.Good, w.All, w.State,
			len(w.Chips()), len(w.Ticks()), w.Out))
	}
	want := "Canary: 1 of 1, done 10:00, 1 chips, 1 ticks, \n" +
		"Wave 2 · 50\u00a0%: 0 of 2, halted 12:00, 2 chips, 2 ticks, node100 (off), node101 (off), node102 (off), " +
		"node103 (off), " +
		"and 2 more\n" +
		"Wave 3 · 100\u00a0%: 0 of 60, not started, 0 chips, 0 ticks, "
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("the waves are\n%s\nwant\n%s", text, want)
	}
	pieces := Outcomes{Healthy: 1, Failed: 1, Moving: 2, Waiting: 4, Out: 9}.Pieces()
	if got := fmt.Sprint(pieces); len(pieces) != 3 || pieces[2].X != "25.00%" || pieces[2].W != "25.00%" {
		t.Errorf("the bar is %s", got)
	}
}

func TestStripLine(t *testing.T) {
	s := Strip{Rollout: api.Rollout{State: "wave", Wave: 1, Waves: 3}, Counts: Outcomes{Healthy: 3, Failed: 1, Waiting: 4}}
	if got := s.Line() + " " + s.Badge().Word; got != "3 of 8 healthy, 1 failed Wave 1 of 2" {
		t.Errorf("under way: %q", got)
	}
	s.State, s.Stop = "halted", &api.RolloutStop{Text: "halted in wave 1: 3 of 12 boots failed"}
	if got := s.Line() + " " + s.Badge().Word; got != "3 of 12 boots failed. Halted" {
		t.Errorf("halted: %q", got)
	}
	s.Stop = &api.RolloutStop{Text: "paused by ops"}
	if s.State = "paused"; s.Line() != "Paused by ops." || s.Badge().Mark != Paused {
		t.Errorf("paused: %q", s.Line())
	}
}

func TestBudgets(t *testing.T) {
	rows := Budgets([]api.RolloutBudget{{Domain: "r1", Machines: 10, Most: 3},
		{Domain: "r2", Machines: 10, Unavailable: 4, Most: 3},
		{Domain: "r3", Machines: 1000, Unavailable: 50, Most: 100}})
	if rows[0].Domain != "r2" || len(rows[0].Squares) != 4 || !rows[0].Squares[3].Full || rows[0].Bound != 48 {
		t.Errorf("the first is %+v; want the one beyond its budget", rows[0])
	}
	if rows[2].Domain != "r3" || len(rows[2].Squares) != 0 || rows[2].Share != "50.00%" {
		t.Errorf("a large one is %+v; want a bar", rows[2])
	}
}
