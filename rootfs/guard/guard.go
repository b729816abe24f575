// Package guard is the process that ingot-init leaves behind when it becomes
// systemd. It enforces the deadline of one boot: a machine that is not healthy by
// then is rebooted, and what had not finished is reported to the server. Until
// then it sends the kernel's log to the server.
//
// It is not a unit of the booted system, so a system that never finishes starting
// cannot keep it from starting. When the kernel or systemd itself hangs, the guard
// may hang with them; then the watchdog is no longer fed and resets the machine.
package guard

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"ingot"
	"ingot/rootfs"
)

// Guard watches one boot.
type Guard struct {
	Dir    string        // where handover and verdict are; ingot.RunDir
	Limit  time.Duration // by when the machine must be healthy
	From   uint64        // sequence number of the kernel's log that the server has not seen
	Reboot func()        // resets the machine
}

// Run returns when the boot is decided, or after it rebooted the machine.
func (g *Guard) Run(ctx context.Context) error {
	relayed := g.relay(ctx)
	defer relayed()
	if g.decided(ctx) {
		return nil
	}
	why := fmt.Sprintf("not healthy within %s%s; the machine reboots", g.Limit.Round(time.Second), unfinished(ctx))
	rootfs.WriteKernelLog("ingot: " + why)
	relayed()
	g.post(
		ctx,
		"events",
		ingot.Event{Stage: ingot.StageAgent, Error: why, Code: ingot.FailureDeadline, Uptime: rootfs.Uptime()},
	)
	g.Reboot()
	return nil
}

// decided waits for a verdict, and reports false when there was none in time. A machine that
// is healthy, or stays up for inspection, is never rebooted, whether or not the server knows.
func (g *Guard) decided(ctx context.Context) bool {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	boot := g.boot()
	for start := time.Now(); ; {
		if d, is := rootfs.ReadDecided(g.Dir, boot); is && d.Verdict != rootfs.VerdictReboots {
			return true
		}
		if time.Since(start) >= g.Limit {
			return false
		}
		select {
		case <-ctx.Done(): // the system is shut down
			return true
		case <-tick.C:
		}
	}
}

// boot is the boot that is watched; empty if the handover cannot be read.
func (g *Guard) boot() ingot.BootID {
	h, err := rootfs.ReadHandover(g.Dir)
	if err != nil {
		return ""
	}
	return h.Ticket.Boot
}

// unfinished says what systemd still waits for, and what failed.
func unfinished(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	text := ""
	if jobs := column(ctx, 1, "list-jobs", "--plain", "--no-legend"); len(jobs) > 0 {
		text += "; systemd is still waiting for " + list(jobs)
	}
	if failed := column(ctx, 0, "list-units", "--state=failed", "--plain", "--no-legend"); len(failed) > 0 {
		text += "; failed: " + list(failed)
	}
	return text
}

// column runs systemctl and returns one column of what it lists. Jobs that wait
// for others are left out: the one that they wait for is the cause.
func column(ctx context.Context, n int, args ...string) (names []string) {
	out, err := exec.CommandContext(ctx, "systemctl", args...).Output()
	if err != nil {
		return nil
	}
	for _, line := range strings.Split(string(out), "\n") {
		if f := strings.Fields(line); len(f) > n && f[len(f)-1] != "waiting" {
			names = append(names, f[n])
		}
	}
	return names
}

func list(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// relay passes the kernel's log on until the function that it returns is
// called, which passes on what is left.
func (g *Guard) relay(ctx context.Context) (flush func()) {
	log, err := rootfs.OpenKernelLog(g.From)
	if err != nil {
		return func() {}
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(relayPause):
				g.pass(ctx, log)
			}
		}
	}()
	over := false
	return func() {
		if over {
			return
		}
		over = true
		stop()
		<-ended
		g.pass(context.WithoutCancel(ctx), log)
		log.Close()
	}
}

// relayPause is how often the log is passed on.
const relayPause = 3 * time.Second

// pass sends what the log has now, as far as the server takes it.
func (g *Guard) pass(ctx context.Context, log *rootfs.KernelLog) {
	for range 16 {
		text, _ := log.Read(ingot.MaxConsole / 2)
		if text == "" {
			return
		}
		g.post(ctx, "console", text)
	}
}

// post sends to the server once; it does not wait for a server that is down.
func (g *Guard) post(ctx context.Context, part string, v any) {
	h, err := rootfs.ReadHandover(g.Dir)
	if err != nil || h.Server == "" {
		return
	}
	kind := "application/json"
	var body []byte
	if text, ok := v.(string); ok {
		kind, body = "text/plain; charset=utf-8", []byte(text)
	} else if body, err = json.Marshal(v); err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, _ = h.NewSender().Post(ctx, http.DefaultClient, part, kind, body) // a server that is down is not waited for
}

// Reset reboots the machine at once. File systems are synced as far as they
// let themselves within a few seconds: what hangs may be a disk.
func Reset() {
	synced := make(chan struct{})
	go func() { unix.Sync(); close(synced) }()
	select {
	case <-synced:
	case <-time.After(5 * time.Second):
	}
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	_ = os.WriteFile("/proc/sysrq-trigger", []byte("b"), 0) // when that is refused
}
