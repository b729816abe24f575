// Package lease assigns addresses to clients, for IPv4 and IPv6 alike. An address has
// one record, so no two clients can have it; a lease is durable before it is
// acknowledged; the pools bound what unknown machines can make it remember.
//
// Left out: everything about packets, which packages dhcp4 and dhcp6 read and write.
package lease

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"ingot/bootserver/fleet"
)

// ErrPoolFull means that every address that the client could have is in use.
var ErrPoolFull = errors.New("all addresses of the pools are in use; enlarge a pool, or shorten the lease time")

// Store stores leases, one for each address.
type Store interface {
	// Leases returns all leases.
	Leases() ([]fleet.Lease, error)
	// PutLease stores the lease of an address. It returns at once; the change is
	// durable when wait has returned nil. Changes take effect in the order of the calls.
	PutLease(l fleet.Lease) (wait func() error)
}

// Card is what has an address: one network card in one network. ROM, loader,
// initramfs and system have different client identifiers, but the same card.
type Card struct {
	Network string
	Client  string // MAC address or DUID, see fleet.Lease.Client
}

// Layout is the pools and networks of a configuration.
type Layout struct {
	Pools []Pool
	// Of returns the name of the network that an address belongs to, "" for none.
	Of func(netip.Addr) string
}

// Pool is the addresses of a network that any client there may get.
type Pool struct {
	Range
	Network string
}

// holding is an address that is or was leased, or is on offer.
type holding struct {
	fleet.Lease
	leased   bool      // acknowledged, or about to be
	offered  time.Time // until when it is on offer
	network  string
	revision uint64 // of the last change
}

// free reports whether no client may use the address any more.
func (h *holding) free(now time.Time) bool {
	return !now.Before(h.offered) && (!h.leased || !now.Before(h.Expires))
}

// Book is all holdings in memory; a Store makes leases durable. Its size is bounded by
// the pools and the reservations. It may be used by several goroutines.
//
// Times that it compares carry the monotonic clock as long as the process runs, so
// that setting the wall clock forward ends no lease.
type Book struct {
	store     Store
	mu        sync.Mutex
	addresses map[netip.Addr]*holding
	cards     map[Card]netip.Addr
	pools     []*pool
	revision  uint64
}

// pool finds addresses of one range.
type pool struct {
	Range
	network string
	used    []uint64 // a bit for each address, set if it has a holding
	free    int      // addresses without one
	next    int      // where to look first
	lists   [2]reclaimList
}

// reclaimList is the addresses of a full pool that may be assigned again.
type reclaimList struct {
	list []netip.Addr // longest unused first
	at   time.Time    // when it was made
}

// reserve is how many addresses of a pool unknown machines do not get, so that a flood
// of them leaves room for known machines.
func (p *pool) reserve() int { return min(p.Size()/16, 256) }

const (
	offerTime = time.Minute
	// DeclineTime is how long an address that a client found in use is not assigned.
	DeclineTime = 10 * time.Minute
)

// Open makes a book of the leases in a Store.
func Open(store Store, l Layout) (*Book, error) {
	leases, err := store.Leases()
	if err != nil {
		return nil, err
	}
	b := &Book{store: store, addresses: map[netip.Addr]*holding{}}
	for _, l := range leases {
		b.addresses[l.Address] = &holding{Lease: l, leased: true}
	}
	b.SetLayout(l)
	return b, nil
}

// SetLayout applies a configuration.
func (b *Book) SetLayout(l Layout) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cards, b.pools = map[Card]netip.Addr{}, nil
	for _, p := range l.Pools {
		b.pools = append(b.pools, &pool{Range: p.Range, network: p.Network, used: make([]uint64, (p.Size()+63)/64),
			free: p.Size()})
	}
	for ip, h := range b.addresses {
		if h.network = l.Of(ip); h.network == "" { // its network is no longer served
			continue
		}
		b.mark(ip, true)
		c := Card{h.network, h.Client()}
		if other, ok := b.cards[c]; !h.Declined && (!ok || b.addresses[other].Expires.Before(h.Expires)) {
			b.cards[c] = ip
		}
	}
}

// mark records in its pool whether an address has a holding.
func (b *Book) mark(ip netip.Addr, used bool) {
	p := b.poolOf(ip)
	if p == nil {
		return
	}
	i := p.index(ip)
	word, bit := &p.used[i/64], uint64(1)<<(i%64)
	switch was := *word&bit != 0; {
	case used && !was:
		*word |= bit
		p.free--
	case !used && was:
		*word &^= bit
		p.free++
	}
}

