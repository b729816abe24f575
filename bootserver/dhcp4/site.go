package dhcp4

import (
	"cmp"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/client"
	"ingot/bootserver/network"
)

// site is a configuration made ready for packets.
type site struct {
	Config
	ports    map[string]*port
	networks network.List[Options]
	machines map[string]*Machine // by MAC, UUID and name
}

// port is an interface that is served. In proxy and observe mode it may have no
// network.
type port struct {
	Interface
	network.Port[Options]
}

// newSite joins a configuration with the host's interfaces.
func newSite(c Config, cards map[string]network.Card) (*site, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	joined := c.settings()
	var f network.Faults
	ports := joined.Join(&f, cards)
	if err := f.Err(ErrConfig); err != nil {
		return nil, err
	}
	s := &site{Config: c, ports: map[string]*port{}, networks: joined.Networks, machines: map[string]*Machine{}}
	for _, i := range c.Interfaces {
		i.Mode = cmp.Or(i.Mode, Full)
		s.ports[i.Name] = &port{i, ports[i.Name]}
	}
	for i := range c.Machines {
		s.machines[c.Machines[i].reservation().Key()] = &c.Machines[i]
	}
	return s, nil
}

// owns reports whether an address is of one of our interfaces.
func (s *site) owns(ip netip.Addr) bool {
	for _, p := range s.ports {
		if p.Owns(ip) {
			return true
		}
	}
	return false
}

// relayed is what a relay added to a packet.
type relayed struct {
	relay    netip.Addr // giaddr; zero: no relay
	link     netip.Addr // where the client is, when that is not the relay's address
	override netip.Addr // what clients take for the server (RFC 5107)
	circuit  string
	remote   string
}

// Sub-options of option 82 that are more than kept (RFC 3046, 3527, 5107).
const (
	subCircuit  = 1
	subRemote   = 2
	subLink     = 5
	subOverride = 11
)

// optSubnetSelection lets a client without a relay name its subnet (RFC 3011).
const optSubnetSelection = 118

// readRelay reads what a relay added. Without a relay's address the client added
// it itself, or a switch that tells no more than the port (RFC 3046 section 2.1):
// nothing of it says where the client is, or who we are.
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
				r.link = four(v)
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

// locate finds the client's network and the subnet to prefer there (RFC 2131
// section 4.3.1). unicast is whether the packet was sent to our own address: a
// machine behind a router renews like that. A client that no relay speaks for
// chooses among the subnets of the interface's own network alone.
func (s *site) locate(p *port, r relayed, client netip.Addr, unicast bool) (*network.Network[Options], *network.Subnet[Options]) {
	switch {
	case r.link.IsValid() && (r.relay.IsValid() || p.Network != nil && p.Network.Subnet(r.link) != nil):
		return s.networks.At(r.link)
	case r.relay.IsValid():
		return s.networks.At(r.relay)
	case unicast && client.IsValid():
		if n, sub := s.networks.At(client); n != nil {
			return n, sub
		}
	}
	return p.Here()
}

// server is our address for a client there: on an attached network the one of
// its subnet, else the interface's first.
func (p *port) server(ip netip.Addr) netip.Addr {
	return p.Address(func(own netip.Prefix) bool { return own.Contains(ip) })
}

// machine returns what is configured for a client.
func (s *site) machine(c client.Client, name string) *Machine {
	for _, k := range []string{c.MAC, c.UUID, strings.ToLower(name)} {
		if m := s.machines[k]; k != "" && m != nil {
			return m
		}
	}
	return nil
}

// options joins what a client is told.
func (s *site) options(base Options, c client.Client, name, network string, m *Machine) Options {
	for _, g := range s.Groups {
		if g.Match.Matches(c, name, network) {
			base = base.over(g.Options)
		}
	}
	if m != nil {
		base = base.over(m.Options)
	}
	return base
}
