package dhcp6

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/client"
	"ingot/bootserver/lease"
	"ingot/bootserver/lease/leasetest"
	"ingot/bootserver/network"
	"ingot/internal/wire"
)

// lan makes a LAN with a switch, our card "eth1" and a namespace for each party
// with the card "eth0" in it. Addresses need no test for twins there.
func lan(t *testing.T, parties ...string) {
	t.Helper()
	wire.AddSwitch(t, "sw")
	wire.Run(t, "ip", "link", "add", "eth1", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "p-eth1",
		"netns", "sw")
	wire.In(t, "sw", "ip", "link", "set", "p-eth1", "master", "sw", "up")
	wire.Run(t, "ip", "link", "set", "eth1", "up")
	wire.Run(t, "ip", "address", "add", "fd00:99::1/64", "dev", "eth1", "nodad")
	for i, party := range parties {
		join(t, "sw", party, "eth0", fmt.Sprintf("52:54:00:12:00:%02x", i+1))
	}
	wire.Eventually(t, "our link-local address", func() bool {
		out := wire.Run(t, "ip", "-6", "-o", "address", "show", "dev", "eth1", "scope", "link")
		return strings.Contains(out, "fe80") && !strings.Contains(out, "tentative")
	})
}

func join(t *testing.T, sw, party, card, mac string) {
	t.Helper()
	wire.Join(t, sw, party, card, mac)
	wire.Eventually(t, party+"'s link-local address", func() bool {
		out := wire.In(t, party, "ip", "-6", "-o", "address", "show", "dev", card, "scope", "link")
		return strings.Contains(out, "fe80") && !strings.Contains(out, "tentative")
	})
}

func wireConfig() Config {
	return Config{Interfaces: []Interface{{Name: "eth1"}},
		Options: Options{DNS: []netip.Addr{netip.MustParseAddr("fd00:99::53")},
			NTP:    []netip.Addr{netip.MustParseAddr("fd00:99::123")},
			Search: []string{"lab.example", "example"}, Lease: time.Hour},
		Networks: []Network{{Name: "lab", Interface: "eth1",
			Subnets: []Subnet{{Prefix: netip.MustParsePrefix("fd00:99::/64"), Pools: testRangeOf("fd00:99::100",
				"fd00:99::1ff")}}}}}
}

// serve runs a server on the test's own cards.
func serve(t *testing.T, c Config, store lease.Store, b client.Booter) *Server {
	t.Helper()
	cards, err := c.Cards()
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(c, cards, [16]byte{1}, network.Parts{Store: store, Booter: b})
	if err != nil {
		t.Fatal(err)
	}
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
	})
	return s
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// announce lets a router on a card send advertisements; managed makes systems
// ask for addresses.
func announce(t *testing.T, party, card, prefix string, managed bool) {
	t.Helper()
	flag := map[bool]string{true: "on", false: "off"}
	autonomous := flag[!managed]
	conf := write(t, "radvd.conf",
		"interface "+card+" { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; "+
			"AdvManagedFlag "+flag[managed]+"; AdvOtherConfigFlag on; prefix "+prefix+
			" { AdvOnLink on; AdvAutonomous "+autonomous+"; }; };\n")
	if err := os.Chmod(conf, 0o644); err != nil {
		t.Fatal(err)
	}
	wire.In(t, party, "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	wire.Start(t, party, "radvd", "--nodaemon", "--logmethod", "stderr", "--config", conf, "--pidfile",
		filepath.Join(t.TempDir(), "radvd.pid"))
}

func says6(t *testing.T, file string, lines ...string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
		return
	}
	for _, l := range lines {
		if !strings.Contains(string(b), l) {
			t.Errorf("the client did not get %q; it has\n%s", l, b)
		}
	}
}

