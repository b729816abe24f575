// Package lease keeps who holds which address, for IPv4 and IPv6 alike. An
// address has one record, so no two clients can hold it; what is acknowledged is
// durable first; what strangers can make grow is bounded by the pools.
//
// It knows nothing of packets: packages dhcp and dhcp6 ask it for addresses and
// tell what clients do with them.
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

// ErrPoolFull: every address that the client could have is lent.
var ErrPoolFull = errors.New("every address of the pools is lent; widen a pool, or shorten the lease time")

// Store keeps leases, one of each address.
type Store interface {
	// Leases returns all leases.
	Leases() ([]fleet.Lease, error)
	// PutLease stores the lease of an address. It returns at once; the change is
	// durable when wait returned nil. Changes take effect in the order in which
	// they are put.
	PutLease(l fleet.Lease) (wait func() error)
}

// Card is who holds an address: one network card in one network. ROM, loader,
// initramfs and system have different client identifiers and one card.
type Card struct {
	Network string
	Client  string // as fleet.Lease.Client names it: a MAC address, or a DUID
}

// Layout is what addresses are lent from.
type Layout struct {
	Pools []Pool
	// Of names the network that an address belongs to, empty for none.
	Of func(netip.Addr) string
}

// Pool is addresses of a network that anybody there may get.
type Pool struct {
	Range
	Network string
}

// holding is an address that is lent, was lent, or is on offer.
type holding struct {
	fleet.Lease
	lent     bool      // acknowledged, or about to be
	offered  time.Time // until when it is on offer
	network  string
	revision uint64 // of the last change
}

// free reports whether nobody may use the address any more.
func (h *holding) free(now time.Time) bool {
	return !now.Before(h.offered) && (!h.lent || !now.Before(h.Expires))
}

// Book is all holdings. An address has one holding: no two cards can hold it.
// All of it is in memory; a Store makes durable what is acknowledged. Its
// size is bounded by the pools and the reservations.
//
// Times that it compares carry the monotonic clock as long as the process
// runs, so a wall clock that is set forward takes no lease away.
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
	used    []uint64 // a bit for each address that has a holding
	free    int      // addresses without one
	next    int      // where to look first
	spare   [2]reclaim
}

// reclaim is what of a full pool may be given again: for strangers, and for
// known machines. It is looked for at most once a second.
type reclaim struct {
	list []netip.Addr // longest unused first
	at   time.Time    // when it was made
}

// kept is how many addresses of a pool are not lent to strangers, so that a
// flood of them leaves room for machines that we know.
func (p *pool) kept() int { return min(p.Size()/16, 256) }

const (
	offerTime = time.Minute
	// DeclineTime is how long an address is out of use that a client found taken.
	DeclineTime = 10 * time.Minute
)

// Open makes a book of what a Store holds.
func Open(store Store, l Layout) (*Book, error) {
	leases, err := store.Leases()
	if err != nil {
		return nil, err
	}
	b := &Book{store: store, addresses: map[netip.Addr]*holding{}}
	for _, l := range leases {
		b.addresses[l.Address] = &holding{Lease: l, lent: true}
	}
	b.Arrange(l)
	return b, nil
}

// Arrange fits the book to a configuration.
func (b *Book) Arrange(l Layout) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cards, b.pools = map[Card]netip.Addr{}, nil
	for _, p := range l.Pools {
		b.pools = append(b.pools, &pool{Range: p.Range, network: p.Network, used: make([]uint64, (p.Size()+63)/64), free: p.Size()})
	}
	for ip, h := range b.addresses {
		if h.network = l.Of(ip); h.network == "" { // of a network that is not served any more
			continue
		}
		b.mark(ip, true)
		c := Card{h.network, h.Client()}
		if other, ok := b.cards[c]; !h.Declined && (!ok || b.addresses[other].Expires.Before(h.Expires)) {
			b.cards[c] = ip
		}
	}
}

// mark notes in its pool that an address has a holding, or has none any more.
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

