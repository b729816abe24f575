package initrd

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ingot"
	"ingot/rootfs/volumes"
)

// TestLongCheck: a check of three hours is followed on the console and by events, the machine is
// held alive, and the deadline moves by as long as it took. A check that stops advancing is not
// waited for.
func TestLongCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var events []ingot.Event
		said := 0
		l := &life{born: time.Now()}
		l.limit(5 * time.Minute)
		c := &checkProgress{say: func(string, ...any) { said++ }, report: func(e ingot.Event) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, e)
		}, hold: l.hold, done: l.extend}
		const steps = 3 * 3600
		for i := range steps {
			c.advance(volumes.Progress{Volume: "data", Device: "/dev/vdb", Percent: i * 100 / steps})
			time.Sleep(time.Second)
			if l.over() {
				t.Fatalf("the watchdog is no longer fed after %d s", i)
			}
		}
		c.end()
		if l.over() {
			t.Error("the check used up the boot's time")
		}
		time.Sleep(6 * time.Minute)
		if !l.over() {
			t.Error("after the check, the boot has no limit")
		}
		synctest.Wait()
		want := ingot.VolumeCheck{Volume: "data", Device: "/dev/vdb", Percent: 50}
		found := false
		for _, e := range events {
			found = found || *e.Check == want && e.Detail == fmt.Sprintf("checking /dev/vdb, %d %%", 50)
		}
		if len(events) < 500 || len(events) > 600 || said < 2000 || !found {
			t.Errorf("%d events and %d lines, half-way reported: %t", len(events), said, found)
		}

		c = &checkProgress{say: c.say, report: c.report, hold: l.hold, done: l.extend}
		l.limit(5 * time.Minute)
		c.advance(volumes.Progress{Volume: "data", Device: "/dev/vdb"})
		time.Sleep(checkPatience + time.Second) // it hangs
		if !l.over() {
			t.Error("a check that hangs is waited for")
		}
	})
}
