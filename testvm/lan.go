// Package testvm is the lab: an isolated LAN in a network namespace, and
// virtual machines with real firmware on it. Tests and `ingot lab` use it.
//
// The namespace is held by a process and not by a name, so nothing is left
// behind when that process ends, and the lab works as root as well as in a
// user namespace. Children die with the process that started them, unless the
// lab is meant to stay.
package testvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bridge is the name of the LAN's bridge inside its namespace.
const Bridge = "br0"

// DefaultPrefix is the host's address and the network of a LAN.
var DefaultPrefix = netip.MustParsePrefix("10.99.0.1/24")

// LAN is an isolated network with the host at one address of its bridge.
type LAN struct {
	Dir    string       // sockets, logs, firmware variables
	Prefix netip.Prefix // address of the host on the bridge
	pid    int          // of the process that holds the namespace
	user   bool         // in a user namespace
	stay   bool

	mu     sync.Mutex
	vms    []*VM
	taps   int
	start  chan func() // runs on the thread that children are bound to
	closed bool
}

// Options of a LAN. The zero value is a LAN for a test.
type Options struct {
	Dir    string // must exist; its path must be short enough for Unix sockets
	Prefix netip.Prefix
	Stay   bool // outlives this process
}

// NewLAN makes the namespace and its bridge.
func NewLAN(ctx context.Context, o Options) (*LAN, error) {
	if !o.Prefix.IsValid() {
		o.Prefix = DefaultPrefix
	}
	l := &LAN{Dir: o.Dir, Prefix: o.Prefix, user: os.Geteuid() != 0, stay: o.Stay, start: make(chan func())}
	go l.starter()
	args := []string{"--net"}
	if l.user {
		args = append(args, "--user", "--map-root-user")
	}
	holder := exec.Command("unshare", append(args, "--", "sleep", "infinity")...)
	if err := l.Start(holder); err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	l.pid = holder.Process.Pid
	go func() { _ = holder.Wait() }() // reaped; that it ended is what Close asks for
	if err := l.setUp(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// starter runs on one thread for ever: Pdeathsig is about the thread that
// forks, and Go may end others.
func (l *LAN) starter() {
	runtime.LockOSThread()
	for f := range l.start {
		f()
	}
}

// Start starts a command that ends with this process, or, in a LAN that
// stays, in a session of its own.
func (l *LAN) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if l.stay {
		cmd.SysProcAttr.Setsid = true
	} else {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
		cmd.SysProcAttr.Setpgid = true // Ctrl-C is for us to handle, in order
	}
	done := make(chan error)
	l.start <- func() { done <- cmd.Start() }
	return <-done
}

// setUp waits for the namespace and puts the bridge into it.
func (l *LAN) setUp(ctx context.Context) error {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("looking at namespaces: %w", err)
	}
	for { // unshare makes its namespace and then becomes sleep
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", l.pid))
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", l.pid))
		if err != nil {
			return errors.New("making a network namespace: unshare failed; are user namespaces open here, or is root needed?")
		}
		if theirs != own && strings.TrimSpace(string(comm)) == "sleep" {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", Bridge, "type", "bridge", "forward_delay", "0", "stp_state", "0"},
		{"address", "add", l.Prefix.String(), "dev", Bridge},
		{"link", "set", Bridge, "up"},
	} {
		if err := l.ip(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (l *LAN) ip(ctx context.Context, args ...string) error {
	if out, err := l.Command(ctx, "ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// enter is the argv that runs a program in the namespace.
func (l *LAN) enter(name string, args ...string) []string {
	argv := []string{"nsenter", "--target", strconv.Itoa(l.pid), "--net"}
	if l.user {
		argv = append(argv, "--user", "--preserve-credentials")
	}
	return append(append(argv, "--", name), args...)
}

// Command prepares a program that runs on the LAN's host. Long-running ones
// are started with Start, so that they do not outlive the test.
func (l *LAN) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv := l.enter(name, args...)
	return exec.CommandContext(ctx, argv[0], argv[1:]...)
}

// addTap makes a network card's cable.
func (l *LAN) addTap(ctx context.Context) (string, error) {
	l.mu.Lock()
	l.taps++
	name := fmt.Sprintf("tap%d", l.taps)
	l.mu.Unlock()
	for _, args := range [][]string{
		{"tuntap", "add", "dev", name, "mode", "tap"},
		{"link", "set", name, "master", Bridge},
		{"link", "set", name, "up"},
	} {
		if err := l.ip(ctx, args...); err != nil {
			if f, openErr := os.OpenFile("/dev/net/tun", os.O_RDWR, 0); openErr != nil {
				return "", fmt.Errorf("%w; machines need a network card: run as root, or let this user open /dev/net/tun", openErr)
			} else {
				f.Close()
			}
			return "", err
		}
	}
	return name, nil
}

// Close ends every machine and the namespace.
func (l *LAN) Close() {
	l.mu.Lock()
	vms, closed := l.vms, l.closed
	l.closed = true
	l.mu.Unlock()
	for _, vm := range vms {
		vm.Kill()
	}
	if l.pid != 0 {
		_ = syscall.Kill(l.pid, syscall.SIGKILL) // gone already is fine
	}
	if !closed {
		close(l.start)
	}
}

func (l *LAN) path(name string) string { return filepath.Join(l.Dir, name) }
