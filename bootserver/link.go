package bootserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"ingot/bootserver/config"
	"ingot/bootserver/dhcp"
	"ingot/bootserver/dhcp6"
	"ingot/bootserver/lease"
)

// ErrInterface: the interface cannot be served on.
var ErrInterface = errors.New("cannot serve on the interface")

// link is an interface, in one of the two families, with the addresses that
// machines are told.
type link struct {
	name      string
	four      *dhcp.Interface  // this
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
	dhcp   dhcp.Config
	cards  map[string]dhcp.Card
	dhcp6  dhcp6.Config
	cards6 map[string]dhcp6.Card
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
	if s.cards, err = dhcp.Cards(s.dhcp); err != nil {
		return err
	}
	for _, i := range s.dhcp.Interfaces {
		card, there := s.cards[i.Name]
		if !there {
			return fmt.Errorf("%w %q: there is no such interface; there are %s", ErrInterface, i.Name, interfaceNames())
		}
		l := link{name: i.Name, four: &i}
		if i.Mode != dhcp.Observe {
			if len(card.Prefixes) == 0 {
				return fmt.Errorf("%w %q: it has no IPv4 address; give it one: ip address add 10.99.0.1/24 dev %s", ErrInterface, i.Name, i.Name)
			}
			for _, p := range card.Prefixes {
				l.addresses = append(l.addresses, p.Addr())
			}
		}
		s.links = append(s.links, l)
	}
	if lend == "" {
		return nil
	}
	name := s.dhcp.Interfaces[0].Name
	own := s.cards[name].Prefixes[0]
	r, err := rangeIn(lend, own)
	if err != nil {
		return err
	}
	s.dhcp.Networks = []dhcp.Network{{Name: name, Interface: name, Subnets: []dhcp.Subnet{{Prefix: own.Masked(), Pools: []dhcp.Range{r}}}}}
	return nil
}

func (s *site) look6(lend string) (err error) {
	if s.cards6, err = dhcp6.Cards(s.dhcp6); err != nil {
		return err
	}
	for _, i := range s.dhcp6.Interfaces {
		card, there := s.cards6[i.Name]
		if !there {
			return fmt.Errorf("%w %q: there is no such interface; there are %s", ErrInterface, i.Name, interfaceNames())
		}
		l := link{name: i.Name, six: &i}
		if i.Mode != dhcp6.Observe {
			if len(card.Prefixes) == 0 {
				return fmt.Errorf("%w %q: it has no IPv6 address that machines can reach; give it one: ip address add fd00:99::1/64 dev %s", ErrInterface, i.Name, i.Name)
			}
			for _, p := range card.Prefixes {
				l.addresses = append(l.addresses, p.Addr())
			}
		}
		s.links = append(s.links, l)
	}
	if lend == "" {
		return nil
	}
	name := s.dhcp6.Interfaces[0].Name
	own := s.cards6[name].Prefixes[0]
	r, err := rangeIn(lend, own)
	if err != nil {
		return err
	}
	s.dhcp6.Networks = []dhcp6.Network{{Name: name, Interface: name, Subnets: []dhcp6.Subnet{{Prefix: own.Masked(), Pools: []lease.Range{r}}}}}
	return nil
}

// rangeIn reads what a flag says is to be lent of an interface's network.
func rangeIn(text string, own netip.Prefix) (lease.Range, error) {
	r, err := lease.ParseRange(text)
	if err != nil {
		return r, err
	}
	return r, r.Within(own, own.Addr())
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
