package dhcp6

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// association is one IA_NA of a message with the addresses in it.
type association struct {
	*dhcpv6.OptIANA
	addresses []netip.Addr
}

// associations reads the IA_NAs. A card gets one address, so that ROM, loader,
// initramfs and system have the same however they identify their association: the
// first is used, the others are refused.
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

// first returns the first address of the association, invalid for none.
func (ia association) first() netip.Addr {
	if len(ia.addresses) == 0 {
		return netip.Addr{}
	}
	return ia.addresses[0]
}

// eachAssociation answers every association of the message: the first by f. Temporary
// addresses and prefixes are refused.
func (r *request) eachAssociation(f func(association) (dhcpv6.Option, error)) ([]dhcpv6.Option, error) {
	var out []dhcpv6.Option
	for i, ia := range associations(r.m) {
		if i > 0 {
			out = append(out, refusedAssociation(ia.IaId, iana.StatusNoAddrsAvail, "one address for each card"))
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
	for _, ia := range r.m.Options.IATA() {
		o := &dhcpv6.OptIATA{IaId: ia.IaId}
		o.Options.Add(status(iana.StatusNoAddrsAvail, "no temporary addresses here"))
		out = append(out, o)
	}
	for _, ia := range r.m.Options.IAPD() {
		o := &dhcpv6.OptIAPD{IaId: ia.IaId}
		o.Options.Add(status(iana.StatusNoPrefixAvail, "no prefixes here"))
		out = append(out, o)
	}
	return out, nil
}

// offer answers a Solicit: with an address that is kept for the client.
func (r *request) offer(ia association) (dhcpv6.Option, error) {
	ip, _, err := r.Book.Choose(r.LeaseRequest(ia.first()), r.Now)
	if errors.Is(err, lease.ErrPoolFull) {
		return r.poolFull(ia, err), nil
	}
	if err != nil {
		return nil, err
	}
	r.given = ip
	options, _ := r.Options(ip)
	return addressAssociation(ia.IaId, ip, options.lease()), nil
}

// poolFull tells a client that there is no address left, and warns the operator.
func (r *request) poolFull(ia association, err error) dhcpv6.Option {
	r.Observer.Warn(r.Interface, "full "+r.Network.Name, err.Error(), r.Now)
	return refusedAssociation(ia.IaId, iana.StatusNoAddrsAvail, "all addresses are in use")
}

// lease answers a Request, and a Solicit with rapid commit: with the address that the
// client names if it may have it, else with another.
func (r *request) lease(ia association) (dhcpv6.Option, error) {
	if i := slices.IndexFunc(ia.addresses, func(ip netip.Addr) bool { return r.Network.Subnet(ip) == nil }); i >= 0 {
		return refusedAssociation(ia.IaId, iana.StatusNotOnLink, ia.addresses[i].String()+" is not on this link"), nil
	}
	a := r.LeaseRequest(ia.first())
	ip := a.Requested
	if !ip.IsValid() || !r.Book.Status(a, ip, r.Now).Allowed {
		var err error
		if ip, _, err = r.Book.Choose(a, r.Now); errors.Is(err, lease.ErrPoolFull) {
			return r.poolFull(ia, err), nil
		} else if err != nil {
			return nil, err
		}
	}
	return r.take(ia, a, ip)
}

// take makes an address the client's.
func (r *request) take(ia association, a lease.Request, ip netip.Addr) (dhcpv6.Option, error) {
	options, _ := r.Options(ip)
	valid := options.lease()
	if !r.Assign(r.Book, a, ip, valid, r.hostname()) {
		return refusedAssociation(ia.IaId, iana.StatusNoAddrsAvail, "another client just took the address; ask again"), nil
	}
	r.given = ip
	return addressAssociation(ia.IaId, ip, valid), nil
}

// extend answers a Renew or Rebind (RFC 8415 sections 18.3.4 and 18.3.5). Addresses
// that the client may not use any more are returned with lifetimes of zero, beside the
// one that it gets instead.
func (r *request) extend(ia association, rebind bool) (dhcpv6.Option, error) {
	a := r.LeaseRequest(ia.first())
	st := r.Book.Status(a, a.Requested, r.Now)
	offLink := slices.DeleteFunc(slices.Clone(ia.addresses),
		func(ip netip.Addr) bool { return r.Network.Subnet(ip) != nil })
	switch {
	case st.Current.IsValid() && st.Current == a.Requested && st.Allowed:
		o, err := r.take(ia, a, a.Requested)
		return r.withdraw(o, ia.addresses[1:]), err
	case st.Current.IsValid(): // it has another address by now: a reservation, or it moved to another network
		o, err := r.lease(association{ia.OptIANA, nil})
		return r.withdraw(o, ia.addresses), err
	case !rebind: // it says that it has the addresses from this server
		return refusedAssociation(ia.IaId, iana.StatusNoBinding, "these addresses are not known; request new ones"), nil
	case len(offLink) > 0:
		return r.withdraw(&dhcpv6.OptIANA{IaId: ia.IaId}, offLink), nil
	}
	return nil, nil // a client that this server does not know may have the addresses from another one
}

// withdraw adds addresses to an association that the client must not use any more.
func (r *request) withdraw(o dhcpv6.Option, list []netip.Addr) dhcpv6.Option {
	ia, ok := o.(*dhcpv6.OptIANA)
	if !ok {
		return o
	}
	for _, ip := range list[:min(len(list), 8)] {
		if ip != r.given {
			ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: ip.AsSlice()}) // lifetimes of zero
		}
	}
	return ia
}

// endAssociation ends what a client releases or declines. It refuses addresses that are
// not the client's (RFC 8415 sections 18.3.7 and 18.3.8).
func (r *request) endAssociation(ia association, end ending) (dhcpv6.Option, error) {
	known := true
	for _, ip := range ia.addresses {
		wait, ok := end(&r.exchange, r.m.MessageType.String(), ip)
		if known = known && ok; !ok {
			continue
		}
		if err := wait(); err != nil {
			return nil, err
		}
	}
	if !known {
		return refusedAssociation(ia.IaId, iana.StatusNoBinding, "these addresses are not yours"), nil
	}
	return nil, nil
}

// addressAssociation is an identity association with an address. The address stays
// preferred for five eighths of its valid lifetime, and is renewed after half of those
// (RFC 8415 section 21.4 recommends 0.5 and 0.8 of the preferred lifetime).
func addressAssociation(id [4]byte, ip netip.Addr, valid time.Duration) *dhcpv6.OptIANA {
	preferred := valid * 5 / 8
	ia := &dhcpv6.OptIANA{IaId: id, T1: preferred / 2, T2: preferred * 4 / 5}
	ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: ip.AsSlice(), PreferredLifetime: preferred, ValidLifetime: valid})
	return ia
}

// refusedAssociation is an identity association without an address.
func refusedAssociation(id [4]byte, code iana.StatusCode, text string) *dhcpv6.OptIANA {
	ia := &dhcpv6.OptIANA{IaId: id}
	ia.Options.Add(status(code, text))
	return ia
}
