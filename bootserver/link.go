package bootserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"ingot/bootserver/config"
	"ingot/bootserver/dhcp"
	"ingot/bootserver/lease"
)

// ErrInterface: the interface cannot be served on.
var ErrInterface = errors.New("cannot serve on the interface")

// link is an interface with the addresses that machines are told.
type link struct {
	dhcp.Interface
	addresses []netip.Addr // none in observe mode
}

// site is a configuration together with the interfaces of this host.
type site struct {
	dhcp  dhcp.Config
	cards map[string]dhcp.Card
	links []link
}

// look finds the interfaces of a configuration. lend is what --range says.
func look(c config.Config, lend string) (site, error) {
	s := site{dhcp: c.DHCP}
	var err error
	if s.cards, err = dhcp.Cards(s.dhcp); err != nil {
		return s, err
	}
	for _, i := range s.dhcp.Interfaces {
		card, there := s.cards[i.Name]
		if !there {
			return s, fmt.Errorf("%w %q: there is no such interface; there are %s", ErrInterface, i.Name, interfaceNames())
		}
		l := link{Interface: i}
		if i.Mode != dhcp.Observe {
			if len(card.Prefixes) == 0 {
				return s, fmt.Errorf("%w %q: it has no IPv4 address; give it one: ip address add 10.99.0.1/24 dev %s", ErrInterface, i.Name, i.Name)
			}
			for _, p := range card.Prefixes {
				l.addresses = append(l.addresses, p.Addr())
			}
		}
		s.links = append(s.links, l)
	}
	if lend == "" {
		return s, nil
	}
	r, err := lease.ParseRange(lend)
	if err != nil {
		return s, err
	}
	name := s.links[0].Name
	own := s.cards[name].Prefixes[0]
	if err := r.Within(own, own.Addr()); err != nil {
		return s, err
	}
	s.dhcp.Networks = []dhcp.Network{{Name: name, Interface: name, Subnets: []dhcp.Subnet{{Prefix: own.Masked(), Pools: []dhcp.Range{r}}}}}
	return s, nil
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
