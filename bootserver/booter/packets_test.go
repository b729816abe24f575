package booter

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// packetsOf are the Changes of packets in a house's ledger.
func packetsOf(h *house) (list []fleet.Change) {
	h.t.Helper()
	all, _, err := h.state.Changes(state.Query{Limit: 1_000_000})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range all {
		if e.Kind() == fleet.KindPacket {
			list = append(list, e)
		}
	}
	return list
}

// packet is one of the machine's own card, or an answer to it.
func (h *house) packet(kind, ip string) client.Packet {
	n := client.Packet{Packet: fleet.Packet{At: h.clock, Kind: kind}, MAC: firstMachine.MAC}
	n.Address, _ = netip.ParseAddr(ip)
	return n
}

// other is what another server said to the machine's card.
func (h *house) other(kind string, server string) client.Packet {
	return client.Packet{Packet: fleet.Packet{At: h.clock,
		Other: &fleet.Other{Kind: kind, Address: netip.MustParseAddr(server), At: h.clock}}, MAC: firstMachine.MAC}
}

// TestPacketsOfABoot: what repeats within a boot is in the ledger once, also
// when the server was started anew; what a system that is up is answered is not
// in it, and what it is refused is.
func TestPacketsOfABoot(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	p := NewPackets(h.state, h.log)
	var seen int
	fresh := func() (list []string) {
		p.flush()
		all := packetsOf(h)
		for _, e := range all[seen:] {
			tied := "-"
			if m, _ := h.machine(); e.Boot == m.Boot {
				tied = "+"
			} else if e.Boot != "" {
				tied = "other boot"
			}
			list = append(list, tied+" "+e.String())
		}
		seen = len(all)
		return list
	}
	want := func(what string, want ...string) {
		t.Helper()
		if got := fresh(); !slices.Equal(got, want) {
			t.Errorf("%s: the ledger gets %q; want %q", what, got, want)
		}
	}
	p.Note(h.packet("DHCPOFFER", "10.99.0.100"))
	want("a stranger's packet")
	boot := h.boots()
	exchange := func() {
		for range 3 { // firmware, loader, system
			p.Note(h.packet("DHCPOFFER", "10.99.0.100"))
			p.Note(h.packet("DHCPACK", "10.99.0.100"))
		}
		p.Note(h.other("DHCPOFFER", "10.99.0.3"))
		p.Note(h.other("DHCPOFFER", "10.99.0.3"))
	}
	others := "DHCPOFFER by another server, 10.99.0.3"
	exchange()
	want("a boot", "+ DHCPOFFER of 10.99.0.100", "+ DHCPACK of 10.99.0.100", "+ "+others)
	exchange()
	p.Note(h.packet("DHCPACK", "10.99.0.101"))
	want("the same, and another address", "+ DHCPACK of 10.99.0.101")
	p = NewPackets(h.state, h.log) // a restart
	p.Note(h.other("DHCPOFFER", "10.99.0.3"))
	want("the same of another server, after a restart")
	p.Note(h.other("DHCPACK", "10.99.0.3"))
	want("more of that server", "+ DHCPACK by another server, 10.99.0.3")
	if b, _ := h.state.Boot(boot); len(b.Others) != 2 || b.Others[1].Kind != "DHCPACK" {
		t.Errorf("of the boot %+v is kept; want two records of the other server", b.Others)
	}

	h.approve(im)
	h.script(boot)
	b, _ := h.state.Boot(boot)
	if err := h.report(boot, ingot.Report{Boot: boot, Root: b.Root, Healthy: true}); err != nil {
		t.Fatal(err)
	}
	p = NewPackets(h.state, h.log)
	p.Note(h.packet("DHCPACK", "10.99.0.100"))
	want("a system renews its lease")
	nak := h.packet("DHCPNAK", "10.99.0.100")
	nak.Refused = "it has 10.99.0.101"
	for range 2 {
		p.Note(nak)
		p.Note(h.other("DHCPACK", "10.99.0.3"))
	}
	want("a system is refused, and taken by another server", "- DHCPNAK for 10.99.0.100: it has 10.99.0.101",
		"- DHCPACK by another server, 10.99.0.3")

	// The machine begins anew; the other server is quicker than we are.
	p.Note(h.other("DHCPOFFER", "10.99.0.3"))
	h.clock = h.clock.Add(time.Second)
	if _, err := h.Observe(firstMachine); err != nil {
		t.Fatal(err)
	}
	exchange()
	want("the next boot", "+ "+others, "+ DHCPOFFER of 10.99.0.100", "+ DHCPACK of 10.99.0.100")
}