func (b *Book) poolOf(ip netip.Addr) *pool {
	for _, p := range b.pools {
		if p.Contains(ip) {
			return p
		}
	}
	return nil
}

// Request is a client that needs an address.
type Request struct {
	Card
	Known     bool         // its machine is approved or configured
	Requested netip.Addr   // by the client
	Reserved  netip.Addr   // for the machine by the configuration
	Siblings  []string     // MAC addresses of the machine's other cards
	Reset     bool         // firmware: the machine's other cards no longer use their addresses
	Near      netip.Prefix // the subnet to prefer
}

// Choose finds an address for a client and holds it for the request that follows. An
// address is fresh if another host may be using it: then it should be probed before it
// is offered.
func (b *Book) Choose(a Request, now time.Time) (ip netip.Addr, fresh bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ip, err = b.find(a, now)
	if err != nil {
		return ip, false, err
	}
	h := b.addresses[ip]
	if fresh = b.fresh(a, ip); fresh {
		h = b.replace(h, ip, a.Card)
	}
	h.offered = now.Add(offerTime)
	b.cards[a.Card] = ip
	return ip, fresh, nil
}

// find returns, in this order: the reserved address, the one the card has or had, the
// one that it requests, one that was never assigned, the one that is unused for longest.
func (b *Book) find(a Request, now time.Time) (netip.Addr, error) {
	if a.Reserved.IsValid() && b.available(a.Reserved, a, now) {
		return a.Reserved, nil
	}
	if ip, ok := b.cards[a.Card]; ok && b.assignable(ip, a) && b.available(ip, a, now) {
		return ip, nil
	}
	if a.Requested.IsValid() && b.addresses[a.Requested] == nil && b.assignable(a.Requested, a) {
		if p := b.poolOf(a.Requested); a.Known || p.free > p.reserve() {
			return a.Requested, nil
		}
	}
	pools := b.poolsFor(a)
	for _, p := range pools {
		if ip, ok := p.unused(a.Known); ok {
			return ip, nil
		}
	}
	for _, p := range pools {
		if ip, ok := b.reclaim(p, a, now); ok {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("network %q: %w", a.Network, ErrPoolFull)
}

// poolsFor returns the pools of a client's network, those of its subnet first.
func (b *Book) poolsFor(a Request) []*pool {
	var near, far []*pool
	for _, p := range b.pools {
		switch {
		case p.network != a.Network:
		case a.Near.Contains(p.First):
			near = append(near, p)
		default:
			far = append(far, p)
		}
	}
	return append(near, far...)
}

// assignable reports whether an address is reserved for a client or is in a pool of its
// network.
func (b *Book) assignable(ip netip.Addr, a Request) bool {
	if ip == a.Reserved {
		return true
	}
	p := b.poolOf(ip)
	return p != nil && p.network == a.Network
}

// available reports whether no other client may use an address.
func (b *Book) available(ip netip.Addr, a Request, now time.Time) bool {
	h := b.addresses[ip]
	if h == nil || h.free(now) {
		return true
	}
	if h.Declined {
		return false
	}
	// A machine that was reset and now boots from its other card keeps its address; one
	// that is running uses both cards.
	return h.Client() == a.Client || (ip == a.Reserved && a.Reset && slices.Contains(a.Siblings, h.Client()))
}

// replace gives an address to a card. The address that the card had before stays leased
// until it expires: the card goes on using it if the acknowledgement gets lost.
func (b *Book) replace(h *holding, ip netip.Addr, c Card) *holding {
	if h != nil && b.cards[Card{h.network, h.Client()}] == ip {
		delete(b.cards, Card{h.network, h.Client()})
	}
	b.revision++
	h = &holding{Lease: fleet.LeaseOf(c.Client, ip), network: c.Network, revision: b.revision}
	b.addresses[ip] = h
	b.mark(ip, true)
	return h
}

// unused returns an address without a holding.
func (p *pool) unused(known bool) (netip.Addr, bool) {
	if p.free == 0 || (!known && p.free <= p.reserve()) {
		return netip.Addr{}, false
	}
	for n := p.Size(); n > 0; {
		i := p.next
		if i%64 == 0 && p.used[i/64] == ^uint64(0) { // none in these 64
			step := min(64, p.Size()-i)
			p.next, n = (i+step)%p.Size(), n-step
			continue
		}
		p.next, n = (i+1)%p.Size(), n-1
		if p.used[i/64]&(1<<(i%64)) == 0 {
			return p.at(i), true
		}
	}
	return netip.Addr{}, false
}

// reclaim returns an address whose lease has ended. Unknown machines do not get those of
// known machines: one that was off for a week finds its address as it was.
func (b *Book) reclaim(p *pool, a Request, now time.Time) (netip.Addr, bool) {
	r := &p.lists[0]
	if a.Known {
		r = &p.lists[1]
	}
	if len(r.list) == 0 && now.Sub(r.at).Abs() >= time.Second {
		r.list, r.at = b.reclaimables(p, a.Known, now), now
	}
	for len(r.list) > 0 {
		ip := r.list[0]
		r.list = r.list[1:]
		switch h := b.addresses[ip]; {
		case h == nil && !a.Known && p.free <= p.reserve(): // it was more when the list was made
		case h == nil || h.reclaimable(a.Known, now):
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// reclaimable reports whether an address may be assigned to another client. A known
// machine also gets what is only on offer to an unknown one.
func (h *holding) reclaimable(known bool, now time.Time) bool {
	if known {
		return h.free(now) || (!h.leased && h.Machine == "")
	}
	return h.free(now) && h.Machine == ""
}

// reclaimables lists the addresses of a pool that may be reclaimed, the one that is
// unused for longest first. It forgets offers that were not taken.
func (b *Book) reclaimables(p *pool, known bool, now time.Time) []netip.Addr {
	var list []netip.Addr
	for ip := p.First; p.Contains(ip); ip = ip.Next() {
		h := b.addresses[ip]
		if h != nil && !h.leased && h.free(now) {
			b.forget(ip)
			h = nil
		}
		if h == nil && (known || p.free > p.reserve()) {
			list = append(list, ip)
		} else if h != nil && h.reclaimable(known, now) {
			list = append(list, ip)
		}
	}
	age := func(ip netip.Addr) time.Time {
		if h := b.addresses[ip]; h != nil {
			return h.Expires
		}
		return time.Time{}
	}
	slices.SortStableFunc(list, func(a, b netip.Addr) int { return age(a).Compare(age(b)) })
	return list
}

func (b *Book) forget(ip netip.Addr) {
	h := b.addresses[ip]
	if h == nil {
		return
	}
	if c := (Card{h.network, h.Client()}); b.cards[c] == ip {
		delete(b.cards, c)
	}
	delete(b.addresses, ip)
	b.mark(ip, false)
}

// Status is what the book knows about a client that requests an address.
type Status struct {
	Current netip.Addr // address that the client has, had, or was offered
	Allowed bool       // it may have the requested address
	Fresh   bool       // the requested address is fresh, see Choose
}

// Status returns what is known about a client that requests an address.
func (b *Book) Status(a Request, ip netip.Addr, now time.Time) Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Status{Current: b.cards[a.Card], Allowed: b.allowed(a, ip, now), Fresh: b.fresh(a, ip)}
}

// fresh reports whether an address is not the client's so far.
func (b *Book) fresh(a Request, ip netip.Addr) bool {
	h := b.addresses[ip]
	return h == nil || h.Client() != a.Client || h.Declined
}

// Hold holds an address for a client that requests it without an offer, while it is
// probed. It fails if the client may not have it.
func (b *Book) Hold(a Request, ip netip.Addr, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.allowed(a, ip, now) {
		return false
	}
	h := b.addresses[ip]
	if b.fresh(a, ip) {
		h = b.replace(h, ip, a.Card)
	}
	h.offered = now.Add(offerTime)
	return true
}

// allowed reports whether a client may have an address: its reserved one, else an unused
// one of a pool. A client that names an address without an offer, as after a restart of
// the server, gets no more than find would have given to it.
func (b *Book) allowed(a Request, ip netip.Addr, now time.Time) bool {
	if a.Reserved.IsValid() && ip != a.Reserved && b.available(a.Reserved, a, now) {
		return false // it gets its reserved address
	}
	if !b.assignable(ip, a) || !b.available(ip, a, now) {
		return false
	}
	switch h := b.addresses[ip]; {
	case a.Known || ip == a.Reserved:
		return true
	case h == nil:
		p := b.poolOf(ip)
		return p.free > p.reserve()
	default:
		return h.Client() == a.Client || h.Machine == ""
	}
}

// Pending is a lease that is not durable yet.
type Pending struct {
	book     *Book
	card     Card
	address  netip.Addr
	previous netip.Addr // address of the card before
	before   holding    // state of the address before
	revision uint64
	wait     func() error
}

// Take makes an address the client's; the caller then calls Commit. It fails if
// another client has the address.
func (b *Book) Take(a Request, l fleet.Lease, now time.Time) (Pending, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.allowed(a, l.Address, now) {
		return Pending{}, false
	}
	h := b.addresses[l.Address]
	if b.fresh(a, l.Address) {
		h = b.replace(h, l.Address, a.Card)
		h.offered = now.Add(offerTime) // in case the store fails
	}
	p := Pending{book: b, card: a.Card, address: l.Address, previous: b.cards[a.Card], before: *h}
	b.revision++
	h.Lease, h.leased, h.offered, h.revision = l, true, time.Time{}, b.revision
	p.revision = b.revision
	b.cards[a.Card] = l.Address
	p.wait = b.store.PutLease(l)
	return p, true
}

// Commit waits until the lease is durable. If it returns an error the book is as it
// was before Take.
func (p Pending) Commit() error {
	err := p.wait()
	if err != nil {
		p.book.undo(p)
	}
	return err
}

// undo restores what was before a lease, unless the address has changed since.
func (b *Book) undo(p Pending) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.addresses[p.address]
	if h == nil || h.revision != p.revision {
		return // the client itself, for instance, took it once more
	}
	*h = p.before
	if old := b.addresses[p.previous]; old != nil && old.Client() == p.card.Client {
		b.cards[p.card] = p.previous
	}
}

// Release makes an address free at once, if the card has it.
func (b *Book) Release(c Card, ip netip.Addr, now time.Time) (wait func() error, ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.addresses[ip]
	if h == nil || h.Client() != c.Client || h.Declined {
		return nil, false
	}
	h.offered = time.Time{}
	if !h.leased {
		return nil, false
	}
	b.revision++
	h.Expires, h.revision = now, b.revision
	return b.store.PutLease(h.Lease), true
}

// Decline takes an address out of use for DeclineTime, if the card has it or has it on
// offer.
func (b *Book) Decline(c Card, ip netip.Addr, now time.Time) (wait func() error, declined bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.addresses[ip]
	if h == nil || h.Client() != c.Client || h.Declined {
		return nil, false
	}
	if b.cards[c] == ip {
		delete(b.cards, c)
	}
	b.revision++
	h.Expires, h.Declined, h.leased, h.offered, h.revision = now.Add(DeclineTime), true, true, time.Time{}, b.revision
	h.Machine, h.Hostname = "", ""
	return b.store.PutLease(h.Lease), true
}

// WithdrawOffer ends the offer to a client that chose another server.
func (b *Book) WithdrawOffer(c Card) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.addresses[b.cards[c]]; h != nil && h.Client() == c.Client {
		h.offered = time.Time{}
	}
}

// LeaseOf returns the latest lease of an address.
func (b *Book) LeaseOf(ip netip.Addr) (fleet.Lease, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.addresses[ip]; h != nil && h.leased {
		return h.Lease, true
	}
	return fleet.Lease{}, false
}

// Holds reports whether one of some clients has, or had, a lease in a network.
func (b *Book) Holds(network string, clients []string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(clients, func(c string) bool {
		h := b.addresses[b.cards[Card{network, c}]]
		return h != nil && h.leased && h.Client() == c
	})
}

// List returns current and past leases, sorted by address.
func (b *Book) List() []fleet.Lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	var l []fleet.Lease
	for _, h := range b.addresses {
		if h.leased {
			l = append(l, h.Lease)
		}
	}
	slices.SortFunc(l, func(a, b fleet.Lease) int { return a.Address.Compare(b.Address) })
	return l
}

// Peek returns the address that Choose would find.
func (b *Book) Peek(a Request, now time.Time) (netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.find(a, now)
}

// Size returns the number of addresses that are remembered.
func (b *Book) Size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.addresses)
}

// Check returns an error if the book contradicts itself; it is for tests.
func (b *Book) Check() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.pools {
		free := 0
		for i := range p.Size() {
			used := p.used[i/64]&(1<<(i%64)) != 0
			if h := b.addresses[p.at(i)]; used != (h != nil) {
				return fmt.Errorf("the pool says used=%v of %s, the book has %+v", used, p.at(i), h)
			}
			if !used {
				free++
			}
		}
		if free != p.free {
			return fmt.Errorf("the pool %s counts %d free addresses; there are %d", p.Range, p.free, free)
		}
	}
	return nil
}
