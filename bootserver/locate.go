package bootserver

import (
	"errors"
	"fmt"
	"net/netip"

	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// locator is what this server's DHCP servers know about addresses. It implements
// booter.Locator.
type locator struct{ *Server }

// Place implements booter.Locator.
func (l locator) Place(from netip.Addr, b fleet.Boot, m fleet.Machine) (p fleet.Place) {
	servers := l.dhcp.Load()
	book := servers.four.Book
	if from.Is6() {
		book = servers.six.Book
	}
	if held, is := book.LeaseOf(from); is {
		p.Lease = &held
	}
	for _, o := range b.Origins {
		if o.IPv6 {
			placeIn(&p, servers.six.Site(), book, from, o, m)
		} else {
			placeIn(&p, servers.four.Site(), book, from, o, m)
		}
	}
	return p
}

// placeIn adds what is known about an address in the network of an origin.
func placeIn[I network.Interface, M network.Machine[O], O network.Options[O]](p *fleet.Place,
	site *network.Site[I, M, O], book *lease.Book, from netip.Addr, o fleet.Origin, m fleet.Machine) {
	n := site.Networks.Named(o.Network)
	p.NAT = p.NAT || n != nil && n.NAT
	if from.Is6() != o.IPv6 || !site.Inside(o.Interface, n, from) {
		return
	}
	p.Inside = true
	served := site.Interfaces[o.Interface]
	assigns := n != nil && len(n.Pools()) > 0 // as far as is known while the interface is gone
	if served != nil {
		assigns = n != nil && served.Config.Settings().Assigns
	}
	if !assigns {
		return
	}
	// A machine may have made an IPv6 address itself, if it has none of this server.
	p.Assigned = !o.IPv6 || book.Holds(n.Name, m.MACs)
}

// Refused implements booter.Locator.
func (l locator) Refused(b fleet.Boot, from netip.Addr, why error) {
	servers := l.dhcp.Load()
	observer := servers.four.Observer
	if from.Is6() {
		observer = servers.six.Observer
	}
	iface := ""
	if n := len(b.Origins); n > 0 {
		iface = b.Origins[n-1].Interface
	}
	hint := "if the machine is behind address translation, set nat: true in its network"
	if errors.Is(why, fleet.ErrOutside) {
		hint = "if the address is the machine's, add its subnet to the network; behind address translation, set nat: true"
	}
	observer.Warn(iface, "boot key "+string(b.Machine), fmt.Sprintf("a request with the boot key of machine %s from %s "+
		"was refused: %v; %s", b.Machine, from, why, hint), l.conf.Now())
}
