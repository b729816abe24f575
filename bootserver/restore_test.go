package bootserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/booter"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/image"
	"ingot/internal/wire"
)

// TestRestoreIsAtOnce: a server that restores the backup of another one is that
// server from then on: the keys of its boots open what they opened there, those
// of this one nothing, and machine-ids of newcomers are what they would be there.
func TestRestoreIsAtOnce(t *testing.T) {
	there, here := newHouse(t), newHouse(t)
	there.put("v1")
	here.put("v1")
	key, gone := there.boots(firstMachine), here.boots(second)
	var backup bytes.Buffer
	if _, err := there.api.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	if got := here.do("GET", here.base+ingot.BootPath(key, "script"), nil); got != http.StatusNotFound {
		t.Fatalf("before the restore, another server's key gets %d; want 404", got)
	}
	if _, err := here.api.Restore(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	if got := here.do("GET", here.base+ingot.BootPath(key, "script"), nil); got != http.StatusOK {
		t.Errorf("after the restore, the key of a boot that it brought gets %d; want 200", got)
	}
	if got := here.do("GET", here.base+ingot.BootPath(gone, "script"), nil); got != http.StatusNotFound {
		t.Errorf("after the restore, a key from before gets %d; want 404", got)
	}
	there.boots(second)
	here.boots(second)
	one, err := there.api.Machine(t.Context(), second.MAC)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := here.api.Machine(t.Context(), second.MAC); err != nil || other.MachineKey != one.MachineKey {
		t.Errorf("a newcomer's machine-id is %s, %v; there it is %s", other.MachineKey, err, one.MachineKey)
	}
}

// TestRestoreOnTheWire: after the backup of another server is restored, DHCP
// goes on at once, with that server's DUID, and nobody is lent what that
// server lent to others, or this one.
func TestRestoreOnTheWire(t *testing.T) {
	if !wire.On(t, "udhcpc") {
		return
	}
	wire.AddSwitch(t, "sw")
	wire.Run(t, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "p-eth1", "netns", "sw")
	wire.In(t, "sw", "ip", "link", "set", "p-eth1", "master", "sw", "up")
	wire.Run(t, "ip", "link", "set", "eth1", "up")
	wire.Run(t, "ip", "address", "add", "10.99.0.1/24", "dev", "eth1")
	wire.Run(t, "ip", "address", "add", "fd00:99::1/64", "dev", "eth1", "nodad")
	for i, party := range []string{"m1", "m2"} {
		wire.Join(t, "sw", party, "eth0", []string{"52:54:00:12:00:01", "52:54:00:12:00:02"}[i])
	}
	s := startServer(t, config.Config{DHCP: dhcp4.Config{Interfaces: []dhcp4.Interface{{Name: "eth1", Quiet: true}}},
		DHCP6: dhcp6.Config{Interfaces: []dhcp6.Interface{{Name: "eth1", RapidCommit: true}}}},
		"10.99.0.100-10.99.0.102")
	lent := func(party string) string {
		return wire.In(t, party, "udhcpc", "-f", "-n", "-q", "-t", "5", "-T", "1", "-i", "eth0", "-s", "/bin/true",
			"-r", "10.99.0.101")
	}
	if out := lent("m1"); !strings.Contains(out, "10.99.0.101") {
		t.Fatalf("m1 asks for 10.99.0.101 and gets\n%s", out)
	}
	own := askDUID(t, s)

	other, err := openState(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	taken := fleet.Lease{MAC: "52:54:00:12:00:09", Address: netip.MustParseAddr("10.99.0.100"),
		Expires: time.Now().Add(time.Hour)}
	if err := other.Update(func(tx state.Tx) error { tx.PutLease(taken); return nil }); err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := other.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	if _, err := api.Dial(s.conf.Settings.Socket).Restore(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	if kept, err := booter.LeasesOf(s.state, netip.Addr.Is6).Leases(); err != nil || len(kept) != 1 {
		t.Errorf("after the restore, leases of IPv6 are %+v, %v; want the one from before", kept, err)
	}
	want := [16]byte(booter.New(booter.Config{State: other}).Derive("dhcp6", "identity"))
	want[6], want[8] = want[6]&0x0f|0x40, want[8]&0x3f|0x80 // RFC 9562 section 5.4
	if got := askDUID(t, s); got == own || got != want {
		t.Errorf("the DUID is %x, was %x; want %x, the other server's", got, own, want)
	}
	if out := lent("m2"); !strings.Contains(out, "10.99.0.102") {
		t.Errorf("10.99.0.100 was lent there, 10.99.0.101 here, and m2 gets\n%s", out)
	}
	if all := s.dhcp.Load().leases(); len(all) != 4 {
		t.Errorf("lent are %+v; want what was lent there, twice here before, and here since", all)
	}
}

// askDUID lets a client on eth1 be lent an address by DHCPv6, and returns what
// the server is known by.
func askDUID(t *testing.T, s *Server) [16]byte {
	t.Helper()
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeSolicit}
	m.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDUUID{UUID: [16]byte{1}}))
	m.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionRapidCommit})
	m.AddOption(&dhcpv6.OptIANA{IaId: [4]byte{1}})
	r, err := s.dhcp.Load().six.Handle(dhcp6.Packet{Interface: "eth1", Port: dhcp6.PortServer,
		From: netip.MustParseAddrPort("[fe80::5054:ff:fe12:1%eth1]:546"), To: netip.MustParseAddr("ff02::1:2"), Message: m})
	if err != nil || r == nil {
		t.Fatalf("Handle = %v, %v", r, err)
	}
	answer, err := dhcpv6.MessageFromBytes(r.Message.ToBytes())
	if err != nil {
		t.Fatal(err)
	}
	id, is := answer.Options.ServerID().(*dhcpv6.DUIDUUID)
	if !is {
		t.Fatalf("the server's id is %v", answer.Options.ServerID())
	}
	return id.UUID
}

