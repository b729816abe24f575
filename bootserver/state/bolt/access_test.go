package bolt

import (
	"errors"
	"testing"
	"time"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// TestAuditIsBoundedAndOrdered: the oldest are removed, the numbers go on
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
				tx.Record(fleet.Change{At: time.Unix(int64(i), 0), Code: fleet.ActionApprove})
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	add(most - 1)
	failed := errors.New("failed")
	if err := s.Update(func(tx state.Tx) error {
		tx.Record(fleet.Change{Code: fleet.ActionRetire})
		return failed
	}); !errors.Is(err, failed) {
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
	list, _, err := s.Changes(state.Query{Audit: true, Limit: 2 * most})
	if err != nil || len(list) != most || list[0].Seq != 4 || list[len(list)-1].Seq != most+3 {
		t.Fatalf("the log has %d changes (%v), from %d to %d; want %d, from 4 to %d", len(list), err, list[0].Seq,
			list[len(list)-1].Seq, most, most+3)
	}
	for i, c := range list {
		if c.Seq != uint64(i)+4 || c.Code != fleet.ActionApprove {
			t.Fatalf("change %d is %+v", i, c)
		}
	}
}
