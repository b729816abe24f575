package dhcp4

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"ingot/bootserver/lease"
)

// probes are the probes of addresses that are running. Another packet of the client
// waits for the result as well: a client must not get an address that is in use
// because it retransmits.
type probes struct {
	mu      sync.Mutex
	running map[netip.Addr]*running
}

// running is one probe; used and err are set when it has ended.
type running struct {
	ended chan struct{}
	used  bool
	err   error
}

// join returns the running probe of an address, or begins one if begin is set; then
// mine is true. It returns nil if there is none. ps.mu is held.
func (ps *probes) join(ip netip.Addr, begin bool) (probe *running, mine bool) {
	if probe = ps.running[ip]; probe != nil || !begin {
		return probe, false
	}
	if ps.running == nil {
		ps.running = map[netip.Addr]*running{}
	}
	probe = &running{ended: make(chan struct{})}
	ps.running[ip] = probe
	return probe, true
}

// end wakes those that wait for the result.
func (ps *probes) end(ip netip.Addr, probe *running) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.running, ip)
	close(probe.ended)
}

// maxProbes is how many addresses in use are found before the client gets none.
const maxProbes = 4

// errInUse is returned when maxProbes addresses in a row are in use.
var errInUse = errors.New("several addresses of the pool are used by hosts that did not get them from this server; " +
	"run: ingot network")

// choose finds an address that is not in use.
func (r *request) choose(ctx context.Context) (netip.Addr, error) {
	a := r.LeaseRequest(r.requested())
	for range maxProbes {
		ip, probe, mine, err := r.pick(a)
		if err != nil || probe == nil {
			return ip, err
		}
		if used, err := r.inUse(ctx, a, ip, probe, mine); err != nil || !used {
			return ip, err
		}
	}
	return netip.Addr{}, errInUse
}

// pick chooses an address, and returns its probe when it needs one.
func (r *request) pick(a lease.Request) (ip netip.Addr, probe *running, mine bool, err error) {
	if !r.needsProbe(a) {
		ip, _, err = r.Book.Choose(a, r.Now)
		return ip, nil, false, err
	}
	r.probes.mu.Lock()
	defer r.probes.mu.Unlock()
	ip, fresh, err := r.Book.Choose(a, r.Now)
	if err != nil {
		return ip, nil, false, err
	}
	probe, mine = r.probes.join(ip, fresh)
	return ip, probe, mine, nil
}

// probeRequested probes an address that a client requests without an offer. It
// returns why the client does not get it, "" if it does.
func (r *request) probeRequested(ctx context.Context, a lease.Request, want netip.Addr) (why string, err error) {
	if !r.needsProbe(a) {
		return "", nil
	}
	r.probes.mu.Lock()
	fresh := r.Book.Status(a, want, r.Now).Fresh
	if fresh && !r.Book.Hold(a, want, r.Now) {
		r.probes.mu.Unlock()
		return justTaken, nil
	}
	probe, mine := r.probes.join(want, fresh)
	r.probes.mu.Unlock()
	if probe == nil {
		return "", nil
	}
	used, err := r.inUse(ctx, a, want, probe, mine)
	if used {
		return "it is in use", err
	}
	return "", err
}

// needsProbe reports whether an address that is new to the server is probed before
// the client gets it; known machines do not wait for that.
func (r *request) needsProbe(a lease.Request) bool {
	return !a.Known && r.Served.Config.Probe != NoProbe && r.Probe != nil
}

// inUse probes an address that is kept for the client, or waits for the probe that
// another packet of it began.
func (r *request) inUse(ctx context.Context, a lease.Request, ip netip.Addr, probe *running, mine bool) (bool, error) {
	if mine {
		defer r.probes.end(ip, probe)
		probe.used, probe.err = r.probeAddress(ctx, a, ip)
		return probe.used, probe.err
	}
	select {
	case <-probe.ended:
		return probe.used, probe.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// probeAddress probes an address. One that is in use is not assigned for a while.
func (r *request) probeAddress(ctx context.Context, a lease.Request, ip netip.Addr) (bool, error) {
	wait := time.Duration(r.Served.Config.Probe)
	if wait == 0 {
		wait = DefaultProbe
	}
	user, used := r.Probe(ctx, Probe{Interface: r.Interface, Index: r.Served.Index, MAC: r.Served.MAC, Address: ip,
		From:   r.Address,
		Routed: r.relay.IsValid(), For: wait})
	if !used {
		return false, nil
	}
	r.Observer.Warn(r.Interface, "used "+ip.String(),
		fmt.Sprintf("the address %s of a pool is used by %s, which did not get it from "+
			"this server; remove it from the pool, or reserve it", ip, user), r.Now)
	if wait, ok := r.Book.Decline(a.Card, ip, r.Now); ok {
		return true, wait()
	}
	return true, nil
}