// startServer runs a whole server until the test ends.
func startServer(t *testing.T, c config.Config, lend string) *Server {
	t.Helper()
	s, _ := startServerIn(t, t.TempDir(), c, lend, nil)
	return s
}

// startServerIn runs a whole server of a store until the test ends, or stops it.
func startServerIn(t *testing.T, root string, c config.Config, lend string, now func() time.Time) (*Server, func()) {
	t.Helper()
	store, err := image.Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	loaders := filepath.Join(root, "loaders")
	if err := os.MkdirAll(loaders, 0o755); err != nil {
		t.Fatal(err)
	}
	ready, ended := make(chan struct{}), make(chan error, 1)
	s := New(Config{Settings: c, Range: lend, Store: store, Loaders: loaders, Version: "test", Now: now,
		Ready: func(Ready) { close(ready) }, OpenState: openStateIn})
	ctx, stop := context.WithCancel(t.Context())
	go func() { ended <- s.Run(ctx) }()
	end := sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the server ended: %v", err)
		}
	})
	t.Cleanup(end)
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	return s, end
}

// TestFollowOverARestore: who follows the ledger gets all that comes after a
// restore, although the numbers of entries went back: woken at once, or when
// the restored ledger has grown past where it was; and without knowing that
// there are several ledgers.
func TestFollowOverARestore(t *testing.T) {
	h := newHouse(t)
	note := func(texts ...string) {
		t.Helper()
		for _, s := range texts {
			c := fleet.TextChange(fleet.KindMachine, s, false)
			c.At = h.clock
			if err := h.state.Append(c); err != nil {
				t.Fatal(err)
			}
		}
	}
	restore := func(b []byte) {
		t.Helper()
		if _, err := h.api.Restore(t.Context(), bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
	}
	texts := func(q api.EventsRequest) (all string) {
		t.Helper()
		e, err := h.api.Events(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range byMachines(e) {
			all += x.Text
		}
		return all
	}
	note("1", "2")
	var backup bytes.Buffer
	if _, err := h.api.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	note("3", "4", "5", "6")
	was, err := h.api.Events(t.Context(), api.EventsRequest{})
	if err != nil || was.Last != 7 { // the backup is an action
		t.Fatalf("the ledger ends at %d, %v", was.Last, err)
	}
	woken := make(chan string, 1)
	go func() {
		e, err := h.api.Events(context.WithoutCancel(t.Context()),
			api.EventsRequest{After: was.Last, Ledger: was.Ledger, Wait: 20 * time.Second})
		woken <- fmt.Sprint(len(byMachines(e)), e.Ledger != was.Ledger, err)
	}()
	time.Sleep(50 * time.Millisecond) // for it to wait; when it does not yet, it is told all the same
	restore(backup.Bytes())
	select {
	case got := <-woken:
		if got != "0 true <nil>" {
			t.Errorf("who waited is told %s; want another ledger without news", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("who waited for entries is not woken by a restore")
	}
	note("A")
	if got := texts(api.EventsRequest{After: was.Last}); got != "A" {
		t.Errorf("who does not name the ledger gets %q; want A", got)
	}
	note("B", "C", "D")
	if got := texts(api.EventsRequest{After: was.Last, Ledger: was.Ledger}); got != "ABCD" {
		t.Errorf("who followed the ledger from before gets %q; want ABCD", got)
	}
	now, err := h.api.Events(t.Context(), api.EventsRequest{Newest: true, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	note("E")
	if got := texts(api.EventsRequest{After: now.Last, Ledger: now.Ledger}); got != "E" {
		t.Errorf("who follows this ledger gets %q; want E", got)
	}
	h.clock = h.clock.Add(time.Second)
	restore(backup.Bytes()) // the same once more is another ledger again
	note("F")
	if got := texts(api.EventsRequest{After: now.Last, Ledger: now.Ledger}); got != "F" {
		t.Errorf("after a second restore come %q; want F", got)
	}
}

// byMachines are the entries without the server's own, as that it was restored.
func byMachines(e api.Events) []api.Entry {
	return slices.DeleteFunc(e.Events, func(x api.Entry) bool { return x.Kind == string(fleet.KindServer) })
}

// TestOneRestoreAtATime: a second backup is refused while one comes in, and
// does it no harm.
func TestOneRestoreAtATime(t *testing.T) {
	h := newHouse(t)
	h.crowd(3)
	var backup bytes.Buffer
	if _, err := h.api.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	whole := backup.Bytes()
	var w *io.PipeWriter
	first := make(chan error, 1)
	begin := func() {
		var r *io.PipeReader
		r, w = io.Pipe()
		go func() {
			_, err := h.api.Restore(context.WithoutCancel(t.Context()), r)
			first <- err
		}()
		if _, err := w.Write(whole[:1]); err != nil {
			t.Fatal(err)
		}
	}
	begin()
	var p api.Problem
	// Empty backups are refused as such until the first one has arrived. They may keep it out meanwhile:
	// then it begins again, and the empty ones come less often.
	for pause := time.Millisecond; pause < 10*time.Second; {
		select {
		case <-first:
			begin()
			pause *= 2
		case <-time.After(pause):
		}
		_, err := h.api.Restore(t.Context(), strings.NewReader(""))
		if errors.As(err, &p) && p.Status == http.StatusConflict {
			break
		}
	}
	if p.Status != http.StatusConflict || p.Hint() == "" {
		t.Errorf("a second restore: %v; want a conflict", p)
	}
	if _, err := w.Write(whole[1:]); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if err := <-first; err != nil || len(h.state.Machines()) != 3 {
		t.Errorf("the first restore: %v, %d machines; want 3", err, len(h.state.Machines()))
	}
}
