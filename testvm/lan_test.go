package testvm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// helperEnv makes the test binary play another program; see TestMain's parts.
const helperEnv = "INGOT_TESTVM_HELPER"

// testLAN makes a LAN, or skips where none can be made. In CI that is an error.
func testLAN(t *testing.T) *LAN {
	t.Helper()
	if testing.Short() {
		t.Skip("a LAN needs root or user namespaces")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	l, err := NewLAN(ctx, Options{Dir: shortDir(t)})
	if err != nil {
		cannot(t, err)
	}
	t.Cleanup(l.Close)
	if tap, err := l.addTap(ctx); err != nil {
		cannot(t, err)
	} else if err := l.ip(ctx, "link", "delete", tap); err != nil {
		t.Fatal(err)
	}
	return l
}

// cannot ends a test of what this machine does not allow.
func cannot(t *testing.T, err error) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("a LAN is needed in CI: %v", err)
	}
	t.Skipf("no LAN can be made here: %v", err)
}

// shortDir is a folder whose path leaves room for the names of sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// changesUser is a program that stops being bound to its parent, as tcpdump
// and dnsmasq do when they give up root: the kernel clears the signal that
// Pdeathsig asked for when a process changes its user.
func changesUser(l *LAN) *exec.Cmd {
	if os.Geteuid() != 0 {
		return l.Command(context.Background(), "sleep", "1000")
	}
	return l.Command(context.Background(), "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sleep", "1000")
}

func TestCloseLeavesNothing(t *testing.T) {
	l := testLAN(t)
	ns := namespaceOf(t, l.pid)
	host, err := l.NewHost(t.Context(), "other0", netip.MustParsePrefix("10.99.0.2/24"))
	if err != nil {
		t.Fatal(err)
	}
	daemon := host.Command(context.Background(), "sleep", "1000")
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = daemon.Wait() }()
	cmd := changesUser(l)
	if err := l.Start(cmd); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }()
	stray := l.Command(context.Background(), "sleep", "1000") // never bound to anything
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = stray.Wait() }()
	waitFor(t, "both to be in the namespace", func() bool { return len(inside(ns)) == 3 })
	l.Close()
	if left := inside(ns); len(left) > 0 {
		t.Errorf("after Close these processes hold the namespace: %v", left)
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("after Close a program on a host still runs")
	}
	l.Close() // again is fine
	if err := l.Start(l.Command(context.Background(), "true")); !errors.Is(err, ErrClosed) {
		t.Errorf("Start after Close = %v; want %v", err, ErrClosed)
	}
}

// TestParentKilled: nobody is left to clean up when the program is killed.
func TestParentKilled(t *testing.T) {
	testLAN(t) // can one be made?
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestHelperHoldsLAN$")
	cmd.Env = append(os.Environ(), helperEnv+"="+shortDir(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var holder int
	for lines := bufio.NewScanner(out); holder == 0; {
		if !lines.Scan() {
			t.Fatal("the helper ended early")
		}
		_, _ = fmt.Sscanf(lines.Text(), "holder %d", &holder) // other lines are not for us
	}
	ns := namespaceOf(t, holder)
	if n := len(inside(ns)); n < 3 {
		t.Errorf("the helper's LAN has %d processes; want the holder, a program and a machine", n)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	waitFor(t, "the namespace to be empty", func() bool { return len(inside(ns)) == 0 })
}

// TestHelperHoldsLAN is the program that TestParentKilled kills.
func TestHelperHoldsLAN(t *testing.T) {
	dir := os.Getenv(helperEnv)
	if dir == "" {
		t.Skip("only TestParentKilled runs it")
	}
	l, err := NewLAN(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Start(l.Command(context.Background(), "sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	config := Config{Name: "vm", Firmware: BIOS, MAC: "52:54:00:77:00:01", RAM: 64}
	if _, err := l.StartVM(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the program to be inside", func() bool { return len(inside(namespaceOf(t, l.pid))) == 3 })
	fmt.Printf("holder %d\n", l.pid)
	time.Sleep(time.Minute) // until killed
}

// namespaceOf names a process's network namespace, read apart from LAN's code.
func namespaceOf(t *testing.T, pid int) string {
	t.Helper()
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

// inside lists the processes of a namespace as "pid name".
func inside(ns string) (found []string) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if link, err := os.Readlink("/proc/" + e.Name() + "/ns/net"); err == nil && link == ns && e.Name() != "self" &&
			e.Name() != "thread-self" {
			comm, _ := os.ReadFile("/proc/" + e.Name() + "/comm")
			found = append(found, e.Name()+" "+strings.TrimSpace(string(comm)))
		}
	}
	return found
}

// waitFor polls what has no signal to wait on.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
