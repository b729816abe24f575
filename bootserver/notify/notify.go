// Package notify sends entries of the ledger to webhooks (package fleet/webhook): each one that a webhook
// wants, in their order, as one signed HTTP request, until the receiver accepts it or it becomes a dead
// letter. The ledger itself is the queue: of each webhook the state remembers how far it was sent, at
// most a second late, so that a server that dies sends the last events once more and loses none.
//
// Each webhook has a goroutine and a connection of its own, and reads the ledger in small parts: one that
// hangs delays no other, no machine, and no end of the server.
//
// Left out on purpose: batches. Receivers know one event per request, and an event that one of them
// refuses must not keep its neighbours from being accepted.
package notify

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
)

// Config is what a Notifier works with. State, Keys, Data and Now are required.
type Config struct {
	State state.Store
	Keys  string // folder of the key that seals secrets
	// Data converts a Change to what is sent.
	Data    func(fleet.Change) api.WebhookData
	Version string
	Now     func() time.Time
	Log     *slog.Logger // nil is quiet
	// Policy is how long events are tried; zero fields mean the defaults.
	Policy webhook.Policy
	// Timeout is that of one attempt; zero: 10 seconds.
	Timeout time.Duration
}

const (
	defaultTimeout = 10 * time.Second
	// flushAfter is the longest time that progress is in memory only.
	flushAfter = time.Second
	// skimAfter is that of progress over entries that a webhook does not want.
	skimAfter = time.Minute
	// lookAfter is the longest time between two looks at the records of webhooks.
	lookAfter = 10 * time.Second
)

// Notifier sends events to webhooks.
type Notifier struct {
	Config
	keys    keeper
	feed    feed
	changed signal // an operator changed a webhook

	mu      sync.Mutex
	workers map[string]*worker // of webhooks, by id

	sent, failed, dead atomic.Uint64
}

// New returns a Notifier.
func New(c Config) *Notifier {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	c.Policy = c.Policy.WithDefaults()
	n := &Notifier{Config: c, keys: keeper{folder: c.Keys}, workers: map[string]*worker{}}
	n.feed.state = c.State
	return n
}

// Run sends events until ctx ends.
func (n *Notifier) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { n.feed.run(ctx, n.active, &n.changed); return nil })
	for ctx.Err() == nil {
		changed := n.changed.next()
		for _, w := range n.State.Webhooks() {
			if x := n.hire(w.ID); x != nil {
				g.Go(func() error { defer n.dismiss(w.ID); x.run(ctx); return nil })
			}
		}
		wait(ctx, lookAfter, changed)
	}
	return g.Wait()
}

// hire returns a new worker for a webhook that has none.
func (n *Notifier) hire(id string) *worker {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.workers[id] != nil {
		return nil
	}
	x := &worker{n: n, id: id}
	n.workers[id] = x
	return x
}

func (n *Notifier) dismiss(id string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.workers, id)
}

// active reports whether any webhook gets events.
func (n *Notifier) active() bool {
	for _, w := range n.State.Webhooks() {
		if w.Paused == nil {
			return true
		}
	}
	return false
}

// Wake makes the Notifier look at webhooks that an operator changed.
func (n *Notifier) Wake() { n.changed.send() }

// Counts are of what happened since the server started.
type Counts struct {
	Sent   uint64 // events that were accepted
	Failed uint64 // attempts that failed
	Dead   uint64 // events that became dead letters
}

// Counts returns what happened since the server started.
func (n *Notifier) Counts() Counts { return Counts{n.sent.Load(), n.failed.Load(), n.dead.Load()} }

// Progress returns how far the ledger was sent to a webhook, also what is not stored yet.
func (n *Notifier) Progress(id string) webhook.Progress {
	n.mu.Lock()
	x := n.workers[id]
	n.mu.Unlock()
	stored, _ := n.State.WebhookProgress(id)
	if x == nil {
		return stored
	}
	if p := x.shown.Load(); p != nil && p.Ledger == stored.Ledger && p.Seq >= stored.Seq {
		return *p
	}
	return stored
}

// random is from [0,1).
func (n *Notifier) random() float64 { return rand.Float64() }

// signal wakes all that wait for its next time.
type signal struct {
	mu sync.Mutex
	c  chan struct{}
}

// next returns a channel that is closed the next time.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c == nil {
		s.c = make(chan struct{})
	}
	return s.c
}

func (s *signal) send() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.c != nil {
		close(s.c)
		s.c = nil
	}
}

// wait returns after a time, when one of two signals comes, or ctx ends.
func wait(ctx context.Context, d time.Duration, signals ...<-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	var a, b <-chan struct{}
	if len(signals) > 0 {
		a = signals[0]
	}
	if len(signals) > 1 {
		b = signals[1]
	}
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-a:
	case <-b:
	}
}
