package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
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

func TestOneServer(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := Open(t.Context(), dir); !errors.Is(err, state.ErrLocked) ||
		!strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("a second Open = %v; want state.ErrLocked with our process id", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir).Close()
}

func TestAddressHasOneLease(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	ip := netip.MustParseAddr("10.0.0.9")
	for _, mac := range []string{"52:54:00:00:00:01", "52:54:00:00:00:02"} {
		if err := s.Update(func(tx state.Tx) error {
			tx.PutLease(fleet.Lease{MAC: mac, Address: ip})
			return nil
		}); err != nil {
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
		return put(tx.Bucket(bucketLeases), "52:54:00:00:00:03",
			fleet.Lease{MAC: "52:54:00:00:00:03", Address: netip.MustParseAddr("10.0.0.10")})
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

func leases(t *testing.T, s *Store) []fleet.Lease {
	t.Helper()
	l, err := s.Leases()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestGroupCommit: many that wait at once share the disk's time, and each is
// answered only when its own change is stored.
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

// TestDiskFull: when the disk refuses, every waiting transaction fails, and memory
// is what the disk holds.
func TestDiskFull(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	if err := s.Update(func(tx state.Tx) error {
		tx.StoreMachine(fleet.Machine{ID: "m-1", UUID: "u1"})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	s.db.MaxSize = 1 // the file may not grow
	var g errgroup.Group
	var failed atomic.Int32
	for i := range 50 {
		g.Go(func() error {
			err := s.Update(func(tx state.Tx) error {
				tx.StoreMachine(fleet.Machine{ID: "m-1", UUID: fmt.Sprint("u", i), Name: strings.Repeat("x", 1<<20)})
				tx.StoreMachine(fleet.Machine{ID: ingot.MachineID(fmt.Sprint("n-", i))})
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
	if err := s.Update(func(tx state.Tx) error { tx.StoreMachine(fleet.Machine{ID: "m-2"}); return nil }); err != nil {
		t.Errorf("after the disk has room again: %v", err)
	}
}

// TestLock: the error of a second server names the process that has the state.
func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	for _, more := range []string{"", "/run/ingot.sock\n17\n"} { // also when a server of before wrote more lines
		f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(more)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		want := fmt.Sprintf("process %d; stop it, or use another --store", os.Getpid())
		if _, err := Open(t.Context(), dir); !errors.Is(err, state.ErrLocked) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("a second server: %v", err)
		}
		s.Close()
		s = open(t, dir)
	}
	s.Close()
}
