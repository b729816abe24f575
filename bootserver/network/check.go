package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ingot/bootserver/lease"
)

// CheckInterfaces refuses interfaces without a name of their own. more looks at
// the rest of each.
func (s *Settings[O]) CheckInterfaces(f *Faults, more func(i int, where string)) {
	names := map[string]bool{}
	for i, n := range s.Interfaces {
		where := fmt.Sprintf("interfaces[%d] %q", i, n.Name)
		switch {
		case n.Name == "":
			f.Add(where, "it needs a name")
		case names[n.Name]:
			f.Add(where, "the interface is named twice")
		}
		names[n.Name] = true
		more(i, where)
	}
}

// CheckNetworks checks networks, their subnets and pools.
func (s *Settings[O]) CheckNetworks(f *Faults) {
	names, relays := map[string]bool{}, map[netip.Addr]string{}
	var subnets []*Subnet[O]
	for i, n := range s.Networks {
		where := fmt.Sprintf("networks[%d] %q", i, n.Name)
		if n.Name == "" || names[n.Name] {
			f.Add(where, "every network needs a name of its own")
		}
		names[n.Name] = true
		if n.Interface != "" && !slices.ContainsFunc(s.Interfaces, func(i Interface) bool { return i.Name == n.Interface }) {
			f.Add(where, "interface %q is not listed under interfaces", n.Interface)
		}
		for _, a := range n.Relays {
			if other, taken := relays[a]; taken {
				f.Add(where, "the relay %s belongs to network %q already", a, other)
			}
			if s.Family == IPv6 && (!IPv6.Has(a) || a.IsLinkLocalUnicast()) {
				f.Add(where, "%q is no address by which a relay names a link", a)
			}
			relays[a] = n.Name
		}
		if len(n.Subnets) == 0 {
			f.Add(where, "it needs a subnet")
		}
		for _, sub := range n.Subnets {
			where := where + " subnet " + sub.Prefix.String()
			for _, o := range subnets {
				if sub.Prefix.IsValid() && o.Prefix.IsValid() && sub.Prefix.Overlaps(o.Prefix) {
					f.Add(where, "it overlaps the subnet %s", o.Prefix)
				}
			}
			s.checkSubnet(f, where, n, sub)
			subnets = append(subnets, sub)
		}
		s.CheckOptions(f, where, n.Options)
	}
}

func (s *Settings[O]) checkSubnet(f *Faults, where string, n *Network[O], sub *Subnet[O]) {
	if what := s.Family.unfit(sub.Prefix); what != "" {
		f.Add(where, "%s", what)
		return
	}
	if sub.Prefix != sub.Prefix.Masked() {
		f.Add(where, "the prefix has bits set behind its length; write %s", sub.Prefix.Masked())
	}
	taken, whose := n.Relays, "relay"
	if s.Routers != nil {
		taken, whose = slices.Concat(s.Routers(sub.Options), s.Routers(n.Options), n.Relays), "router or relay"
	}
	for i, p := range sub.Pools {
		if err := p.Inside(sub.Prefix); err != nil {
			f.Add(where, "%w", err)
		}
		for _, o := range sub.Pools[:i] {
			if p.Overlaps(o) {
				f.Add(where, "the pools %s and %s overlap", o, p)
			}
		}
		for _, a := range taken {
			if p.Contains(a) {
				f.Add(where, "the pool %s contains the %s %s", p, whose, a)
			}
		}
	}
	s.CheckOptions(f, where, sub.Options)
}

// unfit says why a prefix cannot be a subnet's of the family; empty: it can.
func (f Family) unfit(p netip.Prefix) string {
	a := p.Addr()
	switch {
	case !p.IsValid() && f == IPv4:
		return "it needs a prefix such as 10.99.0.0/24"
	case !p.IsValid():
		return "it needs a prefix such as fd00:99::/64"
	case !f.Has(a) && f == IPv4:
		return "only IPv4 networks can be served so far"
	case !f.Has(a):
		return "it is not IPv6; write it under dhcp.networks"
	case f == IPv6 && (a.IsLinkLocalUnicast() || a.IsMulticast()):
		return "addresses of it cannot be lent; use a prefix of your own, or a local one such as fd00:99::/64"
	}
	return ""
}

// CheckMachines checks what is said of machines, and refuses addresses that two
// could hold. more looks at the rest of each.
func (s *Settings[O]) CheckMachines(f *Faults, more func(i int, where string)) {
	known, addresses := map[string]bool{}, map[netip.Addr]Reservation{}
	for i, m := range s.Machines {
		where := fmt.Sprintf("machines[%d] %q", i, m)
		m.check(f, where, s.Family)
		if known[m.Key()] {
			f.Add(where, "the machine is listed twice")
		}
		known[m.Key()] = true
		more(i, where)
		if !m.Address.IsValid() {
			continue
		}
		if other, taken := addresses[m.Address]; taken {
			f.Add(where, "the address %s is reserved for %q already", m.Address, other)
		}
		addresses[m.Address] = m
		s.checkReserved(f, where, m.Address)
	}
}

func (s *Settings[O]) checkReserved(f *Faults, where string, a netip.Addr) {
	if s.Family == IPv6 && !IPv6.Has(a) {
		f.Add(where, "%s is not an IPv6 address; write it under dhcp.machines", a)
		return
	}
	for _, n := range s.Networks {
		sub := n.Subnet(a)
		if sub == nil {
			continue
		}
		for _, p := range sub.Pools {
			if p.Contains(a) {
				f.Add(where, "the reserved address %s lies in the pool %s of network %q, which could lend it to others; move one of them", a, p, n.Name)
			}
		}
		switch first, last := lease.Bounds(sub.Prefix); {
		case s.Family == IPv4 && sub.Prefix.Bits() < 31 && (a == first || a == last):
			f.Add(where, "%s is the network's or broadcast address of %s", a, sub.Prefix)
		case s.Family == IPv6 && sub.Prefix.Bits() < 127 && a == first:
			f.Add(where, "%s is every router's of %s", a, sub.Prefix)
		}
		return
	}
	if len(s.Networks) > 0 {
		f.Add(where, "the address %s lies in none of the networks", a)
	}
}

// CheckAddresses refuses those that are not of the family.
func CheckAddresses(f *Faults, where string, family Family, list []netip.Addr) {
	for _, a := range list {
		if !family.Has(a) {
			f.Add(where, "%q is not an %s address", a, family)
		}
	}
}

// ValidDomain reports whether a text can be told as a domain, or as none.
func ValidDomain(d string) bool {
	return len(d) <= 253 && !strings.ContainsFunc(d, func(r rune) bool { return r <= ' ' || r > '~' })
}

// CheckLease refuses times that addresses are not lent for; zero is none.
func CheckLease(f *Faults, where string, d time.Duration) {
	if d != 0 && (d < time.Minute || d > 366*24*time.Hour) {
		f.Add(where, "a lease of %s is not between 1m and 8784h", d)
	}
}

// MaxFile is the room for a file's name in a DHCP message, without its final
// zero (RFC 2131 section 2).
const MaxFile = 127

// CheckLoaders refuses what cannot be the name of a loader. One has the same
// name in both families.
func CheckLoaders(f *Faults, where string, list []string) {
	for _, l := range list {
		if l == "" || strings.ContainsAny(l, "/\\\x00") || len(l) > MaxFile {
			f.Add(where, "%q is not the name of a loader; see ingot loaders", l)
		}
	}
}