// Ask is a client that needs an address.
type Ask struct {
	Card
	Known    bool         // an approved or configured machine
	Wish     netip.Addr   // that it asks for
	Reserved netip.Addr   // that is its own
	Siblings []string     // other cards of its machine
	Reset    bool         // it is firmware: what other cards of the machine held, they do not use any more
	Near     netip.Prefix // the subnet to prefer
}

// Choose finds the address for a client and keeps it for the request that
// follows. An address is fresh when somebody else may be using it: then it
// should be tested before it is offered.
func (b *Book) Choose(a Ask, now time.Time) (ip netip.Addr, fresh bool, err error) {
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

// find picks: the reserved address, the one the card has or had, the one it
// asks for, one that nobody ever had, one that nobody had for the longest time.
func (b *Book) find(a Ask, now time.Time) (netip.Addr, error) {
	if a.Reserved.IsValid() && b.available(a.Reserved, a, now) {
		return a.Reserved, nil
	}
	if ip, ok := b.cards[a.Card]; ok && b.lendable(ip, a) && b.available(ip, a, now) {
		return ip, nil
	}
	if a.Wish.IsValid() && b.addresses[a.Wish] == nil && b.lendable(a.Wish, a) {
		if p := b.poolOf(a.Wish); a.Known || p.free > p.kept() {
			return a.Wish, nil
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

// poolsFor are the pools of a client's network, those of its subnet first.
func (b *Book) poolsFor(a Ask) []*pool {
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

// lendable reports whether an address is one that the client's network may
// give to it.
func (b *Book) lendable(ip netip.Addr, a Ask) bool {
	if ip == a.Reserved {
		return true
	}
	p := b.poolOf(ip)
	return p != nil && p.network == a.Network
}

// available reports whether nobody else uses an address or may do so.
func (b *Book) available(ip netip.Addr, a Ask, now time.Time) bool {
	h := b.addresses[ip]
	if h == nil || h.free(now) {
		return true
	}
	if h.Declined {
		return false
	}
	// A machine that was reset and now boots from its other card has its address
	// still; one that runs uses both cards.
	return h.Client() == a.Client || (ip == a.Reserved && a.Reset && slices.Contains(a.Siblings, h.Client()))
}

// replace gives an address to a card. What the card had before stays lent to
// it until that expires: should the acknowledgement get lost, it uses that on.
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
	if p.free == 0 || (!known && p.free <= p.kept()) {
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

// reclaim returns an address that its holder does not use any more. Those of
// known machines are not given to strangers: who was switched off for a week
// finds its address as it was.
func (b *Book) reclaim(p *pool, a Ask, now time.Time) (netip.Addr, bool) {
	r := &p.spare[0]
	if a.Known {
		r = &p.spare[1]
	}
	if len(r.list) == 0 && now.Sub(r.at).Abs() >= time.Second {
		r.list, r.at = b.spares(p, a.Known, now), now
	}
	for len(r.list) > 0 {
		ip := r.list[0]
		r.list = r.list[1:]
		switch h := b.addresses[ip]; {
		case h == nil && !a.Known && p.free <= p.kept(): // it was more when the list was made
		case h == nil || h.spare(a.Known, now):
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// spare reports whether an address may be given to another. A known machine is
// also given what is only on offer to a stranger.
func (h *holding) spare(known bool, now time.Time) bool {
	if known {
		return h.free(now) || (!h.lent && h.Machine == "")
	}
	return h.free(now) && h.Machine == ""
}

// spares lists what may be reclaimed. Offers that nobody took are forgotten.
func (b *Book) spares(p *pool, known bool, now time.Time) []netip.Addr {
	var list []netip.Addr
	for ip := p.First; p.Contains(ip); ip = ip.Next() {
		h := b.addresses[ip]
		if h != nil && !h.lent && h.free(now) {
			b.forget(ip)
			h = nil
		}
		if h == nil && (known || p.free > p.kept()) {
			list = append(list, ip)
		} else if h != nil && h.spare(known, now) {
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

// Standing is what the book knows of a client that asks for an address.
type Standing struct {
	Has   netip.Addr // that it has, had, or was offered
	May   bool       // it may have the one that it asks for
	Fresh bool       // and that one is fresh, as Choose says
}

// Standing tells what it knows.
func (b *Book) Standing(a Ask, ip netip.Addr, now time.Time) Standing {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Standing{Has: b.cards[a.Card], May: b.may(a, ip, now), Fresh: b.fresh(a, ip)}
}

// fresh reports whether an address is another's, or nobody's, until now.
func (b *Book) fresh(a Ask, ip netip.Addr) bool {
	h := b.addresses[ip]
	return h == nil || h.Client() != a.Client || h.Declined
}

// Keep keeps an address for a client that asks for it without having been
// offered it, while it is tested. It fails when the client may not have it.
func (b *Book) Keep(a Ask, ip netip.Addr, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.may(a, ip, now) {
		return false
	}
	h := b.addresses[ip]
	if b.fresh(a, ip) {
		h = b.replace(h, ip, a.Card)
	}
	h.offered = now.Add(offerTime)
	return true
}

// may reports whether a client may have an address: its reserved one, else
// one of a pool that nobody uses. Who names an address without an offer, as
// after our restart, gets no more than find would have given to it.
func (b *Book) may(a Ask, ip netip.Addr, now time.Time) bool {
	if a.Reserved.IsValid() && ip != a.Reserved && b.available(a.Reserved, a, now) {
		return false // its own waits for it
	}
	if !b.lendable(ip, a) || !b.available(ip, a, now) {
		return false
	}
	switch h := b.addresses[ip]; {
	case a.Known || ip == a.Reserved:
		return true
	case h == nil:
		p := b.poolOf(ip)
		return p.free > p.kept()
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
func (b *Book) Take(a Ask, l fleet.Lease, now time.Time) (Pending, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.may(a, l.Address, now) {
		return Pending{}, false
	}
	h := b.addresses[l.Address]
	if b.fresh(a, l.Address) {
		h = b.replace(h, l.Address, a.Card)
		h.offered = now.Add(offerTime) // in case the store fails
	}
	p := Pending{book: b, card: a.Card, address: l.Address, previous: b.cards[a.Card], before: *h}
	b.revision++
	h.Lease, h.lent, h.offered, h.revision = l, true, time.Time{}, b.revision
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

// End makes an address free at once, when the card holds it.
func (b *Book) End(c Card, ip netip.Addr, now time.Time) (wait func() error, ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.addresses[ip]
	if h == nil || h.Client() != c.Client || h.Declined {
		return nil, false
	}
	h.offered = time.Time{}
	if !h.lent {
		return nil, false
	}
	b.revision++
	h.Expires, h.revision = now, b.revision
	return b.store.PutLease(h.Lease), true
}

// Decline takes an address out of use for a while, when the card holds it or
// has it on offer.
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
	h.Expires, h.Declined, h.lent, h.offered, h.revision = now.Add(DeclineTime), true, true, time.Time{}, b.revision
	h.Machine, h.Hostname = "", ""
	return b.store.PutLease(h.Lease), true
}

// Withdraw takes an offer back that the client did not choose.
func (b *Book) Withdraw(c Card) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.addresses[b.cards[c]]; h != nil && h.Client() == c.Client {
		h.offered = time.Time{}
	}
}

// List returns what is or was lent, by address.
func (b *Book) List() []fleet.Lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	var l []fleet.Lease
	for _, h := range b.addresses {
		if h.lent {
			l = append(l, h.Lease)
		}
	}
	slices.SortFunc(l, func(a, b fleet.Lease) int { return a.Address.Compare(b.Address) })
	return l
}

// Peek is the address that Choose would find.
func (b *Book) Peek(a Ask, now time.Time) (netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.find(a, now)
}

// Size is the number of addresses that are remembered.
func (b *Book) Size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.addresses)
}

// Check returns what of the book contradicts itself; it is for tests.
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
