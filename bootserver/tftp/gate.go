package tftp

import (
	"bytes"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// UDP source addresses can be forged, so that a small request makes the server send a file to
// somebody else. An address is proven when something came from it that only a receiver of our packets
// can send: an acknowledgement, or an error, at the port that the kernel chose for the transfer.
// Until then an address receives at most 2 KiB/s, and all of them together 64 KiB/s, counted with the
// headers of Ethernet, IP and UDP. With Server.SinglePort there is no such port: acknowledgements can
// be forged as well.
//
// An unproven transfer sends one packet a second: options, or the first block of 512 bytes. It
// reserves the rate for as long as a silent client would let it last, also if it ends before.
//
// Requests in the name of many addresses can use up the places. So addresses that DHCP knows come
// first, and some places are theirs alone: firmware asks DHCP before it asks TFTP.
const (
	unprovenTransfers = 2    // of one address
	unprovenTotal     = 96   // of all
	unprovenUnknown   = 64   // of addresses of which Server.Known knows nothing
	maxRefusals       = 4    // errors in a second, to one unproven address
	totalRefusals     = 32   // to all
	maxWaiting        = 1024 // requests that wait for a place
	maxProven         = 1 << 16
	proofLasts        = 10 * time.Minute
	gatePatience      = 2 * time.Second // firmware repeats its request then
)

// gate decides which unproven addresses are sent something.
type gate struct {
	mu       sync.Mutex
	proven   map[netip.Addr]time.Time // until when
	open     []*passage               // unproven ones
	waiting  []*passage               // the oldest first
	refused  map[netip.Addr]*bucket
	refusals bucket
}

// passage is the permission to start a transfer.
type passage struct {
	g      *gate
	client netip.Addr
	known  bool          // DHCP knows the address
	lasts  time.Duration // if the client is silent
	until  time.Time     // of its reservation
	ready  chan struct{} // closed when the transfer may start
}

// bucket counts errors.
type bucket struct {
	tokens float64
	at     time.Time
}

// take takes one of the tokens, of which there are at most so many, and as many a second.
func (b *bucket) take(now time.Time, most float64) bool {
	b.tokens = min(most, b.tokens+now.Sub(b.at).Seconds()*most)
	b.at = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// enter waits until a transfer to a client may start, which lasts at most as long as given if the
// client is silent. known is whether DHCP knows the client. It returns nil if it may not start.
func (g *gate) enter(client netip.Addr, known bool, lasts time.Duration) *passage {
	p := &passage{g: g, client: client, known: known, lasts: lasts, ready: make(chan struct{})}
	g.mu.Lock()
	if g.isProven(client) {
		close(p.ready)
	} else if known || len(g.waiting) < maxWaiting {
		if len(g.waiting) >= maxWaiting { // one that DHCP does not know makes room
			i := max(0, slices.IndexFunc(g.waiting, func(w *passage) bool { return !w.known }))
			g.waiting = slices.Delete(g.waiting, i, i+1)
		}
		g.waiting = append(g.waiting, p)
		g.admit()
	}
	g.mu.Unlock()
	patience := time.NewTimer(gatePatience)
	defer patience.Stop()
	select {
	case <-p.ready:
		return p
	case <-patience.C:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.waiting, p); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	select {
	case <-p.ready: // at the last moment
		return p
	default:
		return nil
	}
}

// admit lets those start that wait and for which there is a place, those that DHCP knows first, and of
// these the newest: a client that waits for long has sent another request meanwhile. The caller holds
// the lock.
func (g *gate) admit() {
	now := time.Now()
	g.open = slices.DeleteFunc(g.open, func(p *passage) bool { return !now.Before(p.until) })
	places, unknown := map[netip.Addr]int{}, 0
	for _, p := range g.open {
		places[p.client]++
		if !p.known {
			unknown++
		}
	}
	enters := func(p *passage) bool {
		if !g.isProven(p.client) {
			if len(g.open) >= unprovenTotal || places[p.client] >= unprovenTransfers ||
				!p.known && unknown >= unprovenUnknown {
				return false
			}
			p.until = now.Add(p.lasts)
			g.open = append(g.open, p)
			places[p.client]++
			if !p.known {
				unknown++
			}
		}
		close(p.ready)
		return true
	}
	for _, known := range []bool{true, false} {
		for i := len(g.waiting) - 1; i >= 0; i-- {
			if p := g.waiting[i]; p != nil && p.known == known && enters(p) {
				g.waiting[i] = nil
			}
		}
	}
	g.waiting = slices.DeleteFunc(g.waiting, func(p *passage) bool { return p == nil })
}

func (g *gate) isProven(client netip.Addr) bool { return time.Now().Before(g.proven[client]) }

// prove records that the client of a transfer received what was sent to it. Its transfers need no
// reservations then.
func (p *passage) prove() {
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if len(g.proven) >= maxProven {
		maps.DeleteFunc(g.proven, func(_ netip.Addr, until time.Time) bool { return !now.Before(until) })
	}
	if g.proven == nil {
		g.proven = map[netip.Addr]time.Time{}
	}
	if _, known := g.proven[p.client]; known || len(g.proven) < maxProven {
		g.proven[p.client] = now.Add(proofLasts)
	}
	g.open = slices.DeleteFunc(g.open,
		func(o *passage) bool { return o == p || o.client == p.client && g.isProven(p.client) })
	g.admit()
}

// mayRefuse reports whether an error may be sent to a client.
func (g *gate) mayRefuse(client netip.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isProven(client) {
		return true
	}
	now := time.Now()
	maps.DeleteFunc(g.refused, func(_ netip.Addr, b *bucket) bool { return now.Sub(b.at) > 2*time.Second })
	if g.refused == nil {
		g.refused = map[netip.Addr]*bucket{}
	}
	own := g.refused[client]
	if own == nil {
		own = &bucket{}
	}
	if !own.take(now, maxRefusals) || !g.refusals.take(now, totalRefusals) {
		return false
	}
	g.refused[client] = own
	return true
}

// acknowledged is a file that is sent. It calls prove when the library has read so much that the
// client must have acknowledged a block. The library may read more than the first block in advance,
// for a client that wants the text of another system (netascii).
type acknowledged struct {
	*bytes.Reader
	prove func() // once
}

// Read implements io.Reader.
func (a *acknowledged) Read(p []byte) (int, error) {
	if a.Size()-int64(a.Len()) >= 2*maxBlock {
		a.prove()
	}
	return a.Reader.Read(p)
}

// provedBy reports whether the end of a transfer shows that the client received something: all of it
// was acknowledged, or the client sent an error. A timeout shows nothing.
func provedBy(err error) bool {
	var silent net.Error
	return !errors.As(err, &silent)
}

// transfer is what the library's transfers in both directions have in common.
type transfer interface{ RemoteAddr() net.UDPAddr }

// errSilent is returned by handlers of requests that are not answered.
var errSilent = errors.New("not answered")

// silent makes the library send the error of a handler to this host instead of the client. The
// library cannot be kept from sending one, and a handler that returns none without a transfer leaks
// its socket; but the client's address that it returns shares its bytes with the one that it uses.
func silent(t transfer) error {
	ip := t.RemoteAddr().IP
	if four := ip.To4(); four != nil {
		copy(four, net.IPv4(127, 255, 255, 254).To4()) // not 127.0.0.1, where a forwarder has its relays
	} else {
		copy(ip, net.IPv6loopback)
	}
	return errSilent
}
