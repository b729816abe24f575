package bootserver

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/booter"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
	"ingot/bootserver/state"
)

// located is a house with DHCP servers of two interfaces: eth1 leases addresses of lab and far, eth2
// stands beside another server.
func located(t *testing.T, leases ...fleet.Lease) *house {
	t.Helper()
	h := newHouse(t)
	if err := h.state.Update(func(tx state.Tx) error {
		for _, l := range leases {
			tx.PutLease(l)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	prefix := netip.MustParsePrefix
	pool := func(s string) []lease.Range {
		r, err := lease.ParseRange(s)
		if err != nil {
			t.Fatal(err)
		}
		return []lease.Range{r}
	}
	relays, err := network.ParseRelay("10.99.0.254")
	if err != nil {
		t.Fatal(err)
	}
	c4 := dhcp4.Config{Interfaces: []dhcp4.Interface{{Name: "eth1"}, {Name: "eth2", Mode: dhcp4.Proxy}},
		Networks: []dhcp4.Network{
			{Name: "lab", Interface: "eth1", Subnets: []dhcp4.Subnet{{Prefix: prefix("10.99.0.0/24"),
				Pools: pool("10.99.0.100-10.99.0.199")}}},
			{Name: "far", Relays: []network.Relay{relays}, Subnets: []dhcp4.Subnet{{Prefix: prefix("10.7.0.0/24"),
				Pools: pool("10.7.0.100-10.7.0.199")}}},
			{Name: "translated", NAT: true, Subnets: []dhcp4.Subnet{{Prefix: prefix("10.8.0.0/24")}}}}}
	c6 := dhcp6.Config{Interfaces: []dhcp6.Interface{{Name: "eth1"}},
		Networks: []dhcp6.Network{{Name: "lab", Interface: "eth1", Subnets: []dhcp6.Subnet{{Prefix: prefix("fd00:99::/64"),
			Pools: pool("fd00:99::1:0-fd00:99::1:ff")}}}}}
	cards := map[string]network.Card{"eth1": {Prefixes: []netip.Prefix{prefix("10.99.0.1/24")}},
		"eth2": {Prefixes: []netip.Prefix{prefix("10.20.0.1/24")}}}
	parts := network.Parts{Store: booter.LeasesOf(h.state, netip.Addr.Is4), Booter: h.Booter, Log: h.log, Now: h.now}
	four, err := dhcp4.New(c4, cards, "", parts)
	if err != nil {
		t.Fatal(err)
	}
	parts.Store = booter.LeasesOf(h.state, netip.Addr.Is6)
	six, err := dhcp6.New(c6, map[string]network.Card{"eth1": {Prefixes: []netip.Prefix{prefix("fd00:99::1/64")}}},
		[16]byte{1}, parts)
	if err != nil {
		t.Fatal(err)
	}
	h.server.dhcp.Store(&dhcpServers{four, six})
	return h
}

// TestPlace: what is known about an address depends on where the boot was requested.
func TestPlace(t *testing.T) {
	const mac = "52:54:00:12:00:01"
	soon := time.Date(2026, 11, 23, 13, 0, 0, 0, time.UTC)
	h := located(t, fleet.Lease{MAC: mac, Address: netip.MustParseAddr("10.99.0.100"), Expires: soon},
		fleet.Lease{MAC: mac, Address: netip.MustParseAddr("fd00:99::1:1"), Expires: soon})
	with, without := fleet.Machine{ID: "m-1", MACs: []string{mac}}, fleet.Machine{ID: "m-2"}
	lab, far := fleet.Origin{Interface: "eth1", Network: "lab"}, fleet.Origin{Interface: "eth1", Network: "far"}
	proxy, lab6 := fleet.Origin{Interface: "eth2"}, fleet.Origin{Interface: "eth1", Network: "lab", IPv6: true}
	nat := fleet.Origin{Interface: "eth1", Network: "translated"}
	gone := fleet.Origin{Interface: "eth9", Network: "gone"}
	for _, c := range []struct {
		what    string
		from    string
		machine fleet.Machine
		origins []fleet.Origin
		want    fleet.Place
		leased  bool
	}{
		{"leased", "10.99.0.100", with, []fleet.Origin{lab}, fleet.Place{Inside: true, Assigned: true}, true},
		{"not leased", "10.99.0.77", with, []fleet.Origin{lab}, fleet.Place{Inside: true, Assigned: true}, false},
		{"another network", "10.7.0.100", with, []fleet.Origin{lab}, fleet.Place{}, false},
		{"behind a relay", "10.7.0.100", with, []fleet.Origin{far}, fleet.Place{Inside: true, Assigned: true}, false},
		{"the server's link, for one behind a relay", "10.99.0.77", with, []fleet.Origin{far}, fleet.Place{}, false},
		{"two networks", "10.7.0.100", with, []fleet.Origin{lab, far}, fleet.Place{Inside: true, Assigned: true}, false},
		{"beside another server", "10.20.0.7", with, []fleet.Origin{proxy}, fleet.Place{Inside: true}, false},
		{"beside another server, elsewhere", "10.99.0.77", with, []fleet.Origin{proxy}, fleet.Place{}, false},
		{"of IPv6, leased", "fd00:99::1:1", with, []fleet.Origin{lab6}, fleet.Place{Inside: true, Assigned: true}, true},
		{"of IPv6, of a machine without a lease", "fd00:99::7", without, []fleet.Origin{lab6}, fleet.Place{Inside: true},
			false},
		{"of IPv6, asked over IPv4 only", "fd00:99::7", with, []fleet.Origin{lab}, fleet.Place{}, false},
		{"of the link", "fe80::1%eth1", without, []fleet.Origin{lab6}, fleet.Place{Inside: true}, false},
		{"of another link", "fe80::1%eth2", without, []fleet.Origin{lab6}, fleet.Place{}, false},
		{"anywhere, with nat", "192.0.2.1", with, []fleet.Origin{nat}, fleet.Place{NAT: true}, false},
		{"a network that is gone", "10.99.0.77", with, []fleet.Origin{gone}, fleet.Place{}, false},
		{"no request", "10.99.0.77", with, nil, fleet.Place{}, false},
	} {
		got := locator{h.server}.Place(netip.MustParseAddr(c.from), fleet.Boot{Origins: c.origins}, c.machine)
		leased := got.Lease != nil
		if got.Lease = nil; got != c.want || leased != c.leased {
			t.Errorf("%s: Place = %+v, leased %v; want %+v, %v", c.what, got, leased, c.want, c.leased)
		}
	}
}

// TestPastRelays: after an upgrade the first start names the relays that machines used, and which
// are not listed.
func TestPastRelays(t *testing.T) {
	port := func(relay string) fleet.SwitchPort {
		return fleet.SwitchPort{Relay: netip.MustParseAddr(relay), Circuit: "Eth1/7"}
	}
	h := located(t, fleet.Lease{MAC: "52:54:00:12:00:09", Address: netip.MustParseAddr("10.7.0.100"),
		Port: port("10.7.0.1")},
		fleet.Lease{MAC: "52:54:00:12:00:08", Address: netip.MustParseAddr("10.7.0.101"), Port: port("10.99.0.254")})
	for i, relay := range []string{"10.7.0.1", "10.44.0.1", "fd00:7::1"} {
		s := firstMachine
		s.MAC, s.UUID, s.Port = []string{"52:54:00:12:00:01", "52:54:00:12:00:02", "52:54:00:12:00:03"}[i], "", port(relay)
		if _, err := h.Observe(s); err != nil {
			t.Fatal(err)
		}
	}
	h.server.refusePastRelays()
	var got []string
	servers := h.server.dhcp.Load()
	for _, r := range append(servers.four.Observations().Refusals, servers.six.Observations().Refusals...) {
		got = append(got, string(r.Code)+" "+r.Relay.String()+" "+r.Add)
	}
	want := []string{"relay-used-before 10.7.0.1 relays: [10.99.0.254, 10.7.0.1]",
		`relay-used-before 10.44.0.1 {name: NAME, relays: [10.44.0.1], subnets: [{prefix: "10.44.0.0/24"}]}`,
		`relay-used-before fd00:7::1 {name: NAME, relays: ["fd00:7::1"], subnets: [{prefix: "fd00:7::/64"}]}`}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("refused relays of the past:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
