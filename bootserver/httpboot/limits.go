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

// Limits bound the load of all machines together. Zero values are the defaults.
// They can be changed while the server runs.
type Limits struct {
	Rate        int64 // bytes per second of all artifacts together; 0 means no limit
	Transfers   int   // roots under way at once; 0 means 256
	PerBoot     int   // transfers of one boot at once; 0 means 8
	Connections int   // of all clients; 0 means 8192
	PerClient   int   // connections of one address; 0 means 64
}

// Counts are totals since the server started, for metrics.
type Counts struct {
	Bytes     int64 // of artifacts sent
	Refused   int64 // transfers over the limits
	Transfers int   // under way now
}

// Counts returns the server's totals.
func (s *Server) Counts() Counts {
	return Counts{Bytes: s.sent.Load(), Refused: s.refused.Load(), Transfers: s.admission.inside()}
}

// SetLimits changes the limits. Transfers under way continue, at the new rate.
func (s *Server) SetLimits(l Limits) {
	orElse := func(n, d int) int {
		if n <= 0 {
			return d
		}
		return n
	}
	s.admission.set(orElse(l.Transfers, 256), orElse(l.PerBoot, 8))
	s.connections.set(orElse(l.Connections, 8192), orElse(l.PerClient, 64))
	s.pace.set(max(l.Rate, 0))
}

// admission counts and limits transfers.
type admission struct {
	mu      sync.Mutex
	most    int
	perBoot int
	count   int
	boots   map[ingot.BootID]int
}

func (g *admission) set(most, perBoot int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.most, g.perBoot = most, perBoot
	if g.boots == nil {
		g.boots = map[ingot.BootID]int{}
	}
}

// enter admits one transfer of a boot. Other files than roots may use twice as
// many places: firmware and loaders give up sooner than ingot-init, so they are
// still admitted when roots no longer are.
func (g *admission) enter(boot ingot.BootID, root bool) (leave func(), ok bool) {
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
func (g *admission) inside() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}

// retryAfter is the number of seconds after which a refused machine retries.
func retryAfter() int { return 2 + rand.IntN(7) }

// window is the maximum number of bytes of one turn of a transfer.
const window = 1 << 20

// round is the longest time until a transfer has its next turn: well below the
// 30 s after which ingot-init considers a download stalled.
const round = 5 * time.Second

// pace shares a rate among transfers. Each requests one window at a time and then
// waits for its turn. So fast and slow readers get equal shares, and none starves.
type pace struct {
	mu   sync.Mutex
	rate int64     // bytes per second; 0 means no limit
	next time.Time // when everything granted so far will have been sent
}

func (p *pace) set(rate int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.next = rate, time.Time{}
}

// turn waits until up to want bytes may be sent, and returns how many. others is
// the number of transfers that share the rate.
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

// reserve grants a turn: how many bytes, and how long to wait before it.
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

// connections counts and limits connections.
type connections struct {
	mu        sync.Mutex
	most      int
	perClient int
	count     int
	clients   map[netip.Addr]int
}

func (c *connections) set(most, perClient int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.most, c.perClient = most, perClient
	if c.clients == nil {
		c.clients = map[netip.Addr]int{}
	}
}

// track is a ConnState of http.Server. It closes a connection over the limits
// before anything is read from it.
func (c *connections) track(conn net.Conn, state http.ConnState) {
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
			conn.Close() // its goroutine ends and reports StateClosed
		}
	case http.StateClosed:
		c.count--
		if c.clients[client]--; c.clients[client] == 0 {
			delete(c.clients, client)
		}
	}
}
