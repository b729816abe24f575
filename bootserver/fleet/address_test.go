package fleet

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"ingot"
)

// TestAdmitAddress: until the ticket, a key works only from addresses of its machine.
func TestAdmitAddress(t *testing.T) {
	now := time.Unix(10_000, 0)
	const mac = "52:54:00:12:00:01"
	m := Machine{ID: "m-1", MACs: []string{mac, "52:54:00:12:00:02"}}
	from, six := netip.MustParseAddr("10.99.0.100"), netip.MustParseAddr("fd00:99::100")
	asked := []Origin{{Interface: "eth1", Network: "lab"}}
	inside := Place{Inside: true}
	leased := func(l Lease) Place {
		l.Address = from
		return Place{Lease: &l, Inside: true, Assigned: true}
	}
	later, earlier := now.Add(time.Hour), now.Add(-time.Hour)
	for _, c := range []struct {
		what  string
		boot  Boot
		from  netip.Addr
		place Place
		first bool
		want  error
	}{
		{"leased to its card", Boot{Origins: asked}, from, leased(Lease{MAC: mac, Expires: later}), false, nil},
		{"leased to its other card", Boot{Origins: asked}, from, leased(Lease{MAC: m.MACs[1], Expires: later}), false, nil},
		{"leased to its DUID", Boot{Origins: asked}, from, leased(Lease{DUID: "01", Machine: "m-1", Expires: later}), false,
			nil},
		{"leased to it until an hour ago", Boot{Origins: asked}, from, leased(Lease{MAC: mac, Expires: earlier}), false, nil},
		{"declined by it", Boot{Origins: asked}, from, leased(Lease{MAC: mac, Declined: true, Expires: later}), false,
			ErrLeasedToAnother},
		{"leased to another", Boot{Origins: asked}, from, leased(Lease{MAC: "52:54:00:00:00:09", Expires: later}), false,
			ErrLeasedToAnother},
		{"leased to another until an hour ago", Boot{Origins: asked}, from,
			leased(Lease{MAC: "52:54:00:00:00:09", Expires: earlier}), false, ErrNotLeased},
		{"leased to a machine that is not recorded", Boot{Origins: asked}, from, leased(Lease{DUID: "02", Expires: later}),
			false,
			ErrLeasedToAnother},
		{"never leased, where the server leases", Boot{Origins: asked}, from, Place{Inside: true, Assigned: true}, false,
			ErrNotLeased},
		{"elsewhere", Boot{Origins: asked}, from, Place{}, false, ErrOutside},
		{"the first one, beside another server", Boot{Origins: asked}, from, inside, true, nil},
		{"the first one once more", Boot{Origins: asked, Addresses: []netip.Addr{from}}, from, inside, false, nil},
		{"a second one", Boot{Origins: asked, Addresses: []netip.Addr{from.Next()}}, from, inside, false, ErrOtherAddress},
		{"the first one of IPv6", Boot{Origins: asked, Addresses: []netip.Addr{from}}, six, inside, true, nil},
		{"made of its MAC address", Boot{Origins: asked, Addresses: []netip.Addr{six}},
			netip.MustParseAddr("fd00:99::5054:ff:fe12:1"), Place{Inside: true, Assigned: true}, false, nil},
		{"made of its MAC address, elsewhere", Boot{Origins: asked}, netip.MustParseAddr("fd00:7::5054:ff:fe12:1"), Place{},
			false,
			ErrOutside},
		{"made of another MAC address", Boot{Origins: asked}, netip.MustParseAddr("fd00:99::5054:ff:fe12:9"),
			Place{Inside: true, Assigned: true}, false, ErrNotLeased},
		{"elsewhere, behind address translation", Boot{Origins: asked}, from, Place{NAT: true}, false, nil},
		{"elsewhere, after the ticket", Boot{Origins: asked, Ticket: now}, from, Place{}, false, nil},
		{"the first one, of a boot of an older version", Boot{}, from, Place{}, true, nil},
		{"a second one, of a boot of an older version", Boot{Addresses: []netip.Addr{from.Next()}}, from, Place{}, false,
			ErrOtherAddress},
	} {
		first, err := AdmitAddress(c.boot, m, c.from, c.place, now)
		if first != c.first || !errors.Is(err, c.want) {
			t.Errorf("%s: AdmitAddress = %v, %v; want %v, %v", c.what, first, err, c.first, c.want)
		}
	}
}

// TestTook: addresses and origins are bounded, and recorded while the key depends on them.
func TestTook(t *testing.T) {
	now := time.Unix(10_000, 0)
	ip := netip.MustParseAddr("10.99.0.1")
	took := func(b Boot, n int) Boot {
		d := NewDecision(Machine{ID: "m-1"}, b, BootPolicy{}, nil, Actor{}, now)
		for a := ip; n > 0; n, a = n-1, a.Next() {
			d.Took(a)
			d.Took(a)
		}
		return d.Boot
	}
	open := Boot{ID: ingot.NewBootID([16]byte{1})}
	if got := took(open, 3).Addresses; len(got) != 3 || got[0] != ip {
		t.Errorf("after three addresses: %v", got)
	}
	if got := took(open, 300).Addresses; len(got) != maxAddresses {
		t.Errorf("after 300 addresses, %d are kept; want %d", len(got), maxAddresses)
	}
	ticket, ended := open, open
	ticket.Ticket, ended.Outcome = now, ingot.OutcomeFailed
	for _, b := range []Boot{ticket, ended, {}} {
		if got := took(b, 1).Addresses; got != nil {
			t.Errorf("boot %+v gets the addresses %v", b, got)
		}
	}
}
