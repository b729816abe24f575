package initrd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"ingot"
	"ingot/rootfs"
)

// A boot that hangs must not leave the machine hanging. From here on the watchdog
// runs; ingot-init feeds it until the boot's deadline, then systemd does; and a
// guard that ingot-init leaves behind reboots a machine that is not healthy by
// the deadline.

// initrdPatience bounds the initramfs before a ticket says a deadline: longer
// than a server may be away.
const initrdPatience = 45 * time.Minute

// life is the watchdog of one boot.
type life struct {
	dog   *rootfs.Watchdog // nil: this machine has none
	until atomic.Int64     // feed until this time; nanoseconds after born
	held  atomic.Int64     // and until this one, while something that takes long advances
	born  time.Time
	done  chan struct{}
}

// setKernelDefaults makes the kernel reboot after a panic, when its arguments do not
// say what it should do.
func setKernelDefaults() {
	if b, err := os.ReadFile("/proc/sys/kernel/panic"); err == nil && strings.TrimSpace(string(b)) == "0" {
		_ = os.WriteFile("/proc/sys/kernel/panic", []byte("30"), 0) // as good as it gets without
	}
	_ = os.WriteFile("/proc/sys/kernel/panic_on_oops", []byte("1"), 0)
	_ = os.WriteFile("/proc/sys/kernel/printk_devkmsg", []byte("on"), 0) // our lines are not to be left out
}

// watch starts the watchdog: the machine's own, or else the kernel's, which
// helps against all but a kernel that hangs.
func (b *boot) watch() {
	b.life = &life{born: time.Now(), done: make(chan struct{})}
	b.life.limit(initrdPatience)
	dog, err := rootfs.OpenWatchdog("/dev/watchdog")
	if err != nil {
		if loaded := b.mods.byName("softdog"); loaded != nil {
			b.console.say("no watchdog: %v", loaded)
			return
		}
		if dog, err = rootfs.OpenWatchdog("/dev/watchdog"); err != nil {
			b.console.say("no watchdog: %v", err)
			return
		}
	}
	b.life.dog = dog
	b.console.say("watchdog %s, %s", dog.Name, dog.Timeout)
	go b.life.feed()
}

// limit sets how long, from now on, the boot may take.
func (l *life) limit(d time.Duration) {
	if l != nil {
		l.until.Store(int64(time.Since(l.born) + d))
	}
}

// hold keeps the watchdog fed for some time from now on, whatever the limit.
func (l *life) hold(d time.Duration) {
	if l != nil {
		l.held.Store(int64(time.Since(l.born) + d))
	}
}

// extend moves the limit.
func (l *life) extend(d time.Duration) {
	if l != nil {
		l.until.Add(int64(d))
	}
}

// over reports whether the limit has passed.
func (l *life) over() bool { return int64(time.Since(l.born)) > max(l.until.Load(), l.held.Load()) }

func (l *life) feed() {
	tick := time.NewTicker(min(l.dog.Timeout/4, 5*time.Second))
	defer tick.Stop()
	for {
		l.dog.Feed()
		select {
		case <-l.done:
			return
		case <-tick.C:
		}
		if l.over() {
			rootfs.WriteKernelLog("ingot: the deadline of this boot has passed; the watchdog resets this machine")
			return
		}
	}
}

// handOver ends the feeding and lets the watchdog run on: systemd takes it
// over within seconds of its start, because of a file that is left for it.
func (l *life) handOver() {
	if l == nil || l.dog == nil {
		return
	}
	close(l.done)
	l.dog.Feed()
	l.dog.Leave()
	dir := "/run/systemd/system.conf.d"
	text := fmt.Sprintf(
		"# By ingot-init: systemd feeds the watchdog that was started in the initramfs.\n[Manager]\nRuntimeWatchdogSec=%d\n",
		int(l.dog.Timeout/time.Second),
	)
	if err := os.MkdirAll(dir, 0o755); err == nil {
		// The name sorts first: what the image says of its watchdog goes before.
		_ = os.WriteFile(
			filepath.Join(dir, "00-ingot.conf"),
			[]byte(text),
			0o644,
		) // without it the watchdog resets the machine, which the server sees
	}
}

// leaveGuard starts the guard inside the root that is about to become the
// system's. It lives on when PID 1 becomes systemd.
func (b *boot) leaveGuard(t ingot.Ticket, asked time.Time) {
	if t.Deadline <= 0 {
		return
	}
	limit := t.Deadline - time.Since(asked) + b.checked
	limit -= min(limit/10, 20*time.Second) // so that its report arrives in time
	cmd := exec.Command(ingot.AgentPath, "guard", limit.Round(time.Second).String(), strconv.FormatUint(b.seen.Load(), 10))
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: sysroot, Setsid: true}
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"}
	if err := cmd.Start(); err != nil {
		b.console.say("starting the guard failed: %v", err)
		return
	}
	// The last one that the kernel kills for want of memory (proc_pid_oom_score_adj(5)).
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("-1000"), 0)
}

// relay passes the kernel's log on to the server, with what ingot-init says in
// it, and returns what passes on the rest.
func (b *boot) relay(ctx context.Context) (flush func()) {
	log, err := rootfs.OpenKernelLog(0)
	if err != nil {
		return func() {}
	}
	var mu sync.Mutex
	text := "" // that the server does not have
	pass := func() {
		mu.Lock()
		defer mu.Unlock()
		for range 16 {
			if text == "" {
				var next uint64
				if text, next = log.Read(ingot.MaxConsole / 2); text == "" {
					return
				}
				b.seen.Store(next)
			}
			err := b.remote.text(ctx, "console", text)
			if err != nil && (passing(err) || !b.remote.sender.Load().Authenticates()) {
				return // sent again later, then maybe with the secret that the server wants
			}
			text = ""
		}
	}
	go func() {
		for ctx.Err() == nil {
			pass()
			time.Sleep(2 * time.Second)
		}
	}()
	return pass
}

// pstoreDir is where the kernel shows what the firmware kept over a crash.
const pstoreDir = "/sys/fs/pstore"

// maxCrash bounds what is reported of a crash, in bytes.
const maxCrash = 24 << 10

// reportCrash sends what is left of the crash before this boot, and removes it
// when the server has it: the firmware has little room.
func (b *boot) reportCrash(ctx context.Context) {
	if err := unix.Mount("pstore", pstoreDir, "pstore", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil &&
		!errors.Is(err, unix.EBUSY) {
		return
	}
	files, _ := filepath.Glob(filepath.Join(pstoreDir, "dmesg-*"))
	text := crashText(files)
	if text == "" {
		return
	}
	b.console.say("the machine crashed before this boot: %d files in pstore", len(files))
	if err := b.remote.text(ctx, "crash", text); err != nil {
		b.console.say("reporting the crash to the server failed: %v", err)
		return
	}
	for _, f := range files {
		_ = os.Remove(f) // at worst it is reported again
	}
}

// crashText puts the parts of a crash together. The kernel writes the newest
// part first, so the highest number is the oldest text.
func crashText(files []string) string {
	text := ""
	for _, f := range files { // in the order of their names: the newest first
		if b, err := os.ReadFile(f); err == nil && len(text) < maxCrash {
			_, part, found := strings.Cut(string(b), "\n") // the first line: why, and which part
			if !found {
				part = string(b)
			}
			text = part + "\n" + text
		}
	}
	return text[max(0, len(text)-maxCrash):]
}
