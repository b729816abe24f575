// Package storm simulates many machines that boot at once. Each does over real sockets what
// firmware, loader, ingot-init and agent do one after another: DHCP, the loader by TFTP, DHCP again
// as iPXE, script, kernel, initramfs, ticket, root, report. Each has its own MAC address, UUID and
// IPv4 address.
//
// Left out on purpose: no code of an image runs, and signatures are not verified (the tests of
// package initrd do that). The root is hashed, and its digest reported.
package storm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"ingot"
)

// Config describes one storm.
type Config struct {
	Machines int           `json:"machines"`
	First    int           `json:"first"`   // number of the first machine; MAC addresses are derived from it
	Card     string        `json:"card"`    // network card to the LAN
	Spread   time.Duration `json:"spread"`  // machines are switched on within this time
	Timeout  time.Duration `json:"timeout"` // of the whole storm; 0 means 5 min
	Script   bool          `json:"script"`  // machines are done when they have their script, whatever it says

	Boots  int           `json:"boots,omitempty"`  // attempts of one machine; 0 means 5
	Retry  time.Duration `json:"retry,omitempty"`  // first pause before a packet is sent again; 0 means 2 s
	Vanish bool          `json:"vanish,omitempty"` // the first boot of each machine stops, at a step by its number
	Slow   bool          `json:"slow,omitempty"`   // every third machine reads slowly

	Light  bool          `json:"light,omitempty"` // machines load no kernel, initramfs and root: those may be large
	Disk   string        `json:"disk,omitempty"`  // model of the disk of every second machine
	Every  time.Duration `json:"every,omitempty"` // pause between reports; 0 means a second
	Stay   time.Duration `json:"stay,omitempty"`  // machines go on reporting, this long after the first report
	Source netip.Addr    `json:"source,omitzero"` // address of all connections, instead of the leased one
}

// Acknowledged is one thing that the server acknowledged to a machine: the lease of an address, a
// script, or a stage of a boot.
type Acknowledged struct {
	At      time.Time     `json:"at"`
	MAC     string        `json:"mac"`
	Address netip.Addr    `json:"address,omitzero"` // leased
	For     time.Duration `json:"for,omitempty"`    // of the lease
	Boot    ingot.BootID  `json:"boot,omitempty"`
	Stage   ingot.Stage   `json:"stage,omitempty"`  // reported and accepted
	Report  *Sent         `json:"report,omitempty"` // with StageHealthy
	Order   uint64        `json:"order,omitempty"`  // number of the order in the answer to it, which is not obeyed
	Script  string        `json:"script,omitempty"` // of the loader, with Config.Script
}

// Sent is a message as it crosses the wire, for hosts that repeat or change it.
type Sent struct {
	URL   string `json:"url"`
	Auth  string `json:"auth"`  // ingot.HeaderAuth
	Token string `json:"token"` // ingot.HeaderToken
	Body  []byte `json:"body"`
}

// Result is the outcome of a storm.
type Result struct {
	Healthy int            `json:"healthy"`
	Failed  map[string]int `json:"failed,omitempty"` // by stage and error
	Elapsed time.Duration  `json:"elapsed"`
	Median  time.Duration  `json:"median"` // of one machine, from power-on to healthy
	Last    time.Duration  `json:"last"`
	Bytes   int64          `json:"bytes"`

	Stages map[string]time.Duration `json:"stages"` // mean time of one machine
	Busy   int                      `json:"busy"`   // answers 503 with Retry-After
}

// crowd is what the machines share: a network card, and the packets that arrive at it.
type crowd struct {
	conf Config
	dhcp *exchanger
	lo   netlink.Link
	mu   sync.Mutex
	took []time.Duration
	r    Result
	each func(Acknowledged) // may be nil
}

func newCrowd(ctx context.Context, c Config, each func(Acknowledged)) (*crowd, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("looking for the loopback interface: %w", err)
	}
	dhcp, err := newExchanger(ctx, c.Card, c.Retry)
	if err != nil {
		return nil, err
	}
	return &crowd{conf: c, dhcp: dhcp, lo: lo, each: each,
		r: Result{Failed: map[string]int{}, Stages: map[string]time.Duration{}}}, nil
}

// acknowledged passes an acknowledgement on, one at a time.
func (c *crowd) acknowledged(a Acknowledged) {
	if c.each == nil {
		return
	}
	a.At = time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.each(a)
}

// Run runs a storm from this network namespace. Its loopback interface gets the addresses that the
// machines lease. each, which may be nil, is called for each acknowledgement as soon as it arrives.
func Run(ctx context.Context, c Config, each func(Acknowledged)) (Result, error) {
	c.Timeout, c.Boots, c.Retry = cmp.Or(c.Timeout, 5*time.Minute), cmp.Or(c.Boots, 5), cmp.Or(c.Retry, 2*time.Second)
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	all, err := newCrowd(ctx, c, each)
	if err != nil {
		return Result{}, err
	}
	defer all.dhcp.close()
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

// machine boots one machine until it is healthy.
func (c *crowd) machine(ctx context.Context, n int) {
	if c.conf.Spread > 0 {
		pause(ctx, rand.N(c.conf.Spread))
	}
	begin := time.Now()
	var err error
	for try := range c.conf.Boots { // as a machine whose boot failed is reset
		m := newMachine(c, n)
		if c.conf.Vanish && try == 0 {
			m.left = 1 + n%Steps
		}
		if err = m.boot(ctx); err == nil || ctx.Err() != nil {
			break
		}
		pause(ctx, c.conf.Retry/2+rand.N(c.conf.Retry/2))
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
		return fmt.Errorf("adding the address %s: %w", ip, err)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
