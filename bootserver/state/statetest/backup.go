package statetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// testBackup: a restore brings back what was there, from a running store, and keeps what
// was there before it; the ledger has another name then.
func testBackup(t *testing.T, b Backend) {
	there, here := b.fresh(t), b.fresh(t)
	update(t, there, func(tx state.Tx) {
		tx.StoreMachine(fullMachine())
		tx.StoreBoot(fullBoot())
		tx.AddConsole(bootID(1), "console")
		tx.Record(note("m-1", "1"), note("m-1", "2"))
	})
	update(t, here, func(tx state.Tx) { tx.StoreMachine(fleet.Machine{ID: "m-gone"}) })
	var backup bytes.Buffer
	if err := there.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	update(t, there, func(tx state.Tx) { tx.StoreMachine(fleet.Machine{ID: "m-later"}) })
	for i := range 3 {
		was, _ := here.LedgerName()
		kept, err := here.Restore(bytes.NewReader(backup.Bytes()), time.Unix(5, 0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("what was there before is not kept: %v", err)
		}
		if d := cmp.Diff([]fleet.Machine{fullMachine()}, here.Machines(), addresses); d != "" {
			t.Errorf("machines (-want +got):\n%s", d)
		}
		if x, ok := here.Boot(bootID(1)); !ok || cmp.Diff(fullBoot(), x, addresses) != "" {
			t.Errorf("boot %+v, %v", x, ok)
		}
		if text, err := here.Console(bootID(1)); err != nil || text != "console" {
			t.Errorf("console %q, %v", text, err)
		}
		if name, restored := here.LedgerName(); restored != 2 || i == 0 && name == was {
			t.Errorf("the ledger is named %q, as before: %q, and ends at %d; want another name, and 2", name, was, restored)
		}
		if !bytes.Equal(here.Identity(), there.Identity()) {
			t.Error("the identity of the backup is not taken over")
		}
	}
	if err := here.Append(note("m-1", "3")); err != nil {
		t.Fatal(err)
	}
	if list := changes(t, here, state.Query{}); len(list) != 3 || list[2].Seq != 3 {
		t.Errorf("the ledger goes on with %+v", list)
	}
}

// testRestoreKeepsAccess: what operators did and what they may do does not go back in time.
func testRestoreKeepsAccess(t *testing.T, b Backend) {
	s := b.fresh(t)
	update(t, s, func(tx state.Tx) { tx.PutCredential(access.Credential{ID: "1", Name: "a"}) })
	var backup bytes.Buffer
	if err := s.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx state.Tx) {
		tx.PutCredential(access.Credential{ID: "1", Name: "a", Revoked: time.Unix(9, 0).UTC()})
		tx.PutCredential(access.Credential{ID: "2", Name: "b"})
		tx.Record(note("", "1"), fleet.Change{Code: fleet.ActionTokenRevoke, Subject: "1"})
	})
	if _, err := s.Restore(bytes.NewReader(backup.Bytes()), time.Unix(5, 0)); err != nil {
		t.Fatal(err)
	}
	if c, _ := s.Credential("1"); c.Revoked.IsZero() || len(s.Credentials()) != 2 {
		t.Errorf("after a restore there are the credentials %+v", s.Credentials())
	}
	if err := s.Append(fleet.Change{Code: fleet.ActionServerRestore}); err != nil {
		t.Fatal(err)
	}
	if list := changes(t, s, state.Query{Audit: true}); len(list) != 2 || list[0].Code != fleet.ActionTokenRevoke ||
		list[1].Seq <= list[0].Seq {
		t.Errorf("after a restore there are the actions %+v", list)
	}
}

// testDamagedBackup: a file that is not a backup, or only a part of one, changes nothing.
func testDamagedBackup(t *testing.T, b Backend) {
	s := b.fresh(t)
	update(t, s, func(tx state.Tx) { tx.StoreMachine(fullMachine()); tx.Record(note("m-1", strings.Repeat("x", 10000))) })
	var backup bytes.Buffer
	if err := s.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	for _, damaged := range [][]byte{nil, []byte("hello"), backup.Bytes()[:backup.Len()/2]} {
		if _, err := s.Restore(bytes.NewReader(damaged), time.Unix(5, 0)); !errors.Is(err, state.ErrDamaged) {
			t.Errorf("restoring %d of %d bytes: %v; want ErrDamaged", len(damaged), backup.Len(), err)
		}
	}
	if len(s.Machines()) != 1 {
		t.Error("a damaged backup changed the state")
	}
}

