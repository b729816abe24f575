package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ingot/bootserver/lease"
)

// Check returns all faults of a configuration at once, nil for none. The error
// wraps ErrConfig.
func (c *Config[I, M, O]) Check() error {
	var f Faults
	c.checkInterfaces(&f)
	c.checkNetworks(&f)
	c.checkMachines(&f)
	c.Options.Check(&f, c.Options.Family().section())
	var networks []string
	for _, n := range c.Networks {
		networks = append(networks, n.Name)
	}
	for i, g := range c.Groups {
		where := fmt.Sprintf("groups[%d] %q", i, g.Name)
		for _, fault := range g.Match.Check(networks) {
			f.Add(where, "%s", fault)
		}
		g.Options.Check(&f, where)
	}
	return f.Err(c.Options.Family())
}

func (c *Config[I, M, O]) checkInterfaces(f *Faults) {
	names := map[string]bool{}
	for i, config := range c.Interfaces {
		name := config.Settings().Name
		where := fmt.Sprintf("interfaces[%d] %q", i, name)
		switch {
		case name == "":
			f.Add(where, "it needs a name")
		case names[name]:
			f.Add(where, "the interface is listed twice")
		}
		names[name] = true
		config.Check(f, where)
	}
}

func (c *Config[I, M, O]) checkNetworks(f *Faults) {
	names := map[string]bool{}
	var prefixes []netip.Prefix
	for i, n := range c.Networks {
		where := fmt.Sprintf("networks[%d] %q", i, n.Name)
		if n.Name == "" || names[n.Name] {
			f.Add(where, "every network needs a name of its own")
		}
		names[n.Name] = true
		if n.Interface != "" && !slices.ContainsFunc(c.Interfaces,
			func(i I) bool { return i.Settings().Name == n.Interface }) {
			f.Add(where, "interface %q is not listed under interfaces", n.Interface)
		}
		c.checkRelays(f, where, n)
		if len(n.Subnets) == 0 {
			f.Add(where, "it needs a subnet")
		}
		for _, sub := range n.Subnets {
			where := where + " subnet " + sub.Prefix.String()
			for _, other := range prefixes {
				if sub.Prefix.IsValid() && other.IsValid() && sub.Prefix.Overlaps(other) {
					f.Add(where, "it overlaps the subnet %s", other)
				}
			}
			c.checkSubnet(f, where, n, sub)
			prefixes = append(prefixes, sub.Prefix)
		}
		n.Options.Check(f, where)
	}
}

func (c *Config[I, M, O]) checkSubnet(f *Faults, where string, n Network[O], sub Subnet[O]) {
	if fault := c.Options.Family().checkPrefix(sub.Prefix); fault != "" {
		f.Add(where, "%s", fault)
		return
	}
	if sub.Prefix != sub.Prefix.Masked() {
		f.Add(where, "the prefix has bits set behind its length; write %s", sub.Prefix.Masked())
	}
	routers := slices.Concat(sub.Options.RouterAddresses(), n.Options.RouterAddresses(), c.Options.RouterAddresses())
	for i, p := range sub.Pools {
		if err := p.Inside(sub.Prefix); err != nil {
			f.Add(where, "%w", err)
		}
		for _, o := range sub.Pools[:i] {
			if p.Overlaps(o) {
				f.Add(where, "the pools %s and %s overlap", o, p)
			}
		}
		for _, a := range routers {
			if p.Contains(a) {
				f.Add(where, "the pool %s contains the router %s; a client could get its address", p, a)
			}
		}
	}
	sub.Options.Check(f, where)
}

// checkRelays refuses relays whose address a client could get: packets from there are
// believed.
func (c *Config[I, M, O]) checkRelays(f *Faults, where string, n Network[O]) {
	for _, r := range n.Relays {
		first := netip.Prefix(r).Addr()
		if !first.IsValid() || !c.Options.Family().Has(first) || first.IsUnspecified() || first.IsMulticast() {
			f.Add(where, "%q is not an %s address of a relay", r, c.Options.Family())
			continue
		}
		for _, other := range c.Networks {
			for _, p := range other.Pools() {
				if r.addresses().Overlaps(p) {
					f.Add(where, "the relay %s is inside the pool %s of network %q; a client could get its address", r, p, other.Name)
				}
			}
		}
		for _, m := range c.Machines {
			if a := m.Reservation().Address; r.Contains(a) {
				f.Add(where, "the relay %s contains the address %s that is reserved for %q; move one of them", r, a,
					m.Reservation())
			}
		}
	}
	if n.Snooping && n.Interface == "" && c.Options.Family() == IPv4 {
		f.Add(where, "snooping: it is for the link of an interface; write `interface:`, or list the relays")
	}
}

