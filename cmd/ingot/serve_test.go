package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/bootserver/api"
	"ingot/internal/wire"
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

// await waits until a state was reported.
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
			n.t.Fatalf("waiting for %s: %v; got so far %q", state, err, n.said)
		}
		n.said = append(n.said, string(buf[:size]))
	}
}

// activated are the first words of a command to which an HTTP socket, the
// administrator's and one of TFTP are passed. variables are of its environment.
func (f *field) activated(variables ...string) []string {
	f.t.Helper()
	wire.Need(f.t, "systemd-socket-activate")
	argv := []string{"systemd-socket-activate", "--listen=0.0.0.0:80", "--listen=" + filepath.Join(f.store, "ingot.sock"),
		"--setenv=INGOT_STORE"}
	for _, v := range variables {
		argv = append(argv, "--setenv="+v)
	}
	return append(argv, "env", "INGOT_TEST_IS=datagram", os.Args[0], "0.0.0.0:69")
}

// passDatagram does what systemd-socket-activate does not: it adds a datagram
// socket to the streams that are passed, and becomes the program that gets them.
func passDatagram(address string, argv []string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	passed, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
		return err
	}
	if next := 3 + passed; fd != next { // they begin at 3
		if err := unix.Dup3(fd, next, 0); err != nil {
			return err
		}
		_ = unix.Close(fd)
	}
	_ = os.Setenv("LISTEN_FDS", strconv.Itoa(passed+1))
	_ = os.Setenv("INGOT_TEST_IS", "ingot")
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return syscall.Exec(program, argv, os.Environ())
}

// answers reports whether a URL can be fetched on the server's side.
func (f *field) answers(url string) bool {
	return f.lan.Command(f.ctx, "curl", "-s", "-g", "-m", "2", "-o", "/dev/null", url).Run() == nil
}

