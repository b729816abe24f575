package bootserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"ingot/bootserver/dhcp"
)

// ErrInterface: the interface cannot be served on.
var ErrInterface = errors.New("cannot serve on the interface")

// link is an interface with its IPv4 addresses.
type link struct {
	name     string
	mode     dhcp.Mode
	index    int
	prefixes []netip.Prefix // the first is the one that DHCP speaks for
}

func (l link) prefix() netip.Prefix { return l.prefixes[0] }
func (l link) addr() netip.Addr     { return l.prefix().Addr() }

// findLink returns an interface, which must have an IPv4 address.
func findLink(want dhcp.Interface) (link, error) {
	i, err := net.InterfaceByName(want.Name)
	if err != nil {
		return link{}, fmt.Errorf("%w %q: there is no such interface; there are %s", ErrInterface, want.Name, interfaceNames())
	}
	addrs, err := i.Addrs()
	if err != nil {
		return link{}, fmt.Errorf("%w %q: %w", ErrInterface, want.Name, err)
	}
	l := link{name: want.Name, mode: want.Mode, index: i.Index}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
			l.prefixes = append(l.prefixes, p)
		}
	}
	if len(l.prefixes) == 0 {
		return link{}, fmt.Errorf("%w %q: it has no IPv4 address; give it one: ip address add 10.99.0.1/24 dev %s", ErrInterface, want.Name, want.Name)
	}
	return l, nil
}

// findLinks returns all interfaces of a configuration.
func findLinks(list []dhcp.Interface) ([]link, error) {
	var links []link
	var errs []error
	for _, i := range list {
		l, err := findLink(i)
		links, errs = append(links, l), append(errs, err)
	}
	return links, errors.Join(errs...)
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

// lends is what a link's own DHCP server tells and lends: the first pool of the
// network that is configured for it, or the upper half of its own network.
func (c *Config) lends(l link) (told dhcp.Told, r dhcp.Range, err error) {
	if l.mode != "" && l.mode != dhcp.Full {
		return told, r, fmt.Errorf("%w %q: mode %q is not there yet; full is", ErrInterface, l.name, l.mode)
	}
	options := []dhcp.Options{c.Settings.DHCP.Options}
	if c.Range != "" {
		if r, err = dhcp.ParseRange(c.Range); err != nil {
			return told, r, err
		}
	} else if r, err = dhcp.DefaultRange(l.prefix(), l.addr()); err != nil {
		return told, r, err
	}
	for _, n := range c.Settings.DHCP.Networks {
		for _, s := range n.Subnets {
			if n.Interface == l.name && s.Prefix == l.prefix().Masked() && len(s.Pools) > 0 && c.Range == "" {
				r, options = s.Pools[0], append(options, n.Options, s.Options)
			}
		}
	}
	told = dhcp.Told{Server: l.addr(), Prefix: l.prefix(), Lease: dhcp.DefaultLease, Loaders: dhcp.Loaders}
	for _, o := range options {
		if len(o.Routers) > 0 {
			told.Router = o.Routers[0]
		}
		if o.DNS != nil {
			told.DNS = o.DNS
		}
		if o.Lease != 0 {
			told.Lease = o.Lease
		}
	}
	return told, r, r.Within(l.prefix(), l.addr())
}
