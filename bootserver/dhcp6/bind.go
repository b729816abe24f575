package dhcp6

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// association is one IA_NA of a message with the addresses in it.
type association struct {
	*dhcpv6.OptIANA
	addresses []netip.Addr
}

// associations reads the IA_NAs. A card gets one address, so that ROM, loader,
// initramfs and system have the same whatever they call their association: the
// first counts, the others are refused.
func associations(m *dhcpv6.Message) (list []association) {
	for _, ia := range m.Options.IANA() {
		a := association{OptIANA: ia}
		for _, o := range ia.Options.Addresses() {
			if ip, ok := netip.AddrFromSlice(o.IPv6Addr); ok && network.IPv6.Has(ip) && !ip.IsUnspecified() {
				a.addresses = append(a.addresses, ip)
			}
		}
		list = append(list, a)
	}
	return list[:min(len(list), 8)]
}

// each makes an answer for every association of the message: of the first by f.
// Addresses and prefixes of other kinds are refused.
func (t *talk) each(f func(association) (dhcpv6.Option, error)) ([]dhcpv6.Option, error) {
	var out []dhcpv6.Option
	for i, ia := range associations(t.m) {
		if i > 0 {
			out = append(out, refused(ia.IaId, iana.StatusNoAddrsAvail, "one address for each card"))
			continue
		}
		o, err := f(ia)
		if err != nil {
			return nil, err
		}
		if o != nil {
			out = append(out, o)
		}
	}
	for _, ia := range t.m.Options.IATA() {
		o := &dhcpv6.OptIATA{IaId: ia.IaId}
		o.Options.Add(status(iana.StatusNoAddrsAvail, "no temporary addresses here"))
		out = append(out, o)
	}
	for _, ia := range t.m.Options.IAPD() {
		o := &dhcpv6.OptIAPD{IaId: ia.IaId}
		o.Options.Add(status(iana.StatusNoPrefixAvail, "no prefixes here"))
		out = append(out, o)
	}
	return out, nil
}

// ask is what the client needs of the book.
func (t *talk) ask(ia association) lease.Ask {
	a := lease.Ask{Card: t.card(), Known: t.known(), Siblings: t.who.MACs, Reset: t.client.Kind == client.Firmware}
	if len(ia.addresses) > 0 {
		a.Wish = ia.addresses[0]
	}
	if t.subnet != nil {
		a.Near = t.subnet.Prefix
	}
	if t.machine != nil && t.machine.Address.IsValid() && t.network.Subnet(t.machine.Address) != nil {
		a.Reserved = t.machine.Address
	}
	return a
}

func (t *talk) card() lease.Card { return lease.Card{Network: t.network.Name, Client: t.client.key()} }

// offer is the answer to a Solicit: an address that is kept for the client.
func (t *talk) offer(ia association) (dhcpv6.Option, error) {
	ip, _, err := t.book.Choose(t.ask(ia), t.now)
	if errors.Is(err, lease.ErrPoolFull) {
		return t.full(ia, err), nil
	}
	if err != nil {
		return nil, err
	}
	t.gets = ip
	return lent(ia.IaId, ip, t.told(ip).lease()), nil
}

// full tells a client that there is no address left, and the operator why.
func (t *talk) full(ia association, why error) dhcpv6.Option {
	t.observer.Warn(t.Interface, "full "+t.network.Name, why.Error(), t.now)
	return refused(ia.IaId, iana.StatusNoAddrsAvail, "every address is lent")
}

// lend is the answer to a Request, and to a Solicit with rapid commit: the
// address that the client names when it may have it, else another. It is durable.
func (t *talk) lend(ia association) (dhcpv6.Option, error) {
	if i := slices.IndexFunc(ia.addresses, func(ip netip.Addr) bool { return t.network.Subnet(ip) == nil }); i >= 0 {
		return refused(ia.IaId, iana.StatusNotOnLink, ia.addresses[i].String()+" is not of this link"), nil
	}
	a := t.ask(ia)
	ip := a.Wish
	if !ip.IsValid() || !t.book.Standing(a, ip, t.now).May {
		var err error
		if ip, _, err = t.book.Choose(a, t.now); errors.Is(err, lease.ErrPoolFull) {
			return t.full(ia, err), nil
		} else if err != nil {
			return nil, err
		}
	}
	return t.take(ia, a, ip)
}

