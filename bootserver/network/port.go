package network

import (
	"net"
	"net/netip"
	"slices"
)

// Card is an interface of this host as the kernel knows it.
type Card struct {
	Index int
	MAC   net.HardwareAddr
	// Prefixes are its addresses that machines can reach, each with the length
	// of its network. Of IPv6 those are no link-local and no temporary ones.
	Prefixes []netip.Prefix
}

// Owns reports whether an address is one of the interface's.
func (c Card) Owns(ip netip.Addr) bool {
	return slices.ContainsFunc(c.Prefixes, func(o netip.Prefix) bool { return o.Addr() == ip })
}

// Address is the first one that fits, else the first of all; invalid when the
// interface has none.
func (c Card) Address(fits func(own netip.Prefix) bool) netip.Addr {
	if i := slices.IndexFunc(c.Prefixes, fits); i >= 0 {
		return c.Prefixes[i].Addr()
	}
	if len(c.Prefixes) == 0 {
		return netip.Addr{}
	}
	return c.Prefixes[0].Addr()
}

// Port is an interface of this host with the network that is attached to it;
// nil where no addresses are lent.
type Port[O any] struct {
	Card
	Network *Network[O]
}

// Here is the attached network, and the subnet of it that the interface has an
// address in. Both may be nil.
func (p Port[O]) Here() (*Network[O], *Subnet[O]) {
	if p.Network == nil {
		return nil, nil
	}
	for _, own := range p.Prefixes {
		if s := p.Network.Subnet(own.Addr()); s != nil {
			return p.Network, s
		}
	}
	return p.Network, nil
}
