package statetest

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/desired"
	"ingot/bootserver/state"
)

// testDesired: the largest desired state that may be packed fits into a transaction, is there after a
// restart and in a backup, and a transaction that fails leaves nothing of it.
func testDesired(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	if r := s.Desired(); r.Generation != 0 {
		t.Errorf("an empty state has the desired state %+v", r)
	}
	want := desired.Record{Generation: 1, At: time.Unix(1, 0).UTC(), By: fleet.Actor{Kind: "token", Name: "ci"},
		Content: bytes.Repeat([]byte{255}, desired.MaxContent), Following: true}
	update(t, s, func(tx state.Tx) { tx.PutDesired(want) })
	err := s.Update(func(tx state.Tx) error {
		r := tx.Desired()
		r.Generation++
		tx.PutDesired(r)
		if got := tx.Desired(); got.Generation != 2 {
			t.Errorf("in the transaction, the generation is %d; want 2", got.Generation)
		}
		return errRefused
	})
	if !errors.Is(err, errRefused) {
		t.Errorf("Update = %v; want the function's error", err)
	}
	for range 2 {
		if d := cmp.Diff(want, s.Desired()); d != "" {
			t.Errorf("desired state (-want +got):\n%s", d)
		}
		if err := s.Verify(); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
		s = b.open(t, dir)
	}
	closeStore(t, s)
}
