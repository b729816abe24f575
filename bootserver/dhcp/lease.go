package dhcp

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

// card is who holds an address: one network card in one network. ROM, loader,
// initramfs and system have different client identifiers and one card.
type card struct{ network, mac string }

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

// book is all holdings. An address has one holding: no two cards can hold it.
// All of it is in memory; a Store makes durable what is acknowledged. Its
// size is bounded by the pools and the reservations.
//
// Times that it compares carry the monotonic clock as long as the process
// runs, so a wall clock that is set forward takes no lease away.
type book struct {
	store     Store
	mu        sync.Mutex
	addresses map[netip.Addr]*holding
	cards     map[card]netip.Addr
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
func (p *pool) kept() int { return min(p.size()/16, 256) }

const (
	offerTime   = time.Minute
	declineTime = 10 * time.Minute
)

// openBook makes a book of what a Store holds.
func openBook(store Store, s *site) (*book, error) {
	leases, err := store.Leases()
	if err != nil {
		return nil, err
	}
	b := &book{store: store, addresses: map[netip.Addr]*holding{}}
	for _, l := range leases {
		b.addresses[l.Address] = &holding{Lease: l, lent: true}
	}
	b.arrange(s)
	return b, nil
}

// arrange fits the book to a configuration.
func (b *book) arrange(s *site) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cards, b.pools = map[card]netip.Addr{}, nil
	for _, n := range s.networks {
		for _, sub := range n.subnets {
			for _, r := range sub.Pools {
				p := &pool{Range: r, network: n.Name, used: make([]uint64, (r.size()+63)/64), free: r.size()}
				b.pools = append(b.pools, p)
			}
		}
	}
	for ip, h := range b.addresses {
		n := s.networkOf(ip)
		if n == nil { // of a network that is not served any more
			h.network = ""
			continue
		}
		h.network = n.Name
		b.mark(ip, true)
		c := card{n.Name, h.MAC}
		if other, ok := b.cards[c]; !h.Declined && (!ok || b.addresses[other].Expires.Before(h.Expires)) {
			b.cards[c] = ip
		}
	}
}

