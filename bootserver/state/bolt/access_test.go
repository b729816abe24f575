package bolt

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// TestAuditIsBoundedAndOrdered: the oldest are forgotten, the numbers go on
// after a restart, and a change that failed leaves no line.
func TestAuditIsBoundedAndOrdered(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	const most = 50
	s.keepAudit = most
	add := func(n int) {
		err := s.Update(func(tx state.Tx) error {
			for i := range n {
				tx.Audit(access.Change{At: time.Unix(int64(i), 0), Action: "test"})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	add(most - 1)
	failed := errors.New("failed")
	if err := s.Update(func(tx state.Tx) error { tx.Audit(access.Change{Action: "never"}); return failed }); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	add(3)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.keepAudit = most
	add(1)
	list, err := s.Audit(0, false, 2*most)
	if err != nil || len(list) != most || list[0].Seq != 4 || list[len(list)-1].Seq != most+3 {
		t.Fatalf("the log has %d changes (%v), from %d to %d; want %d, from 4 to %d", len(list), err, list[0].Seq, list[len(list)-1].Seq, most, most+3)
	}
	for i, c := range list {
		if c.Seq != uint64(i)+4 || c.Action == "never" {
			t.Fatalf("change %d is %+v", i, c)
		}
	}
}

// TestCredentialsStay over a restart; one whose change failed was never there.
func TestCredentialsStay(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Update(func(tx state.Tx) error {
		for i := range 3 {
			tx.PutCredential(access.Credential{ID: fmt.Sprint(i), Name: "a", Created: time.Unix(int64(9-i), 0).UTC()})
		}
		tx.DropCredential("1")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	if err := s.Update(func(tx state.Tx) error {
		tx.PutCredential(access.Credential{ID: "7"})
		tx.DropCredential("0")
		return failed
	}); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	for range 2 {
		list := s.Credentials()
		if len(list) != 2 || list[0].ID != "2" || list[1].ID != "0" {
			t.Errorf("Credentials = %+v; want 2 and 0", list)
		}
		if _, there := s.Credential("7"); there {
			t.Error("a change that failed left a credential")
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if s, err = Open(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestEndsAreCounted once, and not when the change fails.
func TestEndsAreCounted(t *testing.T) {
	s, err := Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := fleet.Boot{ID: ingot.NewBootID([16]byte{1}), Machine: "m-1"}
	failed := errors.New("failed")
	for _, step := range []struct {
		outcome ingot.Outcome
		err     error
	}{{ingot.OutcomeOpen, nil}, {ingot.OutcomeHealthy, failed}, {ingot.OutcomeHealthy, nil}, {ingot.OutcomeHealthy, nil}} {
		if err := s.Update(func(tx state.Tx) error { b.Outcome = step.outcome; tx.PutBoot(b); return step.err }); !errors.Is(err, step.err) {
			t.Fatal(err)
		}
	}
	if c := s.Counts(); c.Ended[ingot.OutcomeHealthy] != 1 || c.Open != 0 || c.FileBytes == 0 {
		t.Errorf("Counts = %+v; want one healthy end", c)
	}
}