// TestPacketsHideKeys: the key of a boot in what another server names does not
// get into ledger and boot.
func TestPacketsHideKeys(t *testing.T) {
	h := newHouse(t)
	boot := h.boots()
	p := NewPackets(h.state, h.log)
	n := h.other("DHCPOFFER", "10.99.0.3")
	n.Other.File = h.BootURL(base, boot, "script")
	p.Note(n)
	p.flush()
	b, _ := h.state.Boot(boot)
	if list := packetsOf(h); len(list) != 1 || len(b.Others) != 1 ||
		strings.Contains(fmt.Sprint(list, b.Others), string(h.BootKey(boot))) {
		t.Errorf("recorded are %+v and %+v; want one of each, without the key", list, b.Others)
	}
}

// TestPacketFlood: strangers leave nothing, and who pretends to be a machine of
// ours, and a hundred servers, leaves no more than a boot has room for.
func TestPacketFlood(t *testing.T) {
	h := newHouse(t)
	h.boots()
	p := NewPackets(h.state, h.log)
	for i := range 100_000 {
		n := h.packet("DHCPOFFER", "10.99.0.100")
		n.MAC = fmt.Sprintf("0a:00:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255)
		p.Note(n)
	}
	if len(p.queue) != 0 {
		t.Errorf("%d packets of strangers wait for the ledger", len(p.queue))
	}
	for i := range 10_000 {
		at := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String()
		p.Note(h.packet("DHCPOFFER", at))
		p.Note(h.other("DHCPOFFER", at))
	}
	if len(p.queue) != maxQueued || p.Dropped() != 20_000-maxQueued {
		t.Errorf("%d packets wait, %d were dropped; want %d and the rest", len(p.queue), p.Dropped(), maxQueued)
	}
	p.flush()
	lost := p.Dropped()
	for i := range 1000 {
		p.Note(h.other("DHCPACK", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String()))
	}
	p.flush()
	_, b := h.machine()
	if n := len(packetsOf(h)); n > maxNoted || len(b.Others) > fleet.MaxOthers || len(p.recent) != 1 ||
		p.queue != nil ||
		p.Dropped() != lost {
		t.Errorf("the ledger has %d packets, the boot %d other servers, %d machines are remembered; want no more than "+
			"%d, %d, 1", n, len(b.Others), len(p.recent), maxNoted, fleet.MaxOthers)
	}
}

// TestPacketsThatCannotBeStored are counted, and noted when that is over and
// they come again.
func TestPacketsThatCannotBeStored(t *testing.T) {
	h := newHouse(t)
	h.boots()
	p := NewPackets(h.state, h.log)
	p.Note(h.packet("DHCPOFFER", "10.99.0.100"))
	if err := h.state.Close(); err != nil {
		t.Fatal(err)
	}
	p.flush()
	if p.Dropped() != 1 || len(p.recent) != 0 || len(p.queue) != 0 {
		t.Errorf("%d packets are lost, %d machines remembered; want 1 and none", p.Dropped(), len(p.recent))
	}
}

// TestPacketsAtOnce: packets are noted while others are being written, and those
// that wait at the end are not lost.
func TestPacketsAtOnce(t *testing.T) {
	h := newHouse(t)
	h.boots()
	p := NewPackets(h.state, h.log)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.Keep(ctx) }()
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			for range 100 {
				p.Note(h.packet("DHCPOFFER", fmt.Sprintf("10.99.0.%d", i)))
				p.Note(h.other("DHCPACK", "10.99.0.3"))
			}
		})
	}
	g.Wait()
	p.Note(h.packet("DHCPACK", "10.99.0.1"))
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := len(packetsOf(h)); n != 10 {
		t.Errorf("the ledger has %d packets; want 8 offers, an acknowledgement, and another server's", n)
	}
}

// report posts a report that proves nothing.
func (h *house) report(id ingot.BootID, r ingot.Report) error {
	s, err := h.Sender(id, ingot.Message{Path: "/report"}, "", "")
	if err != nil {
		return err
	}
	_, err = s.Report(r)
	return err
}
