package bootserver

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
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

// absence is an interface of the configuration that is not served now, in one of the two
// families.
type absence struct {
	name string
	six  bool
	mode string
	why  string
}

func (a absence) key() string {
	if a.six {
		return a.name + " (IPv6)"
	}
	return a.name
}

// site is a configuration together with the interfaces of this host.
type site struct {
	dhcp   dhcp4.Config
	cards  map[string]network.Card
	dhcp6  dhcp6.Config
	cards6 map[string]network.Card
	links  []link    // that are served
	absent []absence // the others of the configuration
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
		l, why := link{name: i.Name, four: &i}, ""
		if l.addresses, why = addresses(s.cards, network.IPv4, i.Settings()); why != "" {
			s.absent = append(s.absent, absence{name: i.Name, mode: string(i.Mode), why: why})
			continue
		}
		s.links = append(s.links, l)
	}
	if lend == "" || len(s.links) == 0 {
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
	there := false
	for _, i := range s.dhcp6.Interfaces {
		l, why := link{name: i.Name, six: &i}, ""
		if l.addresses, why = addresses(s.cards6, network.IPv6, i.Settings()); why != "" {
			s.absent = append(s.absent, absence{name: i.Name, six: true, mode: string(i.Mode), why: why})
			continue
		}
		s.links, there = append(s.links, l), true
	}
	if lend == "" || !there {
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

// noInterface is why an interface that does not exist is not served.
const noInterface = "there is no such interface"

// addresses are what of an interface machines are told; none when it only
// observes. why says why the interface cannot be served, "" if it can.
func addresses(cards map[string]network.Card, family network.Family, i network.InterfaceSettings) (list []netip.Addr,
	why string) {
	card, there := cards[i.Name]
	switch {
	case !there:
		return nil, noInterface
	case i.Silent:
		return nil, ""
	case len(card.Prefixes) == 0:
		return nil, family.Unaddressed(i.Name)
	}
	for _, p := range card.Prefixes {
		list = append(list, p.Addr())
	}
	return list, ""
}

// require returns an error if one of some interfaces cannot be served.
func (s site) require(names []string) error {
	for _, a := range s.absent {
		switch {
		case !slices.Contains(names, a.name):
		case a.why == noInterface:
			return fmt.Errorf("%w %q: %s; there are %s", ErrInterface, a.name, a.why, interfaceNames())
		default:
			return fmt.Errorf("%w %q: %s", ErrInterface, a.name, a.why)
		}
	}
	return nil
}

// without returns the site without some of its links, and why they are not served.
func (s site) without(why string, leave func(link) bool) site {
	s.cards, s.cards6 = maps.Clone(s.cards), maps.Clone(s.cards6)
	links := s.links
	s.links = nil
	for _, l := range links {
		if !leave(l) {
			s.links = append(s.links, l)
			continue
		}
		a := absence{name: l.name, six: l.six != nil, why: why}
		if a.six {
			a.mode = string(l.six.Mode)
			delete(s.cards6, l.name) // package network leaves out what has no card
		} else {
			a.mode = string(l.four.Mode)
			delete(s.cards, l.name)
		}
		s.absent = append(slices.Clip(s.absent), a)
	}
	return s
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

// exists reports whether this host has an interface with an index.
func exists(card int) bool {
	_, err := net.InterfaceByIndex(card)
	return err == nil
}
