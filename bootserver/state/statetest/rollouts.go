package statetest

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/state"
)

func aRollout(number int) rollout.Rollout {
	at := time.Unix(int64(number), 0).UTC()
	return rollout.Rollout{ID: fmt.Sprint("r", number), Number: number, Generation: 1, State: rollout.Planned, Since: at,
		Created: at, Image: rollout.Image{Image: digest(8), Name: "node:8"}, Selector: "rack=r1", By: "local root",
		Policy: rollout.Policy{Canary: 1}.WithDefaults(0, 2), Waves: 4}
}

func aMember(r rollout.Rollout, place int) rollout.Member {
	return rollout.Member{Rollout: r.ID, Machine: ingot.MachineID(fmt.Sprintf("m-%05d", place)), Place: place, Wave: 1,
		Name: fmt.Sprintf("node%05d", place), From: rollout.Image{Image: digest(7), Name: "node:7"}}
}

// testRollouts: a rollout of thousands of machines is stored in parts, each within the bound of a
// transaction, is there after a restart, and a transaction that fails leaves nothing of it.
func testRollouts(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	r := aRollout(1)
	const machines, part = 2000, state.MaxRecords - 1
	update(t, s, func(tx state.Tx) {
		if n := tx.LastRollout(); n != 0 {
			t.Errorf("the latest rollout of an empty state is %d", n)
		}
		tx.PutRollout(r)
	})
	var want []rollout.Member
	for from := 0; from < machines; from += part {
		update(t, s, func(tx state.Tx) {
			for i := from; i < min(from+part, machines); i++ {
				tx.PutMember(aMember(r, i))
			}
		})
	}
	for i := range machines {
		want = append(want, aMember(r, i))
	}
	err := s.Update(func(tx state.Tx) error {
		tx.PutRollout(aRollout(2))
		m := aMember(r, 0)
		m.Left = "refused"
		tx.PutMember(m)
		tx.DropMember(r.ID, "m-00001")
		tx.DropRollout(r.ID)
		return errRefused
	})
	if !errors.Is(err, errRefused) {
		t.Errorf("Update = %v; want the function's error", err)
	}
	if err := s.Update(func(tx state.Tx) error {
		for i := range state.MaxRecords + 1 {
			tx.PutMember(aMember(r, i))
		}
		return nil
	}); !errors.Is(err, state.ErrTooLarge) {
		t.Errorf("more machines than a transaction may store: %v; want ErrTooLarge", err)
	}
	for range 2 {
		if d := cmp.Diff([]rollout.Rollout{r}, s.Rollouts()); d != "" {
			t.Errorf("rollouts (-want +got):\n%s", d)
		}
		if d := cmp.Diff(want, s.Members(r.ID)); d != "" {
			t.Errorf("members (-want +got):\n%s", d)
		}
		if err := s.Verify(); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
		s = b.open(t, dir)
	}
	for from := 0; from < machines; from += part {
		update(t, s, func(tx state.Tx) {
			for i := from; i < min(from+part, machines); i++ {
				tx.DropMember(r.ID, want[i].Machine)
			}
		})
	}
	update(t, s, func(tx state.Tx) { tx.DropRollout(r.ID) })
	closeStore(t, s)
	s = b.open(t, dir)
	defer closeStore(t, s)
	if len(s.Rollouts()) != 0 || len(s.Members(r.ID)) != 0 {
		t.Error("a rollout that was removed is there after reopening")
	}
}

// movedMember is a machine that was moved; the image failed on every third.
func movedMember(r rollout.Rollout, i int) rollout.Member {
	m := aMember(r, i)
	m.Moved, m.Number, m.Domain = time.Unix(int64(i), 5).UTC(), i, fmt.Sprint("r", i%7)
	if i%3 == 0 {
		m.Results = []rollout.Result{{Boot: ingot.NewBootID([16]byte{byte(i >> 8), byte(i)}), Seq: i, Class: rollout.Bad,
			At: m.Moved, Reason: "no such file", Stage: ingot.StageSwitch, Void: i%2 == 0}}
		m.GivenUp, m.GaveUp, m.Stuck = true, i, "hook batch failed"
	}
	return m
}

