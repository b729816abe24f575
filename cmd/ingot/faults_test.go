package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
	"ingot/testvm"
	"ingot/testvm/storm"
)

// fault is what goes wrong in one round, besides the server's death.
type fault struct {
	name       string
	begin, end func(*trial) // nil: nothing to do
	storm      storm.Config // what the machines do wrong
}

// The first ones are played by make test.
var faults = []fault{
	{name: "all", begin: func(r *trial) {
		r.wire.Set(testvm.Faults{Loss: 0.1, Duplicate: 0.1, Reorder: 0.1})
		r.setClock(time.Hour)
	}, end: func(r *trial) { r.setClock(0); r.mend() }, storm: storm.Config{Vanish: true, Slow: true}},
	{name: "disk full", begin: (*trial).fillDisk, end: (*trial).freeDisk},
	{name: "killed"},
	{name: "loss", begin: func(r *trial) { r.wire.Set(testvm.Faults{Loss: 0.2}) }, end: (*trial).mend},
	{name: "twice and late", begin: func(r *trial) { r.wire.Set(testvm.Faults{Duplicate: 0.3, Reorder: 0.3}) },
		end: (*trial).mend},
	{name: "vanishing", storm: storm.Config{Vanish: true}},
	{name: "slow", storm: storm.Config{Slow: true}},
	{name: "clock forward", begin: func(r *trial) { r.setClock(time.Hour) }, end: func(r *trial) { r.setClock(0) }},
	{name: "clock back", begin: func(r *trial) { r.setClock(-time.Hour) }, end: func(r *trial) { r.setClock(0) }},
}

// trial is a field on which rounds of faults are played.
type trial struct {
	*field
	random  *rand.Rand
	wire    *testvm.Wire
	clock   string // file
	ballast string // file that fills the disk of the state

	mu           sync.Mutex
	acknowledged []heard                           // all since the state was last looked at
	odd          bool                              // this round's clock is not the machines'
	holder       map[netip.Addr]storm.Acknowledged // the last lease of each address
	kept         int                               // acknowledgements that were found on the disk
	amid         int                               // rounds in which the server died before all were healthy
	ahead        bool                              // a lease was written down while the clock was ahead
}

// heard is an acknowledgement, and whether it may be of any time.
type heard struct {
	storm.Acknowledged
	anyTime bool
}

// The crowd: so many machines, of which some boot in each round. Their network
// has a few addresses more than there are machines.
const (
	faultMachines = 40
	faultSettings = `dhcp:
  interfaces: [{name: br0, mode: full, probe: 10ms}]
  lease: 1h
  networks:
    - name: crowd
      interface: br0
      subnets: [{prefix: 10.99.0.0/16, pools: [10.99.16.0-10.99.16.47]}]
boots: {approveAll: true, image: "storm:v1"}
`
)

