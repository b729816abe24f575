// Package agent runs in the booted system, as the same binary that booted it:
// it measures the root that is really mounted, runs the image's health checks
// and reports both to the server, at once and then as a heartbeat.
//
// The first result decides the boot, and only that one may reboot the machine. It is
// kept in ingot.RunDir, so that an agent which is started again only reports.
package agent

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"ingot"
	"ingot/rootfs"
)

// Agent reports on one booted system.
type Agent struct {
	Handover *rootfs.Handover
	HTTP     *http.Client  // nil means one with a timeout of 30 s
	Log      *slog.Logger  // nil is quiet
	System   System        // asks systemd; nil means systemctl
	Console  io.Writer     // nil means /dev/console
	Dir      string        // where the verdict is kept, also for the guard; empty: nowhere
	pause    time.Duration // before a reboot; 0 means restartPause
	sender   *rootfs.Sender
	orders   orders

	unkept *rootfs.Decided // a verdict that could not be written yet
}

// Run checks, reports, and goes on reporting until ctx ends. A server that is
// away is waited for; what it refuses is logged and asked again at the next
// heartbeat.
func Run(ctx context.Context, log *slog.Logger) error {
	h, err := rootfs.ReadHandover(ingot.RunDir)
	if err != nil {
		return err
	}
	a := &Agent{Handover: h, Log: log, Dir: ingot.RunDir}
	return a.Run(ctx)
}

// Run is the life of the agent.
func (a *Agent) Run(ctx context.Context) error {
	a.sender = a.Handover.NewSender()
	if a.HTTP == nil {
		a.HTTP = &http.Client{Timeout: 30 * time.Second}
	}
	if a.Log == nil {
		a.Log = slog.New(slog.DiscardHandler)
	}
	if a.System == nil {
		a.System = systemctl{}
	}
	decided, again := a.decided()
	if a.Handover.Server != "" {
		a.send(ctx, "events", ingot.Event{Stage: ingot.StageAgent, Uptime: rootfs.Uptime()})
	}
	root, checks, err := a.measureAndCheck(ctx, !again)
	switch {
	case ctx.Err() != nil: // results of checks that were interrupted are none
		return nil
	case err != nil:
		return a.unreadable(ctx, err)
	}
	r := a.report(ctx, root, checks)
	a.Log.Info("reporting", "healthy", r.Healthy, "root", r.Root, "boot", r.Boot, "decided", decided.Verdict)
	if a.Handover.Server == "" {
		return a.runLocal(ctx, r)
	}
	if !again {
		decided = a.decide(r)
	}
	if a.act(ctx, decided) {
		return nil
	}
	a.goOn(ctx, root)
	return nil
}

// goOn sends heartbeats and carries out orders until ctx ends.
func (a *Agent) goOn(ctx context.Context, root ingot.Digest) {
	a.readOrders()
	defer a.orders.done.Wait()
	beat := cmp.Or(a.Handover.Ticket.Heartbeat, ingot.Heartbeat)
	for {
		a.keep()
		select {
		case <-ctx.Done():
			a.sayDown(ctx)
			return
		case <-time.After(beat*3/4 + rand.N(beat/2)): // a rack must not beat in step
		}
		a.beat(ctx, root)
	}
}

// measureAndCheck measures the root and runs the checks at the same time: until they are
// decided if this is the boot's first report, else once.
func (a *Agent) measureAndCheck(ctx context.Context, first bool) (ingot.Digest, []ingot.CheckResult, error) {
	var checks []ingot.CheckResult
	run := a.checkOnce
	if first {
		run = a.checkUntilDecided
	}
	done := make(chan struct{})
	go func() { checks = run(ctx); close(done) }()
	root, err := Measure(a.Handover.RootDevice, a.Handover.Image.Root.Size)
	<-done
	return root, checks, err
}

