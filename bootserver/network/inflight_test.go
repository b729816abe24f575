package network

import "testing"

// TestInFlight: in a flood of strangers that begin, those that began and
// machines that we know still get in; repetitions do not.
func TestInFlight(t *testing.T) {
	type key struct {
		n      int
		begins bool
	}
	var i InFlight[key]
	enter := func(n int, begins, stranger bool) bool {
		return i.Enter(key{n, begins}, Sender{Stranger: stranger, Begins: begins})
	}
	for n := range 100_000 {
		enter(n, true, true)
	}
	if i.beginners != maxBeginners {
		t.Errorf("%d beginners are inside; want %d", i.beginners, maxBeginners)
	}
	if enter(0, true, true) {
		t.Error("a repetition is let in")
	}
	if !enter(0, false, true) || !enter(200_000, true, false) {
		t.Error("a request, or a machine that we know, is left out")
	}
	for n := range 100_000 {
		enter(n, false, true)
	}
	if i.strangers != maxStrangers || !enter(200_001, false, false) {
		t.Errorf("%d strangers are inside; want %d, and room for a machine that we know", i.strangers, maxStrangers)
	}
	for k := range i.packets {
		i.Leave(k)
		i.Leave(k) // once is enough
	}
	if len(i.packets) != 0 || i.strangers != 0 || i.beginners != 0 {
		t.Errorf("%d packets, %d strangers and %d beginners are left inside; want none", len(i.packets), i.strangers, i.beginners)
	}
	for n := range 2 * maxInFlight {
		enter(n, true, false)
	}
	if len(i.packets) != maxInFlight {
		t.Errorf("%d packets of machines that we know are inside; want %d", len(i.packets), maxInFlight)
	}
}