// TestFaults: in every round some machines boot, something goes wrong, and the
// server is killed at a random moment and started again. What it acknowledged
// is on the disk when it is dead; no address is ever acknowledged to two
// machines; and when the fault is over, all boots come to healthy.
// INGOT_TEST_ROUNDS says how many (make test-all: 200), INGOT_TEST_SEED repeats.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	rounds, seed := 3, uint64(time.Now().UnixNano())
	if os.Getenv("INGOT_TEST_ALL") != "" {
		rounds = 200
	}
	if n, err := strconv.Atoi(os.Getenv("INGOT_TEST_ROUNDS")); err == nil {
		rounds = n
	}
	if n, err := strconv.ParseUint(os.Getenv("INGOT_TEST_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("INGOT_TEST_SEED=%d", seed)
	r := newTrial(t, seed, time.Duration(rounds)*5*time.Minute)
	r.serve()
	for n := range rounds {
		began := time.Now()
		f := faults[n%len(faults)]
		killed, ready := r.round(f)
		t.Logf("round %d: %s: killed after %.1f s, ready again after %.1f s, all over after %.1f s", n, f.name,
			killed.Sub(began).Seconds(), ready.Sub(began).Seconds(), time.Since(began).Seconds())
		if t.Failed() {
			t.FailNow()
		}
	}
	r.kill()
	r.check(fault{name: "the end"})
	t.Logf("in %d of %d rounds the server died before all were healthy; %d acknowledgements were found on its disk; "+
		"%d frames were lost", r.amid, rounds, r.kept, r.wire.Lost())
	if rounds >= 3 && (r.wire.Lost() == 0 || r.amid == 0) {
		t.Error("no frame was lost, or the server never died while machines booted")
	}
	full := strings.Contains(r.log.String(), syscall.ENOSPC.Error())
	t.Logf("the disk was found full: %v; a lease was written while the clock was ahead: %v", full, r.ahead)
	if rounds > 50 && (!full || !r.ahead) { // in a few rounds chance may have it so
		t.Error("the disk or the clock was never in the way")
	}
}

func newTrial(t *testing.T, seed uint64, limit time.Duration) *trial {
	t.Helper()
	f := newFieldOf(t, sizes{loader: 20_000, kernel: 64 << 10, initramfs: 96 << 10, root: 192 << 10}, limit)
	r := &trial{field: f, random: rand.New(rand.NewPCG(seed, 0)), clock: filepath.Join(f.dir, "clock"),
		holder: map[netip.Addr]storm.Acknowledged{}}
	f.write(faultSettings)
	f.env = append(f.env, "INGOT_TEST_CLOCK="+r.clock)
	// A disk of its own for the state, so small that it can be filled at once.
	disk := filepath.Join(f.store, state.Folder)
	r.ballast = filepath.Join(disk, "ballast")
	if err := os.MkdirAll(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "mode=0700,size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	var err error
	if r.wire, err = f.lan.NewWire(f.ctx, "crowd0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.wire.Close() }) // the LAN is gone by then
	return r
}

func (r *trial) mend() { r.wire.Set(testvm.Faults{}) }

func (r *trial) setClock(by time.Duration) {
	r.t.Helper()
	if err := os.WriteFile(r.clock+".new", []byte(by.String()), 0o644); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.clock+".new", r.clock); err != nil {
		r.t.Fatal(err)
	}
}

// fillDisk leaves not a block to the state.
func (r *trial) fillDisk() {
	r.t.Helper()
	f, err := os.Create(r.ballast)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *trial) freeDisk() {
	r.t.Helper()
	if err := os.Remove(r.ballast); err != nil {
		r.t.Fatal(err)
	}
}

// round is one death of the server with one fault.
func (r *trial) round(f fault) (killed, ready time.Time) {
	r.t.Helper()
	c := f.storm
	c.Machines = 12
	c.First = r.random.IntN(faultMachines - c.Machines)
	c.Spread, c.Retry, c.Boots, c.Timeout = time.Second, 200*time.Millisecond, 50, 4*time.Minute
	if f.name == "disk full" {
		c.Spread = 8 * time.Second // for a while, the journal has room for what the state file has not
	}
	r.mu.Lock()
	r.odd = f.name == "all" || strings.HasPrefix(f.name, "clock")
	r.mu.Unlock()
	if f.begin != nil {
		f.begin(r)
	}
	over, wait := r.storm(c)
	r.sleep(1500 * time.Millisecond)
	if f.name == "disk full" { // or it could not start
		time.Sleep(c.Spread - 2*time.Second)
		f.end(r)
		r.sleep(time.Second)
	}
	r.kill()
	killed = time.Now()
	if !over() {
		r.amid++
	}
	r.check(f)
	r.serve()
	ready = time.Now()
	if f.end != nil && f.name != "disk full" {
		r.sleep(2 * time.Second)
		f.end(r)
	}
	wait()
	return killed, ready
}

// sleep lasts a random time, up to d.
func (r *trial) sleep(d time.Duration) { time.Sleep(time.Duration(r.random.Int64N(int64(d)))) }

// storm powers machines on, and hears what is acknowledged to them.
func (r *trial) storm(c storm.Config) (over func() bool, wait func()) {
	r.t.Helper()
	c.Card = r.crowd.Card
	conf, err := json.Marshal(c)
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := asIngot(r.crowd.Command(r.ctx, os.Args[0], "lab", "storm-machines", "--acknowledged", string(conf)))
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	if err := r.lan.Start(cmd); err != nil {
		r.t.Fatal(err)
	}
	last := make(chan []byte, 1)
	go func() {
		lines := bufio.NewScanner(out)
		var line []byte
		for lines.Scan() {
			line = slices.Clone(lines.Bytes())
			if !bytes.HasPrefix(line, []byte(`{"healthy"`)) {
				r.hear(line)
			}
		}
		last <- line
	}()
	return func() bool { return len(last) > 0 }, func() {
		r.t.Helper()
		line := <-last
		if err := cmd.Wait(); err != nil {
			r.t.Fatalf("the storm ended: %v\n%s", err, errs.String())
		}
		var result storm.Result
		if err := json.Unmarshal(line, &result); err != nil {
			r.t.Fatalf("reading how the storm went: %v: %s", err, line)
		}
		r.t.Logf("the last of %d machines is healthy %.1f s after its power-on, all after %.1f s; mean of each stage: %v",
			c.Machines, result.Last.Seconds(), result.Elapsed.Seconds(), result.Stages)
		if result.Healthy != c.Machines {
			r.t.Errorf("%d of %d machines are healthy: %v", result.Healthy, c.Machines, result.Failed)
		}
	}
}

// hear keeps an acknowledgement. Nobody releases an address here and leases are
// longer than the test, so that an address has one machine for ever.
func (r *trial) hear(line []byte) {
	var a storm.Acknowledged
	if err := json.Unmarshal(line, &a); err != nil {
		r.t.Errorf("what is acknowledged: %v: %s", err, line)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.Address.IsValid() {
		if h, had := r.holder[a.Address]; had && h.MAC != a.MAC {
			r.t.Errorf("%s is lent to %s at %s and to %s at %s", a.Address, h.MAC, h.At, a.MAC, a.At)
		}
		r.holder[a.Address] = a
	}
	r.acknowledged = append(r.acknowledged, heard{a, r.odd})
}

// kill ends the server as a power cut would, but for the page cache.
func (r *trial) kill() {
	r.t.Helper()
	if err := r.server.Process.Kill(); err != nil {
		r.t.Fatal(err)
	}
	if err := <-r.ended; err == nil {
		r.t.Error("the server ended by itself, before it was killed")
	}
}

// check looks at the disk of the dead server for all that was acknowledged.
func (r *trial) check(f fault) {
	r.t.Helper()
	st, err := bolt.Open(r.ctx, filepath.Join(r.store, state.Folder))
	if err != nil {
		r.t.Fatal(err)
	}
	defer st.Close()
	leases, err := st.Leases()
	if err != nil {
		r.t.Fatal(err)
	}
	found := map[netip.Addr]fleet.Lease{}
	for _, l := range leases {
		found[l.Address] = l
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.acknowledged {
		r.ahead = r.ahead || found[a.Address].Expires.After(a.At.Add(a.For+50*time.Minute))
		if err := kept(a, found, st); err != nil {
			r.t.Errorf("%s: %v", f.name, err)
		}
	}
	r.kept += len(r.acknowledged)
	r.acknowledged = nil
}

// kept says what is missing of an acknowledgement.
func kept(a heard, leases map[netip.Addr]fleet.Lease, st state.Store) error {
	if a.Address.IsValid() {
		l, ok := leases[a.Address]
		// It was written down before the answer came.
		if !ok || l.MAC != a.MAC || !a.anyTime && l.Expires.Before(a.At.Add(a.For-30*time.Second)) {
			return fmt.Errorf("%s had %s acknowledged at %s for %s; the disk has %+v", a.MAC, a.Address, a.At, a.For, l)
		}
		return nil
	}
	b, ok := st.Boot(a.Boot)
	switch {
	case !ok:
		return fmt.Errorf("%s reported stage %s of boot %s; the disk has no such boot", a.MAC, a.Stage, a.Boot)
	case a.Stage == ingot.StageHealthy && b.Outcome != ingot.OutcomeHealthy:
		return fmt.Errorf("%s reported that boot %s is healthy; the disk says %q (%s)", a.MAC, a.Boot, b.Outcome, b.Reason)
	case !slices.ContainsFunc(b.Events, func(e fleet.Event) bool { return e.Stage == a.Stage }):
		return fmt.Errorf("%s reported stage %s of boot %s; the disk has %+v", a.MAC, a.Stage, a.Boot, b.Events)
	}
	return nil
}
