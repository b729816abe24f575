// Package network is the part of DHCP that IPv4 and IPv6 have in common: the
// configuration of networks, subnets and pools and its checks, this host's
// interfaces and sockets, what is known about the client of a packet, bounds on
// concurrent work, and what is observed on the networks.
//
// Types with the parameter O hold options, which differ between the families; I
// and M are the families' configurations of interfaces and machines.
//
// Left out: reading and writing messages and deciding what is answered, which
// packages dhcp4 and dhcp6 do, and which client has which address, which package
// lease keeps.
package network

import (
	"net/netip"
	"slices"
	"time"

	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
)

// DefaultLease is the lease time when the configuration names none.
const DefaultLease = 12 * time.Hour

// Subnet returns the subnet that contains an address, nil for none.
func (n *Network[O]) Subnet(ip netip.Addr) *Subnet[O] {
	for i := range n.Subnets {
		if n.Subnets[i].Prefix.Contains(ip) {
			return &n.Subnets[i]
		}
	}
	return nil
}

// Pools returns the pools of all subnets; a nil network has none.
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

// Of returns the network that an address belongs to, nil for none: as an address of
// one of its subnets, or of a relay that no other network has.
func (l List[O]) Of(ip netip.Addr) *Network[O] {
	for _, n := range l {
		if n.Subnet(ip) != nil {
			return n
		}
	}
	var of *Network[O]
	for _, n := range l {
		if slices.ContainsFunc(n.Relays, func(r Relay) bool { return r.Contains(ip) }) {
			if of != nil {
				return nil
			}
			of = n
		}
	}
	return of
}

// Named returns the network with a name, nil for none.
func (l List[O]) Named(name string) *Network[O] {
	for _, n := range l {
		if n.Name == name {
			return n
		}
	}
	return nil
}

// At returns the network that an address belongs to, and the subnet that contains
// the address, which may be nil.
func (l List[O]) At(ip netip.Addr) (*Network[O], *Subnet[O]) {
	n := l.Of(ip)
	if n == nil {
		return nil, nil
	}
	return n, n.Subnet(ip)
}

// Layout returns the pools of all networks.
func (l List[O]) Layout() lease.Layout {
	layout := lease.Layout{Of: func(ip netip.Addr) string {
		if n := l.Of(ip); n != nil {
			return n.Name
		}
		return ""
	}}
	for _, n := range l {
		for _, r := range n.Pools() {
			layout.Pools = append(layout.Pools, lease.Pool{Range: r, Network: n.Name})
		}
	}
	return layout
}

// Leased reports whether one of some leases is of the network; a nil network has none.
func (n *Network[O]) Leased(list []fleet.Lease) bool {
	return n != nil && slices.ContainsFunc(list, func(l fleet.Lease) bool { return n.Subnet(l.Address) != nil })
}
