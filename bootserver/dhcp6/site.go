package dhcp6

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ingot/bootserver/network"
)

// Cards asks the kernel for the interfaces of a configuration. One that is not
// there is left out, and New says so.
func Cards(c Config) (map[string]network.Card, error) {
	cards := map[string]network.Card{}
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
		card := network.Card{Index: l.Attrs().Index, MAC: l.Attrs().HardwareAddr}
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
	networks network.List[Options]
	machines map[string]*Machine // by MAC, UUID, DUID and name
}

// port is an interface that is served. In boot and observe mode it may have no
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

// locate finds the client's network and the subnet to prefer there (RFC 8415
// section 13.1): by the address that the relay nearest to the client names its
// link by, else it is the interface's own.
func (s *site) locate(p *port, chain []relay) (*network.Network[Options], *network.Subnet[Options]) {
	if link := linkOf(chain); link.IsValid() {
		return s.networks.At(link)
	}
	return p.Here()
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

// server is our address for a client: of its subnet, else the interface's first.
func (p *port) server(sub *network.Subnet[Options]) netip.Addr {
	return p.Address(func(own netip.Prefix) bool { return sub != nil && sub.Prefix.Contains(own.Addr()) })
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
		if g.Match.Matches(c.Client, name, network) {
			base = base.over(g.Options)
		}
	}
	if m != nil {
		base = base.over(m.Options)
	}
	return base
}
