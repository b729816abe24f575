package dhcp4

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestProberOfAnotherCard: addresses are tested also after the interface was
// down, and after it was taken away and is there once more, as a VLAN may be; in
// between it is said that they are not.
func TestProberOfAnotherCard(t *testing.T) {
	if !onWire(t) {
		return
	}
	lan(t, "squatter")
	in(t, "squatter", "ip", "address", "add", "10.99.0.100/24", "dev", "eth0")
	var log bytes.Buffer
	p := &Prober{Log: slog.New(slog.NewTextHandler(&log, nil))}
	defer p.Close()
	card, err := net.InterfaceByName("eth1")
	if err != nil {
		t.Fatal(err)
	}
	probe := func(address string) bool {
		holder, used := p.Probe(t.Context(), Probe{Interface: "eth1", Index: card.Index, MAC: card.HardwareAddr,
			Address: netip.MustParseAddr(address), For: DefaultProbe})
		if used && holder != "MAC 52:54:00:12:00:01" {
			t.Errorf("%s is used by %s", address, holder)
		}
		return used
	}
	finds := func(when string) {
		t.Helper()
		eventually(t, when+" the squatter is found", func() bool { return probe("10.99.0.100") })
		if probe("10.99.0.101") {
			t.Errorf("%s an address in use is found free, or a free one in use", when)
		}
	}
	finds("at first")
	run(t, "ip", "link", "set", "eth1", "down")
	for range 3 {
		if probe("10.99.0.100") {
			t.Error("an answer is received through a card that is down")
		}
	}
	p.mu.Lock()
	if said := log.String(); strings.Count(said, "\n") != 1 || !strings.Contains(said, "without a probe") ||
		!strings.Contains(said, "interface=eth1") {
		t.Errorf("what is logged of a card that is down:\n%swant one line", said)
	}
	p.mu.Unlock()
	run(t, "ip", "link", "set", "eth1", "up")
	finds("after it was down")
	run(t, "ip", "link", "delete", "eth1")
	addOurs(t)
	before := card.Index
	if card, err = net.InterfaceByName("eth1"); err != nil || card.Index == before {
		t.Fatalf("the new card is %+v, %v; want another index than %d", card, err, before)
	}
	finds("on a new card of the same name")
	time.Sleep(10 * time.Millisecond)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sockets) != 1 {
		t.Errorf("%d sockets are open; want the new card's alone", len(p.sockets))
	}
}
