package storm

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"ingot"
)

// Fleet are machines that stay on. Each boots when it is told to, and reports every second until it boots
// again. One whose boot fails resets itself, as real ones do.
type Fleet struct {
	*crowd
	works func(n int, image ingot.Digest) bool

	mu      sync.Mutex // of running
	running map[int]func()
	all     sync.WaitGroup
}

// FleetConfig is the configuration of a process that simulates machines which stay on.
type FleetConfig struct {
	Storm  Config               `json:"storm"`
	Broken map[ingot.Digest]int `json:"broken"`        // percent of the boots of an image that fail
	Odd    []ingot.Digest       `json:"odd,omitempty"` // images that work on no machine of Config.Disk
	Seed   uint64               `json:"seed"`
}

// ServeFleet is that process. It reads the numbers of machines to boot, one a line.
func ServeFleet(ctx context.Context, config string, in io.Reader) error {
	var c FleetConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return fmt.Errorf("reading the configuration of a fleet: %w", err)
	}
	const percent = 100
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(c.Seed, 1))
	f, err := NewFleet(ctx, c.Storm, func(n int, image ingot.Digest) bool {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(percent) >= c.Broken[image] && (n%2 == 0 || !slices.Contains(c.Odd, image))
	})
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return fmt.Errorf("reading the number of a machine: %w", err)
		}
		go f.Boot(ctx, n)
	}
	return nil
}

// errBroken: the image does not work on the machine.
var errBroken = errors.New("the image is broken")

// NewFleet makes machines in this network namespace, switched off. Of the configuration, Card and Retry
// count. works reports whether an image works on a machine; the initramfs of one that does not fails.
func NewFleet(ctx context.Context, c Config, works func(n int, image ingot.Digest) bool) (*Fleet, error) {
	c.Retry = cmp.Or(c.Retry, 2*time.Second)
	c.Machines = cmp.Or(c.Machines, 1)
	all, err := newCrowd(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	return &Fleet{crowd: all, works: works, running: map[int]func(){}}, nil
}

// Boot resets machine n, or switches it on. It returns when what the machine ran before has ended.
func (f *Fleet) Boot(ctx context.Context, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if end := f.running[n]; end != nil {
		end()
	}
	ctx, cancel := context.WithCancel(ctx)
	over := make(chan struct{})
	f.running[n] = func() { cancel(); <-over }
	f.all.Go(func() {
		defer close(over)
		for ctx.Err() == nil {
			m := newMachine(f.crowd, n)
			m.works = func(image ingot.Digest) bool { return f.works(n, image) }
			_ = m.boot(ctx) // the server knows how it went
			pause(ctx, f.conf.Retry)
		}
	})
}

// Close switches all machines off.
func (f *Fleet) Close() {
	f.mu.Lock()
	for _, end := range f.running {
		end()
	}
	f.mu.Unlock()
	f.all.Wait()
	f.dhcp.close()
}