// testEndedRollouts: machines of rollouts that ended are the same whatever is forgotten meanwhile, after a restart, and
// after a transaction that fails; they can be changed and removed.
func testEndedRollouts(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	r := aRollout(1)
	r.State, r.Ended = rollout.Done, time.Unix(10, 0).UTC()
	const machines, part = 2300, state.MaxRecords - 1
	var want []rollout.Member
	for i := range machines {
		want = append(want, movedMember(r, i))
	}
	update(t, s, func(tx state.Tx) { tx.PutRollout(r) })
	inParts := func(f func(tx state.Tx, i int)) {
		t.Helper()
		for from := 0; from < machines; from += part {
			update(t, s, func(tx state.Tx) {
				for i := from; i < min(from+part, machines); i++ {
					f(tx, i)
				}
			})
		}
	}
	same := func(when string) {
		t.Helper()
		if d := cmp.Diff(want, s.Members(r.ID)); d != "" {
			t.Errorf("members %s (-want +got):\n%s", when, d)
		}
	}
	inParts(func(tx state.Tx, i int) { tx.PutMember(want[i]) })
	for range 4 {
		s.Forget()
		same("after some were forgotten")
	}
	if err := s.Update(func(tx state.Tx) error {
		m := want[7]
		m.Left = "refused"
		tx.PutMember(m)
		tx.DropMember(r.ID, want[8].Machine)
		return errRefused
	}); !errors.Is(err, errRefused) {
		t.Errorf("Update = %v; want the function's error", err)
	}
	same("after a transaction that failed")
	s.Forget()
	closeStore(t, s)
	s = b.open(t, dir)
	same("after a restart")
	update(t, s, func(tx state.Tx) {
		if of := tx.RolloutOf(want[7].Machine); of != "" {
			t.Errorf("after its end a machine is in rollout %q", of)
		}
		want[7].Left = "forgotten"
		tx.PutMember(want[7])
	})
	s.Forget()
	same("after a change")
	r.State, r.Ended = rollout.Paused, time.Time{} // as an older version might have stored it
	update(t, s, func(tx state.Tx) { tx.PutRollout(r) })
	update(t, s, func(tx state.Tx) {
		if of := tx.RolloutOf(want[8].Machine); of != r.ID {
			t.Errorf("a machine of a rollout that goes on is in rollout %q", of)
		}
	})
	r.State = rollout.Back
	update(t, s, func(tx state.Tx) { tx.PutRollout(r) })
	s.Forget()
	inParts(func(tx state.Tx, i int) { tx.DropMember(r.ID, want[i].Machine) })
	if n := len(s.Members(r.ID)); n != 0 {
		t.Errorf("%d members are left of those that were removed", n)
	}
	closeStore(t, s)
}

// testRolloutImages: images that a rollout brings, or that its machines go back to, stay; a machine
// belongs to one rollout that has not ended.
func testRolloutImages(t *testing.T, b Backend) {
	s := b.fresh(t)
	r := aRollout(1)
	m := aMember(r, 1)
	used := func(image int) (why string) {
		update(t, s, func(tx state.Tx) { why, _ = tx.ImageUse(digest(image)) })
		return why
	}
	of := func() (id string) {
		update(t, s, func(tx state.Tx) { id = tx.RolloutOf(m.Machine) })
		return id
	}
	update(t, s, func(tx state.Tx) { tx.PutRollout(r); tx.PutMember(m) })
	if used(8) != "rollout r1 brings it to machines" || used(7) != "" || of() != "r1" {
		t.Errorf("image 8 is used: %q, image 7: %q; the machine is in rollout %q", used(8), used(7), of())
	}
	m.Moved = time.Unix(9, 0).UTC()
	update(t, s, func(tx state.Tx) { tx.PutMember(m) })
	if used(7) != "machines of rollout r1 may go back to it" {
		t.Errorf("the image that a machine goes back to is used: %q", used(7))
	}
	r.State, r.Ended = rollout.Done, time.Unix(10, 0).UTC()
	update(t, s, func(tx state.Tx) { tx.PutRollout(r) })
	if used(8) != "" || used(7) != "" || of() != "" {
		t.Errorf("after its end image 8 is used: %q, image 7: %q; the machine is in rollout %q", used(8), used(7), of())
	}
	looked := s.Removed()
	update(t, s, func(tx state.Tx) { tx.PutRemoval(state.Removal{Image: digest(8)}) })
	if err := s.Update(func(tx state.Tx) error { tx.PutRollout(aRollout(2)); return nil }); !errors.Is(err,
		state.ErrBeingRemoved) {
		t.Errorf("a rollout of an image that is being removed: %v; want ErrBeingRemoved", err)
	}
	update(t, s, func(tx state.Tx) { tx.DropRemoval(digest(8)) })
	if err := s.Update(func(tx state.Tx) error {
		tx.LookedUp(looked)
		tx.PutRollout(aRollout(2))
		return nil
	}); !errors.Is(err, state.ErrRemoved) {
		t.Errorf("a rollout of an image that was looked up before a removal ended: %v; want ErrRemoved", err)
	}
}
