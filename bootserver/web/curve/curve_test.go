package curve

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet/rollout"
)

// tested returns a rollout after boots of which those marked by an x failed, as the server counts them.
func tested(boots string) api.RolloutDetail {
	r := rollout.Rollout{Policy: rollout.Policy{Test: rollout.TestFor(0.01)}}
	var members []rollout.Member
	for i, c := range boots {
		class := rollout.Good
		if c == 'x' {
			class = rollout.Bad
		}
		members = append(members, rollout.Member{Machine: ingot.MachineID(fmt.Sprint("m", i+1)),
			Results: []rollout.Result{{Boot: "b", Seq: i + 1, Class: class, At: time.Unix(0, 0)}}})
	}
	d := api.RolloutDetail{}
	d.Policy.Test = api.RolloutTest(r.Policy.Test)
	d.Stops, d.Good = r.Policy.Test.Bounds()
	for _, p := range rollout.Curve(r, members) {
		d.Curve = append(d.Curve, api.RolloutPoint{Machine: p.Machine, Boot: p.Boot, At: p.At, Bad: p.Bad, Ratio: p.Ratio,
			Verdict: string(p.Verdict)})
	}
	return d
}

func name(id ingot.MachineID) string { return "name of " + string(id) }

func TestNothingYet(t *testing.T) {
	p := Of(tested(""), name)
	if p.Boots != 0 || p.Over || p.Left != 32 || len(p.Lines) != 0 || len(p.Dots) != 0 || p.Wide != 32 {
		t.Errorf("before the first boot: %+v", p)
	}
}

// TestCrossing: three failures among twelve boots end above the upper bound, and nothing goes on.
func TestCrossing(t *testing.T) {
	p := Of(tested("......x.x..x"), name)
	if !p.Over || p.Left != 0 || p.Ahead != (Line{}) || p.Bad != 3 || p.Boots != 12 {
		t.Fatalf("after three failures: %+v", p)
	}
	var last float64
	if _, err := fmt.Sscanf(p.Dots[0].Y, "%f", &last); err != nil || p.Dots[0].Name != "name of m12" || !p.Dots[0].Left {
		t.Fatalf("the last boot is %+v, %v", p.Dots[0], err)
	}
	var stop float64
	if _, err := fmt.Sscanf(p.Stop, "%f", &stop); err != nil || last >= stop || last < 0 {
		t.Errorf("the last boot is at %.1f, and the bound at %.1f: want it above, in the picture", last, stop)
	}
	if len(p.Lines) != 1 || strings.Count(p.Lines[0], ",") != 13 || !strings.HasPrefix(p.Lines[0], "0,"+p.Zero) {
		t.Errorf("the line is %q; want one through zero and twelve boots", p.Lines)
	}
}

// TestAheadTextStaysInside: near the right edge, the text about what is ahead ends there.
func TestAheadTextStaysInside(t *testing.T) {
	if text := Of(tested(strings.Repeat(".", 30)), name).AheadText; text != (Tick{X: "100%", Anchor: "end"}) {
		t.Errorf("after 30 of 32 boots the text is at %+v; want its end at the edge", text)
	}
	if text := Of(tested("."), name).AheadText; text.Anchor != "middle" {
		t.Errorf("after one boot the text is at %+v; want it in the middle", text)
	}
}

// TestStartsAnew: whenever the lower bound is reached, a new line begins at zero.
func TestStartsAnew(t *testing.T) {
	p := Of(tested(strings.Repeat(".", 35)), name)
	if len(p.Lines) != 2 || !strings.HasPrefix(p.Lines[1], "32,"+p.Zero) || p.Over {
		t.Fatalf("after 35 healthy boots the lines are %q", p.Lines)
	}
	if p.Left != 29 || p.Ahead.X1 != "35" || p.Ahead.X2 != "64" {
		t.Errorf("it starts anew after %d more, %+v; want 29", p.Left, p.Ahead)
	}
	if at := Of(tested(strings.Repeat(".", 32)), name); at.At != 0 || at.Left != 32 || len(at.Lines) != 1 {
		t.Errorf("just when it starts anew it is at %v, %d left, lines %q", at.At, at.Left, at.Lines)
	}
}

// TestManyBoots: a picture stays small, however many boots there were.
func TestManyBoots(t *testing.T) {
	p := Of(tested(strings.Repeat(strings.Repeat(".", 99)+"x", 50)), name)
	if p.Boots != 5000 || p.Hidden != 4400 || p.Wide > MostBoots+200 || len(p.Dots) != 6 {
		t.Errorf("of 5,000 boots: %d hidden, %d wide, %d dots; want the latest 600 and 6 dots", p.Hidden, p.Wide, len(p.Dots))
	}
	if len(p.Ticks) > 2*ticks || p.Ticks[0].Text != "4400" {
		t.Errorf("the axis has %d marks, from %s", len(p.Ticks), p.Ticks[0].Text)
	}
	size := 0
	for _, l := range p.Lines {
		size += len(l)
	}
	if size > 12_000 {
		t.Errorf("the lines take %d bytes", size)
	}
}
