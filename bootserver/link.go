package bootserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// ErrInterface: the interface cannot be served on.
var ErrInterface = errors.New("cannot serve on the interface")

// link is an interface, in one of the two families, with the addresses that
// machines are told.
type link struct {
	name      string
	four      *dhcp4.Interface // this
	six       *dhcp6.Interface // or that
	addresses []netip.Addr     // none in observe mode
}

// key tells the links of one interface apart.
func (l link) key() string {
	if l.six != nil {
		return l.name + " (IPv6)"
	}
	return l.name
}

// site is a configuration together with the interfaces of this host.
type site struct {
	dhcp   dhcp4.Config
	cards  map[string]network.Card
	dhcp6  dhcp6.Config
	cards6 map[string]network.Card
	links  []link
}

// look finds the interfaces of a configuration. lend and lend6 are what --range
// and --range6 say.
func look(c config.Config, lend, lend6 string) (site, error) {
	s := site{dhcp: c.DHCP, dhcp6: c.DHCP6}
	if err := s.look4(lend); err != nil {
		return s, err
	}
	return s, s.look6(lend6)
}

func (s *site) look4(lend string) (err error) {
	if s.cards, err = s.dhcp.Cards(); err != nil {
		return err
	}
	for _, i := range s.dhcp.Interfaces {
		l := link{name: i.Name, four: &i}
		if l.addresses, err = addresses(s.cards, network.IPv4, i.Name, i.Mode == dhcp4.Observe); err != nil {
			return err
		}
		s.links = append(s.links, l)
	}
	if lend == "" {
		return nil
	}
	name := s.dhcp.Interfaces[0].Name
	prefix, pools, err := lent(lend, s.cards[name])
	if err != nil {
		return err
	}
	s.dhcp.Networks = []dhcp4.Network{{Name: name, Interface: name,
		Subnets: []dhcp4.Subnet{{Prefix: prefix, Pools: pools}}}}
	return nil
}

func (s *site) look6(lend string) (err error) {
	if s.cards6, err = s.dhcp6.Cards(); err != nil {
		return err
	}
	for _, i := range s.dhcp6.Interfaces {
		l := link{name: i.Name, six: &i}
		if l.addresses, err = addresses(s.cards6, network.IPv6, i.Name, i.Mode == dhcp6.Observe); err != nil {
			return err
		}
		s.links = append(s.links, l)
	}
	if lend == "" {
		return nil
	}
	name := s.dhcp6.Interfaces[0].Name
	prefix, pools, err := lent(lend, s.cards6[name])
	if err != nil {
		return err
	}
	s.dhcp6.Networks = []dhcp6.Network{{Name: name, Interface: name,
		Subnets: []dhcp6.Subnet{{Prefix: prefix, Pools: pools}}}}
	return nil
}

// addresses are what of an interface machines are told; none when it only
// observes.
func addresses(cards map[string]network.Card, family network.Family, iface string, observes bool) (list []netip.Addr,
	err error) {
	card, there := cards[iface]
	switch {
	case !there:
		return nil, fmt.Errorf("%w %q: there is no such interface; there are %s", ErrInterface, iface, interfaceNames())
	case observes:
		return nil, nil
	case len(card.Prefixes) == 0:
		return nil, fmt.Errorf("%w %q: %s", ErrInterface, iface, family.Unaddressed(iface))
	}
	for _, p := range card.Prefixes {
		list = append(list, p.Addr())
	}
	return list, nil
}

// lent reads what a flag says is to be lent of the network of an interface.
func lent(flag string, c network.Card) (prefix netip.Prefix, pools []lease.Range, err error) {
	own := c.Prefixes[0]
	r, err := lease.ParseRange(flag)
	if err != nil {
		return prefix, nil, err
	}
	return own.Masked(), []lease.Range{r}, r.Within(own, own.Addr())
}

func interfaceNames() string {
	list, err := net.Interfaces()
	if err != nil {
		return "none that can be listed"
	}
	var names []string
	for _, i := range list {
		if i.Flags&net.FlagLoopback == 0 {
			names = append(names, i.Name)
		}
	}
	if len(names) == 0 {
		return "none besides lo"
	}
	return strings.Join(names, ", ")
}
