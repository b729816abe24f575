package main

import (
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// steppedClock is a server's wall clock that somebody sets while it runs, by the
// duration in a file. Setting the real one would disturb everything else here,
// and time namespaces have no wall clock (time_namespaces(7)).
type steppedClock struct{ by atomic.Int64 }

func newSteppedClock(path string) *steppedClock {
	c := &steppedClock{}
	c.read(path)
	go func() {
		for range time.Tick(5 * time.Millisecond) {
			c.read(path)
		}
	}()
	return c
}

func (c *steppedClock) read(path string) {
	text, _ := os.ReadFile(path) // none: nobody has set the clock
	if d, err := time.ParseDuration(strings.TrimSpace(string(text))); err == nil {
		c.by.Store(int64(d))
	}
}

func (c *steppedClock) now() time.Time { return stepped(time.Now(), time.Duration(c.by.Load())) }

// stepped is a time of now with another wall clock and the same monotonic one,
// as clock_settime(2) leaves them. A time's first word holds the seconds of the
// wall clock in its bits 30 to 62 when it has both (package time, type Time).
func stepped(t time.Time, by time.Duration) time.Time {
	*(*uint64)(unsafe.Pointer(&t)) += uint64(by/time.Second) << 30
	return t
}

func TestSteppedClock(t *testing.T) {
	now := time.Now()
	for _, by := range []time.Duration{time.Hour, -time.Hour} {
		later := stepped(now, by)
		if wall, monotonic := later.Round(0).Sub(now.Round(0)), later.Sub(now); wall != by || monotonic != 0 {
			t.Errorf("stepped by %s: the wall clock moved by %s, the monotonic one by %s", by, wall, monotonic)
		}
	}
}
