package network

import (
	"context"
	"sync"
	"time"
)

// Bounds on the packets that are handled at once. Unknown machines get a part of
// them, and few of those may begin an exchange: in a flood the exchanges that have
// begun are completed, and clients that are left out retransmit. A late answer is
// worth nothing to them.
const (
	maxInFlight  = 4096
	maxUnknown   = 3072
	maxBeginning = 512
)

// Sender is what bounds the handling of a packet.
type Sender struct {
	Unknown bool // its machine is not approved or configured
	Begins  bool // the packet begins an exchange: a DHCPDISCOVER, a Solicit
}

// InFlight is the packets that are being handled. K tells a retransmission from
// another packet. The zero value is ready to use.
type InFlight[K comparable] struct {
	mu        sync.Mutex
	packets   map[K]Sender
	unknown   int
	beginning int // unknown and Begins
	jobs      chan func()
}

// Run handles a packet in a goroutine. It does nothing if the packet retransmits
// one that is being handled, or if there are too many.
func (i *InFlight[K]) Run(ctx context.Context, k K, s Sender, handle func()) {
	if !i.enter(k, s) {
		return
	}
	job := func() {
		defer i.leave(k)
		handle()
	}
	select {
	case i.jobs <- job: // to an idle goroutine
	default:
		go i.work(ctx, job)
	}
}

// idle is how long a goroutine waits for another packet. Its stack has grown to
// what packets need; a new one would have to grow again.
const idle = 5 * time.Second

func (i *InFlight[K]) work(ctx context.Context, job func()) {
	t := time.NewTimer(idle)
	defer t.Stop()
	for {
		job()
		t.Reset(idle)
		select {
		case job = <-i.jobs:
		case <-t.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (i *InFlight[K]) enter(k K, s Sender) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.packets == nil {
		i.packets, i.jobs = map[K]Sender{}, make(chan func())
	}
	_, again := i.packets[k]
	begins := s.Unknown && s.Begins
	if again || len(i.packets) >= maxInFlight || s.Unknown && i.unknown >= maxUnknown || begins &&
		i.beginning >= maxBeginning {
		return false
	}
	i.packets[k] = s
	i.count(s, 1)
	return true
}

func (i *InFlight[K]) leave(k K) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if s, ok := i.packets[k]; ok {
		delete(i.packets, k)
		i.count(s, -1)
	}
}

func (i *InFlight[K]) count(s Sender, n int) {
	if !s.Unknown {
		return
	}
	i.unknown += n
	if s.Begins {
		i.beginning += n
	}
}
