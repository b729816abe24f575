package access

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// ErrTooManyWrong is returned for a wrong credential while several others of the same address wait for
// their answer. A good one is accepted meanwhile: its owner may share the address with an attacker.
var ErrTooManyWrong = errors.New("too many wrong tokens or certificates came from this address")

// Throttle logs wrong credentials and slows those that try them: each answer takes twice as long as
// the one before. The zero value does not log.
type Throttle struct {
	Log  *slog.Logger                               // nil is quiet
	Wait func(ctx context.Context, d time.Duration) // nil waits; tests do not

	mu      sync.Mutex
	clients map[netip.Prefix]*failures
}

// failures are the wrong credentials of one address, or of one network of IPv6.
type failures struct {
	count   int
	last    time.Time
	waiting int
}

// Bounds of a throttle.
const (
	firstDelay   = 100 * time.Millisecond
	maxDelay     = 5 * time.Second
	forgetAfter  = 10 * time.Minute // without a wrong credential
	maxThrottled = 4096             // addresses; when there are more, the others are not slowed
	maxDelayed   = 4                // answers that wait, of one address
)

// source is what failures are counted by: an IPv4 address, or a /64 network.
func source(remote string) (netip.Prefix, bool) {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}, false
	}
	ip, bits := at.Addr().Unmap().WithZone(""), 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	return p, err == nil
}

// failed records a wrong credential and waits before its answer, which it returns: err, or
// ErrTooManyWrong without a wait.
func (t *Throttle) failed(ctx context.Context, remote string, at time.Time, err error) error {
	from, ok := source(remote)
	if !ok {
		return err
	}
	t.mu.Lock()
	if t.clients == nil {
		t.clients = map[netip.Prefix]*failures{}
	}
	if len(t.clients) >= maxThrottled {
		for p, f := range t.clients {
			if f.waiting == 0 && at.Sub(f.last) > forgetAfter {
				delete(t.clients, p)
			}
		}
	}
	f := t.clients[from]
	switch {
	case f == nil && len(t.clients) >= maxThrottled:
		t.mu.Unlock()
		return err
	case f != nil && f.waiting >= maxDelayed:
		f.last = at
		t.mu.Unlock()
		return ErrTooManyWrong
	case f == nil:
		f = &failures{}
		t.clients[from] = f
	case at.Sub(f.last) > forgetAfter:
		f.count = 0
	}
	f.count, f.last, f.waiting = f.count+1, at, f.waiting+1
	count := f.count
	t.mu.Unlock()
	if t.Log != nil && count&(count-1) == 0 { // the first, the second, the fourth, …
		t.Log.Warn("a wrong token, certificate or login was refused", "from", from.Addr().String(), "times", count, "err",
			err)
	}
	t.pause(ctx, min(maxDelay, firstDelay<<min(count-1, 10)))
	t.mu.Lock()
	f.waiting--
	t.mu.Unlock()
	return err
}

func (t *Throttle) pause(ctx context.Context, d time.Duration) {
	if t.Wait != nil {
		t.Wait(ctx, d)
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
