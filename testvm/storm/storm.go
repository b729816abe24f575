// Package storm powers a crowd of simulated machines on at once. Each does over
// real sockets what firmware, loader, ingot-init and agent do one after another:
// DHCP, the loader by TFTP, DHCP again as iPXE, script, kernel, initramfs,
// ticket, root, report. It computes nothing of it but digests: no code of an
// image runs. Each machine has its own MAC address, UUID and IPv4 address.
//
// Signatures are not verified, package initrd's tests do that; the root that
// arrived is measured and reported.
package storm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// Config is one storm.
type Config struct {
	Machines int           `json:"machines"`
	First    int           `json:"first"`   // number of the first, which makes its MAC address
	Card     string        `json:"card"`    // network card to the LAN
	Spread   time.Duration `json:"spread"`  // machines are switched on within this time
	Timeout  time.Duration `json:"timeout"` // of the whole; 0 means 5 min
	Script   bool          `json:"script"`  // machines are done when they have their script, whatever it says
}

// Result is how it went.
type Result struct {
	Healthy int            `json:"healthy"`
	Failed  map[string]int `json:"failed,omitempty"` // by stage and error
	Elapsed time.Duration  `json:"elapsed"`
	Median  time.Duration  `json:"median"` // of one machine, from power-on to healthy
	Last    time.Duration  `json:"last"`
	Bytes   int64          `json:"bytes"`

	Stages map[string]time.Duration `json:"stages"` // mean time of one machine
	Busy   int                      `json:"busy"`   // times that a machine was asked to come back
}

// crowd is what the machines share: one card, and the packets that come to it.
type crowd struct {
	conf Config
	dhcp *exchanger
	lo   netlink.Link
	mu   sync.Mutex
	took []time.Duration
	r    Result
}

// Run runs a storm from this network namespace, whose loopback interface gets
// the addresses that the machines are lent.
func Run(ctx context.Context, c Config) (Result, error) {
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return Result{}, fmt.Errorf("looking for the loopback interface: %w", err)
	}
	dhcp, err := newExchanger(ctx, c.Card)
	if err != nil {
		return Result{}, err
	}
	defer dhcp.close()
	all := &crowd{conf: c, dhcp: dhcp, lo: lo, r: Result{Failed: map[string]int{}, Stages: map[string]time.Duration{}}}
	begin := time.Now()
	var g sync.WaitGroup
	for n := range c.Machines {
		g.Go(func() { all.machine(ctx, c.First+n) })
	}
	g.Wait()
	r := all.r
	r.Elapsed = time.Since(begin)
	slices.Sort(all.took)
	if n := len(all.took); n > 0 {
		r.Median, r.Last = all.took[n/2], all.took[n-1]
	}
	return r, nil
}

// machine is the life of one machine: it starts over until it is healthy.
func (c *crowd) machine(ctx context.Context, n int) {
	if c.conf.Spread > 0 {
		pause(ctx, rand.N(c.conf.Spread))
	}
	begin := time.Now()
	var err error
	for range 5 { // as a machine whose boot failed is reset
		m := newMachine(c, n)
		if err = m.boot(ctx); err == nil || ctx.Err() != nil {
			break
		}
		pause(ctx, time.Second+rand.N(time.Second))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.r.Failed[err.Error()]++
		return
	}
	c.r.Healthy++
	c.took = append(c.took, time.Since(begin))
}

func (c *crowd) busy() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Busy++
}

func (c *crowd) count(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Bytes += n
}

// own gives this host an address of a machine.
func (c *crowd) own(ip net.IP) error {
	err := netlink.AddrAdd(c.lo, &netlink.Addr{IPNet: &net.IPNet{IP: ip, Mask: net.CIDRMask(32, 32)}})
	if err != nil && !errors.Is(err, errExist) {
		return fmt.Errorf("taking the address %s: %w", ip, err)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