// TestForeignSystems: the DHCPv6 clients that systems use take what we say, and
// all of them on one machine have one address.
func TestForeignSystems(t *testing.T) {
	if !wire.On(t, "dhclient", "dhcpcd", "radvd") {
		return
	}
	lan(t, "pc", "router")
	announce(t, "router", "eth0", "fd00:99::/64", true)
	s := serve(t, wireConfig(), &leasetest.Store{}, scripted{})
	dir := t.TempDir()
	out := filepath.Join(dir, "env")
	script := write(t, "script",
		"#!/bin/sh\nenv >> "+out+"\n[ -z \"$new_ip6_address\" ] || ip address replace $new_ip6_address/128 dev eth0 "+
			"nodad\nexit 0\n")

	conf := write(t, "dhclient.conf", "request dhcp6.name-servers, dhcp6.domain-search, dhcp6.sntp-servers; timeout 10;\n")
	client := func(flags ...string) {
		t.Helper()
		wire.In(t, "pc", append(append([]string{"dhclient", "-6", "-v"}, flags...), "-cf", conf, "-sf", script, "-lf",
			filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "eth0")...)
		if flags[0] == "-x" || flags[0] == "-r" { // it ends the daemon, and does not wait for its end
			wire.Eventually(t, "no client has the port", func() bool {
				out, err := exec.Command("ip", "netns", "exec", "pc", "ss", "-Huan", "sport = :546").Output()
				return err == nil && len(out) == 0
			})
		}
	}
	defer client("-x") // it stays as a daemon
	client("-1")
	says6(t, out, "new_ip6_address=fd00:99::100", "new_dhcp6_name_servers=fd00:99::53",
		"new_dhcp6_domain_search=lab.example. example.", "new_max_life=3600", "new_dhcp6_sntp_servers=fd00:99::123")
	_ = os.Remove(out)
	client("-x")
	client("-S", "-1") // information alone
	says6(t, out, "new_dhcp6_name_servers=fd00:99::53")
	client("-x")
	client("-1") // it has a lease: it confirms it, and the answer is that its link is the same
	client("-r")
	wire.Eventually(t, "the release ends the lease", func() bool {
		l := s.Leases()
		return len(l) == 1 &&
			!time.Now().Before(l[0].Expires)
	})
	wire.In(t, "pc", "ip", "-6", "address", "flush", "dev", "eth0", "scope", "global")

	_ = os.Remove(out)
	conf = write(t, "dhcpcd.conf",
		"duid\niaid 77\noption dhcp6_name_servers, dhcp6_domain_search, dhcp6_ntp_server\nnoipv4\nnoipv4ll\nslaac hwaddr\n")
	wire.In(t, "pc", "dhcpcd", "-6", "-1", "-B", "-w", "-t", "25", "-f", conf, "-c", script, "eth0")
	says6(t, out, "new_dhcp6_ia_na1_ia_addr1=fd00:99::100", "new_dhcp6_name_servers=fd00:99::53")
	if l := s.Leases(); len(l) != 1 || l[0].MAC != "52:54:00:12:00:01" {
		t.Errorf("leases = %+v; want one, of the card", l)
	}
}

// TestNetworkd is systemd's client, which needs a little of systemd around it.
// It asks for an address because the router says so, and identifies itself by
// an identifier of its own (DUID-EN).
func TestNetworkd(t *testing.T) {
	wire.RequireAll(t)
	const networkd = "/lib/systemd/systemd-networkd"
	if _, err := os.Stat(networkd); err != nil {
		wire.Cannot(t, "systemd-networkd is not installed")
	}
	if !wire.On(t, "radvd") {
		return
	}
	lan(t, "pc", "router")
	announce(t, "router", "eth0", "fd00:99::/64", true)
	s := serve(t, wireConfig(), &leasetest.Store{}, scripted{})
	for _, dir := range []string{"/run/systemd/network", "/run/systemd/netif/links", "/run/systemd/netif/leases",
		"/run/systemd/netif/lldp"} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile("/run/systemd/network/10-eth0.network", []byte("[Match]\nName=eth0\n[Network]\nDHCP=ipv4\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	// With /sys read-only it does not wait for a udev that is not there.
	wire.Start(t, "pc", "sh", "-c", "mount -o remount,ro,bind /sys && exec "+networkd)
	wire.Eventually(t, "networkd has a lease", func() bool { return len(s.Leases()) == 1 })
	wire.Eventually(t, "the card has the address", func() bool {
		out, _ := exec.Command("ip", "netns", "exec", "pc", "ip", "-o", "address", "show", "dev", "eth0").CombinedOutput()
		return strings.Contains(string(out), "inet6 fd00:99::100/128")
	})
	if l := s.Leases(); l[0].MAC != "52:54:00:12:00:01" {
		t.Errorf("the lease is %+v; want the card's", l[0])
	}
}

// TestRecipeRelay: ISC's relay between two networks; its interface is recorded as the
// machine's switch port.
func TestRecipeRelay(t *testing.T) {
	if !wire.On(t, "dhcrelay", "dhclient") {
		return
	}
	lan(t, "router")
	wire.AddSwitch(t, "far")
	join(t, "far", "router", "eth1", "52:54:00:12:00:fe")
	join(t, "far", "pc", "eth0", "52:54:00:12:00:07")
	for card, a := range map[string]string{"eth0": "fd00:99::fe/64", "eth1": "fd00:7::1/64"} {
		wire.In(t, "router", "ip", "address", "add", a, "dev", card, "nodad")
	}
	wire.In(t, "router", "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	wire.Run(t, "ip", "route", "add", "fd00:7::/64", "via", "fd00:99::fe")
	s := serve(t, recipeConfig(t, "relay6"), &leasetest.Store{}, scripted{})
	wire.Start(t, "router", strings.Fields(recipe(t, "dhcrelay6"))...)
	dir := t.TempDir()
	conf := write(t, "dhclient.conf", "timeout 10;\n")
	for _, flag := range []string{"-1", "-x"} { // it stays as a daemon otherwise
		wire.In(t, "pc", "dhclient", "-6", flag, "-v", "-cf", conf, "-sf", "/bin/true", "-lf", filepath.Join(dir, "leases"),
			"-pf", filepath.Join(dir, "pid"), "eth0")
	}
	l := s.Leases()
	if len(l) != 1 || l[0].Address.String() != "fd00:7::1:0" || l[0].MAC != "52:54:00:12:00:07" ||
		l[0].Port.Relay.String() != "fd00:7::1" || l[0].Port.Circuit == "" {
		t.Errorf("leases = %+v; want one of the far network, with the relay's interface", l)
	}
}
