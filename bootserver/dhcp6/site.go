package dhcp6

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ingot/bootserver/lease"
)

// Card is an interface of this host as the kernel knows it.
type Card struct {
	Index int
	MAC   net.HardwareAddr
	// Prefixes are its addresses that machines can reach, each with the length
	// of its network: no link-local and no temporary ones.
	Prefixes []netip.Prefix
}

// Cards asks the kernel for the interfaces of a configuration. One that is not
// there is left out, and New says so.
func Cards(c Config) (map[string]Card, error) {
	cards := map[string]Card{}
	for _, i := range c.Interfaces {
		l, err := netlink.LinkByName(i.Name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking at the interface %q: %w", i.Name, err)
		}
		list, err := netlink.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return nil, fmt.Errorf("reading the addresses of %q: %w", i.Name, err)
		}
		card := Card{Index: l.Attrs().Index, MAC: l.Attrs().HardwareAddr}
		for _, a := range list {
			ip, ok := netip.AddrFromSlice(a.IP)
			if !ok || !ip.IsGlobalUnicast() || a.Flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED|unix.IFA_F_DADFAILED) != 0 {
				continue
			}
			bits, _ := a.Mask.Size()
			card.Prefixes = append(card.Prefixes, netip.PrefixFrom(ip, bits))
		}
		slices.SortFunc(card.Prefixes, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
		cards[i.Name] = card
	}
	return cards, nil
}

// site is a configuration made ready for packets.
type site struct {
	Config
	ports    map[string]*port
	networks []*network
	machines map[string]*Machine // by MAC, UUID, DUID and name
}

// port is an interface that is served.
type port struct {
	Interface
	Card
	network *network // that is attached; nil where no addresses are lent
}

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
			f.add(where, "it has no IPv6 address that machines can reach; give it one: ip address add fd00:99::1/64 dev %s", i.Name)
			continue
		}
		s.attach(&f, where, p)
	}
	s.checkOwn(&f)
	for i := range c.Machines {
		s.machines[c.Machines[i].canonical()] = &c.Machines[i]
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
// full mode which has none.
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
	p.network = s.add(Network{Name: p.Name, Interface: p.Name, Subnets: []Subnet{{Prefix: own.Masked(), Pools: []lease.Range{r}}}})
}

// checkOwn refuses our own addresses as ones to lend.
func (s *site) checkOwn(f *faults) {
	for _, p := range s.ports {
		for _, own := range p.Prefixes {
			for _, l := range s.layout().Pools {
				if l.Contains(own.Addr()) {
					f.add(fmt.Sprintf("network %q", l.Network), "the pool %s contains the server's own address %s", l.Range, own.Addr())
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

// locate finds the client's network and the subnet to prefer there (RFC 8415
// section 13.1): by the address that the relay nearest to the client names its
// link by, else it is the interface's own.
func (s *site) locate(p *port, chain []relay) (*network, *subnet) {
	if link := linkOf(chain); link.IsValid() {
		n := s.networkOf(link)
		if n == nil {
			return nil, nil
		}
		return n, n.subnetOf(link)
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

// linkOf is the address that names the client's link, invalid when no relay
// knows one, as relays on switches do not (RFC 6221).
func linkOf(chain []relay) netip.Addr {
	for _, r := range slices.Backward(chain) {
		if a, ok := netip.AddrFromSlice(r.LinkAddr); ok && !a.IsUnspecified() && !a.IsLinkLocalUnicast() {
			return a
		}
	}
	return netip.Addr{}
}

// owns reports whether an address is one of the interface's.
func (p *port) owns(ip netip.Addr) bool {
	return slices.ContainsFunc(p.Prefixes, func(o netip.Prefix) bool { return o.Addr() == ip })
}

// server is our address for a client: of its subnet, else the interface's first.
func (p *port) server(sub *subnet) netip.Addr {
	for _, own := range p.Prefixes {
		if sub != nil && sub.Prefix.Contains(own.Addr()) {
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
	for _, k := range []string{c.MAC, c.UUID, Client{DUID: c.DUID}.key(), strings.ToLower(name)} {
		if m := s.machines[k]; k != "" && m != nil {
			return m
		}
	}
	return nil
}

// options joins what a client is told.
func (s *site) options(base Options, c Client, name, network string, m *Machine) Options {
	for _, g := range s.Groups {
		if g.Match.Fits(c.Client, name, network) {
			base = base.over(g.Options)
		}
	}
	if m != nil {
		base = base.over(m.Options)
	}
	return base
}
