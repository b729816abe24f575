package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot"
	"ingot/bootserver/lease"
)

// Card is an interface of this host as the kernel knows it.
type Card struct {
	Index    int
	MAC      net.HardwareAddr
	Prefixes []netip.Prefix // its IPv4 addresses, each with the length of its network
}

// site is a configuration made ready for packets.
type site struct {
	Config
	ports    map[string]*port
	networks []*network
	machines map[string]*Machine // by MAC, UUID and name
}

// port is an interface that is served.
type port struct {
	Interface
	Card
	network *network // that is attached; nil in proxy and observe mode without one
}

// network is a Network with its subnets.
type network struct {
	Network
	subnets []*subnet
}

// subnet is a Subnet with all that it inherits.
type subnet struct {
	Subnet
	all Options
}

// newSite joins a configuration with the host's interfaces.
func newSite(c Config, cards map[string]Card) (*site, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	s := &site{Config: c, ports: map[string]*port{}, machines: map[string]*Machine{}}
	for _, n := range c.Networks {
		s.add(n)
	}
	var f faults
	for _, i := range c.Interfaces {
		if i.Mode == "" {
			i.Mode = Full
		}
		where := fmt.Sprintf("interface %q", i.Name)
		card, ok := cards[i.Name]
		if !ok {
			f.add(where, "it is not there")
			continue
		}
		p := &port{Interface: i, Card: card}
		s.ports[i.Name] = p
		if len(card.Prefixes) == 0 && i.Mode != Observe {
			f.add(where, "it has no IPv4 address; give it one: ip address add 10.99.0.1/24 dev %s", i.Name)
			continue
		}
		s.attach(&f, where, p)
	}
	s.checkOwn(&f)
	for i := range c.Machines {
		m := &c.Machines[i]
		k := strings.ToLower(m.key())
		if mac, err := ingot.ParseMAC(k); err == nil {
			k = mac
		} else if u := ingot.PlausibleUUID(k); u != "" {
			k = u
		}
		s.machines[k] = m
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *site) add(n Network) *network {
	made := &network{Network: n}
	for _, sub := range n.Subnets {
		made.subnets = append(made.subnets, &subnet{sub, s.Options.over(n.Options).over(sub.Options)})
	}
	s.networks = append(s.networks, made)
	return made
}

// attach finds the network of an interface, or makes that of an interface in
// full mode which has none: its own prefix, and the upper half to lend.
func (s *site) attach(f *faults, where string, p *port) {
	if i := slices.IndexFunc(s.networks, func(n *network) bool { return n.Interface == p.Name }); i >= 0 {
		p.network = s.networks[i]
		return
	}
	if p.Mode != Full {
		return
	}
	own := p.Prefixes[0]
	r, err := lease.Default(own, own.Addr())
	if err != nil {
		f.add(where, "%w", err)
		return
	}
	for _, n := range s.networks {
		for _, sub := range n.subnets {
			if sub.Prefix.Overlaps(own) {
				f.add(where, "its network %s overlaps %s of network %q; say `interface: %s` there", own.Masked(), sub.Prefix, n.Name, p.Name)
				return
			}
		}
	}
	p.network = s.add(Network{Name: p.Name, Interface: p.Name, Subnets: []Subnet{{Prefix: own.Masked(), Pools: []Range{r}}}})
}

// checkOwn refuses our own addresses as ones to lend.
func (s *site) checkOwn(f *faults) {
	for _, p := range s.ports {
		for _, own := range p.Prefixes {
			for _, n := range s.networks {
				for _, sub := range n.subnets {
					for _, r := range sub.Pools {
						if r.Contains(own.Addr()) {
							f.add(fmt.Sprintf("network %q", n.Name), "the pool %s contains the server's own address %s", r, own.Addr())
						}
					}
				}
			}
			for _, m := range s.Machines {
				if m.Address == own.Addr() {
					f.add(fmt.Sprintf("machine %q", m.key()), "its address %s is the server's own", own.Addr())
				}
			}
		}
	}
}

// layout is what addresses are lent from.
func (s *site) layout() lease.Layout {
	l := lease.Layout{Of: func(ip netip.Addr) string {
		if n := s.networkOf(ip); n != nil {
			return n.Name
		}
		return ""
	}}
	for _, n := range s.networks {
		for _, sub := range n.subnets {
			for _, r := range sub.Pools {
				l.Pools = append(l.Pools, lease.Pool{Range: r, Network: n.Name})
			}
		}
	}
	return l
}

// networkOf returns the network that an address belongs to: as one of its
// subnets', or as its relay's.
func (s *site) networkOf(ip netip.Addr) *network {
	for _, n := range s.networks {
		if n.subnetOf(ip) != nil {
			return n
		}
	}
	for _, n := range s.networks {
		if slices.Contains(n.Relays, ip) {
			return n
		}
	}
	return nil
}

func (n *network) subnetOf(ip netip.Addr) *subnet {
	for _, s := range n.subnets {
		if s.Prefix.Contains(ip) {
			return s
		}
	}
	return nil
}

// owns reports whether an address is one of the interface's.
func (p *port) owns(ip netip.Addr) bool {
	return slices.ContainsFunc(p.Prefixes, func(o netip.Prefix) bool { return o.Addr() == ip })
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
			r.circuit = Readable(v)
		case subRemote:
			r.remote = Readable(v)
		case subLink:
			r.link = four(v)
		case subOverride:
			r.override = four(v)
		}
		b = b[2+int(b[1]):]
	}
	return r
}

