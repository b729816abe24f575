package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/bootserver/api"
	"ingot/testvm/storm"
)

// notified is the other end of sd_notify(3).
type notified struct {
	t    *testing.T
	conn *net.UnixConn
	path string
	said []string
}

func newNotified(t *testing.T, path string) *notified {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &notified{t: t, conn: conn, path: path}
}

// await waits until a state was told.
func (n *notified) await(state string) {
	n.t.Helper()
	buf := make([]byte, 4096)
	_ = n.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	for {
		i := slices.IndexFunc(n.said, func(s string) bool { return slices.Contains(strings.Split(s, "\n"), state) })
		if i >= 0 {
			n.said = slices.Delete(n.said, 0, i+1)
			return
		}
		size, err := n.conn.Read(buf)
		if err != nil {
			n.t.Fatalf("waiting for %s: %v; told so far %q", state, err, n.said)
		}
		n.said = append(n.said, string(buf[:size]))
	}
}

// TestServeUnderSystemd: a server that is not root, with three capabilities,
// with sockets that were opened for it and a manager that it tells how it
// does, boots machines while its configuration changes.
func TestServeUnderSystemd(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	for _, tool := range []string{"systemd-socket-activate", "setpriv"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed; run scripts/setup test", tool)
			}
			t.Skipf("%s is not installed", tool)
		}
	}
	f := newField(t, 2<<20)
	socket := filepath.Join(f.store, "ingot.sock")
	n := newNotified(t, filepath.Join(f.dir, "notify"))
	// nobody's server: setpriv gives up root and keeps the capabilities of ingot.service.
	if out, err := exec.Command("chown", "-R", "65534:65534", f.store, n.path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	caps := "+net_bind_service,+net_raw,+net_admin"
	f.start("systemd-socket-activate", "--listen=0.0.0.0:80", "--listen="+socket, "--setenv=INGOT_TEST_IS", "--setenv=INGOT_STORE",
		"--setenv=NOTIFY_SOCKET="+n.path, "--setenv=WATCHDOG_USEC=3000000", "--setenv=HOME=/nonexistent",
		"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all,"+caps, "--ambient-caps="+caps, "--bounding-set=-all,"+caps, "--no-new-privs")
	// The first connection starts it.
	f.until("the server to be started by its socket", func() bool { _, err := f.api().Version(f.ctx); return err == nil })
	n.await("READY=1")
	n.await("WATCHDOG=1")
	if status, _ := os.ReadFile("/proc/" + f.serverPID() + "/status"); !strings.Contains(string(status), "Uid:\t65534\t65534") {
		t.Errorf("the server runs as\n%s", status)
	}
	wait := f.startStorm(storm.Config{Machines: 12, Spread: 3 * time.Second, Timeout: 2 * time.Minute})
	for _, c := range []struct {
		name, replace, by string
		want              api.Reloaded
	}{
		{"nothing", "", "", api.Reloaded{}},
		{"limits", "boots:", "http: {transfers: 4, rate: 64MiB}\ntftp: {perClient: 3}\nboots:", api.Reloaded{Changed: []string{"http", "tftp"}}},
		{"options", "interface: br0", "interface: br0\n      dns: [10.99.0.1]", api.Reloaded{Changed: []string{"dhcp"}}},
		{"ports and mode", "probe: 10ms", "probe: 20ms, mode: proxy", api.Reloaded{Changed: []string{"dhcp"}, Restart: []string{"dhcp.interfaces: the mode of br0"}}},
		{"a port", "boots:", "http: {port: 8080}\nboots:", api.Reloaded{Changed: nil, Restart: []string{"http.port"}}},
	} {
		text := settings
		if c.replace != "" {
			text = strings.Replace(settings, c.replace, c.by, 1)
		}
		f.write(text)
		r, err := f.api().Reload(f.ctx)
		if err != nil {
			t.Fatalf("reloading with %s: %v", c.name, err)
		}
		n.await("RELOADING=1")
		// What was changed by the one before is changed back.
		if !slices.Equal(r.Restart, c.want.Restart) || !contains(r.Changed, c.want.Changed) {
			t.Errorf("reloading with %s = %+v; want %+v", c.name, r, c.want)
		}
		n.await("READY=1")
	}
	f.write(strings.Replace(settings, "networks:", "netwroks:", 1))
	if _, err := f.api().Reload(f.ctx); err == nil || !strings.Contains(err.Error(), `ingot.yaml:3:3: unknown key "netwroks"; write "networks"`) {
		t.Errorf("reloading with a fault: %v; want its place", err)
	}
	f.write(settings)
	if pid := f.serverPID(); exec.Command("kill", "-HUP", pid).Run() != nil {
		t.Error("the server is gone")
	}
	for range 2 { // of the fault, and of the signal
		n.await("RELOADING=1")
		n.await("READY=1")
	}
	wait() // all are healthy: nothing was dropped
	_ = exec.Command("kill", "-TERM", f.serverPID()).Run()
	n.await("STOPPING=1")
}

