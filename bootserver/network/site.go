package network

import (
	"fmt"
	"net/netip"
	"slices"

	"ingot/bootserver/client"
	"ingot/bootserver/lease"
)

// Site is a configuration joined with this host's interfaces. It is not changed
// once it is made.
type Site[I Interface, M Machine[O], O Options[O]] struct {
	Options    O                        // of the server, for clients in no network
	Interfaces map[string]*Served[I, O] // by name
	Networks   List[O]                  // their subnets have all options that they inherit
	groups     []Group[O]
	machines   map[string]*M // by Reservation.Key
}

// Served is an interface of this host that is served, and the network that is
// attached to it, nil where no addresses are assigned.
type Served[I Interface, O any] struct {
	Config I
	Card
	Network *Network[O]
}

// NewSite joins a configuration with this host's interfaces, by name. Interfaces that do
// not exist, or that need an address and have none, are left out. The error wraps
// ErrConfig.
func NewSite[I Interface, M Machine[O], O Options[O]](c Config[I, M, O], cards map[string]Card) (*Site[I,
	M, O], error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	s := &Site[I, M, O]{Options: c.Options, groups: c.Groups, Interfaces: map[string]*Served[I, O]{},
		machines: map[string]*M{}}
	for _, n := range c.Networks {
		n.Subnets = slices.Clone(n.Subnets)
		for i := range n.Subnets {
			sub := &n.Subnets[i]
			sub.Options = c.Options.Override(n.Options).Override(sub.Options)
		}
		s.Networks = append(s.Networks, &n)
	}
	var f Faults
	for _, i := range c.Interfaces {
		if card, ok := cards[i.Settings().Name]; ok && (len(card.Prefixes) > 0 || i.Settings().Silent) {
			s.Interfaces[i.Settings().Name] = s.attach(&f, i, card)
		}
	}
	for _, served := range s.Interfaces {
		s.checkOwn(&f, c.Machines, served.Card)
		s.checkOwnPool(&f, served)
	}
	for i := range c.Machines {
		s.machines[c.Machines[i].Reservation().Key()] = &c.Machines[i]
	}
	return s, f.Err(c.Options.Family())
}

// attach joins an interface with its network. One that assigns addresses and has
// none configured gets a network of its own prefix, with the default pool.
func (s *Site[I, M, O]) attach(f *Faults, config I, card Card) *Served[I, O] {
	i := config.Settings()
	served := &Served[I, O]{Config: config, Card: card}
	if at := slices.IndexFunc(s.Networks, func(n *Network[O]) bool { return n.Interface == i.Name }); at >= 0 {
		served.Network = s.Networks[at]
	} else if i.Assigns {
		served.Network = s.addOwn(f, fmt.Sprintf("interface %q", i.Name), i.Name, card.Prefixes[0])
	}
	return served
}

// addOwn adds the network of an interface's own prefix. It returns nil if no
// addresses can be assigned from it.
func (s *Site[I, M, O]) addOwn(f *Faults, where, iface string, own netip.Prefix) *Network[O] {
	r, err := lease.Default(own, own.Addr())
	if err != nil {
		f.Add(where, "%w", err)
		return nil
	}
	for _, n := range s.Networks {
		for _, sub := range n.Subnets {
			if sub.Prefix.Overlaps(own) {
				f.Add(where, "its network %s overlaps %s of network %q; write `interface: %s` there", own.Masked(), sub.Prefix,
					n.Name, iface)
				return nil
			}
		}
	}
	made := &Network[O]{Name: iface, Interface: iface,
		Subnets: []Subnet[O]{{Prefix: own.Masked(), Pools: []lease.Range{r}, Options: s.Options}}}
	s.Networks = append(s.Networks, made)
	return made
}

// checkOwn refuses to assign an interface's own addresses to clients.
func (s *Site[I, M, O]) checkOwn(f *Faults, machines []M, c Card) {
	for _, own := range c.Prefixes {
		for _, p := range s.Networks.Layout().Pools {
			if p.Contains(own.Addr()) {
				f.Add(fmt.Sprintf("network %q", p.Network), "the pool %s contains the server's own address %s", p.Range, own.Addr())
			}
		}
		for _, m := range machines {
			if r := m.Reservation(); r.Address == own.Addr() {
				f.Add(fmt.Sprintf("machine %q", r), "its address %s is the server's own", own.Addr())
			}
		}
	}
}

// checkOwnPool refuses relays inside of the pool of a network that addOwn made: its
// configuration has no place at which Check could find them.
func (s *Site[I, M, O]) checkOwnPool(f *Faults, i *Served[I, O]) {
	name := i.Config.Settings().Name
	if i.Network == nil || i.Network.Name != name {
		return
	}
	for _, n := range s.Networks {
		for _, r := range n.Relays {
			for _, p := range i.Network.Pools() {
				if r.addresses().Overlaps(p) {
					f.Add(fmt.Sprintf("network %q", n.Name), "the relay %s is inside the pool %s of interface %q; "+
						"configure a network with a smaller pool for the interface", r, p, name)
				}
			}
		}
	}
}

// Owns reports whether an address belongs to one of the interfaces.
func (s *Site[I, M, O]) Owns(ip netip.Addr) bool {
	for _, served := range s.Interfaces {
		if served.Owns(ip) {
			return true
		}
	}
	return false
}

// Machine returns the configuration of the machine that has one of the keys, see
// Reservation.Key. It returns nil if there is none; empty keys are skipped.
func (s *Site[I, M, O]) Machine(keys ...string) *M {
	for _, k := range keys {
		if m := s.machines[k]; k != "" && m != nil {
			return m
		}
	}
	return nil
}

// OptionsOf overrides options by those of the groups that match a client, and of
// its machine, which may be nil. name is what operators call the machine.
func (s *Site[I, M, O]) OptionsOf(base O, c client.Client, name, network string, m *M) O {
	for _, g := range s.groups {
		if g.Match.Matches(c, name, network) {
			base = base.Override(g.Options)
		}
	}
	if m != nil {
		base = base.Override((*m).OwnOptions())
	}
	return base
}

// Attached returns the attached network, and the subnet of it in which the
// interface has an address. Both may be nil.
func (i *Served[I, O]) Attached() (*Network[O], *Subnet[O]) {
	if i.Network == nil {
		return nil, nil
	}
	for _, own := range i.Prefixes {
		if s := i.Network.Subnet(own.Addr()); s != nil {
			return i.Network, s
		}
	}
	return i.Network, nil
}