// Readable shows bytes as text when they are text.
func Readable(b []byte) string {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return fmt.Sprintf("0x%x", b[:min(len(b), 64)])
		}
	}
	return string(b[:min(len(b), 128)])
}

// locate finds the client's network and the subnet to prefer there (RFC 2131
// section 4.3.1). unicast is whether the packet was sent to our own address: a
// machine behind a router renews like that.
func (s *site) locate(p *port, r relayed, client netip.Addr, unicast bool) (*network, *subnet) {
	at := func(ip netip.Addr) (*network, *subnet) {
		n := s.networkOf(ip)
		if n == nil {
			return nil, nil
		}
		return n, n.subnetOf(ip)
	}
	switch {
	case r.link.IsValid():
		return at(r.link)
	case r.relay.IsValid():
		return at(r.relay)
	case unicast && client.IsValid():
		if n, sub := at(client); n != nil {
			return n, sub
		}
	}
	if p.network == nil {
		return nil, nil
	}
	for _, own := range p.Prefixes {
		if sub := p.network.subnetOf(own.Addr()); sub != nil {
			return p.network, sub
		}
	}
	return p.network, nil
}

// server is our address for a client there: on an attached network the one of
// its subnet, else the interface's first.
func (p *port) server(ip netip.Addr) netip.Addr {
	for _, own := range p.Prefixes {
		if own.Contains(ip) {
			return own.Addr()
		}
	}
	if len(p.Prefixes) == 0 {
		return netip.Addr{}
	}
	return p.Prefixes[0].Addr()
}

// machine returns what is configured for a client.
func (s *site) machine(c Client, name string) *Machine {
	for _, k := range []string{c.MAC, c.UUID, strings.ToLower(name)} {
		if m := s.machines[k]; k != "" && m != nil {
			return m
		}
	}
	return nil
}

// options joins what a client is told.
func (s *site) options(base Options, c Client, name, network string, m *Machine) Options {
	for _, g := range s.Groups {
		if g.Match.Fits(c, name, network) {
			base = base.over(g.Options)
		}
	}
	if m != nil {
		base = base.over(m.Options)
	}
	return base
}

// Fits reports whether it is for a client: with the name that operators gave
// to its machine, in a network.
func (m Match) Fits(c Client, name, network string) bool {
	has := func(list []string, f func(string) bool) bool { return len(list) == 0 || slices.ContainsFunc(list, f) }
	return has(m.Names, func(s string) bool { return name != "" && strings.EqualFold(s, name) }) &&
		has(m.MACs, func(s string) bool { return strings.HasPrefix(c.MAC, canonicalMACPrefix(s)) }) &&
		has(m.UUIDs, func(s string) bool { return c.UUID != "" && ingot.PlausibleUUID(s) == c.UUID }) &&
		has(m.Classes, func(s string) bool { return strings.HasPrefix(c.Class, s) }) &&
		has(m.Networks, func(s string) bool { return s == network }) &&
		(len(m.Firmware) == 0 || slices.Contains(m.Firmware, c.Firmware))
}
