package network

import (
	"testing"
)

// TestInFlight: in a flood of unknown machines that begin, those that have begun and
// known machines still get in; repetitions do not.
func TestInFlight(t *testing.T) {
	type key struct {
		n      int
		begins bool
	}
	var i InFlight[key]
	enter := func(n int, begins, unknown bool) bool {
		return i.enter(key{n, begins}, Sender{Unknown: unknown, Begins: begins})
	}
	for n := range 100_000 {
		enter(n, true, true)
	}
	if i.beginning != maxBeginning {
		t.Errorf("%d beginners are inside; want %d", i.beginning, maxBeginning)
	}
	if enter(0, true, true) {
		t.Error("a repetition is let in")
	}
	if !enter(0, false, true) || !enter(200_000, true, false) {
		t.Error("a request, or a known machine, is left out")
	}
	for n := range 100_000 {
		enter(n, false, true)
	}
	if i.unknown != maxUnknown || !enter(200_001, false, false) {
		t.Errorf("%d unknown machines are inside; want %d, and room for a known machine", i.unknown, maxUnknown)
	}
	for k := range i.packets {
		i.leave(k)
		i.leave(k) // once is enough
	}
	if len(i.packets) != 0 || i.unknown != 0 || i.beginning != 0 {
		t.Errorf("%d packets, %d unknown machines and %d beginners are left inside; want none", len(i.packets),
			i.unknown, i.beginning)
	}
	for n := range 2 * maxInFlight {
		enter(n, true, false)
	}
	if len(i.packets) != maxInFlight {
		t.Errorf("%d packets of known machines are inside; want %d", len(i.packets), maxInFlight)
	}
}
