package testvm

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Host is a computer on a LAN that is not a virtual machine: a network namespace of its own, with
// one network card.
type Host struct {
	Card string // name of the network card inside
	lan  *LAN
	pid  int    // of the process that holds the namespace
	ns   string // the namespace, as /proc/PID/ns/net names it
}

// NewHost makes a host with an address. It ends with the LAN.
func (l *LAN) NewHost(ctx context.Context, name string, address netip.Prefix) (*Host, error) {
	argv := l.enter("unshare", "--net", "--", "sleep", "infinity")
	holder := exec.Command(argv[0], argv[1:]...)
	if err := l.Start(holder); err != nil {
		return nil, fmt.Errorf("creating a host: %w", err)
	}
	h := &Host{Card: "eth0", lan: l, pid: holder.Process.Pid}
	go func() { _ = holder.Wait() }() // reaped; the next command on the host reports that it ended
	if err := h.wait(ctx); err != nil {
		_ = syscall.Kill(h.pid, syscall.SIGKILL) // it may have ended already
		return nil, err
	}
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	for _, args := range [][]string{
		{"link", "add", name, "type", "veth", "peer", "name", h.Card, "netns", strconv.Itoa(h.pid)},
		{"link", "set", name, "master", Bridge},
		{"link", "set", name, "up"},
	} {
		if err := l.ip(ctx, args...); err != nil {
			return nil, err
		}
	}
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", address.String(), "dev", h.Card},
		{"link", "set", h.Card, "up"},
	} {
		if out, err := h.Command(ctx, "ip", args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
		}
	}
	return h, nil
}

// wait waits until unshare has made the namespace and become sleep.
func (h *Host) wait(ctx context.Context) error {
	for {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", h.pid))
		if err != nil {
			return fmt.Errorf("creating a host: unshare failed: %w", err)
		}
		if strings.TrimSpace(string(comm)) == "sleep" {
			h.ns, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/net", h.pid))
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Command prepares a program that runs on the host.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	argv := []string{"--target", strconv.Itoa(h.pid), "--net"}
	if h.lan.user {
		argv = append(argv, "--user", "--preserve-credentials")
	}
	return exec.CommandContext(ctx, "nsenter", append(append(argv, "--", name), args...)...)
}

// Close ends the host, what runs on it, and its network card.
func (h *Host) Close() {
	for _, pid := range processes(h.ns) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended already
	}
}

// endHosts ends the hosts.
func (l *LAN) endHosts() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.hosts {
		h.Close()
	}
	l.hosts = nil
}