// checkPrefix returns why a prefix cannot be a subnet of the family, "" if it can.
func (f Family) checkPrefix(p netip.Prefix) string {
	a := p.Addr()
	switch {
	case !p.IsValid() && f == IPv4:
		return "it needs a prefix such as 10.99.0.0/24"
	case !p.IsValid():
		return "it needs a prefix such as fd00:99::/64"
	case !f.Has(a) && f == IPv4:
		return "it is not IPv4; write it under dhcp6.networks"
	case !f.Has(a):
		return "it is not IPv6; write it under dhcp.networks"
	case f == IPv6 && (a.IsLinkLocalUnicast() || a.IsMulticast()):
		return "its addresses cannot be assigned; use a prefix of your own, or a local one such as fd00:99::/64"
	}
	return ""
}

// checkMachines also refuses addresses that two clients could have.
func (c *Config[I, M, O]) checkMachines(f *Faults) {
	known, addresses := map[string]bool{}, map[netip.Addr]Reservation{}
	for i, config := range c.Machines {
		m := config.Reservation()
		where := fmt.Sprintf("machines[%d] %q", i, m)
		m.check(f, where, c.Options.Family())
		if known[m.Key()] {
			f.Add(where, "the machine is listed twice")
		}
		known[m.Key()] = true
		config.Check(f, where)
		if !m.Address.IsValid() {
			continue
		}
		if other, taken := addresses[m.Address]; taken {
			f.Add(where, "the address %s is already reserved for %q", m.Address, other)
		}
		addresses[m.Address] = m
		c.checkReserved(f, where, m.Address)
	}
}

func (c *Config[I, M, O]) checkReserved(f *Faults, where string, a netip.Addr) {
	family := c.Options.Family()
	if family == IPv6 && !IPv6.Has(a) {
		f.Add(where, "%s is not an IPv6 address; write it under dhcp.machines", a)
		return
	}
	for _, n := range c.Networks {
		sub := n.Subnet(a)
		if sub == nil {
			continue
		}
		for _, p := range sub.Pools {
			if p.Contains(a) {
				f.Add(where,
					"the reserved address %s is in the pool %s of network %q, which could assign it to others; move one of them", a,
					p, n.Name)
			}
		}
		switch first, last := lease.Bounds(sub.Prefix); {
		case family == IPv4 && sub.Prefix.Bits() < 31 && (a == first || a == last):
			f.Add(where, "%s is the network or broadcast address of %s", a, sub.Prefix)
		case family == IPv6 && sub.Prefix.Bits() < 127 && a == first:
			f.Add(where, "%s is the address of all routers of %s", a, sub.Prefix)
		}
		return
	}
	if len(c.Networks) > 0 {
		f.Add(where, "the address %s is in none of the networks", a)
	}
}

// CheckAddresses refuses addresses of another family.
func CheckAddresses(f *Faults, where string, family Family, list []netip.Addr) {
	for _, a := range list {
		if !family.Has(a) {
			f.Add(where, "%q is not an %s address", a, family)
		}
	}
}

// ValidDomain reports whether a text can be sent as a domain, or is empty.
func ValidDomain(d string) bool {
	return len(d) <= 253 && !strings.ContainsFunc(d, func(r rune) bool { return r <= ' ' || r > '~' })
}

// CheckLease refuses lease times that are too short or too long; zero is allowed.
func CheckLease(f *Faults, where string, d time.Duration) {
	if d != 0 && (d < time.Minute || d > 366*24*time.Hour) {
		f.Add(where, "a lease of %s is not between 1m and 8784h", d)
	}
}

// MaxFile is the longest file name in a DHCP message, without its final
// zero (RFC 2131 section 2), in bytes.
const MaxFile = 127

// CheckLoaders refuses names that no loader can have. A loader has the same name in
// both families.
func CheckLoaders(f *Faults, where string, list []string) {
	for _, l := range list {
		if l == "" || strings.ContainsAny(l, "/\\\x00") || len(l) > MaxFile {
			f.Add(where, "%q is not the name of a loader; see ingot loaders", l)
		}
	}
}
