// Package wire gives tests networks of their own, with real programs on them:
// network namespaces, joined by bridges, in a process that takes all of it with
// it when it ends.
package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Inside is set in the process that a test runs in when it needs networks
// of its own.
const Inside = "INGOT_TEST_WIRE"

// On runs the calling test once more in a process with a network and mounts
// of its own, so that nothing of it is left behind however it ends. It reports
// whether this is that process; the other one has nothing more to do.
func On(t *testing.T, tools ...string) bool {
	t.Helper()
	Need(t, append(tools, "ip", "unshare")...)
	if os.Getenv(Inside) != "" {
		for _, dir := range []string{"/run", "/var/lib/dhcp", "/var/lib/dhcpcd", "/var/lib/kea"} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Mkdir("/run/netns", 0o755); err != nil {
			t.Fatal(err)
		}
		Run(t, "ip", "link", "set", "lo", "up")
		return true
	}
	if testing.Short() {
		t.Skip("needs network namespaces")
	}
	t.Parallel() // it mostly waits
	// A PID namespace ends with its first process, and so do daemons that left their parent.
	args := []string{"--net", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--kill-child=SIGKILL",
		"--fork"}
	if os.Getuid() != 0 {
		args = append([]string{"--map-root-user"}, args...)
	}
	if out, err := exec.Command("unshare", append(args, "true")...).CombinedOutput(); err != nil {
		Cannot(t, fmt.Sprintf("no network namespaces here: %v\n%s", err, out))
	}
	args = append(args, os.Args[0], "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v", "-test.count=1")
	cmd := exec.CommandContext(t.Context(), "unshare", args...)
	cmd.Env = append(os.Environ(), Inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		t.Errorf("inside its own network:\n%s", out)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("inside its own network:\n%s", out)
	default:
		t.Logf("%s", out)
	}
	return false
}

// RequireAll skips what belongs to make test-all.
func RequireAll(t *testing.T) {
	t.Helper()
	if os.Getenv("INGOT_TEST_ALL") == "" && os.Getenv(Inside) == "" {
		t.Skip("runs in make test-all")
	}
}

// Need skips a test whose programs are not there; in CI that is a fault.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			Cannot(t, tool+" is not installed; run scripts/setup test")
		}
	}
}

// Cannot skips a test that this host cannot run; in CI that is a fault.
func Cannot(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Run runs a program; it must succeed.
func Run(t testing.TB, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = 2 * time.Second // children that stay (dhcpcd has several) may keep the output open
	out, err := cmd.CombinedOutput()
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// In runs a program in the namespace of a party.
func In(t testing.TB, party string, argv ...string) string {
	t.Helper()
	return Run(t, append([]string{"ip", "netns", "exec", party}, argv...)...)
}

// Start runs a daemon in the namespace of a party until the test ends.
func Start(t testing.TB, party string, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("ip", append([]string{"netns", "exec", party}, argv...)...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if b, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("%s said:\n%s", argv[0], b)
		}
		log.Close()
	})
	return cmd
}

// AddSwitch makes a switch in a namespace of its own, of the same name.
func AddSwitch(t testing.TB, name string) {
	t.Helper()
	Run(t, "ip", "netns", "add", name)
	In(t, name, "ip", "link", "add", name, "type", "bridge", "forward_delay", "0")
	In(t, name, "ip", "link", "set", name, "up")
}

// Join gives a party a card on a switch.
func Join(t testing.TB, sw, party, card, mac string) {
	t.Helper()
	if _, err := os.Stat("/run/netns/" + party); err != nil {
		Run(t, "ip", "netns", "add", party)
		In(t, party, "ip", "link", "set", "lo", "up")
	}
	peer := "p-" + party + card[len(card)-1:]
	In(t, sw, "ip", "link", "add", peer, "type", "veth", "peer", "name", card, "netns", party)
	In(t, party, "ip", "link", "set", card, "address", mac)
	In(t, sw, "ip", "link", "set", peer, "master", sw, "up")
	In(t, party, "ip", "link", "set", card, "up")
}

// Eventually waits for what is told by nobody.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain: %s", what)
}

// Within calls f in the namespace of a party: sockets that it opens belong there, also
// after it returned. It must not start goroutines that open some.
func Within(t testing.TB, party string, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine: its namespace is the party's
		ns, err := os.Open("/run/netns/" + party)
		if err == nil {
			defer ns.Close()
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("in namespace %s: %v", party, err)
	}
}
