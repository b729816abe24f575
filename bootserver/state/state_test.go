package state

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/bootserver/fleet"
)

func open(t *testing.T, dir string) *State {
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
	b = fleet.Record(b, ingot.Event{Stage: ingot.StageDHCP}, time.Unix(8, 0).UTC())
	l := fleet.Lease{MAC: "52:54:00:00:00:01", Address: netip.MustParseAddr("10.0.0.9"), Expires: time.Unix(9, 0).UTC()}
	err := s.Update(func(tx *Tx) error { tx.PutMachine(m); tx.PutBoot(b); tx.PutLease(l); return nil })
	if err != nil {
		t.Fatal(err)
	}
	secret, err := s.Secret("x", func(b []byte) { b[0] = 7 })
	if err != nil {
		t.Fatal(err)
	}
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
	if got := s.Leases()[l.MAC]; got != l {
		t.Errorf("lease after reopening = %+v; want %+v", got, l)
	}
	if again, err := s.Secret("x", func(b []byte) { b[0] = 9 }); err != nil || string(again) != string(secret) {
		t.Errorf("the secret changed: %v", err)
	}
}

func TestFailedUpdateChangesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	refusal := errors.New("no")
	if err := s.Update(func(tx *Tx) error { tx.PutMachine(fleet.Machine{ID: "m-1"}); return refusal }); !errors.Is(err, refusal) {
		t.Errorf("Update = %v; want the function's error", err)
	}
	if len(s.Machines()) != 0 {
		t.Error("a refused change is seen")
	}
}

func TestOneServer(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := Open(t.Context(), dir); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint("process ", os.Getpid())) {
		t.Errorf("a second Open = %v; want ErrLocked with our process id", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, dir).Close()
}

func TestBootsAreBounded(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	for i := range BootsPerMachine + 20 {
		err := s.Update(func(tx *Tx) error {
			tx.PutBoot(fleet.Boot{ID: ingot.NewBootID([16]byte{1, byte(i)}), Machine: "m-1", Started: time.Unix(int64(i), 0)})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	list := s.Boots("m-1")
	if len(list) != BootsPerMachine || list[0].Started.Unix() != 20 {
		t.Errorf("%d boots, the oldest of %d; want %d, the oldest ones gone", len(list), list[0].Started.Unix(), BootsPerMachine)
	}
}

func TestAddressHasOneLease(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	ip := netip.MustParseAddr("10.0.0.9")
	for _, mac := range []string{"52:54:00:00:00:01", "52:54:00:00:00:02"} {
		if err := s.Update(func(tx *Tx) error { tx.PutLease(fleet.Lease{MAC: mac, Address: ip}); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if l := s.Leases(); len(l) != 1 || l["52:54:00:00:00:02"].Address != ip {
		t.Errorf("leases = %+v; want only the later one", l)
	}
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
			if err := s.Update(func(tx *Tx) error {
				tx.PutMachine(fleet.Machine{ID: id})
				tx.PutLease(fleet.Lease{MAC: string(id), Address: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})})
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			fmt.Println("ack", i)
		}
	}
	dir := t.TempDir()
	acknowledged := -1
	for range 15 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "STATE_TEST_WRITE="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(30*time.Millisecond+rand.N(60*time.Millisecond), func() { _ = cmd.Process.Kill() })
		for scan := bufio.NewScanner(out); scan.Scan(); {
			if _, err := fmt.Sscanf(scan.Text(), "ack %d", &acknowledged); err != nil {
				continue // a line that the kill cut off
			}
		}
		kill.Stop()
		_ = cmd.Wait() // killed
		s := open(t, dir)
		machines, leases := len(s.Machines()), len(s.Leases())
		if machines <= acknowledged || leases != machines {
			t.Fatalf("after a kill there are %d machines and %d leases; %d were acknowledged", machines, leases, acknowledged+1)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if acknowledged < 15 {
		t.Errorf("only %d changes in all; the kills came too early to prove anything", acknowledged+1)
	}
}
