package bolt

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/view"
)

// pagesOf lets bbolt check its pages.
func pagesOf(s *Store) error {
	return s.read(func(tx *bbolt.Tx) error {
		var errs []error
		for err := range tx.Check() {
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRemembers(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	m := fleet.Machine{ID: "m-1", State: fleet.Approved, MACs: []string{"52:54:00:00:00:01"}, FirstSeen: time.Unix(5, 0).UTC(),
		Address: netip.MustParseAddr("10.0.0.9"), LastSeen: time.Unix(6, 0).UTC()}
	b := fleet.Boot{ID: ingot.NewBootID([16]byte{1}), Machine: "m-1", Started: time.Unix(7, 0).UTC(), Served: map[string]int64{"root": 5}}
	b.Events = []fleet.Event{{Event: ingot.Event{Stage: ingot.StageDHCP}, At: time.Unix(8, 0).UTC()}}
	l := fleet.Lease{MAC: "52:54:00:00:00:01", Address: netip.MustParseAddr("10.0.0.9"), Expires: time.Unix(9, 0).UTC()}
	err := s.Update(func(tx state.Tx) error { tx.PutMachine(m); tx.PutBoot(b); tx.PutLease(l); return nil })
	if err != nil {
		t.Fatal(err)
	}
	identity := s.Identity()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	if d := cmp.Diff([]fleet.Machine{m}, s.Machines(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("machines after reopening (-want +got):\n%s", d)
	}
	if got, ok := s.Boot(b.ID); !ok || cmp.Diff(b, got) != "" {
		t.Errorf("boot after reopening: %s", cmp.Diff(b, got))
	}
	if got := leases(t, s); len(got) != 1 || got[0] != l {
		t.Errorf("leases after reopening = %+v; want %+v", got, l)
	}
	if again := s.Identity(); len(identity) != 32 || !bytes.Equal(again, identity) {
		t.Errorf("the identity has %d bytes, and is the same after reopening: %v", len(identity), bytes.Equal(again, identity))
	}
}

// TestRestoredIdentity: that of the backup is taken over, and a backup without
// one leaves a server its own.
func TestRestoredIdentity(t *testing.T) {
	there, here := open(t, t.TempDir()), open(t, t.TempDir())
	defer there.Close()
	defer here.Close()
	restore := func() {
		t.Helper()
		var b bytes.Buffer
		if err := there.Backup(&b); err != nil {
			t.Fatal(err)
		}
		if _, err := here.Restore(&b, time.Unix(5, 0)); err != nil {
			t.Fatal(err)
		}
	}
	restore()
	if !bytes.Equal(here.Identity(), there.Identity()) {
		t.Error("the identity of the backup is not taken over")
	}
	own := there.Identity()
	if err := there.write(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Delete(keyIdentity) }); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(here.db.Path() + ".before-19700101T000005Z"); err != nil {
		t.Fatal(err)
	}
	restore()
	if !bytes.Equal(here.Identity(), own) {
		t.Error("a backup without an identity changed the server's")
	}
}

// TestMovedBootsKeepTheirTime: the boots of a machine that is merged take their
// places by when they started; the latest stays the latest, on the disk too,
// and after a change that failed all is as it was.
func TestMovedBootsKeepTheirTime(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	err := s.Update(func(tx state.Tx) error {
		for i, m := range []ingot.MachineID{"old", "into", "old", "into"} {
			tx.PutBoot(fleet.Boot{ID: ingot.NewBootID([16]byte{byte(i + 1)}), Machine: m, Number: i/2 + 1, Started: time.Unix(int64(i), 0).UTC()})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	order := func(m ingot.MachineID, want ...byte) {
		t.Helper()
		boots, err := s.Boots(m, 0)
		var got []byte
		last := 0
		for _, b := range boots {
			got = append(got, b.ID[1]-'0')
			if b.Machine != m || b.Number <= last {
				t.Errorf("boot %s of %s has the number %d after %d", b.ID.Short(), b.Machine, b.Number, last)
			}
			last = b.Number
		}
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("boots of %s: %d, %v; want %d", m, got, err, want)
		}
	}
	fault := errors.New("no")
	if err := s.Update(func(tx state.Tx) error { return errors.Join(tx.MoveBoots("old", "into"), fault) }); !errors.Is(err, fault) {
		t.Fatal(err)
	}
	order("old", 1, 3)
	order("into", 2, 4)
	if err := s.Update(func(tx state.Tx) error { return tx.MoveBoots("old", "into") }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		order("old")
		order("into", 1, 2, 3, 4)
		if id := latestOf(s, "into"); id != ingot.NewBootID([16]byte{4}) {
			t.Errorf("the latest boot is %s; want the one that runs", id.Short())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, dir)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFailedUpdateChangesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	refusal := errors.New("no")
	if err := s.Update(func(tx state.Tx) error { tx.PutMachine(fleet.Machine{ID: "m-1"}); return refusal }); !errors.Is(err, refusal) {
		t.Errorf("Update = %v; want the function's error", err)
	}
	if len(s.Machines()) != 0 {
		t.Error("a refused change is seen")
	}
}

func TestOneServer(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := Open(t.Context(), dir); !errors.Is(err, state.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("a second Open = %v; want state.ErrLocked with our process id", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir).Close()
}

func TestBootsAreBounded(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	for i := range state.BootsPerMachine + 20 {
		err := s.Update(func(tx state.Tx) error {
			tx.PutBoot(fleet.Boot{ID: ingot.NewBootID([16]byte{1, byte(i)}), Machine: "m-1", Started: time.Unix(int64(i), 0)})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	list, err := s.Boots("m-1", 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != state.BootsPerMachine || list[0].Started.Unix() != 20 {
		t.Errorf("%d boots, the oldest of %d; want %d, the oldest ones gone", len(list), list[0].Started.Unix(), state.BootsPerMachine)
	}
}

func TestAddressHasOneLease(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ip := netip.MustParseAddr("10.0.0.9")
	for _, mac := range []string{"52:54:00:00:00:01", "52:54:00:00:00:02"} {
		if err := s.Update(func(tx state.Tx) error { tx.PutLease(fleet.Lease{MAC: mac, Address: ip}); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if l := leases(t, s); len(l) != 1 || l[0].MAC != "52:54:00:00:00:02" {
		t.Errorf("leases = %+v; want only the later one", l)
	}
	// What an older version kept by card is kept by address.
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(bucketMeta).Delete(keySchema); err != nil {
			return err
		}
		return put(tx.Bucket(bucketLeases), "52:54:00:00:00:03", fleet.Lease{MAC: "52:54:00:00:00:03", Address: netip.MustParseAddr("10.0.0.10")})
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	if l := leases(t, s); len(l) != 2 || l[1].MAC != "52:54:00:00:00:03" {
		t.Errorf("leases = %+v; want the old one by card as well", l)
	}
}

func latestOf(s *Store, m ingot.MachineID) ingot.BootID {
	b, _ := found(s, func(v *view.View) (fleet.Boot, bool) { return v.LatestOf(m) })
	return b.ID
}

func leases(t *testing.T, s *Store) []fleet.Lease {
	t.Helper()
	l, err := s.Leases()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestIndex: machines and boots are found by what they are known by, and are
// not when the change was refused.
func TestIndex(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	ip := netip.MustParseAddr("10.0.0.9")
	m := fleet.Machine{ID: "m-1", State: fleet.Pending, MACs: []string{"a", "b"}, UUID: "u1", Address: ip}
	b := fleet.Boot{ID: ingot.NewBootID([16]byte{1}), Machine: "m-1"}
	change := func(refuse error, f func(tx state.Tx)) {
		_ = s.Update(func(tx state.Tx) error { f(tx); return refuse })
	}
	change(nil, func(tx state.Tx) { tx.PutMachine(m); tx.PutBoot(b) })
	refused := m
	refused.State, refused.MACs, refused.UUID, refused.Address = fleet.Approved, []string{"b", "c"}, "u2", netip.MustParseAddr("10.0.0.10")
	ended := b
	ended.Outcome = ingot.OutcomeFailed
	change(errors.New("no"), func(tx state.Tx) {
		tx.PutMachine(refused)
		tx.PutBoot(ended)
		tx.PutBoot(fleet.Boot{ID: ingot.NewBootID([16]byte{2}), Machine: "m-1"})
		if got, _, ok := tx.Find(fleet.Sighting{MAC: "c"}); !ok || got.UUID != "u2" || tx.Pending() != 0 || len(tx.OpenBoots()) != 1 {
			t.Error("a change does not see itself")
		}
	})
	for sight, want := range map[fleet.Sighting]bool{{MAC: "a"}: true, {MAC: "b"}: true, {MAC: "c"}: false, {MAC: "a", UUID: "u1"}: true, {MAC: "c", UUID: "u1"}: false, {MAC: "a", UUID: "u3"}: false} {
		if got, ok := s.Find(sight); ok != want || (ok && got.ID != "m-1") {
			t.Errorf("Find(%+v) = %v, %v; want %v", sight, got.ID, ok, want)
		}
	}
	if _, ok := s.AtAddress(ip); !ok {
		t.Error("the machine is not found at its address")
	}
	if _, ok := s.AtAddress(refused.Address); ok {
		t.Error("a machine is found at the address of a refused change")
	}
	change(nil, func(tx state.Tx) {
		if open := tx.OpenBoots(); tx.Pending() != 1 || len(open) != 1 || open[0].ID != b.ID {
			t.Errorf("%d pending, open boots %+v; want what was before the refused change", tx.Pending(), open)
		}
	})
}

// TestGroupCommit: many that wait at once share the disk's time, and each is
// told only when its own change is there.
func TestGroupCommit(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	before := s.db.Stats()
	var g errgroup.Group
	for i := range 500 {
		g.Go(func() error {
			ip := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			return s.Update(func(tx state.Tx) error { tx.PutLease(fleet.Lease{Address: ip}); return nil })
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := len(leases(t, s)); got != 500 {
		t.Errorf("%d leases are stored; want 500", got)
	}
	if after := s.db.Stats(); after.TxStats.GetWrite()-before.TxStats.GetWrite() > 500 {
		t.Errorf("500 changes took %d writes", after.TxStats.GetWrite()-before.TxStats.GetWrite())
	}
}

// TestDiskFull: when the disk refuses, everybody who waits is told, and memory
// is what the disk holds.
func TestDiskFull(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	if err := s.Update(func(tx state.Tx) error { tx.PutMachine(fleet.Machine{ID: "m-1", UUID: "u1"}); return nil }); err != nil {
		t.Fatal(err)
	}
	s.db.MaxSize = 1 // the file may not grow
	var g errgroup.Group
	var failed atomic.Int32
	for i := range 50 {
		g.Go(func() error {
			err := s.Update(func(tx state.Tx) error {
				tx.PutMachine(fleet.Machine{ID: "m-1", UUID: fmt.Sprint("u", i), Name: strings.Repeat("x", 1<<20)})
				tx.PutMachine(fleet.Machine{ID: ingot.MachineID(fmt.Sprint("n-", i))})
				return nil
			})
			if err != nil {
				failed.Add(1)
			}
			return nil
		})
	}
	_ = g.Wait()
	if failed.Load() != 50 {
		t.Fatalf("%d of 50 changes failed; want all", failed.Load())
	}
	if m := s.Machines(); len(m) != 1 || m[0].UUID != "u1" || m[0].Name != "" {
		t.Errorf("%d machines, the first %.20s; want the one of before", len(m), m[0].UUID)
	}
	if _, ok := s.Find(fleet.Sighting{UUID: "u1"}); !ok {
		t.Error("the index lost the machine of before")
	}
	s.db.MaxSize = 0
	if err := s.Update(func(tx state.Tx) error { tx.PutMachine(fleet.Machine{ID: "m-2"}); return nil }); err != nil {
		t.Errorf("after the disk has room again: %v", err)
	}
}

func addressOf(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// TestKilled kills a writer at random moments. Everything that it acknowledged
// is there afterwards.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("STATE_TEST_WRITE"); dir != "" {
		s, err := Open(context.Background(), dir)
		if err != nil {
			t.Fatal(err)
		}
		start := len(s.Machines())
		for i := start; ; i++ {
			id := ingot.MachineID(fmt.Sprintf("m-%06d", i))
			if err := s.Update(func(tx state.Tx) error {
				writeOne(tx, id, i%500)
				tx.PutLease(fleet.Lease{MAC: string(id), Address: addressOf(i)})
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			fmt.Println("ack", i)
		}
	}
	dir := t.TempDir()
	acknowledged, total := -1, 0
	for round := range rounds(15) {
		if round%25 == 0 { // a state that grows for ever takes ever longer to open
			dir, total = t.TempDir(), total+acknowledged+1
			acknowledged = -1
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "STATE_TEST_WRITE="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var kill *time.Timer // from the first change on: a slow machine must not be killed before it began
		for scan := bufio.NewScanner(out); scan.Scan(); {
			if kill == nil {
				kill = time.AfterFunc(rand.N(60*time.Millisecond), func() { _ = cmd.Process.Kill() })
			}
			if _, err := fmt.Sscanf(scan.Text(), "ack %d", &acknowledged); err != nil {
				continue // a line that the kill cut off
			}
		}
		_ = cmd.Wait() // killed
		s := open(t, dir)
		machines, lent := len(s.Machines()), len(leases(t, s))
		if err := pagesOf(s); err != nil {
			t.Fatal(err)
		}
		if machines <= acknowledged || lent != machines {
			t.Fatalf("after a kill there are %d machines and %d leases; %d were acknowledged", machines, lent, acknowledged+1)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if total += acknowledged + 1; total < 15 {
		t.Errorf("only %d changes in all; the kills came too early to prove anything", total)
	}
}

// TestHolder: a command finds the server of a state by its lock, and not that of
// a folder which this one is a copy of; the next one to open it begins anew.
func TestHolder(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if pid, socket := Holder(dir); pid != strconv.Itoa(os.Getpid()) || socket != "" {
		t.Errorf("Holder = %q at %q; want this process, without a socket yet", pid, socket)
	}
	if err := s.Answers("/run/ingot/a socket"); err != nil {
		t.Fatal(err)
	}
	if pid, socket := Holder(dir); pid != strconv.Itoa(os.Getpid()) || socket != "/run/ingot/a socket" {
		t.Errorf("Holder = %q at %q; want this process, and its socket", pid, socket)
	}
	if _, err := Open(t.Context(), dir); !errors.Is(err, state.ErrLocked) || !strings.HasSuffix(err.Error(), fmt.Sprintf("process %d; stop it, or use another --store", os.Getpid())) {
		t.Errorf("a second server: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	twin := t.TempDir()
	if err := os.WriteFile(filepath.Join(twin, "lock"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, socket := Holder(twin); socket != "" {
		t.Errorf("of a copy, Holder says %q", socket)
	}
	s.Close()
	s = open(t, dir)
	defer s.Close()
	if _, socket := Holder(dir); socket != "" {
		t.Errorf("opened anew, Holder says %q; want nothing yet", socket)
	}
}
