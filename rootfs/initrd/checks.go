package initrd

import (
	"context"
	"fmt"
	"sync"
	"time"

	"ingot"
	"ingot/rootfs/volumes"
)

// The check of a large filesystem takes longer than a boot may. While it advances, the watchdog
// is fed, the server hears how far it is, and the time does not count.

const (
	checkPatience = 10 * time.Minute // between two advances
	checkConsole  = 5 * time.Second  // between two lines on the console
	checkEvents   = 20 * time.Second // between two events
)

// checkProgress follows the checks of one try.
type checkProgress struct {
	say    func(format string, a ...any)
	report func(e ingot.Event) // may take seconds
	hold   func(d time.Duration)
	done   func(took time.Duration)

	mu      sync.Mutex
	began   time.Time     // of the advances that follow each other; zero for none
	last    time.Time     // the latest advance
	took    time.Duration // of those before
	said    time.Time
	posted  time.Time
	posting sync.WaitGroup
}

func (b *boot) followChecks(ctx context.Context) *checkProgress {
	return &checkProgress{say: b.console.say, report: func(e ingot.Event) { b.report(ctx, e) }, hold: b.life.hold,
		done: func(took time.Duration) {
			b.checked += took
			b.life.extend(took)
		}}
}

// advance is called for each advance of e2fsck, many times a second.
func (c *checkProgress) advance(p volumes.Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.began.IsZero() || now.Sub(c.last) > checkPatience {
		c.took += c.last.Sub(c.began)
		c.began = now
		c.said, c.posted = now, now // a check of seconds is not worth a line
	}
	c.last = now
	c.hold(checkPatience)
	text := fmt.Sprintf("checking %s, %d %%", p.Device, p.Percent)
	if now.Sub(c.said) >= checkConsole {
		c.said = now
		c.say("volume %s: %s", p.Volume, text)
	}
	if now.Sub(c.posted) < checkEvents {
		return
	}
	c.posted = now
	c.posting.Go(func() { // the pipe of e2fsck is not to fill up while a server is away
		c.report(ingot.Event{Stage: ingot.StageVolumes, Detail: text,
			Check: &ingot.VolumeCheck{Volume: p.Volume, Device: p.Device, Percent: p.Percent}})
	})
}

// end says how long the checks took altogether.
func (c *checkProgress) end() {
	c.posting.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if took := c.took + c.last.Sub(c.began); took > 0 {
		c.done(took)
	}
	c.hold(0)
}
