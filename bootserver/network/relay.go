package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ingot/bootserver/lease"
)

// Relay is the address of a relay, or a prefix in which only relays have addresses.
// Its text is "10.7.0.1" or "10.255.0.0/24".
type Relay netip.Prefix

// ParseRelay reads an address or a prefix.
func ParseRelay(s string) (Relay, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && !a.Is4In6() {
		return Relay(netip.PrefixFrom(a, a.BitLen())), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return Relay{}, fmt.Errorf("%q is not an address or a prefix; write 10.7.0.1, 10.255.0.0/24 or fd00:7::1", s)
	case p != p.Masked():
		return Relay{}, fmt.Errorf("%q has bits set behind its length; write %s, or the address alone", s, p.Masked())
	}
	return Relay(p), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Relay) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRelay(string(b))
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (r Relay) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r Relay) String() string {
	if p := netip.Prefix(r); !p.IsSingleIP() {
		return p.String()
	}
	return netip.Prefix(r).Addr().String()
}

// Contains reports whether an address is the relay's, or one of its prefix.
func (r Relay) Contains(ip netip.Addr) bool { return netip.Prefix(r).Contains(ip) }

// addresses returns the first and the last address.
func (r Relay) addresses() lease.Range {
	first, last := lease.Bounds(netip.Prefix(r))
	return lease.Range{First: first, Last: last}
}

// IsRelay reports whether an address belongs to a relay of a network of a Site: one of its
// relays, or a router that its clients get.
func (n *Network[O]) IsRelay(ip netip.Addr) bool {
	if slices.ContainsFunc(n.Relays, func(r Relay) bool { return r.Contains(ip) }) {
		return true
	}
	return slices.ContainsFunc(n.Subnets, func(s Subnet[O]) bool {
		o, has := any(s.Options).(interface{ RouterAddresses() []netip.Addr })
		return has && slices.Contains(o.RouterAddresses(), ip)
	})
}

// RefusalCode is why packets that claim to come through a relay are refused.
type RefusalCode string

// The reasons for which packets are refused.
const (
	// RefusedUnlisted: the relay, or the source of its packets, is not listed.
	RefusedUnlisted RefusalCode = "relay-not-listed"
	// RefusedNoNetwork: what the relay names is in no configured network.
	RefusedNoNetwork RefusalCode = "no-network"
	// RefusedPool: the relay's address, or the source of its packets, is in a pool. It
	// belongs to a client.
	RefusedPool RefusalCode = "relay-in-pool"
	// RefusedOffLink: a packet without a relay comes from an address of no
	// configured network.
	RefusedOffLink RefusalCode = "off-link"
	// RefusedPast: the relay was used before the server was started, and is not listed.
	RefusedPast RefusalCode = "relay-used-before"
)

// Refusal is a relay whose packets are refused. They are neither answered nor
// believed.
type Refusal struct {
	Interface string
	Code      RefusalCode
	Relay     netip.Addr // giaddr of DHCP, link-address of DHCPv6; invalid for RefusedOffLink
	Link      netip.Addr // that the relay selects instead of its own (RFC 3527); may be invalid
	From      netip.Addr // source of the packets; invalid for RefusedPast
	Network   string     // that the relay names; empty for RefusedNoNetwork
	Add       string     // what to add to the configuration if it is a relay of the operator; may be empty
	Section   string     // of the configuration: "dhcp" or "dhcp6"
	First     time.Time
	Last      time.Time
	Packets   int
}

// String explains the refusal to an operator, with the line to add.
func (r Refusal) String() string {
	var what string
	switch r.Code {
	case RefusedOffLink:
		return fmt.Sprintf("a request without a relay from %s is refused: the address is in no network of %s; "+
			"if it is a machine's, add its network", r.From, r.Section)
	case RefusedPast:
		what = fmt.Sprintf("machines booted through the relay %s before, and it is not listed: its packets are refused",
			r.Relay)
	case RefusedPool:
		return fmt.Sprintf("packets of the relay %s from %s are refused: the address is in a pool of network %q, "+
			"so it belongs to a client; if it is a relay, take its address out of the pool", r.Relay, r.From, r.Network)
	case RefusedNoNetwork:
		what = fmt.Sprintf("packets of the relay %s from %s are refused: the relay's address is in no network of %s",
			r.Relay, r.From, r.Section)
		if r.Link.IsValid() {
			what = fmt.Sprintf("packets of the relay %s from %s are refused: the link %s that it selects (RFC 3527) is in no "+
				"network of %s",
				r.Relay, r.From, r.Link, r.Section)
		}
	default:
		what = fmt.Sprintf("packets of the relay %s from %s are refused: it is not listed", r.Relay, r.From)
	}
	if r.Network == "" {
		return what + "; if the relay is yours, add to " + r.Section + " a network with its real prefix: " + r.Add
	}
	return fmt.Sprintf("%s; if the relay is yours, add to network %q of %s: %s", what, r.Network, r.Section, r.Add)
}

