package agent

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"

	"ingot"
	"ingot/rootfs"
)

// decided returns the verdict of an agent that ran before in this boot.
func (a *Agent) decided() (d rootfs.Decided, is bool) {
	if a.Dir == "" {
		return d, false
	}
	return rootfs.ReadDecided(a.Dir, a.Handover.Ticket.Boot)
}

// decide turns the first report of a boot into its verdict and keeps it before anything
// else is done: the machine may be healthy while the server is away.
func (a *Agent) decide(r ingot.Report) rootfs.Decided {
	d := rootfs.Decided{Boot: a.Handover.Ticket.Boot, Verdict: rootfs.VerdictHealthy, Report: r}
	switch {
	case r.Healthy:
	case a.Handover.Ticket.Restart:
		d.Verdict = rootfs.VerdictReboots
	default:
		d.Verdict = rootfs.VerdictStays
	}
	a.unkept = &d
	a.keep()
	return d
}

// keep writes a verdict that is not written yet; without room it is tried again later.
func (a *Agent) keep() {
	if a.unkept == nil || a.Dir == "" {
		return
	}
	if err := a.unkept.Write(a.Dir); err != nil {
		a.Log.Error("keeping the verdict", "err", err)
		return
	}
	a.unkept = nil
}

// act carries a verdict out: the first report is posted until the server has it, and the
// machine reboots if that was decided. It reports whether it reboots.
func (a *Agent) act(ctx context.Context, d rootfs.Decided) bool {
	if !d.Posted {
		if !a.sendUntilTaken(ctx, d.Report) {
			return false
		}
		d.Posted = true
		a.unkept = &d
		a.keep()
	}
	if d.Verdict != rootfs.VerdictReboots {
		return false
	}
	a.announce(d.Report)
	pause := cmp.Or(a.pause, restartPause)
	a.Log.Warn("not healthy; rebooting", "in", pause)
	select {
	case <-ctx.Done():
	case <-time.After(pause):
		// When it cannot be done gently, the guard does it at the deadline.
		if err := a.System.Reboot(ctx); err != nil {
			a.Log.Error("rebooting", "err", err)
			return false
		}
	}
	return true
}

// restartPause lets a person read on the console why the machine reboots.
const restartPause = 10 * time.Second

// sendUntilTaken posts the first report until the server has it. It returns false if ctx
// ended before.
func (a *Agent) sendUntilTaken(ctx context.Context, r ingot.Report) bool {
	for pause := time.Second; !a.send(ctx, "report", r); pause = min(pause*2, 30*time.Second) {
		a.keep()
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause/2 + rand.N(pause)):
		}
	}
	return true
}
