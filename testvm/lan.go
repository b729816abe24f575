// Package testvm is the lab: an isolated LAN in a network namespace, and virtual machines with real
// firmware on it. Tests, `ingot lab` and `ingot demo` use it.
//
// A process holds the namespace, which has no name, so nothing is left behind when that process
// ends, and the lab works as root and in a user namespace. Programs on the LAN end with the process
// that started them, unless the lab is to stay.
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
	ns     string       // the namespace, as /proc/PID/ns/net names it
	user   bool         // in a user namespace
	stay   bool

	mu    sync.Mutex
	vms   []*VM
	taps  int
	hosts []*Host
	start chan func()   // runs on the thread that children are bound to
	quit  chan struct{} // closed by Close
	once  sync.Once
}

// ErrClosed: the LAN was closed before.
var ErrClosed = errors.New("the LAN is closed")

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
	l := &LAN{Dir: o.Dir, Prefix: o.Prefix, user: os.Geteuid() != 0, stay: o.Stay}
	l.init()
	args := []string{"--net"}
	if l.user {
		args = append(args, "--user", "--map-root-user")
	}
	holder := exec.Command("unshare", append(args, "--", "sleep", "infinity")...)
	if err := l.Start(holder); err != nil {
		return nil, fmt.Errorf("creating a network namespace: %w", err)
	}
	l.pid = holder.Process.Pid
	go func() { _ = holder.Wait() }() // reaped; Close ends it
	if err := l.setUp(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func (l *LAN) init() {
	l.start, l.quit = make(chan func()), make(chan struct{})
	go l.starter()
}

// starter runs on one thread for ever: Pdeathsig is about the thread that
// forks, and Go may end others. It never unlocks, so that its end would end
// the thread and with it the children.
func (l *LAN) starter() {
	runtime.LockOSThread()
	for {
		select {
		case f := <-l.start:
			f()
		case <-l.quit:
			return
		}
	}
}

// Start starts a command that ends with this process, or, in a LAN that
// stays, in a session of its own. The kernel forgets that bond when a program
// changes its user; Close ends such a program all the same, a kill -9 of this
// process does not.
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
	select {
	case l.start <- func() { done <- cmd.Start() }:
		return <-done
	case <-l.quit:
		return ErrClosed
	}
}

// setUp waits for the namespace and puts the bridge into it.
func (l *LAN) setUp(ctx context.Context) error {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("reading the own namespace: %w", err)
	}
	for { // unshare makes its namespace and then becomes sleep
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", l.pid))
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", l.pid))
		if err != nil {
			return errors.New("creating a network namespace: unshare failed; run as root, or allow user namespaces")
		}
		if theirs != own && strings.TrimSpace(string(comm)) == "sleep" {
			l.ns = theirs
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

// addTap adds a port to the bridge for a network card.
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
				return "", fmt.Errorf("%w; machines need a network card: run as root, or let this user open /dev/net/tun",
					openErr)
			} else {
				f.Close()
			}
			return "", err
		}
	}
	return name, nil
}

// Close ends every program on the LAN, machines included, and the namespace. It may be called
// again.
func (l *LAN) Close() {
	l.once.Do(func() {
		l.mu.Lock()
		vms := l.vms
		l.mu.Unlock()
		for _, vm := range vms {
			vm.Kill()
		}
		l.endHosts()
		close(l.quit)
		if l.ns == "" && l.pid != 0 { // it never came up
			_ = syscall.Kill(l.pid, syscall.SIGKILL) // it may have ended already
		}
		l.killAll()
	})
}

// killAll ends whatever runs in the namespace and waits until it is gone.
func (l *LAN) killAll() {
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		left := processes(l.ns)
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended already
		}
	}
}

// processes lists the ids of those that run in a network namespace.
func processes(namespace string) (pids []int) {
	if namespace == "" {
		return nil
	}
	entries, _ := os.ReadDir("/proc") // without it nothing here works
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err == nil && ns == namespace {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (l *LAN) path(name string) string { return filepath.Join(l.Dir, name) }
