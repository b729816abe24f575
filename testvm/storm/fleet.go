package storm

import (
	"cmp"
	"context"
	"errors"
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