// take makes a lease durable.
func (t *talk) take(ia association, a lease.Ask, ip netip.Addr) (dhcpv6.Option, error) {
	valid := t.told(ip).lease()
	wanted := fleet.LeaseOf(a.Client, ip)
	wanted.Expires, wanted.Port = t.now.Add(valid), t.switchPort()
	if f := t.m.Options.FQDN(); f != nil && len(f.DomainName.Labels) > 0 {
		wanted.Hostname = client.Clip(client.Readable([]byte(f.DomainName.Labels[0])))
	}
	if a.Known {
		if wanted.Machine = t.who.ID; wanted.Machine == "" {
			wanted.Machine = configured
		}
	}
	l, ok := t.book.Take(a, wanted, t.now)
	if !ok { // somebody was faster
		return refused(ia.IaId, iana.StatusNoAddrsAvail, "somebody else just took the address; ask again"), nil
	}
	err := l.Wait()
	t.book.Settle(l, err == nil)
	if err != nil {
		return nil, err // no Reply for what is not on disk
	}
	t.gets = ip
	return lent(ia.IaId, ip, valid), nil
}

// configured stands in a lease for a machine that is configured and that the
// fleet has not seen boot.
const configured = ingot.MachineID("configured")

// extend is the answer to a Renew or Rebind (RFC 8415 sections 18.3.4 and
// 18.3.5). Addresses that the client may not use any more are told with
// lifetimes of zero, beside the one that it gets instead.
func (t *talk) extend(ia association, rebind bool) (dhcpv6.Option, error) {
	a := t.ask(ia)
	has := t.book.Standing(a, a.Wish, t.now)
	wrong := slices.DeleteFunc(slices.Clone(ia.addresses), func(ip netip.Addr) bool { return t.network.Subnet(ip) != nil })
	switch {
	case has.Has.IsValid() && has.Has == a.Wish && has.May:
		o, err := t.take(ia, a, a.Wish)
		return t.without(o, ia.addresses[1:]), err
	case has.Has.IsValid(): // another address by now: a reservation, or it came to another network
		o, err := t.lend(association{ia.OptIANA, nil})
		return t.without(o, ia.addresses), err
	case !rebind: // it says that it has it from us
		return refused(ia.IaId, iana.StatusNoBinding, "nothing is known of these addresses; ask for them anew"), nil
	case len(wrong) > 0:
		return t.without(&dhcpv6.OptIANA{IaId: ia.IaId}, wrong), nil
	}
	return nil, nil // who we know nothing of is not ours to refuse
}

// without adds addresses to an association that are not the client's any more.
func (t *talk) without(o dhcpv6.Option, list []netip.Addr) dhcpv6.Option {
	ia, ok := o.(*dhcpv6.OptIANA)
	if !ok {
		return o
	}
	for _, ip := range list[:min(len(list), 8)] {
		if ip != t.gets {
			over(ia, ip)
		}
	}
	return ia
}

// giveUp ends what a client releases or declines; what is not its own it is told
// of (RFC 8415 sections 18.3.7 and 18.3.8).
func (t *talk) giveUp(ia association, end func(lease.Card, netip.Addr) (func() error, bool)) (dhcpv6.Option, error) {
	known := true
	for _, ip := range ia.addresses {
		wait, ok := end(t.card(), ip)
		if known = known && ok; !ok {
			continue
		}
		if err := wait(); err != nil {
			return nil, err
		}
	}
	if !known {
		return refused(ia.IaId, iana.StatusNoBinding, "these addresses are not yours"), nil
	}
	return nil, nil
}
