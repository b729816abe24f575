package network

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ingot/bootserver/lease"
)

// telling is options of a made-up family: a word, which the nearer one replaces.
type telling string

func settings(family Family, networks ...*Network[telling]) *Settings[telling] {
	return &Settings[telling]{Family: family, Options: "server", Networks: networks, Interfaces: []Interface{{Name: "eth0", Lends: true}},
		Over: func(far, near telling) telling {
			if near != "" {
				return near
			}
			return far
		},
		CheckOptions: func(*Faults, string, telling) {}}
}

func subnet(prefix string, o telling) *Subnet[telling] {
	return &Subnet[telling]{Prefix: netip.MustParsePrefix(prefix), Options: o}
}

// TestJoin: an interface gets its network, that of its own prefix when there is
// none; a subnet what it inherits; and who asks is found by address or relay.
func TestJoin(t *testing.T) {
	for _, c := range []struct {
		family                         Family
		own, near, far, relay, nowhere string
		pools                          string
	}{
		{IPv4, "10.99.0.1/24", "10.99.0.0/24", "10.98.0.0/24", "192.0.2.1", "192.0.2.2", "10.99.0.128-10.99.0.254"},
		{IPv6, "fd00:99::1/64", "fd00:99::/64", "fd00:98::/64", "2001:db8::1", "2001:db8::2", "fd00:99::1:0-fd00:99::1:ffff"},
	} {
		t.Run(c.family.String(), func(t *testing.T) {
			cards := map[string]Card{"eth0": {Index: 2, Prefixes: []netip.Prefix{netip.MustParsePrefix(c.own)}}}
			var f Faults
			s := settings(c.family, &Network[telling]{Name: "far", Relays: []netip.Addr{netip.MustParseAddr(c.relay)}, Subnets: []*Subnet[telling]{subnet(c.far, "")}, Options: "network"})
			p := s.Join(&f, cards)["eth0"]
			if len(f) > 0 {
				t.Fatal(f)
			}
			n, sub := p.Here()
			if n == nil || n.Name != "eth0" || sub == nil || sub.Prefix.String() != c.near || sub.Options != "server" {
				t.Errorf("an interface without a network has %+v, %+v; want %s with the server's options", n, sub, c.near)
			}
			if got := p.Network.Pools(); len(got) != 1 || got[0].String() != c.pools {
				t.Errorf("its pools are %v; want %s", got, c.pools)
			}
			if n, sub := s.Networks.At(netip.MustParsePrefix(c.far).Addr().Next()); n == nil || n.Name != "far" || sub == nil || sub.Options != "network" {
				t.Errorf("an address of a subnet is of %+v, %+v", n, sub)
			}
			if n, sub := s.Networks.At(netip.MustParseAddr(c.relay)); n == nil || n.Name != "far" || sub != nil {
				t.Errorf("the relay is of %+v, %+v; want the network, and no subnet", n, sub)
			}
			if n, sub := s.Networks.At(netip.MustParseAddr(c.nowhere)); n != nil || sub != nil {
				t.Errorf("an address of no network is of %+v, %+v", n, sub)
			}
			l := s.Networks.Layout()
			if len(l.Pools) != 1 || l.Pools[0].Network != "eth0" || l.Of(netip.MustParseAddr(c.relay)) != "far" || l.Of(netip.MustParseAddr(c.nowhere)) != "" {
				t.Errorf("the layout has the pools %v", l.Pools)
			}

			f = nil
			overlapping := settings(c.family, &Network[telling]{Name: "elsewhere", Subnets: []*Subnet[telling]{subnet(c.near, "")}})
			if overlapping.Join(&f, cards); len(f) != 1 || !strings.Contains(f[0].Error(), "say `interface: eth0` there") {
				t.Errorf("a network that another interface's overlaps: %v", f)
			}
			f = nil
			if settings(c.family).Join(&f, map[string]Card{"eth0": {}}); len(f) != 1 || !strings.Contains(f[0].Error(), "it has no "+c.family.String()+" address") {
				t.Errorf("an interface without an address: %v", f)
			}
			f = nil
			held := subnet(c.near, "")
			held.Pools = []lease.Range{{First: netip.MustParsePrefix(c.own).Addr(), Last: netip.MustParsePrefix(c.own).Addr().Next()}}
			if settings(c.family, &Network[telling]{Name: "n", Interface: "eth0", Subnets: []*Subnet[telling]{held}}).Join(&f, cards); len(f) != 1 || !strings.Contains(f[0].Error(), "the server's own address") {
				t.Errorf("a pool with the server's own address: %v", f)
			}
		})
	}
}

// TestKey: a machine is the same however its name is spelt.
func TestKey(t *testing.T) {
	for want, spellings := range map[string][]Reservation{
		"52:54:00:12:34:ab":                    {{MAC: "52:54:00:12:34:ab"}, {MAC: "52-54-00-12-34-AB"}},
		"4c4c4544-0042-3510-8052-b4c04f463232": {{UUID: "4C4C4544-0042-3510-8052-B4C04F463232"}, {UUID: "4c4c4544004235108052b4c04f463232"}},
		"duid:00010203":                        {{DUID: "00:01:02:03"}, {DUID: "00010203"}},
		"node-7":                               {{Name: "Node-7"}},
	} {
		for _, r := range spellings {
			if got := r.Key(); got != want {
				t.Errorf("%q has the key %q; want %q", r, got, want)
			}
		}
	}
}

// TestOver: of a code the nearer option counts; what is given is left as it is.
func TestOver(t *testing.T) {
	far := []Option[uint8]{{Code: 1, Text: "a"}, {Code: 2, Text: "b"}}
	got := Over(far, []Option[uint8]{{Code: 1, Text: "c"}})
	texts := ""
	for _, o := range got {
		texts += o.Text
	}
	if texts != "bc" || far[0].Text != "a" || len(Over(far, nil)) != 2 || !slices.EqualFunc(far, Over(far, nil), func(a, b Option[uint8]) bool { return a.Text == b.Text }) {
		t.Errorf("Over = %+v; given were %+v", got, far)
	}
}
