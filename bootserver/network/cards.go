package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Card is an interface of this host as the kernel knows it.
type Card struct {
	Index int
	MAC   net.HardwareAddr
	// Prefixes are its addresses that machines can reach, each with the length of its
	// network: no link-local and no temporary addresses of IPv6.
	Prefixes []netip.Prefix
}

// Owns reports whether an address belongs to the interface.
func (c Card) Owns(ip netip.Addr) bool {
	return slices.ContainsFunc(c.Prefixes, func(own netip.Prefix) bool { return own.Addr() == ip })
}

// Address returns the first address that fits, else the first of all. It is
// invalid if the interface has none.
func (c Card) Address(fits func(own netip.Prefix) bool) netip.Addr {
	if i := slices.IndexFunc(c.Prefixes, fits); i >= 0 {
		return c.Prefixes[i].Addr()
	}
	if len(c.Prefixes) == 0 {
		return netip.Addr{}
	}
	return c.Prefixes[0].Addr()
}

// Cards asks the kernel for the interfaces of a configuration, by name. Those that
// do not exist are left out.
func (c *Config[I, M, O]) Cards() (map[string]Card, error) {
	cards := map[string]Card{}
	for _, i := range c.Interfaces {
		name := i.Settings().Name
		link, err := netlink.LinkByName(name)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("looking up interface %q: %w", name, err)
		}
		prefixes, err := c.Options.Family().prefixes(link)
		if err != nil {
			return nil, fmt.Errorf("reading the addresses of interface %q: %w", name, err)
		}
		cards[name] = Card{Index: link.Attrs().Index, MAC: link.Attrs().HardwareAddr, Prefixes: prefixes}
	}
	return cards, nil
}

// unusable are the states in which machines should not be given an IPv6 address of
// this host.
const unusable = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_DADFAILED

// prefixes returns the addresses of an interface that machines can reach: those of
// IPv4 in the kernel's order, so that the primary address comes first, those of
// IPv6 sorted.
func (f Family) prefixes(link netlink.Link) (list []netip.Prefix, err error) {
	family := netlink.FAMILY_V4
	if f == IPv6 {
		family = netlink.FAMILY_V6
	}
	addrs, err := netlink.AddrList(link, family)
	for again := 0; errors.Is(err, netlink.ErrDumpInterrupted) && again < 3; again++ { // they changed meanwhile
		addrs, err = netlink.AddrList(link, family)
	}
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		ip, _ := netip.AddrFromSlice(a.IP)
		ip = ip.Unmap()
		if f == IPv6 && (!ip.IsGlobalUnicast() || a.Flags&unusable != 0) {
			continue
		}
		bits, _ := a.Mask.Size()
		list = append(list, netip.PrefixFrom(ip, bits))
	}
	if f == IPv6 {
		slices.SortFunc(list, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	}
	return list, nil
}
