package dhcp4

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"ingot/bootserver/client"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
	"ingot/internal/wire"
)

var (
	onWire     = wire.On
	requireAll = wire.RequireAll
	need       = wire.Need
	cannot     = wire.Cannot
	run        = wire.Run
	in         = wire.In
	start      = wire.Start
	addSwitch  = wire.AddSwitch
	join       = wire.Join
	eventually = wire.Eventually
)

// lan makes a LAN: a switch, and a namespace for each party with the card
// "eth0" in it. The server's own card, "eth1", is in the test's namespace. The
// switch is in one of its own: it must not answer ARP for us.
func lan(t testing.TB, parties ...string) {
	t.Helper()
	addSwitch(t, "sw")
	addOurs(t)
	for i, party := range parties {
		join(t, "sw", party, "eth0", fmt.Sprintf("52:54:00:12:00:%02x", i+1))
	}
}

// addOurs makes the server's card.
func addOurs(t testing.TB) {
	t.Helper()
	run(t, "ip", "link", "add", "eth1", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "p-eth1",
		"netns", "sw")
	in(t, "sw", "ip", "link", "set", "p-eth1", "master", "sw", "up")
	run(t, "ip", "address", "add", "10.99.0.1/24", "dev", "eth1")
	run(t, "ip", "link", "set", "eth1", "up")
}

// serve runs a server on the test's own cards.
func serve(t testing.TB, c Config, store lease.Store, b client.Booter) *Server {
	t.Helper()
	return serveAs(t, "us", c, store, b)
}

func serveAs(t testing.TB, id string, c Config, store lease.Store, b client.Booter) *Server {
	t.Helper()
	cards, err := c.Cards()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(c, cards, id, network.Parts{Store: store, Booter: b})
	if err != nil {
		t.Fatal(err)
	}
	prober := &Prober{Log: s.Log}
	s.Probe = prober.Probe
	var links []*Link
	for _, i := range c.Interfaces {
		l, err := Listen(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		links = append(links, l)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, links...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		prober.Close()
	})
	return s
}

// wireConfig serves "eth1" with all that a system may get.
func wireConfig() Config {
	return Config{Interfaces: []Interface{{Name: "eth1"}},
		Options: Options{DNS: addrs("10.99.0.53"), NTP: addrs("10.99.0.123"), Domain: "lab.example",
			Search: []string{"lab.example", "example"}, MTU: 1400, Lease: time.Hour},
		Networks: []Network{{Name: "lab", Interface: "eth1", Options: Options{Routers: addrs("10.99.0.254")},
			Subnets: []Subnet{{
				Prefix: netip.MustParsePrefix("10.99.0.0/24"), Pools: []lease.Range{{First: netip.MustParseAddr("10.99.0.100"),
					Last: netip.MustParseAddr("10.99.0.199")}},
				Options: Options{Routes: []Route{{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParseAddr("10.99.0.2")}}}}}}},
	}
}

func relaysOf(list ...string) (relays []network.Relay) {
	for _, s := range list {
		r, err := network.ParseRelay(s)
		if err != nil {
			panic(err)
		}
		relays = append(relays, r)
	}
	return relays
}

func addrs(list ...string) (a []netip.Addr) {
	for _, s := range list {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}
