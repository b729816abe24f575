package bootserver

import (
	"context"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ingot/bootserver/api"
	"ingot/bootserver/booter"
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
		wire.Start(t, dns, "dnsmasq", "--keep-in-foreground", "--user=root", "--leasefile-ro",
			"--conf-file=/dev/null", "--pid-file=", "--port=0", "--interface=eth0",
			"--bind-interfaces", "--no-ping", "--dhcp-authoritative",
			fmt.Sprintf("--dhcp-range=10.99.0.1%d0,10.99.0.1%d9,1h", 6+i, 6+i), "--dhcp-host="+cards[1-i]+",ignore")
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
	conf := config.Config{DHCP: dhcp4.Config{Interfaces: []dhcp4.Interface{{Name: "eth1", Quiet: true,
		Probe: dhcp4.ProbeTime(time.Second)}}}, Boots: config.Boots{ApproveAll: true, Image: "lab:v1"}}
	s, stop := startServerIn(t, root, conf, "10.99.0.100-10.99.0.119", now)
	c := api.Dial(s.conf.Settings.Socket)
	for i, name := range []string{"one", "two"} {
		out := wire.In(t, name, "udhcpc", "-f", "-n", "-q", "-B", "-t", "5", "-T", "3", "-i", "eth0", "-s",
			"/bin/true", "-V", "PXEClient:Arch:00007:UNDI:003016")
		if want := fmt.Sprintf("10.99.0.1%d", 6+i); !strings.Contains(out, want) {
			t.Fatalf("%s is to be lent an address of the other server, %s…, and gets\n%s", name, want, out)
		}
		wire.Eventually(t, "the machine is known, and what was heard is stored", func() bool {
			e, err := c.Events(t.Context(), api.EventsRequest{Machine: cards[i]})
			return err == nil && slices.ContainsFunc(e.Events,
				func(e api.Entry) bool { return strings.HasPrefix(e.Text, "DHCPOFFER of 10.99.0.10") })
		})
	}
	explained := func(when string) {
		t.Helper()
		for i, card := range cards {
			y, err := c.Why(t.Context(), card)
			if want := fmt.Sprintf("The machine sent no DHCPREQUEST after our offer. Another DHCP server, 10.99.0.%d, answered.",
				3+i); err != nil || !strings.HasPrefix(y.Words, want) {
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
		if x.Kind == string(fleet.KindPacket) {
			texts = append(texts, fmt.Sprintf("%v %v %s", x.Boot != "", x.Bad, x.Text))
		}
	}
	for _, want := range []string{"true false DHCPOFFER of 10.99.0.10", "true true DHCPOFFER of 10.99.0.17",
		"true true DHCPREQUEST for 10.99.0.17", "true true DHCPACK of 10.99.0.17"} {
		if !slices.ContainsFunc(texts, func(s string) bool {
			return strings.HasPrefix(s, want) && (strings.Contains(want, "10.99.0.10") ||
				strings.Contains(s, "another server, 10.99.0.4"))
		}) {
			t.Errorf("the ledger has\n%s\nand nothing like %q", strings.Join(texts, "\n"), want)
		}
	}
}

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

// flush writes the notes that wait.
func flush(p *booter.Packets) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = p.Keep(ctx)
}

// TestDroppedPackets: a flood of packets that the ledger has no room for is measured.
func TestDroppedPackets(t *testing.T) {
	h := newHouse(t)
	h.ask()
	p := booter.NewPackets(h.state, h.log)
	for i := range 10_000 {
		p.Note(client.Packet{MAC: firstMachine.MAC, Packet: fleet.Packet{At: h.clock, Kind: "DHCPOFFER",
			Address: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}})
	}
	flush(p)
	lost := p.Dropped()
	h.server.packets = p
	if text := ours(scraped(h)); lost == 0 || !strings.Contains(text,
		fmt.Sprintf("\ningot_ledger_packets_dropped_total %d\n", lost)) {
		t.Errorf("the metrics do not say that %d packets were dropped:\n%s", lost, text)
	}
}

// scraped are the metrics of a house.
func scraped(h *house) string {
	r := httptest.NewRecorder()
	h.server.operator().Metrics().ServeHTTP(r, httptest.NewRequest("GET", "/metrics", nil))
	return r.Body.String()
}
