package network

import (
	"fmt"
	"net/netip"
	"slices"

	"ingot/bootserver/lease"
)

// Settings is the configuration of one family, as far as both have it: made of
// what people wrote, and then joined with this host's interfaces.
type Settings[O any] struct {
	Family     Family
	Interfaces []Interface
	Networks   List[O]
	Machines   []Reservation
	Options    O // the server's

	// Over returns far with what near says in place of it.
	Over func(far, near O) O
	// CheckOptions finds what is wrong with options.
	CheckOptions func(f *Faults, where string, o O)
	// Routers are those that options tell, which no pool may contain. Nil: DHCP of
	// the family does not tell them.
	Routers func(o O) []netip.Addr
}

// Interface is what a configuration says of an interface, as far as its networks
// need to know.
type Interface struct {
	Name  string
	Lends bool // addresses, so it needs a network
	Mute  bool // it answers nothing, so it needs no address
}

// Join joins the interfaces of a configuration with those of this host, by name,
// and with their networks. One that lends addresses and has no network gets that
// of its own prefix, with the default pool. Each subnet gets all the options that
// it inherits.
func (s *Settings[O]) Join(f *Faults, cards map[string]Card) map[string]Port[O] {
	for _, n := range s.Networks {
		for _, sub := range n.Subnets {
			sub.Options = s.Over(s.Over(s.Options, n.Options), sub.Options)
		}
	}
	ports := map[string]Port[O]{}
	for _, i := range s.Interfaces {
		ports[i.Name] = s.attach(f, i, cards)
	}
	for _, p := range ports {
		s.checkOwn(f, p.Card)
	}
	return ports
}

func (s *Settings[O]) attach(f *Faults, i Interface, cards map[string]Card) Port[O] {
	where := fmt.Sprintf("interface %q", i.Name)
	card, there := cards[i.Name]
	p := Port[O]{Card: card}
	switch {
	case !there:
		f.Add(where, "it is not there")
		return p
	case len(card.Prefixes) == 0 && !i.Mute:
		f.Add(where, "%s", s.Family.Unaddressed(i.Name))
		return p
	}
	if at := slices.IndexFunc(s.Networks, func(n *Network[O]) bool { return n.Interface == i.Name }); at >= 0 {
		p.Network = s.Networks[at]
	} else if i.Lends {
		p.Network = s.own(f, where, i.Name, card.Prefixes[0])
	}
	return p
}

// own adds the network of an interface's own prefix; nil when it cannot be lent
// from.
func (s *Settings[O]) own(f *Faults, where, iface string, own netip.Prefix) *Network[O] {
	r, err := lease.Default(own, own.Addr())
	if err != nil {
		f.Add(where, "%w", err)
		return nil
	}
	for _, n := range s.Networks {
		for _, sub := range n.Subnets {
			if sub.Prefix.Overlaps(own) {
				f.Add(where, "its network %s overlaps %s of network %q; say `interface: %s` there", own.Masked(), sub.Prefix, n.Name, iface)
				return nil
			}
		}
	}
	made := &Network[O]{Name: iface, Interface: iface, Subnets: []*Subnet[O]{{Prefix: own.Masked(), Pools: []lease.Range{r}, Options: s.Options}}}
	s.Networks = append(s.Networks, made)
	return made
}

// checkOwn refuses an interface's own addresses as ones to lend.
func (s *Settings[O]) checkOwn(f *Faults, c Card) {
	for _, own := range c.Prefixes {
		for _, p := range s.Networks.Layout().Pools {
			if p.Contains(own.Addr()) {
				f.Add(fmt.Sprintf("network %q", p.Network), "the pool %s contains the server's own address %s", p.Range, own.Addr())
			}
		}
		for _, m := range s.Machines {
			if m.Address == own.Addr() {
				f.Add(fmt.Sprintf("machine %q", m), "its address %s is the server's own", own.Addr())
			}
		}
	}
}