func contains(list, want []string) bool {
	for _, w := range want {
		if !slices.Contains(list, w) {
			return false
		}
	}
	return true
}

// TestInterfacesComeAndGo: a reload adds an interface and leaves one, and
// machines on the one that stays boot on.
func TestInterfacesComeAndGo(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	f := newField(t, 2<<20)
	if out, err := f.lan.Command(f.ctx, "sh", "-c", "ip link add br1 type bridge && ip address add 10.98.0.1/24 dev br1 && ip link set br1 up && ip address add fd00:98::1/64 dev br1 nodad").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f.serve()
	both := strings.Replace(settings, "{name: br0, probe: 10ms}", "{name: br0, probe: 10ms}, {name: br1}", 1)
	answers := func(url string) bool {
		return f.lan.Command(f.ctx, "curl", "-s", "-g", "-m", "2", "-o", "/dev/null", url).Run() == nil
	}
	asks := func() bool { return answers("http://10.98.0.1/") }
	asks6 := func() bool { return answers("http://[fd00:98::1]/") && answers("tftp://[fd00:98::1]/snponly.efi") }
	wait := f.startStorm(storm.Config{Machines: 5, Spread: time.Second, Timeout: time.Minute})
	f.write(both)
	r, err := f.api().Reload(f.ctx)
	if err != nil || !slices.Contains(r.Changed, "dhcp.interfaces: br1 is served") || !asks() {
		t.Errorf("adding an interface: %+v, %v, and it answers: %v", r, err, asks())
	}
	f.write(settings)
	r, err = f.api().Reload(f.ctx)
	if err != nil || !slices.Contains(r.Changed, "dhcp.interfaces: br1 is left") {
		t.Errorf("leaving an interface: %+v, %v", r, err)
	}
	f.until("the interface to be left", func() bool { return !asks() })
	f.write(settings + "dhcp6: {interfaces: [{name: br1}]}\n")
	r, err = f.api().Reload(f.ctx)
	if err != nil || !slices.Contains(r.Changed, "dhcp.interfaces: br1 (IPv6) is served") || !slices.Contains(r.Changed, "dhcp6") || !asks6() || asks() {
		t.Errorf("adding an interface of IPv6: %+v, %v, and it answers: %v", r, err, asks6())
	}
	f.write(settings + "dhcp6: {interfaces: [{name: br1, mode: boot}]}\n")
	if r, err = f.api().Reload(f.ctx); err != nil || !slices.Contains(r.Restart, "dhcp6.interfaces: the mode of br1") {
		t.Errorf("another mode of it: %+v, %v; want it named", r, err)
	}
	f.write(settings)
	if r, err = f.api().Reload(f.ctx); err != nil || !slices.Contains(r.Changed, "dhcp.interfaces: br1 (IPv6) is left") {
		t.Errorf("leaving it: %+v, %v", r, err)
	}
	f.until("IPv6 to be left", func() bool { return !asks6() })
	wait()
	_ = f.server.Process.Signal(syscall.SIGTERM)
}

// TestUnits: systemd itself reads the units, and finds them hardened.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-analyze is not installed; run scripts/setup test")
		}
		t.Skip("systemd-analyze is not installed")
	}
	dir := t.TempDir()
	units, err := filepath.Glob("../../packaging/systemd/*.s[eo][rc]*")
	if err != nil || len(units) < 4 {
		t.Fatalf("%d units, %v; want the service and its sockets", len(units), err)
	}
	var copies []string
	for _, u := range units {
		text, err := os.ReadFile(u)
		if err != nil {
			t.Fatal(err)
		}
		// The program need not be installed for this.
		here := strings.ReplaceAll(string(text), "/usr/bin/ingot", "/usr/bin/env")
		to := filepath.Join(dir, filepath.Base(u))
		if err := os.WriteFile(to, []byte(here), 0o644); err != nil {
			t.Fatal(err)
		}
		copies = append(copies, to)
	}
	if out, err := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"}, copies...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// Exposure from 0 to 10, in tenths here: 2.0 with what it cannot do without.
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=25", "--no-pager", filepath.Join(dir, "ingot.service")).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}
