package bolt

import (
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// bootsWith puts boots of a machine, each with the RAM that it reported; 0 is a boot
// that ended before it reported any.
func bootsWith(t *testing.T, s *Store, m ingot.MachineID, first int, ram ...int64) (list []fleet.Boot) {
	t.Helper()
	var before ingot.BootID
	if old, err := s.Boots(m, 1); err != nil {
		t.Fatal(err)
	} else if len(old) > 0 {
		before = old[0].ID
	}
	for i, n := range ram {
		err := s.Update(func(tx state.Tx) (err error) {
			b := fleet.Boot{ID: ingot.NewBootID([16]byte{m[2], byte(first + i)}), Machine: m, Number: first + i, Before: before,
				Started: time.Unix(int64(first+i), 0)}
			tx.StoreBoot(b)
			if n != 0 {
				if b, err = tx.KeepFacts(b, ingot.Facts{RAM: n}); err != nil {
					return err
				}
				tx.StoreBoot(b)
			}
			before, list = b.ID, append(list, b)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return list
}

func wantRAM(t *testing.T, s *Store, b fleet.Boot, want int64) {
	t.Helper()
	f, reported, err := s.Facts(b)
	if err != nil || reported != (want != 0) || f.RAM != want {
		t.Errorf("boot %d reported %+v, %v, %v; want %d bytes of RAM", b.Number, f, reported, err, want)
	}
}

func factsKept(t *testing.T, s *Store) (n int) {
	t.Helper()
	if err := s.applyAll(); err != nil {
		t.Fatal(err)
	}
	err := s.read(func(tx *bbolt.Tx) error { n = tx.Bucket(bucketFacts).Stats().KeyN; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestFactsPerBoot: what each boot reported is found with it, what did not change is
// there once, and what no boot refers to is removed.
func TestFactsPerBoot(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	rams := []int64{8, 8, 0, 8, 4, 4, 8}
	list := bootsWith(t, s, "m-1", 1, rams...)
	for i, b := range list {
		wantRAM(t, s, b, rams[i])
	}
	if list[3].Facts != list[0].ID || list[6].Facts != list[6].ID {
		t.Errorf("boots 4 and 7 name %s and %s; want the first boot and itself", list[3].Facts.Short(), list[6].Facts.Short())
	}
	if n := factsKept(t, s); n != 3 {
		t.Errorf("%d records of hardware; want 3: what did not change is there once", n)
	}
	s.Close()
	s = open(t, dir)
	defer s.Close()
	for i, b := range list {
		wantRAM(t, s, b, rams[i])
	}
	same := make([]int64, state.BootsPerMachine-2)
	for i := range same {
		same[i] = 8
	}
	bootsWith(t, s, "m-1", 8, same...) // 4 of the first boots are left, with 4, 4 and 8
	wantRAM(t, s, list[5], 4)
	if n := factsKept(t, s); n != 2 {
		t.Errorf("%d records after the first boots were removed; want 2", n)
	}
	bootsWith(t, s, "m-1", 8+len(same), 8, 8)
	if n := factsKept(t, s); n != 1 {
		t.Errorf("%d records; want that of the hardware now", n)
	}
	other := bootsWith(t, s, "m-2", 1, 16)
	err := s.Update(func(tx state.Tx) error {
		tx.StoreMachine(fleet.Machine{ID: "m-1"})
		return tx.DropMachine("m-1")
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := factsKept(t, s); n != 1 {
		t.Errorf("%d records after the machine was dropped; want the other's", n)
	}
	wantRAM(t, s, other[0], 16)
}

// TestFactsOfAnOldFile: a file of a version that kept none is opened, and boots
// report theirs from then on.
func TestFactsOfAnOldFile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	old := bootsWith(t, s, "m-1", 1, 0)
	s.Close()
	db, err := bbolt.Open(filepath.Join(dir, file), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket(bucketFacts) }); err != nil {
		t.Fatal(err)
	}
	_ = db.Close()
	s = open(t, dir)
	defer s.Close()
	wantRAM(t, s, old[0], 0)
	wantRAM(t, s, bootsWith(t, s, "m-1", 2, 8)[0], 8)
}

// TestDamagedOldBoot: a boot whose record is damaged is removed when its time comes, and keeps nothing from
// being stored before.
func TestDamagedOldBoot(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	list := bootsWith(t, s, "m-1", 1, 8, 8, 16)
	if err := s.applyAll(); err != nil {
		t.Fatal(err)
	}
	damage := func(id ingot.BootID) {
		t.Helper()
		err := s.write(func(tx *bbolt.Tx) error { return tx.Bucket(bucketBoots).Put([]byte(id), []byte("{")) })
		if err != nil {
			t.Fatal(err)
		}
	}
	damage(list[1].ID)
	bootsWith(t, s, "m-1", 4, make([]int64, state.BootsPerMachine-2)...) // the first boot goes
	if err := s.applyAll(); err != nil {
		t.Fatalf("a damaged boot keeps others from being stored: %v", err)
	}
	if n := factsKept(t, s); n != 2 {
		t.Errorf("%d records of facts are kept; want 2: the damaged boot may refer to the first", n)
	}
	bootsWith(t, s, "m-1", 102, 0)
	boots, err := s.Boots("m-1", 0)
	if err != nil || len(boots) != state.BootsPerMachine || boots[0].ID != list[2].ID {
		t.Errorf("%d boots, %v; want %d from the third on", len(boots), err, state.BootsPerMachine)
	}
	if err := s.applyAll(); err != nil {
		t.Fatal(err)
	}
	for _, bucket := range [][]byte{bucketBoots, bucketHistory, bucketRecent} {
		err := s.read(func(tx *bbolt.Tx) error {
			return tx.Bucket(bucket).ForEach(func(k, _ []byte) error {
				if state.IDOf(k) == list[1].ID {
					t.Errorf("the damaged boot is still in %s", bucket)
				}
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir).Close()
}