// testFlippedBackup: a byte that flipped on the way, wherever it is, is noticed or harmless: a
// restore is refused, or brings back what was there. A backup that was cut off at its end, or to
// which something was added, is refused.
func testFlippedBackup(t *testing.T, b Backend) {
	s := b.fresh(t)
	update(t, s, func(tx state.Tx) { tx.StoreMachine(fullMachine()); tx.Record(note("m-1", strings.Repeat("x", 10000))) })
	var backup bytes.Buffer
	if err := s.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	size, err := state.CheckSeal(bytes.NewReader(backup.Bytes()), int64(backup.Len()))
	if err != nil || size >= int64(backup.Len()) {
		t.Fatalf("CheckSeal of %d bytes = %d, %v; want a checksum", backup.Len(), size, err)
	}
	update(t, s, func(tx state.Tx) { tx.StoreMachine(fleet.Machine{ID: "m-later"}) })
	for at := 0; at < int(size); at += 1 + int(size)/200 {
		flipped := bytes.Clone(backup.Bytes())
		flipped[at] ^= 1 << (at % 8)
		if _, err := s.Restore(bytes.NewReader(flipped), time.Unix(5, 0)); !errors.Is(err, state.ErrDamaged) {
			t.Fatalf("restoring a backup with byte %d of %d flipped: %v; want ErrDamaged", at, size, err)
		}
	}
	for at := int(size); at < backup.Len(); at++ {
		flipped := bytes.Clone(backup.Bytes())
		flipped[at] ^= 1
		_, err := s.Restore(bytes.NewReader(flipped), time.Unix(5, 0))
		if !errors.Is(err, state.ErrDamaged) && (err != nil || len(s.Machines()) != 1) {
			t.Fatalf("restoring a backup with byte %d of its checksum flipped: %v, %d machines", at, err, len(s.Machines()))
		}
	}
	for cut := 1; cut <= backup.Len()-int(size)+1; cut++ {
		if _, err := s.Restore(bytes.NewReader(backup.Bytes()[:backup.Len()-cut]), time.Unix(5, 0)); !errors.Is(err,
			state.ErrDamaged) {
			t.Fatalf("restoring a backup without its last %d bytes: %v; want ErrDamaged", cut, err)
		}
	}
	for _, more := range []string{"\n", "\x00", strings.Repeat("x", 5000)} {
		longer := append(bytes.Clone(backup.Bytes()), more...)
		if _, err := s.Restore(bytes.NewReader(longer), time.Unix(5, 0)); !errors.Is(err, state.ErrDamaged) {
			t.Fatalf("restoring a backup with %d bytes more: %v; want ErrDamaged", len(more), err)
		}
	}
	update(t, s, func(tx state.Tx) { tx.StoreMachine(fleet.Machine{ID: "m-later"}) })
	if _, err := s.Restore(bytes.NewReader(backup.Bytes()), time.Unix(5, 0)); err != nil {
		t.Fatalf("restoring the whole backup: %v", err)
	}
	if d := cmp.Diff([]fleet.Machine{fullMachine()}, s.Machines(), addresses); d != "" {
		t.Errorf("machines (-want +got):\n%s", d)
	}
}

// testHistories runs random transactions on a store and on maps, some of which fail, with
// restarts between them: both know the same in the end.
func testHistories(t *testing.T, b Backend) {
	for seed := range 10 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		h := history{t: t, b: b, dir: filepath.Join(t.TempDir(), "state"), machines: map[ingot.MachineID]fleet.Machine{},
			boots: map[ingot.MachineID][]ingot.BootID{}}
		h.s = b.open(t, h.dir)
		for range 60 {
			h.step(r)
		}
		h.compare(seed)
		closeStore(t, h.s)
	}
}

// history is a store and what it should know.
type history struct {
	t        *testing.T
	b        Backend
	dir      string
	s        state.Store
	machines map[ingot.MachineID]fleet.Machine
	boots    map[ingot.MachineID][]ingot.BootID // the newest last
	begun    int
}

func (h *history) step(r *rand.Rand) {
	id := ingot.MachineID(fmt.Sprint("m-", r.IntN(4)))
	var fault error
	if r.IntN(4) == 0 {
		fault = errRefused
	}
	apply := func(f func(tx state.Tx) error) bool {
		err := h.s.Update(func(tx state.Tx) error { return errors.Join(f(tx), fault) })
		if !errors.Is(err, fault) {
			h.t.Fatal(err)
		}
		return fault == nil
	}
	switch action := r.IntN(8); {
	case action < 4: // a boot
		h.begun++
		m := fleet.Machine{ID: id, Orders: h.begun, Boot: bootID(3, byte(h.begun>>8), byte(h.begun))}
		x := fleet.Boot{ID: m.Boot, Machine: id, Number: len(h.boots[id]) + 1, Started: time.Unix(int64(h.begun), 0).UTC(),
			Outcome: ingot.OutcomeFailed}
		if apply(func(tx state.Tx) error { tx.StoreMachine(m); tx.StoreBoot(x); return nil }) {
			h.machines[id], h.boots[id] = m, append(h.boots[id], x.ID)
		}
	case action == 4:
		if apply(func(tx state.Tx) error { return tx.DropMachine(id) }) && h.machines[id].ID != "" {
			delete(h.machines, id)
			delete(h.boots, id)
		}
	case action == 5:
		if apply(func(tx state.Tx) error { _, err := tx.MoveBoots(id, "m-into"); return err }) {
			h.boots["m-into"] = append(h.boots["m-into"], h.boots[id]...)
			delete(h.boots, id)
		}
	case action == 6:
		h.s.Forget()
	default:
		closeStore(h.t, h.s)
		h.s = h.b.open(h.t, h.dir)
	}
}

func (h *history) compare(seed int) {
	h.t.Helper()
	for range 2 {
		if got := h.s.Machines(); len(got) != len(h.machines) {
			h.t.Errorf("history %d: %d machines; want %d", seed, len(got), len(h.machines))
		}
		for id, want := range h.machines {
			if got, _ := h.s.Machine(id); got.Orders != want.Orders || got.Boot != want.Boot {
				h.t.Errorf("history %d: machine %+v; want %+v", seed, got, want)
			}
		}
		for _, id := range []ingot.MachineID{"m-0", "m-1", "m-2", "m-3", "m-into"} {
			want := map[ingot.BootID]bool{}
			for _, x := range h.boots[id] {
				want[x] = true
			}
			last := 0
			for _, x := range boots(h.t, h.s, id) {
				if !want[x.ID] || x.Number <= last || x.Machine != id {
					h.t.Errorf("history %d: boot %+v of %s after number %d", seed, x, id, last)
				}
				last = x.Number
				delete(want, x.ID)
			}
			if len(want) > 0 {
				h.t.Errorf("history %d: %d boots of %s are lost", seed, len(want), id)
			}
		}
		closeStore(h.t, h.s)
		h.s = h.b.open(h.t, h.dir)
	}
}
