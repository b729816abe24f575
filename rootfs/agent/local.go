package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"ingot"
)

// localPause is how often the checks of a machine without a server run again.
const localPause = 5 * time.Minute

// runLocal is the life of the agent of a machine that booted without a server:
// what it would have reported goes to the journal, and to the console when it
// changes.
func (a *Agent) runLocal(ctx context.Context, r ingot.Report) error {
	if want := a.Handover.Image.Root.Digest; r.Root != want {
		r.Healthy = false
		r.Checks = append(
			r.Checks,
			ingot.CheckResult{Name: "root", Detail: fmt.Sprintf("measured %s; the image's is %s", r.Root.Short(), want.Short())},
		)
	}
	a.announce(r)
	for healthy := r.Healthy; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(localPause):
		}
		again := a.report(ctx, r.Root, a.checkOnce(ctx))
		if again.Healthy != healthy {
			healthy = again.Healthy
			a.announce(again)
		}
	}
}

// announce writes the result of the checks to the journal and the console.
func (a *Agent) announce(r ingot.Report) {
	for _, c := range r.Checks {
		a.Log.Info("check", "name", c.Name, "ok", c.OK, "detail", c.Detail)
	}
	out := a.Console
	if out == nil {
		f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
		if err != nil {
			return // the journal has it
		}
		defer f.Close()
		out = f
	}
	_, _ = io.WriteString(out, announcement(a.Handover.Ticket.Name, r)) // likewise
}

// announcement is what the console shows.
func announcement(image string, r ingot.Report) string {
	text, failed := fmt.Sprintf("\r\ningot: %s is healthy, %d checks passed\r\n", image, len(r.Checks)), 0
	for _, c := range r.Checks {
		if c.OK {
			continue
		}
		if failed++; failed == 1 {
			text = fmt.Sprintf("\r\ningot: %s is not healthy\r\n", image)
		}
		text += fmt.Sprintf("ingot:   %s: %s\r\n", c.Name, c.Detail)
	}
	return text
}
