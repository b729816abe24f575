package memory

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// TestLargeChangeInterrupted: wherever a large change is interrupted, the store holds all of
// it or nothing when it is opened again.
func TestLargeChangeInterrupted(t *testing.T) {
	const machines = 5*state.MaxRecords/2 + 1
	seen := map[bool]bool{}
	for at, died := 0, true; died; at++ {
		dir := filepath.Join(t.TempDir(), fmt.Sprint("state", at))
		s, c := openLarge(t, dir, machines)
		died = false
		steps := 0
		s.dies = func() bool { died = steps == at; steps++; return died }
		err := s.ReplaceMachines(c)
		if died != errors.Is(err, state.ErrClosed) || !died && err != nil {
			t.Fatalf("interrupted at step %d: %v", at, err)
		}
		if !died {
			checkLarge(t, s, c, true)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		is := len(s.Machines()) == machines
		seen[is] = true
		checkLarge(t, s, c, is)
		if len(s.data.staged) > 0 {
			t.Errorf("interrupted at step %d: pieces are left", at)
		}
		if !died && (!is || steps < 10) {
			t.Errorf("the change took %d steps and is stored: %t", steps, is)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !seen[false] || !seen[true] {
		t.Errorf("the change was there after an interruption or not: %v; want both", seen)
	}
}

// openLarge opens a store that has one of a number of machines, and returns a change of all.
func openLarge(t *testing.T, dir string, machines int) (*Store, state.LargeChange) {
	t.Helper()
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	first := fleet.Machine{ID: "m-0000", State: fleet.Pending}
	if err := s.Update(func(tx state.Tx) error {
		tx.StoreMachine(first)
		tx.Record(fleet.TextChange(fleet.KindMachine, "seen", false))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	c := state.LargeChange{LookedUp: s.Removed()}
	for i := range machines {
		m := fleet.Machine{ID: ingot.MachineID(fmt.Sprintf("m-%04d", i)), State: fleet.Approved}
		r := state.Replacement{After: m}
		if i == 0 {
			r.Before = &first
		}
		c.Machines = append(c.Machines, r)
		kind := fleet.KindMachine
		if i%2 == 0 {
			kind = fleet.KindAction
		}
		c.Changes = append(c.Changes, fleet.TextChange(kind, fmt.Sprint("import ", i), false))
	}
	return s, c
}

// checkLarge checks that a store holds what openLarge stored, and its large change or nothing of it.
func checkLarge(t *testing.T, s *Store, c state.LargeChange, is bool) {
	t.Helper()
	machines, entries, first := 1, 1, fleet.Pending
	if is {
		machines, entries, first = len(c.Machines), 1+len(c.Changes), fleet.Approved
	}
	list := s.Machines()
	if len(list) != machines || list[0].State != first {
		t.Fatalf("%d machines, the first is %s; want %d, %s", len(list), list[0].State, machines, first)
	}
	seqs := map[uint64]string{}
	for _, audit := range []bool{false, true} {
		got, _, err := s.Changes(state.Query{Audit: audit, Limit: 10 * entries})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range got {
			seqs[c.Seq] = c.String()
		}
	}
	if len(seqs) != entries {
		t.Fatalf("%d Changes are stored; want %d", len(seqs), entries)
	}
	for i := range entries - 1 { // the first one was stored before
		if want := c.Changes[i].String(); seqs[uint64(i)+2] != want {
			t.Fatalf("Change %d is %q; want %q", i+2, seqs[uint64(i)+2], want)
		}
	}
}
