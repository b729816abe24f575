// Package network is what DHCP for IPv4 and for IPv6 have in common: networks
// with their subnets and pools, this host's interfaces, what is checked of a
// configuration, sockets, and how many packets are worked on at once.
//
// O is what clients are told, which is another type for each family. What a
// message says, and what is answered, is of packages dhcp and dhcp6; who holds
// which address is of package lease.
package network

import (
	"net/netip"
	"slices"
	"time"

	"ingot/bootserver/lease"
)

// Network is one link with one or more subnets (RFC 2131 calls several a shared
// network).
type Network[O any] struct {
	Name      string
	Interface string       // that it is attached to; empty: reached through relays alone
	Relays    []netip.Addr // that lie in none of the subnets
	Subnets   []*Subnet[O]
	Options   O
}

// Subnet is one prefix of a network.
type Subnet[O any] struct {
	Prefix  netip.Prefix
	Pools   []lease.Range
	Options O
}

// Subnet returns the one that an address lies in, nil for none.
func (n *Network[O]) Subnet(ip netip.Addr) *Subnet[O] {
	for _, s := range n.Subnets {
		if s.Prefix.Contains(ip) {
			return s
		}
	}
	return nil
}

// Pools are those of all subnets; none of a nil network.
func (n *Network[O]) Pools() (list []lease.Range) {
	if n == nil {
		return nil
	}
	for _, s := range n.Subnets {
		list = append(list, s.Pools...)
	}
	return list
}

// List is all networks of one family.
type List[O any] []*Network[O]

// Names are those of the networks.
func (l List[O]) Names() (names []string) {
	for _, n := range l {
		names = append(names, n.Name)
	}
	return names
}

// Of returns the network that an address belongs to: as one of its subnets', or
// as its relay's.
func (l List[O]) Of(ip netip.Addr) *Network[O] {
	for _, n := range l {
		if n.Subnet(ip) != nil {
			return n
		}
	}
	for _, n := range l {
		if slices.Contains(n.Relays, ip) {
			return n
		}
	}
	return nil
}

// At returns the network that an address belongs to, and the subnet that it
// lies in, which may be nil.
func (l List[O]) At(ip netip.Addr) (*Network[O], *Subnet[O]) {
	n := l.Of(ip)
	if n == nil {
		return nil, nil
	}
	return n, n.Subnet(ip)
}

// Layout is what addresses are lent from.
func (l List[O]) Layout() lease.Layout {
	made := lease.Layout{Of: func(ip netip.Addr) string {
		if n := l.Of(ip); n != nil {
			return n.Name
		}
		return ""
	}}
	for _, n := range l {
		for _, r := range n.Pools() {
			made.Pools = append(made.Pools, lease.Pool{Range: r, Network: n.Name})
		}
	}
	return made
}

// DefaultLease is the lease time when the configuration names none.
const DefaultLease = 12 * time.Hour
