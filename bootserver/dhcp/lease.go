package dhcp

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"ingot/bootserver/fleet"
)

// ErrPoolFull: every address of the range is lent.
var ErrPoolFull = errors.New("every address of the range is lent; widen --range")

// Range is the addresses that may be lent, both ends included.
type Range struct{ First, Last netip.Addr }

// ParseRange reads "10.99.0.100-10.99.0.199".
func ParseRange(s string) (Range, error) {
	a, b, ok := strings.Cut(s, "-")
	first, err1 := netip.ParseAddr(strings.TrimSpace(a))
	last, err2 := netip.ParseAddr(strings.TrimSpace(b))
	if !ok || err1 != nil || err2 != nil || !first.Is4() || !last.Is4() || last.Less(first) {
		return Range{}, fmt.Errorf("%q is not a range of addresses; write 10.99.0.100-10.99.0.199", s)
	}
	return Range{first, last}, nil
}

// Contains reports whether ip is in the range.
func (r Range) Contains(ip netip.Addr) bool {
	return r.First.IsValid() && !ip.Less(r.First) && !r.Last.Less(ip)
}

func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }

// Within checks that the range lies in a network and leaves out our own address.
func (r Range) Within(prefix netip.Prefix, own netip.Addr) error {
	if !prefix.Contains(r.First) || !prefix.Contains(r.Last) {
		return fmt.Errorf("the range %s is not inside the interface's network %s", r, prefix.Masked())
	}
	if r.Contains(own) {
		return fmt.Errorf("the range %s contains the server's own address %s", r, own)
	}
	return nil
}

// DefaultRange is the upper half of a network without its last address, or
// what of it lies after our own address.
func DefaultRange(prefix netip.Prefix, own netip.Addr) (Range, error) {
	if prefix.Bits() > 29 {
		return Range{}, fmt.Errorf("the network %s is too small to lend addresses; give --range", prefix.Masked())
	}
	base := prefix.Masked().Addr().As4()
	start := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
	size := uint32(1) << (32 - prefix.Bits())
	at := func(n uint32) netip.Addr {
		v := start + n
		return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
	}
	r := Range{at(size / 2), at(size - 2)}
	if r.Contains(own) { // then the lower half is free of it
		r = Range{at(1), at(size/2 - 1)}
	}
	return r, nil
}

// Taken says whether an address must not be given to a card: lent to another
// and not expired, or on offer to another, or found in use by somebody else.
type Taken func(ip netip.Addr, mac string) bool

// Pick chooses the address for a card: its own lease even when that expired
// and is still free, else the one it asks for, else the first free one.
func Pick(r Range, leases map[string]fleet.Lease, mac string, wish netip.Addr, taken Taken) (netip.Addr, error) {
	if l, ok := leases[mac]; ok && r.Contains(l.Address) && !taken(l.Address, mac) {
		return l.Address, nil
	}
	if wish.IsValid() && r.Contains(wish) && !taken(wish, mac) && !known(leases, wish) {
		return wish, nil
	}
	// Addresses that nobody ever had first: a machine that was switched off for
	// a week should find its old one.
	for _, alsoKnown := range []bool{false, true} {
		for ip := r.First; r.Contains(ip); ip = ip.Next() {
			if !taken(ip, mac) && (alsoKnown || !known(leases, ip)) {
				return ip, nil
			}
		}
	}
	return netip.Addr{}, ErrPoolFull
}

func known(leases map[string]fleet.Lease, ip netip.Addr) bool {
	for _, l := range leases {
		if l.Address == ip {
			return true
		}
	}
	return false
}

// LeaseTaken is the part of Taken that the leases know.
func LeaseTaken(leases map[string]fleet.Lease, now time.Time) Taken {
	return func(ip netip.Addr, mac string) bool {
		for _, l := range leases {
			if l.Address == ip && l.MAC != mac && now.Before(l.Expires) {
				return true
			}
		}
		return false
	}
}
