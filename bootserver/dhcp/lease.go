package dhcp

import (
	"errors"
	"net/netip"
	"time"

	"ingot/bootserver/fleet"
)

// ErrPoolFull: every address of the range is lent.
var ErrPoolFull = errors.New("every address of the range is lent; widen --range")

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
