package dhcp4

import (
	"context"
	"errors"
	"net/netip"
	"sync"

	"ingot/bootserver/lease"
)

// trials are the tests of addresses that are under way. Another packet of the
// client waits for their end as well: it must not get an address that somebody
// uses because it asked once more.
type trials struct {
	mu      sync.Mutex
	running map[netip.Addr]*trial
}

// trial is one of them; used is set when it has ended.
type trial struct {
	ended chan struct{}
	used  bool
	err   error
}

// join returns the test of an address that is under way, or begins one when it
// is to; then mine is true. It returns nil for none. ts.mu is held.
func (ts *trials) join(ip netip.Addr, begin bool) (run *trial, mine bool) {
	if run = ts.running[ip]; run != nil || !begin {
		return run, false
	}
	if ts.running == nil {
		ts.running = map[netip.Addr]*trial{}
	}
	run = &trial{ended: make(chan struct{})}
	ts.running[ip] = run
	return run, true
}

// end tells the others what was found.
func (ts *trials) end(ip netip.Addr, run *trial) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.running, ip)
	close(run.ended)
}

// probes is how many addresses in use are found before a client is let down.
const probes = 4

// choose finds an address that nobody uses.
func (t *talk) choose(ctx context.Context) (netip.Addr, error) {
	a := t.ask()
	for range probes {
		ip, run, mine, err := t.pick(a)
		if err != nil || run == nil {
			return ip, err
		}
		if used, err := t.used(ctx, a, ip, run, mine); err != nil || !used {
			return ip, err
		}
	}
	return netip.Addr{}, errors.New("several addresses of the pool are used by others; see ingot network")
}

// pick chooses an address, and returns its test when it needs one.
func (t *talk) pick(a lease.Ask) (ip netip.Addr, run *trial, mine bool, err error) {
	if !t.tests(a) {
		ip, _, err = t.book.Choose(a, t.now)
		return ip, nil, false, err
	}
	t.trials.mu.Lock()
	defer t.trials.mu.Unlock()
	ip, fresh, err := t.book.Choose(a, t.now)
	if err != nil {
		return ip, nil, false, err
	}
	run, mine = t.trials.join(ip, fresh)
	return ip, run, mine, nil
}

// tried tests an address that a client asks for and that it was not offered, and
// returns why it does not get it, empty when it does.
func (t *talk) tried(ctx context.Context, a lease.Ask, want netip.Addr) (why string, err error) {
	if !t.tests(a) {
		return "", nil
	}
	t.trials.mu.Lock()
	fresh := t.book.Standing(a, want, t.now).Fresh
	if fresh && !t.book.Keep(a, want, t.now) {
		t.trials.mu.Unlock()
		return faster, nil
	}
	run, mine := t.trials.join(want, fresh)
	t.trials.mu.Unlock()
	if run == nil {
		return "", nil
	}
	used, err := t.used(ctx, a, want, run, mine)
	if used {
		return "somebody uses it", err
	}
	return "", err
}

// tests reports whether an address that is new to us is tested for a holder
// whom we do not know of; machines that we know do not wait for that.
func (t *talk) tests(a lease.Ask) bool {
	return !a.Known && t.port.Probe >= 0 && t.Probe != nil
}

// used tests an address that is kept for the client, or waits for the test that
// another packet of it began.
func (t *talk) used(ctx context.Context, a lease.Ask, ip netip.Addr, run *trial, mine bool) (bool, error) {
	if mine {
		defer t.trials.end(ip, run)
		run.used, run.err = t.test(ctx, a, ip)
		return run.used, run.err
	}
	select {
	case <-run.ended:
		return run.used, run.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// test asks whether somebody uses an address. One that somebody uses is taken
// out of use for a while.
func (t *talk) test(ctx context.Context, a lease.Ask, ip netip.Addr) (bool, error) {
	wait := t.port.Probe
	if wait == 0 {
		wait = DefaultProbe
	}
	holder, used := t.Probe(ctx, Trial{Interface: t.Interface, Index: t.port.Index, MAC: t.port.MAC, Address: ip, From: t.ours, Far: t.relay.IsValid(), For: wait})
	if !used {
		return false, nil
	}
	t.observer.Warn(t.Interface, "used "+ip.String(), "the address "+ip.String()+" of a pool is used by "+holder+
		", who did not get it from us; take it out of the pool, or reserve it", t.now)
	if done, ok := t.book.Decline(a.Card, ip, t.now); ok {
		return true, done()
	}
	return true, nil
}