// ip changes the network of the server's side.
func (f *field) ip(args ...string) {
	f.t.Helper()
	if out, err := f.lan.Command(f.ctx, "ip", args...).CombinedOutput(); err != nil {
		f.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// bridge makes another interface.
func (f *field) bridge(name string, addresses ...string) {
	f.t.Helper()
	f.ip("link", "add", name, "type", "bridge")
	f.ip("link", "set", name, "up")
	for _, a := range addresses {
		if strings.Contains(a, ":") {
			f.ip("address", "add", a, "dev", name, "nodad")
		} else {
			f.ip("address", "add", a, "dev", name)
		}
	}
}

// listening are the sockets at a port as ss shows them, the local address of
// each.
func (f *field) listening(kind string, port int) (at []string) {
	f.t.Helper()
	for _, l := range f.sockets(kind, port) {
		at = append(at, l[3])
	}
	return at
}

// sockets are the fields of each line of ss: state, what waits, how much may
// wait, the local address, the peer.
func (f *field) sockets(kind string, port int) (lines [][]string) {
	f.t.Helper()
	out, err := f.lan.Command(f.ctx, "ss", "-H", "-l", "-n", kind, fmt.Sprintf("sport = :%d", port)).CombinedOutput()
	if err != nil {
		f.t.Fatalf("ss: %v: %s", err, out)
	}
	for l := range strings.Lines(string(out)) {
		if fields := strings.Fields(l); len(fields) >= 5 {
			lines = append(lines, fields)
		}
	}
	return lines
}

// TestServeUnderSystemd: a server that is not root, with three capabilities, with
// sockets passed to it and a manager that it notifies, boots machines while its
// configuration changes.
func TestServeUnderSystemd(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	wire.Need(t, "setpriv", "curl", "ss")
	f := newField(t, 2<<20)
	n := newNotified(t, filepath.Join(f.dir, "notify"))
	// nobody's server: setpriv gives up root and keeps the capabilities of ingot.service.
	if out, err := exec.Command("chown", "-R", "65534:65534", f.store, n.path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	caps := "+net_bind_service,+net_raw,+net_admin"
	f.start(append(f.activated("NOTIFY_SOCKET="+n.path, "WATCHDOG_USEC=3000000", "HOME=/nonexistent"),
		"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all,"+caps, "--ambient-caps="+caps,
		"--bounding-set=-all,"+caps, "--no-new-privs")...)
	// The first connection starts it.
	f.until("the server to be started by its socket", func() bool { _, err := f.api().Version(f.ctx); return err == nil })
	n.await("READY=1")
	n.await("WATCHDOG=1")
	if status, _ := os.ReadFile("/proc/" + f.serverPID() + "/status"); !strings.Contains(string(status),
		"Uid:\t65534\t65534") {
		t.Errorf("the server runs as\n%s", status)
	}
	for kind, port := range map[string]int{"-t": 80, "-u": 69} {
		if got, want := f.listening(kind, port), []string{fmt.Sprintf("0.0.0.0:%d", port)}; !slices.Equal(got, want) {
			t.Errorf("at port %d there are the sockets %q; want the one that was passed, %q", port, got, want)
		}
	}
	// What a loader asks for by itself comes from the same socket as the loader.
	script, err := f.lan.Command(f.ctx, "curl", "-s", "-m", "10", "tftp://10.99.0.1/autoexec.ipxe").Output()
	if err != nil || !strings.HasPrefix(string(script), "#!ipxe\n") {
		t.Errorf("autoexec.ipxe by TFTP: %v, %q; want a script", err, script)
	}
	wait := f.startStorm(storm.Config{Machines: 12, Spread: 3 * time.Second, Timeout: 2 * time.Minute})
	for _, c := range []struct {
		name, replace, by string
		want              api.Reloaded
	}{
		{"nothing", "", "", api.Reloaded{}},
		{"limits", "boots:", "http: {transfers: 4, rate: 64MiB}\ntftp: {perClient: 3}\nboots:",
			api.Reloaded{Changed: []string{"http", "tftp"}}},
		{"options", "interface: br0", "interface: br0\n      dns: [10.99.0.1]", api.Reloaded{Changed: []string{"dhcp"}}},
		{"ports and mode", "mode: full, probe: 10ms", "probe: 20ms, mode: proxy", api.Reloaded{Changed: []string{"dhcp"},
			Restart: []string{"dhcp.interfaces: the mode of br0"}}},
		{
			"ports", "boots:", "http: {port: 8080}\ntftp: {singlePort: true}\nboots:",
			api.Reloaded{Changed: nil, Restart: []string{"tftp.singlePort", "http.port"}},
		},
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
	if _, err := f.api().Reload(f.ctx); err == nil || !strings.Contains(err.Error(),
		`ingot.yaml:3:3: unknown key "netwroks"; write "networks"`) {
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

// TestSinglePort: with tftp.singlePort a client that hears port 69 alone, as behind
// address translation, receives its file; without it, it receives nothing.
func TestSinglePort(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	wire.Need(t, "curl")
	for _, single := range []bool{false, true} {
		f := newField(t, 2<<20)
		f.write(strings.Replace(settings, "boots:", fmt.Sprintf("tftp: {singlePort: %v}\nboots:", single), 1))
		f.serve()
		f.until("TFTP to answer", func() bool { return f.answers("tftp://10.99.0.1/autoexec.ipxe") })
		const request = `exec 3<>/dev/udp/10.99.0.1/69; printf '\0\1autoexec.ipxe\0octet\0' >&3; timeout 2 head -c 10 <&3`
		got, _ := f.lan.Command(f.ctx, "bash", "-c", request).Output() // without an answer, timeout ends it
		if want := "\x00\x03\x00\x01#!ipxe"; (string(got) == want) != single {
			t.Errorf("singlePort %v: port 69 answers %q; want %q only with the option", single, got, want)
		}
	}
}

// TestPassedSocketsStay: a socket that was passed for all addresses serves every
// link, whichever of them a reload leaves.
func TestPassedSocketsStay(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	wire.Need(t, "curl")
	f := newField(t, 2<<20)
	f.bridge("br1", "10.98.0.1/24")
	both := strings.Replace(settings, "{name: br0", "{name: br1, mode: full}, {name: br0", 1)
	f.write(both)
	f.start(f.activated("HOME=/nonexistent")...)
	f.until("the server to be started by its socket", func() bool { _, err := f.api().Version(f.ctx); return err == nil })
	serves := func(after, at string) {
		t.Helper()
		for _, url := range []string{"http://" + at + "/", "tftp://" + at + "/snponly.efi"} {
			if !f.answers(url) {
				t.Errorf("after %s, %s does not answer", after, url)
			}
		}
	}
	f.until("every port to be open", func() bool { return f.answers("tftp://10.99.0.1/snponly.efi") })
	serves("its start", "10.98.0.1")
	for _, c := range []struct{ config, change string }{{settings, "br1 is left"}, {both, "br1 is served"}} {
		f.write(c.config)
		if r, err := f.api().Reload(f.ctx); err != nil || !slices.Contains(r.Changed, "dhcp.interfaces: "+c.change) {
			t.Errorf("Reload = %+v, %v; want that %s", r, err, c.change)
		}
		serves(c.change, "10.99.0.1")
	}
	serves("br1 came back", "10.98.0.1")
}

// TestInterfacesComeAndGo: a reload adds an interface and leaves one, and
// machines on the one that stays boot on. It sees what became of interfaces
// whose settings are the same.
func TestInterfacesComeAndGo(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	wire.Need(t, "curl", "ss")
	f := newField(t, 2<<20)
	f.bridge("br1", "10.98.0.1/24", "fd00:98::1/64")
	f.serve()
	both := strings.Replace(settings, "probe: 10ms}", "probe: 10ms}, {name: br1, mode: full}", 1)
	asks := func() bool { return f.answers("http://10.98.0.1/") }
	asks6 := func() bool { return f.answers("http://[fd00:98::1]/") && f.answers("tftp://[fd00:98::1]/snponly.efi") }
	wait := f.startStorm(storm.Config{Machines: 5, Spread: time.Second, Timeout: time.Minute})
	f.write(both)
	r, err := f.api().Reload(f.ctx)
	if err != nil || !slices.Contains(r.Changed, "dhcp.interfaces: br1 is served") || !asks() {
		t.Errorf("adding an interface: %+v, %v, and it answers: %v", r, err, asks())
	}
	f.addressesComeAndGo("br1")
	f.write(settings)
	r, err = f.api().Reload(f.ctx)
	if err != nil || !slices.Contains(r.Changed, "dhcp.interfaces: br1 is left") {
		t.Errorf("leaving an interface: %+v, %v", r, err)
	}
	f.until("the interface to be left", func() bool { return !asks() })
	f.write(settings + "dhcp6: {interfaces: [{name: br1, mode: full}]}\n")
	r, err = f.api().Reload(f.ctx)
	if err != nil || !slices.Contains(r.Changed, "dhcp.interfaces: br1 (IPv6) is served") || !slices.Contains(r.Changed,
		"dhcp6") || !asks6() || asks() {
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

// addressesComeAndGo changes an interface that is served under the server, which follows
// by itself: a reload has nothing to do.
func (f *field) addressesComeAndGo(name string) {
	f.t.Helper()
	before := len(f.log.String())
	follows := func(what string) {
		f.t.Helper()
		f.until("the log to say that "+what, func() bool { return strings.Contains(f.log.String()[before:], what) })
		before = len(f.log.String())
		if r, err := f.api().Reload(f.ctx); err != nil || len(r.Changed) != 0 {
			f.t.Errorf("Reload = %+v, %v after %s; want no changes", r, err, what)
		}
	}
	f.ip("address", "add", "10.97.0.1/24", "dev", name)
	follows("10.97.0.1 on " + name + " is served")
	if !f.answers("http://10.97.0.1/") || !f.answers("tftp://10.97.0.1/snponly.efi") || !f.answers("http://10.98.0.1/") {
		f.t.Error("after an interface got another address, not both of them answer")
	}
	f.ip("address", "del", "10.97.0.1/24", "dev", name)
	follows("10.97.0.1 on " + name + " is left")
	f.until("the address to be left", func() bool {
		return !slices.Contains(f.listening("-t", 80), "10.97.0.1:80") && !slices.Contains(f.listening("-u", 69),
			"10.97.0.1:69")
	})
	f.ip("link", "del", name)
	f.bridge(name, "10.98.0.1/24", "fd00:98::1/64")
	// ss knows no name of an interface that is gone.
	f.until("DHCP to be served on what is there", func() bool {
		at := f.listening("-u", 67)
		slices.Sort(at)
		return slices.Equal(at, []string{"0.0.0.0%br0:67", "0.0.0.0%" + name + ":67"})
	})
	if !f.answers("http://10.98.0.1/") {
		f.t.Error("after an interface was made anew, its address does not answer")
	}
}
