package bootserver

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ingot/bootserver/state"
)

// TestStuckServerIsNotAlive: a server of which nobody gets hold of the state
// gives no sign of life, so that its manager ends it and starts another
// (WatchdogSec= in ingot.service).
func TestStuckServerIsNotAlive(t *testing.T) {
	h := newHouse(t)
	var signs atomic.Int32
	s := &Server{booter: h.Booter, log: h.log, conf: Config{Alive: func() { signs.Add(1) }}}
	stuck, free, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	wait := sync.OnceFunc(func() { close(stuck); <-free })
	go func() {
		defer close(over)
		_ = h.state.Update(func(state.Tx) error { wait(); return nil })
	}()
	<-stuck
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- every(ctx, time.Millisecond, s.tick) }()
	time.Sleep(300 * time.Millisecond) // what is tested is that nothing comes of it
	if n := signs.Load(); n != 0 {
		t.Errorf("a server that is stuck gave %d signs of life", n)
	}
	close(free)
	for end := time.Now().Add(30 * time.Second); signs.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a server that goes on gives no sign of life")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	<-over
}