// sayDown reports that the system shuts down, if it does: then the server need not wait for heartbeats
// that are missing before another boot of this machine replaces this one. A stop of the agent alone
// is no reason. systemd has longer to answer than the server: it is busy with stopping everything, and
// without this message failures of the next boots do not count for a while.
func (a *Agent) sayDown(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	if !a.stopping(ctx) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	e := ingot.Event{Stage: ingot.StageAgent, Down: true, Detail: "the system shuts down", Uptime: rootfs.Uptime()}
	for !a.send(ctx, "events", e) && sleep(ctx, 300*time.Millisecond) {
	}
}

// stopping reports whether the whole system stops. Until systemd answers it is asked again, for 20 s.
func (a *Agent) stopping(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		state, err := a.System.State(ctx)
		if err == nil {
			return state == "stopping"
		}
		a.Log.Warn("asking systemd whether the system shuts down", "err", err)
		if !sleep(ctx, 100*time.Millisecond) {
			return false
		}
	}
}

// sleep waits for d; it returns false if ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// unreadable reports a root that could not be measured. The unit starts the agent again.
func (a *Agent) unreadable(ctx context.Context, err error) error {
	if a.Handover.Server != "" {
		a.send(ctx, "events", ingot.Event{Stage: ingot.StageAgent, Error: err.Error(), Code: ingot.FailureRootUnreadable,
			Retry: true, Uptime: rootfs.Uptime()})
	}
	return err
}

// Measure is the digest of the first size bytes of the root's device: what is
// mounted, not what is claimed to be mounted.
func Measure(device string, size int64) (ingot.Digest, error) {
	f, err := os.Open(device)
	if err != nil {
		return "", fmt.Errorf("measuring the root: %w", err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.CopyN(sum, f, size); err != nil {
		return "", fmt.Errorf("measuring the root: %w", err)
	}
	return ingot.DigestFromSum([sha256.Size]byte(sum.Sum(nil))), nil
}

func (a *Agent) report(ctx context.Context, root ingot.Digest, checks []ingot.CheckResult) ingot.Report {
	r := ingot.Report{
		Boot:    a.Handover.Ticket.Boot,
		Image:   a.Handover.Ticket.Image,
		Root:    root,
		Healthy: true,
		Checks:  checks,
		Uptime:  rootfs.Uptime(),
		Failed:  a.System.Failed(ctx),
		Volumes: a.Handover.Volumes,
	}
	r.OverlayUsed, r.OverlaySize = rootfs.Space("/")
	r.RAMTotal, r.RAMUsed = rootfs.Memory()
	for _, c := range checks {
		r.Healthy = r.Healthy && c.OK
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		r.Kernel = string(bytes.TrimSpace(b))
	}
	r.Hostname, _ = os.Hostname() // only for people; empty is fine
	return r
}

var errRefused = errors.New("the server refused the request")

// send posts once and reports whether the matter is settled: the server took
// it, or refused it for good.
func (a *Agent) send(ctx context.Context, part string, v any) bool {
	_, err := a.post(ctx, part, v)
	return a.final(part, err)
}

// final logs the error of a message, and reports whether the matter is settled.
func (a *Agent) final(part string, err error) bool {
	if err != nil {
		a.Log.Warn("reporting to the server", "part", part, "err", err)
	}
	return err == nil || errors.Is(err, errRefused)
}

func (a *Agent) post(ctx context.Context, part string, v any) (answer rootfs.Answer, err error) {
	body, err := json.Marshal(v)
	if err != nil {
		return answer, err
	}
	answer, err = a.sender.Post(ctx, a.HTTP, part, "application/json", body)
	switch {
	case err != nil:
		return answer, err
	case answer.Status >= 500 || answer.Status == http.StatusTooManyRequests:
		return answer, fmt.Errorf("the server answers %d", answer.Status)
	case answer.Status >= 400:
		return answer, fmt.Errorf("%w: %d: %s", errRefused, answer.Status, bytes.TrimSpace(answer.Text))
	}
	return answer, nil
}
