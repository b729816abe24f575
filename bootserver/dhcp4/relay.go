package dhcp4

import (
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/network"
)

// The types of package network for this family.
type (
	site     = network.Site[Interface, Machine, Options]
	served   = network.Served[Interface, Options]
	shared   = network.Server[Interface, Machine, Options]
	exchange = network.Exchange[Interface, Machine, Options]
)

// relayed is what a relay added to a packet.
type relayed struct {
	relay    netip.Addr // giaddr; zero: no relay
	link     netip.Addr // where the client is, when that is not the relay's address
	selected bool       // the relay says so (RFC 3527), not the client (RFC 3011)
	override netip.Addr // what clients take for the server (RFC 5107)
	circuit  string
	remote   string
}

// Sub-options of option 82 with a meaning for the server (RFC 3046, 3527, 5107).
const (
	subCircuit  = 1
	subRemote   = 2
	subLink     = 5
	subOverride = 11
)

// optSubnetSelection lets a client without a relay name its subnet (RFC 3011).
const optSubnetSelection = 118

// readRelay reads what a relay added. Without a relay's address the client added it
// itself, or a switch that reveals only the port (RFC 3046 section 2.1): then
// nothing in it says where the client is, or what address the server has. Whether any
// of it is believed, place decides.
func readRelay(p *dhcpv4.DHCPv4) relayed {
	r := relayed{relay: address(p.GatewayIPAddr)}
	four := func(b []byte) netip.Addr {
		if len(b) != 4 {
			return netip.Addr{}
		}
		return address(net.IP(b))
	}
	r.link = four(p.Options.Get(dhcpv4.GenericOptionCode(optSubnetSelection)))
	b := p.Options.Get(dhcpv4.OptionRelayAgentInformation)
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		v := b[2 : 2+int(b[1])]
		switch b[0] {
		case subCircuit:
			r.circuit = client.Readable(v)
		case subRemote:
			r.remote = client.Readable(v)
		case subLink:
			if r.relay.IsValid() {
				r.link, r.selected = four(v), true
			}
		case subOverride:
			if r.relay.IsValid() {
				r.override = four(v)
			}
		}
		b = b[2+int(b[1]):]
	}
	return r
}

// switchPort returns where the client is plugged in, as seen by a relay or by the
// switches of a segment; zero if they do not say, or if seen is invalid.
func (r relayed) switchPort(seen netip.Addr) fleet.SwitchPort {
	if !seen.IsValid() || r.circuit+r.remote == "" {
		return fleet.SwitchPort{}
	}
	return fleet.SwitchPort{Relay: seen, Circuit: r.circuit, Remote: r.remote}
}

// place finds out where the client is. It returns why the packet is refused, nil if
// it is believed: a relay and the source of its packets must be relays of the client's
// network. A packet without a relay comes from the interface's own link, or from a
// machine in another configured network that has its address already.
func (r *request) place() *network.Refusal {
	own, from := address(r.Message.ClientIPAddr), r.From.Addr()
	unicast := r.Served.Owns(r.To)
	if unicast && own != from { // it is not at the address that it claims
		own = netip.Addr{}
	}
	r.Network, r.Subnet = locate(r.Site, r.Served, r.relayed, own, unicast)
	switch {
	case r.relay.IsValid():
		link := r.link
		if !r.selected {
			link = netip.Addr{}
		}
		if refused := r.Site.JudgeRelay(r.Network, r.relay, link, from, r.relay); refused != nil {
			return refused
		}
		r.exchange.Port = r.switchPort(r.relay)
	case !unicast || r.Served.OnLink(from):
		r.exchange.Port = r.switchPort(r.Served.Segment())
	default:
		r.routed = true
		if own != from {
			return &network.Refusal{Code: network.RefusedOffLink, From: from, Section: "dhcp"}
		}
		return r.Site.JudgeOffLink(from)
	}
	return nil
}

// locate finds the client's network and the subnet to prefer there (RFC 2131
// section 4.3.1). unicast is whether the packet was sent to the server's own address:
// a machine behind a router renews like that. A client without a relay may only
// choose among the subnets of the interface's own network.
func locate(s *site, on *served, r relayed, own netip.Addr, unicast bool) (*network.Network[Options],
	*network.Subnet[Options]) {
	switch {
	case r.link.IsValid() && (r.relay.IsValid() || on.Network != nil && on.Network.Subnet(r.link) != nil):
		return s.Networks.At(r.link)
	case r.relay.IsValid():
		return s.Networks.At(r.relay)
	case unicast && own.IsValid():
		if n, sub := s.Networks.At(own); n != nil {
			return n, sub
		}
	}
	return on.Attached()
}

// serverAddress returns the server's address for a client with an address: on an
// attached network the one in the client's subnet, else the interface's first.
func serverAddress(on *served, ip netip.Addr) netip.Addr {
	return on.Address(func(own netip.Prefix) bool { return own.Contains(ip) })
}
