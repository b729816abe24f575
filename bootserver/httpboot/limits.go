package httpboot

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"ingot"
)

// Limits bound what all machines together may ask of the server. Zero values
// are the defaults. They can be changed while machines are served.
type Limits struct {
	Rate        int64 // bytes per second of all artifacts together; 0: as fast as it goes
	Transfers   int   // roots under way at once; 0 means 256
	PerBoot     int   // transfers of one boot at once; 0 means 8
	Connections int   // of all clients; 0 means 8192
	PerClient   int   // connections of one address; 0 means 64
}

// Counts are what a server did since it started, for metrics.
type Counts struct {
	Bytes     int64 // of artifacts that went out
	Refused   int64 // transfers that found no room
	Transfers int   // under way
}

// Counts counts.
func (s *Server) Counts() Counts {
	return Counts{Bytes: s.sent.Load(), Refused: s.refused.Load(), Transfers: s.gate.inside()}
}

// SetLimits changes the limits. What was admitted goes on, at the new rate.
func (s *Server) SetLimits(l Limits) {
	orElse := func(n, d int) int {
		if n <= 0 {
			return d
		}
		return n
	}
	s.gate.set(orElse(l.Transfers, 256), orElse(l.PerBoot, 8))
	s.callers.set(orElse(l.Connections, 8192), orElse(l.PerClient, 64))
	s.pace.set(max(l.Rate, 0))
}

// gate admits transfers.
type gate struct {
	mu      sync.Mutex
	most    int
	perBoot int
	count   int
	boots   map[ingot.BootID]int
}

func (g *gate) set(most, perBoot int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most, g.perBoot = most, perBoot
	if g.boots == nil {
		g.boots = map[ingot.BootID]int{}
	}
}

// enter takes a place for one transfer of a boot. Others than roots may take
// twice as many places: firmware and loaders, which give up sooner than
// ingot-init does, find room when roots find none.
func (g *gate) enter(boot ingot.BootID, root bool) (leave func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	most := g.most
	if !root {
		most *= 2
	}
	if g.count >= most || g.boots[boot] >= g.perBoot {
		return nil, false
	}
	g.count++
	g.boots[boot]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.count--
		if g.boots[boot]--; g.boots[boot] == 0 {
			delete(g.boots, boot)
		}
	}, true
}

// inside is the number of transfers under way.
func (g *gate) inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}

// comeBack is after how many seconds a machine that found no room asks again.
func comeBack() int { return 2 + rand.IntN(7) }

// window is the most bytes that one transfer sends in one turn.
const window = 1 << 20

// round is how long it may take at most until a transfer has its next turn:
// well below the 30 s after which ingot-init takes a download for stalled.
const round = 5 * time.Second

// pace shares a rate among transfers. Each asks for one window at a time and
// then waits for its turn, so the turns go round: equal shares, whoever reads
// fast or slowly, and none is left without.
type pace struct {
	mu   sync.Mutex
	rate int64     // bytes per second; 0: no limit
	next time.Time // when what was granted so far will be gone
}

func (p *pace) set(rate int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.next = rate, time.Time{}
}

// turn waits until up to want bytes may go, and says how many. others is the
// number of transfers that share the rate.
func (p *pace) turn(ctx context.Context, want int64, others int) (int64, error) {
	n, wait := p.reserve(time.Now(), want, others)
	if wait <= 0 {
		return n, ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-t.C:
		return n, nil
	}
}

// reserve grants a turn: how many bytes, and how long to wait for it.
func (p *pace) reserve(now time.Time, want int64, others int) (n int64, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n = min(want, window)
	if p.rate == 0 {
		return n, 0
	}
	n = min(n, max(p.rate*int64(round/time.Second)/int64(max(others, 1)), 4<<10))
	if p.next.Before(now) {
		p.next = now
	}
	wait = p.next.Sub(now)
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	return n, wait
}

// callers counts connections.
type callers struct {
	mu        sync.Mutex
	most      int
	perClient int
	count     int
	clients   map[netip.Addr]int
}

func (c *callers) set(most, perClient int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most, c.perClient = most, perClient
	if c.clients == nil {
		c.clients = map[netip.Addr]int{}
	}
}

// track is a ConnState of http.Server: a connection too many is closed before
// anything is read from it.
func (c *callers) track(conn net.Conn, state http.ConnState) {
	remote, ok := conn.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return
	}
	client := remote.AddrPort().Addr().Unmap()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		c.count++
		c.clients[client]++
		if c.count > c.most || c.clients[client] > c.perClient {
			conn.Close() // its goroutine ends, and it is counted off as any other
		}
	case http.StateClosed:
		c.count--
		if c.clients[client]--; c.clients[client] == 0 {
			delete(c.clients, client)
		}
	}
}
