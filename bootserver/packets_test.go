package bootserver

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/client"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/image"
	"ingot/internal/wire"
)

// TestAnotherServerAnswers is a network with two real DHCP servers beside us,
// each of which answers one of two machines. Each machine's explanation names
// the server that answered it, also after a restart in which nothing is heard.
func TestAnotherServerAnswers(t *testing.T) {
	if !wire.On(t, "udhcpc", "dnsmasq") {
		return
	}
	wire.AddSwitch(t, "sw")
	wire.Run(t, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "p-eth1", "netns", "sw")
	wire.In(t, "sw", "ip", "link", "set", "p-eth1", "master", "sw", "up")
	wire.Run(t, "ip", "link", "set", "eth1", "up")
	wire.Run(t, "ip", "address", "add", "10.99.0.1/24", "dev", "eth1")
	cards := []string{"52:54:00:12:00:01", "52:54:00:12:00:02"}
	for i, name := range []string{"one", "two"} {
		wire.Join(t, "sw", name, "eth0", cards[i])
		dns := "dns" + name
		wire.Join(t, "sw", dns, "eth0", fmt.Sprintf("52:54:00:12:00:1%d", i))
		wire.In(t, dns, "ip", "address", "add", fmt.Sprintf("10.99.0.%d/24", 3+i), "dev", "eth0")
		wire.Start(t, dns, "dnsmasq", "--keep-in-foreground", "--user=root", "--leasefile-ro", "--conf-file=/dev/null", "--pid-file=", "--port=0", "--interface=eth0",
			"--bind-interfaces", "--no-ping", "--dhcp-authoritative", fmt.Sprintf("--dhcp-range=10.99.0.1%d0,10.99.0.1%d9,1h", 6+i, 6+i), "--dhcp-host="+cards[1-i]+",ignore")
	}
	var later atomic.Int64 // how far the server's clock is ahead
	now := func() time.Time { return time.Now().Add(time.Duration(later.Load())) }
	root := t.TempDir()
	images, err := image.Open(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(root, "keys"))
	if err != nil {
		t.Fatal(err)
	}
	putSmall(t, images, keys, "v1")
	// A stranger's address is tested before it is offered: others are quicker.
	conf := config.Config{DHCP: dhcp4.Config{Interfaces: []dhcp4.Interface{{Name: "eth1", Quiet: true, Probe: time.Second}}}, Boots: config.Boots{ApproveAll: true, Image: "lab:v1"}}
	s, stop := startServerIn(t, root, conf, "10.99.0.100-10.99.0.119", now)
	c := api.Dial(s.conf.Settings.Socket)
	for i, name := range []string{"one", "two"} {
		out := wire.In(t, name, "udhcpc", "-f", "-n", "-q", "-B", "-t", "5", "-T", "3", "-i", "eth0", "-s", "/bin/true", "-V", "PXEClient:Arch:00007:UNDI:003016")
		if want := fmt.Sprintf("10.99.0.1%d", 6+i); !strings.Contains(out, want) {
			t.Fatalf("%s is to be lent an address of the other server, %s…, and gets\n%s", name, want, out)
		}
		wire.Eventually(t, "the machine is known, and what was heard is stored", func() bool {
			e, err := c.Events(t.Context(), api.EventsRequest{Machine: cards[i]})
			return err == nil && slices.ContainsFunc(e.Events, func(e fleet.Entry) bool { return strings.HasPrefix(e.Text, "DHCPOFFER of 10.99.0.10") })
		})
	}
	explained := func(when string) {
		t.Helper()
		for i, card := range cards {
			y, err := c.Why(t.Context(), card)
			if want := fmt.Sprintf("No DHCPREQUEST after our offer: another server, 10.99.0.%d, answered.", 3+i); err != nil || !strings.HasPrefix(y.Words, want) {
				t.Errorf("%s, of %s: %q, %v; want %q", when, card, y.Words, err, want)
			}
		}
	}
	later.Add(int64(time.Minute))
	explained("at first")
	stop()
	s, _ = startServerIn(t, root, conf, "10.99.0.100-10.99.0.119", now)
	c = api.Dial(s.conf.Settings.Socket)
	explained("after a restart")
	e, err := c.Events(t.Context(), api.EventsRequest{Machine: cards[1]})
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, x := range e.Events {
		if x.Kind == fleet.KindPacket {
			texts = append(texts, fmt.Sprintf("%v %v %s", x.Boot != "", x.Bad, x.Text))
		}
	}
	for _, want := range []string{"true false DHCPOFFER of 10.99.0.10", "true true DHCPOFFER of 10.99.0.17", "true true DHCPREQUEST for 10.99.0.17", "true true DHCPACK of 10.99.0.17"} {
		if !slices.ContainsFunc(texts, func(s string) bool {
			return strings.HasPrefix(s, want) && (strings.Contains(want, "10.99.0.10") || strings.Contains(s, "another server, 10.99.0.4"))
		}) {
			t.Errorf("the ledger has\n%s\nand nothing like %q", strings.Join(texts, "\n"), want)
		}
	}
}

