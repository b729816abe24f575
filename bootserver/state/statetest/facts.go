package statetest

import (
	"path/filepath"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// bootsWith stores boots of a machine, each with the RAM that it reported; 0 is a boot that
// ended before it reported any.
func bootsWith(t *testing.T, s state.Store, m ingot.MachineID, first int, ram ...int64) (list []fleet.Boot) {
	t.Helper()
	var before ingot.BootID
	if old, err := s.Boots(m, 1); err != nil {
		t.Fatal(err)
	} else if len(old) > 0 {
		before = old[0].ID
	}
	for i, n := range ram {
		var x fleet.Boot
		err := s.Update(func(tx state.Tx) (err error) {
			x = fleet.Boot{ID: bootID(m[2], byte(first+i)), Machine: m, Number: first + i, Before: before,
				Started: time.Unix(int64(first+i), 0)}
			tx.StoreBoot(x)
			if n != 0 {
				if x, err = tx.KeepFacts(x, ingot.Facts{RAM: n}); err != nil {
					return err
				}
				tx.StoreBoot(x)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		before, list = x.ID, append(list, x)
	}
	return list
}

func wantRAM(t *testing.T, s state.Store, b fleet.Boot, want int64) {
	t.Helper()
	f, reported, err := s.Facts(b)
	if err != nil || reported != (want != 0) || f.RAM != want {
		t.Errorf("boot %d reported %+v, %v, %v; want %d bytes of RAM", b.Number, f, reported, err, want)
	}
}

// testFactsPerBoot: what each boot reported is found with it, and what did not change is
// stored once.
func testFactsPerBoot(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	rams := []int64{8, 8, 0, 8, 4, 4, 8}
	list := bootsWith(t, s, "m-1", 1, rams...)
	if list[3].Facts != list[0].ID || list[6].Facts != list[6].ID {
		t.Errorf("boots 4 and 7 name %s and %s; want the first boot and itself", list[3].Facts.Short(), list[6].Facts.Short())
	}
	for range 2 {
		for i, x := range list {
			wantRAM(t, s, x, rams[i])
		}
		closeStore(t, s)
		s = b.open(t, dir)
	}
	same := make([]int64, state.BootsPerMachine-2)
	for i := range same {
		same[i] = 8
	}
	bootsWith(t, s, "m-1", 8, same...) // 4 of the first boots are left, with 4, 4 and 8
	wantRAM(t, s, list[5], 4)
	wantRAM(t, s, list[0], 0)
	closeStore(t, s)
}

// testFactsOfMergedBoots: boots that another machine got keep what they reported.
func testFactsOfMergedBoots(t *testing.T, b Backend) {
	s := b.fresh(t)
	one, two := bootsWith(t, s, "m-1", 1, 8, 8), bootsWith(t, s, "m-2", 1, 4, 4)
	err := s.Update(func(tx state.Tx) error {
		tx.StoreMachine(fleet.Machine{ID: "m-2"})
		if _, err := tx.MoveBoots("m-2", "m-1"); err != nil {
			return err
		}
		return tx.DropMachine("m-2")
	})
	if err != nil {
		t.Fatal(err)
	}
	wantRAM(t, s, one[1], 8)
	wantRAM(t, s, two[1], 4)
	update(t, s, func(tx state.Tx) {
		tx.StoreMachine(fleet.Machine{ID: "m-1"})
		if err := tx.DropMachine("m-1"); err != nil {
			t.Error(err)
		}
	})
	wantRAM(t, s, one[1], 0)
}