// mark notes in its pool that an address has a holding, or has none any more.
func (b *book) mark(ip netip.Addr, used bool) {
	p := b.poolOf(ip)
	if p == nil {
		return
	}
	i := int(number(ip) - number(p.First))
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

func (b *book) poolOf(ip netip.Addr) *pool {
	for _, p := range b.pools {
		if p.Contains(ip) {
			return p
		}
	}
	return nil
}

// ask is a client that needs an address.
type ask struct {
	card
	known    bool         // an approved or configured machine
	wish     netip.Addr   // that it asks for
	reserved netip.Addr   // that is its own
	siblings []string     // other cards of its machine
	reset    bool         // it is firmware: what other cards of the machine held, they do not use any more
	near     netip.Prefix // the subnet to prefer
}

// choose finds the address for a client and keeps it for the request that
// follows. An address is fresh when somebody else may be using it: then it
// should be tested before it is offered.
func (b *book) choose(a ask, now time.Time) (ip netip.Addr, fresh bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	ip, err = b.find(a, now)
	if err != nil {
		return ip, false, err
	}
	h := b.addresses[ip]
	if h == nil || h.MAC != a.mac || h.Declined {
		fresh = true
		h = b.replace(h, ip, a.card)
	}
	h.offered = now.Add(offerTime)
	b.cards[a.card] = ip
	return ip, fresh, nil
}

// find picks: the reserved address, the one the card has or had, the one it
// asks for, one that nobody ever had, one that nobody had for the longest time.
func (b *book) find(a ask, now time.Time) (netip.Addr, error) {
	if a.reserved.IsValid() && b.available(a.reserved, a, now) {
		return a.reserved, nil
	}
	if ip, ok := b.cards[a.card]; ok && b.lendable(ip, a) && b.available(ip, a, now) {
		return ip, nil
	}
	if a.wish.IsValid() && b.addresses[a.wish] == nil && b.lendable(a.wish, a) {
		if p := b.poolOf(a.wish); a.known || p.free > p.kept() {
			return a.wish, nil
		}
	}
	pools := b.poolsFor(a)
	for _, p := range pools {
		if ip, ok := p.unused(a.known); ok {
			return ip, nil
		}
	}
	for _, p := range pools {
		if ip, ok := b.reclaim(p, a, now); ok {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("network %q: %w", a.network, ErrPoolFull)
}

// poolsFor are the pools of a client's network, those of its subnet first.
func (b *book) poolsFor(a ask) []*pool {
	var near, far []*pool
	for _, p := range b.pools {
		switch {
		case p.network != a.network:
		case a.near.Contains(p.First):
			near = append(near, p)
		default:
			far = append(far, p)
		}
	}
	return append(near, far...)
}

// lendable reports whether an address is one that the client's network may
// give to it.
func (b *book) lendable(ip netip.Addr, a ask) bool {
	if ip == a.reserved {
		return true
	}
	p := b.poolOf(ip)
	return p != nil && p.network == a.network
}

// available reports whether nobody else uses an address or may do so.
func (b *book) available(ip netip.Addr, a ask, now time.Time) bool {
	h := b.addresses[ip]
	if h == nil || h.free(now) {
		return true
	}
	if h.Declined {
		return false
	}
	// A machine that was reset and now boots from its other card has its address
	// still; one that runs uses both cards.
	return h.MAC == a.mac || (ip == a.reserved && a.reset && slices.Contains(a.siblings, h.MAC))
}

// replace gives an address to a card. What the card had before stays lent to
// it until that expires: should the acknowledgement get lost, it uses that on.
func (b *book) replace(h *holding, ip netip.Addr, c card) *holding {
	if h != nil && b.cards[card{h.network, h.MAC}] == ip {
		delete(b.cards, card{h.network, h.MAC})
	}
	b.revision++
	h = &holding{Lease: fleet.Lease{MAC: c.mac, Address: ip}, network: c.network, revision: b.revision}
	b.addresses[ip] = h
	b.mark(ip, true)
	return h
}

// unused returns an address without a holding.
func (p *pool) unused(known bool) (netip.Addr, bool) {
	if p.free == 0 || (!known && p.free <= p.kept()) {
		return netip.Addr{}, false
	}
	for n := p.size(); n > 0; {
		i := p.next
		if i%64 == 0 && p.used[i/64] == ^uint64(0) { // none in these 64
			step := min(64, p.size()-i)
			p.next, n = (i+step)%p.size(), n-step
			continue
		}
		p.next, n = (i+1)%p.size(), n-1
		if p.used[i/64]&(1<<(i%64)) == 0 {
			return addr4(number(p.First) + uint32(i)), true
		}
	}
	return netip.Addr{}, false
}

// reclaim returns an address that its holder does not use any more. Those of
// known machines are not given to strangers: who was switched off for a week
// finds its address as it was.
func (b *book) reclaim(p *pool, a ask, now time.Time) (netip.Addr, bool) {
	r := &p.spare[0]
	if a.known {
		r = &p.spare[1]
	}
	if len(r.list) == 0 && now.Sub(r.at).Abs() >= time.Second {
		r.list, r.at = b.spares(p, a.known, now), now
	}
	for len(r.list) > 0 {
		ip := r.list[0]
		r.list = r.list[1:]
		if h := b.addresses[ip]; h == nil || h.spare(a.known, now) {
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
func (b *book) spares(p *pool, known bool, now time.Time) []netip.Addr {
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

func (b *book) forget(ip netip.Addr) {
	h := b.addresses[ip]
	if h == nil {
		return
	}
	if c := (card{h.network, h.MAC}); b.cards[c] == ip {
		delete(b.cards, c)
	}
	delete(b.addresses, ip)
	b.mark(ip, false)
}

// standing is what the book knows of a client that asks for an address.
type standing struct {
	has netip.Addr // that it has, had, or was offered
	may bool       // it may have the one that it asks for
}

func (b *book) standing(a ask, ip netip.Addr, now time.Time) standing {
	b.mu.Lock()
	defer b.mu.Unlock()
	return standing{has: b.cards[a.card], may: b.may(a, ip, now)}
}

// may reports whether a client may have an address: its reserved one, else
// one of a pool that nobody uses.
func (b *book) may(a ask, ip netip.Addr, now time.Time) bool {
	if a.reserved.IsValid() && ip != a.reserved && b.available(a.reserved, a, now) {
		return false // its own waits for it
	}
	return b.lendable(ip, a) && b.available(ip, a, now)
}

// lend is one lease that is being made durable.
type lend struct {
	lease    fleet.Lease
	pointed  netip.Addr // the card's address of before
	before   holding
	revision uint64
	wait     func() error
	card
}

// take lends an address to a client; the caller waits for the disk and then
// calls settle. It fails when somebody else holds the address.
func (b *book) take(a ask, l fleet.Lease, now time.Time) (lend, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.may(a, l.Address, now) {
		return lend{}, false
	}
	t := lend{lease: l, card: a.card}
	h := b.addresses[l.Address]
	if h == nil || h.MAC != a.mac || h.Declined {
		h = b.replace(h, l.Address, a.card)
		h.offered = now.Add(offerTime) // should the disk refuse
	}
	t.before = *h
	t.pointed = b.cards[a.card]
	b.revision++
	h.Lease, h.lent, h.offered, h.revision = l, true, time.Time{}, b.revision
	t.revision = b.revision
	b.cards[a.card] = l.Address
	t.wait = b.store.PutLease(l)
	return t, true
}

// settle ends what take began: when the lease is not durable, everything is as
// before.
func (b *book) settle(t lend, durable bool) {
	if durable {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.addresses[t.lease.Address]
	if h == nil || h.revision != t.revision {
		return // somebody, the client itself for instance, changed it since
	}
	*h = t.before
	if old := b.addresses[t.pointed]; old != nil && old.MAC == t.mac {
		b.cards[t.card] = t.pointed
	}
}

// end makes an address free at once, when the card holds it.
func (b *book) end(c card, ip netip.Addr, now time.Time) (wait func() error, ended bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.addresses[ip]
	if h == nil || h.MAC != c.mac || h.Declined {
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

// decline takes an address out of use for a while, when the card holds it or
// has it on offer.
func (b *book) decline(c card, ip netip.Addr, now time.Time) (wait func() error, declined bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.addresses[ip]
	if h == nil || h.MAC != c.mac || h.Declined {
		return nil, false
	}
	if b.cards[c] == ip {
		delete(b.cards, c)
	}
	b.revision++
	h.Expires, h.Declined, h.lent, h.offered, h.revision = now.Add(declineTime), true, true, time.Time{}, b.revision
	h.Machine, h.Hostname = "", ""
	return b.store.PutLease(h.Lease), true
}

// withdraw takes an offer back that the client did not choose.
func (b *book) withdraw(c card) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.addresses[b.cards[c]]; h != nil && h.MAC == c.mac {
		h.offered = time.Time{}
	}
}

// list returns what is or was lent, by address.
func (b *book) list() []fleet.Lease {
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

// peek is the address that choose would find.
func (b *book) peek(a ask, now time.Time) (netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.find(a, now)
}
