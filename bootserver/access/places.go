package access

import (
	"container/list"
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Places bound the connections to a listener. A connection is a stranger's until a request with a
// valid credential came over it. Strangers have few places and little time; when they use all of
// them, a new one replaces the oldest of the address that has most, so that nobody can keep others
// out by holding connections open. Connections with a credential have places of their own.
// Zero values are the defaults.
type Places struct {
	Strangers int           // of all addresses; 0 means 256
	Each      int           // strangers of one address, or of one /64 network of IPv6; 0 means 64
	Known     int           // with a valid credential; 0 means 512
	Life      time.Duration // of a stranger's connection; 0 means 20 s

	mu        sync.Mutex
	known     int
	strangers *list.List // of *place, the oldest first
	sources   map[netip.Prefix]int
}

// place is a connection that counts.
type place struct {
	net.Conn
	of     *Places
	source netip.Prefix
	end    *time.Timer

	at    *list.Element // in of.strangers; nil when it is none
	known bool
}

type placeKey struct{}

// Listen returns a listener whose connections have places.
func (p *Places) Listen(l net.Listener) net.Listener { return placedListener{l, p} }

type placedListener struct {
	net.Listener
	places *Places
}

// Accept implements net.Listener.
func (l placedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	from, _ := source(c.RemoteAddr().String()) // addresses of another kind share a place's bound
	return l.places.enter(c, from), nil
}

func orDefault[T int | time.Duration](n, d T) T {
	if n <= 0 {
		return d
	}
	return n
}

// enter gives a stranger a place, if need be that of another one.
func (p *Places) enter(c net.Conn, from netip.Prefix) *place {
	in := &place{Conn: c, of: p, source: from}
	p.mu.Lock()
	if p.strangers == nil {
		p.strangers, p.sources = list.New(), map[netip.Prefix]int{}
	}
	var out *place
	if p.sources[from] >= orDefault(p.Each, 64) {
		out = p.oldest(from)
	} else if p.strangers.Len() >= orDefault(p.Strangers, 256) {
		out = p.oldest(p.busiest())
	}
	if out != nil {
		p.leave(out)
	}
	in.at = p.strangers.PushBack(in)
	p.sources[from]++
	in.end = time.AfterFunc(orDefault(p.Life, 20*time.Second), in.expire)
	p.mu.Unlock()
	if out != nil {
		_ = out.Conn.Close() // its server sees the error
	}
	return in
}

// busiest returns the address with most strangers; of several, the one that is there longest.
func (p *Places) busiest() (most netip.Prefix) {
	n := 0
	for e := p.strangers.Front(); e != nil; e = e.Next() {
		if from := e.Value.(*place).source; p.sources[from] > n {
			most, n = from, p.sources[from]
		}
	}
	return most
}

// oldest returns the first stranger of an address.
func (p *Places) oldest(from netip.Prefix) *place {
	for e := p.strangers.Front(); e != nil; e = e.Next() {
		if s := e.Value.(*place); s.source == from {
			return s
		}
	}
	return nil
}

// leave makes a place free. p.mu is held.
func (p *Places) leave(c *place) {
	switch {
	case c.at != nil:
		p.strangers.Remove(c.at)
		c.at = nil
		if p.sources[c.source]--; p.sources[c.source] == 0 {
			delete(p.sources, c.source)
		}
	case c.known:
		c.known = false
		p.known--
	}
}

// expire closes the connection of one that is still a stranger.
func (c *place) expire() {
	c.of.mu.Lock()
	stranger := c.at != nil
	c.of.mu.Unlock()
	if stranger {
		_ = c.Close()
	}
}

// Close implements net.Conn.
func (c *place) Close() error {
	c.of.mu.Lock()
	c.of.leave(c)
	c.of.mu.Unlock()
	c.end.Stop()
	return c.Conn.Close()
}

// ConnContext is that of an http.Server whose listener has places: it lets a Keeper find the place
// of a request.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	if secure, ok := c.(*tls.Conn); ok {
		c = secure.NetConn()
	}
	if p, ok := c.(*place); ok {
		return context.WithValue(ctx, placeKey{}, p)
	}
	return ctx
}

// welcome makes the connection of a request that of a client with a credential. If too many are, it
// stays a stranger's.
func welcome(ctx context.Context) {
	c, ok := ctx.Value(placeKey{}).(*place)
	if !ok {
		return
	}
	p := c.of
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.at == nil || p.known >= orDefault(p.Known, 512) {
		return
	}
	p.leave(c)
	c.known = true
	p.known++
	c.end.Stop()
}

// Stranger reports whether no request with a valid credential came yet over the connection of a
// request. It should be closed after its answer then.
func Stranger(ctx context.Context) bool {
	c, ok := ctx.Value(placeKey{}).(*place)
	if !ok {
		return false
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	return !c.known
}