// packetsOf are the entries of packets in a house's ledger.
func packetsOf(h *house) (list []fleet.Entry) {
	h.t.Helper()
	all, _, err := h.state.Ledger(state.Query{Limit: 1_000_000})
	if err != nil {
		h.t.Fatal(err)
	}
	for _, e := range all {
		if e.Kind == fleet.KindPacket {
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
	return client.Packet{Packet: fleet.Packet{At: h.clock, Other: &fleet.Other{Kind: kind, Address: netip.MustParseAddr(server), At: h.clock}}, MAC: firstMachine.MAC}
}

// TestPacketsOfABoot: what repeats within a boot is in the ledger once, also
// when the server was started anew; what a system that is up is answered is not
// in it, and what it is refused is.
func TestPacketsOfABoot(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	p := newPackets(h.state, h.log)
	var seen int
	fresh := func() (list []string) {
		p.flush()
		all := packetsOf(h)
		for _, e := range all[seen:] {
			tied := "-"
			if m, _ := h.machine1(); e.Boot == m.Boot {
				tied = "+"
			} else if e.Boot != "" {
				tied = "other boot"
			}
			list = append(list, tied+" "+e.Text)
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
	p.note(h.packet("DHCPOFFER", "10.99.0.100"))
	want("a stranger's packet")
	boot, _ := h.ask()
	exchange := func() {
		for range 3 { // firmware, loader, system
			p.note(h.packet("DHCPOFFER", "10.99.0.100"))
			p.note(h.packet("DHCPACK", "10.99.0.100"))
		}
		p.note(h.other("DHCPOFFER", "10.99.0.3"))
		p.note(h.other("DHCPOFFER", "10.99.0.3"))
	}
	others := "DHCPOFFER by another server, 10.99.0.3"
	exchange()
	want("a boot", "+ DHCPOFFER of 10.99.0.100", "+ DHCPACK of 10.99.0.100", "+ "+others)
	exchange()
	p.note(h.packet("DHCPACK", "10.99.0.101"))
	want("the same, and another address", "+ DHCPACK of 10.99.0.101")
	p = newPackets(h.state, h.log) // a restart
	p.note(h.other("DHCPOFFER", "10.99.0.3"))
	want("the same of another server, after a restart")
	p.note(h.other("DHCPACK", "10.99.0.3"))
	want("more of that server", "+ DHCPACK by another server, 10.99.0.3")
	if b, _ := h.state.Boot(boot); len(b.Others) != 2 || b.Others[1].Kind != "DHCPACK" {
		t.Errorf("of the boot %+v is kept; want two records of the other server", b.Others)
	}

	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	h.get(h.urlOfBoot(h.base, boot, "script"))
	b, _ := h.state.Boot(boot)
	h.post(boot, "report", ingot.Report{Boot: boot, Root: b.Root, Healthy: true})
	p = newPackets(h.state, h.log)
	p.note(h.packet("DHCPACK", "10.99.0.100"))
	want("a system renews its lease")
	nak := h.packet("DHCPNAK", "10.99.0.100")
	nak.Refused = "it has 10.99.0.101"
	for range 2 {
		p.note(nak)
		p.note(h.other("DHCPACK", "10.99.0.3"))
	}
	want("a system is refused, and taken by another server", "- DHCPNAK for 10.99.0.100: it has 10.99.0.101", "- DHCPACK by another server, 10.99.0.3")

	// The machine begins anew; the other server is quicker than we are.
	p.note(h.other("DHCPOFFER", "10.99.0.3"))
	h.clock = h.clock.Add(time.Second)
	h.seen(asks(ingot.FirmwareUEFIx64, true))
	exchange()
	want("the next boot", "+ "+others, "+ DHCPOFFER of 10.99.0.100", "+ DHCPACK of 10.99.0.100")
}

// TestPacketsHideKeys: the key of a boot in what another server names does not
// get into ledger and boot.
func TestPacketsHideKeys(t *testing.T) {
	h := newHouse(t)
	boot, _ := h.ask()
	p := newPackets(h.state, h.log)
	n := h.other("DHCPOFFER", "10.99.0.3")
	n.Other.File = h.urlOfBoot(h.base, boot, "script")
	p.note(n)
	p.flush()
	b, _ := h.state.Boot(boot)
	if list := packetsOf(h); len(list) != 1 || len(b.Others) != 1 || strings.Contains(fmt.Sprint(list, b.Others), string(h.key(boot))) {
		t.Errorf("recorded are %+v and %+v; want one of each, without the key", list, b.Others)
	}
}

// TestPacketFlood: strangers leave nothing, and who pretends to be a machine of
// ours, and a hundred servers, leaves no more than a boot has room for.
func TestPacketFlood(t *testing.T) {
	h := newHouse(t)
	h.ask()
	p := newPackets(h.state, h.log)
	for i := range 100_000 {
		n := h.packet("DHCPOFFER", "10.99.0.100")
		n.MAC = fmt.Sprintf("0a:00:00:%02x:%02x:%02x", i>>16, i>>8&255, i&255)
		p.note(n)
	}
	if len(p.queue) != 0 {
		t.Errorf("%d packets of strangers wait for the ledger", len(p.queue))
	}
	for i := range 10_000 {
		at := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).String()
		p.note(h.packet("DHCPOFFER", at))
		p.note(h.other("DHCPOFFER", at))
	}
	if len(p.queue) != maxQueued || p.lost() != 20_000-maxQueued {
		t.Errorf("%d packets wait, %d were dropped; want %d and the rest", len(p.queue), p.lost(), maxQueued)
	}
	p.flush()
	lost := p.lost()
	for i := range 1000 {
		p.note(h.other("DHCPACK", netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String()))
	}
	p.flush()
	_, b := h.machine1()
	if n := len(packetsOf(h)); n > maxNoted || len(b.Others) > fleet.MaxOthers || len(p.recent) != 1 || p.queue != nil || p.lost() != lost {
		t.Errorf("the ledger has %d packets, the boot %d other servers, %d machines are remembered; want no more than %d, %d, 1", n, len(b.Others), len(p.recent), maxNoted, fleet.MaxOthers)
	}
	h.server.packets = p
	if text := ours(scraped(h)); !strings.Contains(text, fmt.Sprintf("\ningot_ledger_packets_dropped_total %d\n", lost)) {
		t.Errorf("the metrics do not say that %d packets were dropped:\n%s", lost, text)
	}
}

// scraped are the metrics of a house.
func scraped(h *house) string {
	r := httptest.NewRecorder()
	admin{h.booter, h.server}.Metrics().ServeHTTP(r, httptest.NewRequest("GET", "/metrics", nil))
	return r.Body.String()
}

// TestPacketsThatCannotBeStored are counted, and noted when that is over and
// they come again.
func TestPacketsThatCannotBeStored(t *testing.T) {
	h := newHouse(t)
	h.ask()
	p := newPackets(h.state, h.log)
	p.note(h.packet("DHCPOFFER", "10.99.0.100"))
	if err := h.state.Close(); err != nil {
		t.Fatal(err)
	}
	p.flush()
	if p.lost() != 1 || len(p.recent) != 0 || len(p.queue) != 0 {
		t.Errorf("%d packets are lost, %d machines remembered; want 1 and none", p.lost(), len(p.recent))
	}
}

// TestPacketsAtOnce: packets are noted while others are being written, and those
// that wait at the end are not lost.
func TestPacketsAtOnce(t *testing.T) {
	h := newHouse(t)
	h.ask()
	p := newPackets(h.state, h.log)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- p.keep(ctx) }()
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			for range 100 {
				p.note(h.packet("DHCPOFFER", fmt.Sprintf("10.99.0.%d", i)))
				p.note(h.other("DHCPACK", "10.99.0.3"))
			}
		})
	}
	g.Wait()
	p.note(h.packet("DHCPACK", "10.99.0.1"))
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := len(packetsOf(h)); n != 10 {
		t.Errorf("the ledger has %d packets; want 8 offers, an acknowledgement, and another server's", n)
	}
}
