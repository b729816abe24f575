package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/bootserver/lease"
)

// insideWire is set in the process that a test runs in when it needs networks
// of its own.
const insideWire = "INGOT_TEST_WIRE"

// onWire runs the calling test once more in a process with a network and mounts
// of its own, so that nothing of it is left behind however it ends. It reports
// whether this is that process; the other one has nothing more to do.
func onWire(t *testing.T, tools ...string) bool {
	t.Helper()
	need(t, append(tools, "ip", "unshare")...)
	if os.Getenv(insideWire) != "" {
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
		run(t, "ip", "link", "set", "lo", "up")
		return true
	}
	if testing.Short() {
		t.Skip("needs network namespaces")
	}
	t.Parallel() // it mostly waits
	args := []string{"--net", "--mount", "--propagation", "private", "--kill-child=SIGKILL", "--fork"}
	if os.Getuid() != 0 {
		args = append([]string{"--map-root-user"}, args...)
	}
	if out, err := exec.Command("unshare", append(args, "true")...).CombinedOutput(); err != nil {
		cannot(t, fmt.Sprintf("no network namespaces here: %v\n%s", err, out))
	}
	args = append(args, os.Args[0], "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v", "-test.count=1")
	cmd := exec.CommandContext(t.Context(), "unshare", args...)
	cmd.Env = append(os.Environ(), insideWire+"=1")
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

// requireAll skips what belongs to make test-all.
func requireAll(t *testing.T) {
	t.Helper()
	if os.Getenv("INGOT_TEST_ALL") == "" && os.Getenv(insideWire) == "" {
		t.Skip("runs in make test-all")
	}
}

// need skips a test whose programs are not there; in CI that is a fault.
func need(t testing.TB, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			cannot(t, tool+" is not installed; run scripts/setup test")
		}
	}
}

func cannot(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func run(t testing.TB, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// in runs a program in the namespace of a party.
func in(t testing.TB, party string, argv ...string) string {
	t.Helper()
	return run(t, append([]string{"ip", "netns", "exec", party}, argv...)...)
}

// start runs a daemon in the namespace of a party until the test ends.
func start(t testing.TB, party string, argv ...string) *exec.Cmd {
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

// lan makes a LAN: a switch, and a namespace for each party with the card
// "eth0" in it. The server's own card, "eth1", is in the test's namespace. The
// switch is in one of its own: it must not answer ARP for us.
func lan(t testing.TB, parties ...string) {
	t.Helper()
	addSwitch(t, "sw")
	run(t, "ip", "link", "add", "eth1", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "p-eth1", "netns", "sw")
	in(t, "sw", "ip", "link", "set", "p-eth1", "master", "sw", "up")
	run(t, "ip", "address", "add", "10.99.0.1/24", "dev", "eth1")
	run(t, "ip", "link", "set", "eth1", "up")
	for i, party := range parties {
		join(t, "sw", party, "eth0", fmt.Sprintf("52:54:00:12:00:%02x", i+1))
	}
}

func addSwitch(t testing.TB, name string) {
	t.Helper()
	run(t, "ip", "netns", "add", name)
	in(t, name, "ip", "link", "add", name, "type", "bridge", "forward_delay", "0")
	in(t, name, "ip", "link", "set", name, "up")
}

// join gives a party a card on a switch.
func join(t testing.TB, sw, party, card, mac string) {
	t.Helper()
	if _, err := os.Stat("/run/netns/" + party); err != nil {
		run(t, "ip", "netns", "add", party)
		in(t, party, "ip", "link", "set", "lo", "up")
	}
	peer := "p-" + party + card[len(card)-1:]
	in(t, sw, "ip", "link", "add", peer, "type", "veth", "peer", "name", card, "netns", party)
	in(t, party, "ip", "link", "set", card, "address", mac)
	in(t, sw, "ip", "link", "set", peer, "master", sw, "up")
	in(t, party, "ip", "link", "set", card, "up")
}

// serve runs a server on the test's own cards.
func serve(t testing.TB, c Config, store lease.Store, b Booter) *Server {
	t.Helper()
	return serveAs(t, "us", c, store, b)
}

func serveAs(t testing.TB, id string, c Config, store lease.Store, b Booter) *Server {
	t.Helper()
	cards, err := Cards(c)
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(c, cards, Parts{Store: store, Booter: b, ID: id})
	if err != nil {
		t.Fatal(err)
	}
	prober := &Prober{Log: s.log}
	s.Probe = prober.Probe
	var links []*Link
	for _, i := range c.Interfaces {
		l, err := Listen(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		links = append(links, l)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, links...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		prober.Close()
	})
	return s
}

// wireConfig serves "eth1" with all that a system may be told.
func wireConfig() Config {
	return Config{Interfaces: []Interface{{Name: "eth1"}},
		Options: Options{DNS: addrs("10.99.0.53"), NTP: addrs("10.99.0.123"), Domain: "lab.example", Search: []string{"lab.example", "example"}, MTU: 1400, Lease: time.Hour},
		Networks: []Network{{Name: "lab", Interface: "eth1", Options: Options{Routers: addrs("10.99.0.254")}, Subnets: []Subnet{{
			Prefix: netip.MustParsePrefix("10.99.0.0/24"), Pools: []Range{{First: netip.MustParseAddr("10.99.0.100"), Last: netip.MustParseAddr("10.99.0.199")}},
			Options: Options{Routes: []Route{{netip.MustParsePrefix("192.168.0.0/16"), netip.MustParseAddr("10.99.0.2")}}}}}}},
	}
}

func addrs(list ...string) (a []netip.Addr) {
	for _, s := range list {
		a = append(a, netip.MustParseAddr(s))
	}
	return a
}

// eventually waits for what is told by nobody.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain: %s", what)
}
