package bolt

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// TestOlderVersion: a file without indexes and numbers gets them.
func TestOlderVersion(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	err := s.Update(func(tx state.Tx) error {
		for i := range 5 {
			tx.StoreBoot(fleet.Boot{ID: ingot.NewBootID([16]byte{byte(9 - i)}), Machine: "m-1", Started: time.Unix(int64(i), 0),
				Outcome: ingot.OutcomeFailed})
		}
		return nil
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(dir, file), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		return firstOf(tx.Bucket(bucketMeta).Delete(keySchema), tx.DeleteBucket(bucketHistory), tx.DeleteBucket(bucketRecent),
			tx.DeleteBucket(bucketLedger), tx.DeleteBucket(bucketConsole))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	for _, m := range []ingot.MachineID{"m-1", ""} {
		list, err := s.Boots(m, 0)
		if err != nil || len(list) != 5 || list[0].Number != 1 || list[4].Number != 5 || list[4].Started.Unix() != 4 {
			t.Errorf("boots of %q: %+v, %v; want five, numbered by their start", m, list, err)
		}
	}
	if latest := s.Latest(); len(latest) != 1 || latest[0].Number != 5 {
		t.Errorf("in memory: %+v; want the latest one", latest)
	}
}
