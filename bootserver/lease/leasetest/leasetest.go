// Package leasetest has what tests of DHCP servers share: a store of leases that can fail,
// and a check that no two clients have one address.
//
// Left out: everything durable; the real store is package state's.
package leasetest

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ingot/bootserver/fleet"
)

// Errors of a Store.
var (
	ErrFull = errors.New("disk full")
	ErrDied = errors.New("the server died")
)

// Store is a lease.Store in memory. The zero Store is empty.
type Store struct {
	Full bool // nothing can be written
	Dies bool // the next write is cut off: it is stored or not, see Kept
	Kept bool // a write that is cut off is stored

	mu     sync.Mutex
	leases map[netip.Addr]fleet.Lease
}

// NewStore returns a Store with leases.
func NewStore(leases ...fleet.Lease) *Store {
	s := &Store{leases: map[netip.Addr]fleet.Lease{}}
	for _, l := range leases {
		s.leases[l.Address] = l
	}
	return s
}

// Leases implements lease.Store.
func (s *Store) Leases() ([]fleet.Lease, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.leases)), nil
}

// PutLease implements lease.Store.
func (s *Store) PutLease(l fleet.Lease) (wait func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.Full && !s.Dies {
		return func() error { return ErrFull }
	}
	if !s.Dies || s.Kept {
		if s.leases == nil {
			s.leases = map[netip.Addr]fleet.Lease{}
		}
		s.leases[l.Address] = l
	}
	if s.Dies {
		return func() error { return ErrDied }
	}
	return func() error { return nil }
}

// Lease returns the stored lease of an address, zero for none.
func (s *Store) Lease(address string) fleet.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leases[netip.MustParseAddr(address)]
}

// Len returns the number of stored leases.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.leases)
}

// Holder is an address as its client believes to have it.
type Holder struct {
	Address netip.Addr
	Until   time.Time
}

// Holders is the addresses of clients, by the last byte of their cards.
type Holders map[byte]Holder

// Check forgets addresses that are no longer used, and returns an error if two clients
// have one address.
func (h Holders) Check(now time.Time) error {
	users := map[netip.Addr]byte{}
	for card, held := range h {
		if !now.Before(held.Until) {
			delete(h, card)
			continue
		}
		if other, taken := users[held.Address]; taken {
			return fmt.Errorf("cards %d and %d both have %s", card, other, held.Address)
		}
		users[held.Address] = card
	}
	return nil
}