// JudgeRelay decides whether a packet of a relay is believed. n is the network that the
// relay names, nil for none: with its own address, or with the link that it selects,
// which may be invalid. via are the addresses that must belong to relays of that
// network: the one that the relay gives itself, and the source of the packet. It
// returns nil if the packet is believed.
func (s *Site[I, M, O]) JudgeRelay(n *Network[O], relay, link, from netip.Addr, via ...netip.Addr) *Refusal {
	from = from.WithZone("")
	r := &Refusal{Relay: relay, Link: link, From: from, Section: s.Options.Family().section()}
	var missing []netip.Addr
	for _, ip := range append(via, from) {
		if n == nil || !n.IsRelay(ip) {
			missing = append(missing, ip)
		}
		if p := s.poolOf(ip); p != "" {
			r.Code, r.Network = RefusedPool, p
			return r
		}
	}
	switch {
	case n == nil:
		r.Code = RefusedNoNetwork
		r.Add = lineForNetwork(firstValid(link, relay), missing)
	case len(missing) > 0:
		r.Code, r.Network, r.Add = RefusedUnlisted, n.Name, n.lineForRelays(missing)
	default:
		return nil
	}
	return r
}

// JudgePast is JudgeRelay for the address of a relay that was recorded in the past.
func (s *Site[I, M, O]) JudgePast(relay netip.Addr) *Refusal {
	if len(s.Interfaces) == 0 {
		return nil // the family is not served
	}
	listed := func(n *Network[O]) bool { return n.IsRelay(relay) || n.Snooping && n.Subnet(relay) != nil }
	if slices.ContainsFunc(s.Networks, listed) {
		return nil
	}
	n := s.Networks.Of(relay)
	r := &Refusal{Code: RefusedPast, Relay: relay, Section: s.Options.Family().section()}
	if n == nil {
		r.Add = lineForNetwork(relay, []netip.Addr{relay})
	} else {
		r.Network, r.Add = n.Name, n.lineForRelays([]netip.Addr{relay})
	}
	return r
}

// poolOf returns the network of the pool that contains an address, "" for none.
func (s *Site[I, M, O]) poolOf(ip netip.Addr) string {
	for _, n := range s.Networks {
		for _, p := range n.Pools() {
			if p.Contains(ip) {
				return n.Name
			}
		}
	}
	return ""
}

// lineForRelays is the complete setting with which the network has further relays.
func (n *Network[O]) lineForRelays(more []netip.Addr) string {
	var list []string
	for _, r := range n.Relays {
		list = append(list, r.String())
	}
	for _, ip := range more {
		list = append(list, ip.String())
	}
	return "relays: " + flowList(slices.Compact(list))
}

// lineForNetwork is a network for a relay. The length of its prefix is a guess.
func lineForNetwork(at netip.Addr, relays []netip.Addr) string {
	bits := 64
	if at.Is4() {
		bits = 24
	}
	var list []string
	for _, ip := range relays {
		list = append(list, ip.String())
	}
	prefix, _ := at.Prefix(bits) // an address of the family has that many bits
	return fmt.Sprintf("{name: NAME, relays: %s, subnets: [{prefix: %q}]}", flowList(slices.Compact(list)), prefix)
}

// flowList is a list of YAML in one line.
func flowList(list []string) string {
	quoted := slices.Clone(list)
	for i, s := range quoted {
		if strings.Contains(s, ":") { // an IPv6 address would be read as a map
			quoted[i] = `"` + s + `"`
		}
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func firstValid(list ...netip.Addr) (a netip.Addr) {
	for _, a = range list {
		if a.IsValid() {
			return a
		}
	}
	return a
}

// OnLink reports whether a packet without a relay can come from the interface's own
// link: a client there has no address, one of the link alone, or one of its networks.
func (i *Served[I, O]) OnLink(from netip.Addr) bool {
	from = from.WithZone("")
	return !from.IsValid() || from.IsUnspecified() || from.IsLinkLocalUnicast() ||
		slices.ContainsFunc(i.Prefixes, func(p netip.Prefix) bool { return p.Contains(from) }) ||
		i.Network != nil && i.Network.Subnet(from) != nil
}

// JudgeOffLink refuses a packet without a relay whose source is in no network.
func (s *Site[I, M, O]) JudgeOffLink(from netip.Addr) *Refusal {
	if s.Networks.Of(from.WithZone("")) != nil {
		return nil
	}
	return &Refusal{Code: RefusedOffLink, From: from.WithZone(""), Section: s.Options.Family().section()}
}

// Segment returns the address that stands for the interface's own link in the switch port
// of a client whose switch adds it without being a relay: the first one of the
// link's network. It is invalid unless the operator trusts these switches.
func (i *Served[I, O]) Segment() netip.Addr {
	n, sub := i.Attached()
	if n == nil || !n.Snooping {
		return netip.Addr{}
	}
	if sub == nil {
		sub = &n.Subnets[0]
	}
	return sub.Prefix.Masked().Addr()
}

// Inside reports whether an address belongs to a network, or to an interface to which
// the network is attached. n is nil for the interface's own link without a network.
func (s *Site[I, M, O]) Inside(iface string, n *Network[O], ip netip.Addr) bool {
	if n != nil && n.Subnet(ip.WithZone("")) != nil {
		return true
	}
	served := s.Interfaces[iface]
	if served == nil || served.Network != n {
		return false
	}
	if ip.IsLinkLocalUnicast() {
		return ip.Zone() == iface
	}
	return slices.ContainsFunc(served.Prefixes, func(p netip.Prefix) bool { return p.Contains(ip) })
}
