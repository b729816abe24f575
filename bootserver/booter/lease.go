package booter

import (
	"net/netip"
	"slices"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Leases are the stored leases of one address family. They implement lease.Store.
type Leases struct {
	state  state.Store
	family func(netip.Addr) bool
}

// LeasesOf returns the leases whose addresses belong to a family: netip.Addr.Is4 or netip.Addr.Is6.
func LeasesOf(s state.Store, family func(netip.Addr) bool) Leases { return Leases{s, family} }

// Leases implements lease.Store.
func (l Leases) Leases() ([]fleet.Lease, error) {
	all, err := l.state.Leases()
	return slices.DeleteFunc(all, func(o fleet.Lease) bool { return !l.family(o.Address) }), err
}

// PutLease implements lease.Store.
func (l Leases) PutLease(o fleet.Lease) (wait func() error) {
	return l.state.Begin(func(tx state.Tx) error {
		tx.PutLease(o)
		return nil
	})
}
