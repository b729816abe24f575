package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
)

// TestFindings6: each thing that keeps machines from booting over IPv6 is found,
// with a fix; what is in order is not complained about.
func TestFindings6(t *testing.T) {
	full, boot, observe := dhcp6.Interface{Name: "eth1"}, dhcp6.Interface{Name: "eth1", Mode: dhcp6.Boot}, dhcp6.Interface{Name: "eth1", Mode: dhcp6.Observe}
	local, global := address6{Prefix: netip.MustParsePrefix("fe80::1/64")}, address6{Prefix: netip.MustParsePrefix("fd00:99::1/64")}
	good := func() card6 { return card6{up: true, carrier: true, addresses: []address6{global, local}} }
	with := func(f func(*card6)) card6 { c := good(); f(&c); return c }
	of := func(managed, other bool, prefixes ...string) []router {
		r := router{address: netip.MustParseAddr("fe80::fe"), managed: managed, other: other}
		for _, p := range prefixes {
			r.prefixes = append(r.prefixes, netip.MustParsePrefix(p))
		}
		return []router{r}
	}
	own := []netip.Addr{global.Addr()}
	foreign := []dhcp4.Foreign{{Interface: "eth1", DUID: "0001", From: netip.MustParseAddr("fe80::3")}}
	both := config.Config{DHCP: dhcp4.Config{Interfaces: []dhcp4.Interface{{Name: "eth1"}}}, DHCP6: dhcp6.Config{Interfaces: []dhcp6.Interface{boot}}}
	ports := portsOf(both)
	drop := "table inet filter {\n chain input {\n  type filter hook input priority filter; policy drop;\n  udp dport { 67, 69 } accept\n  tcp dport 80 accept\n }\n}\n"
	for _, c := range []struct {
		name  string
		found []finding
		state string
		text  string
	}{
		{"a good card", []finding{examineCard6(good(), true, full)}, findOK, "fd00:99::1"},
		{"no card", []finding{examineCard6(card6{}, false, full)}, findError, "no such interface"},
		{"a card that is down", []finding{examineCard6(with(func(c *card6) { c.up = false }), true, full)}, findError, "ip link set eth1 up"},
		{"no IPv6", []finding{examineCard6(with(func(c *card6) { c.off = true }), true, full)}, findError, "disable_ipv6=0"},
		{"no cable", []finding{examineCard6(with(func(c *card6) { c.carrier = false }), true, full)}, findWarning, "no carrier"},
		{"a tentative address", []finding{examineCard6(with(func(c *card6) { c.addresses[0].tentative = true }), true, full)}, findWarning, "still tests the address fd00:99::1"},
		{"a twin", []finding{examineCard6(with(func(c *card6) { c.addresses[0].twin, c.addresses[0].tentative = true, true }), true, full)}, findError, "another host has the address fd00:99::1"},
		{"no address", []finding{examineCard6(with(func(c *card6) { c.addresses = c.addresses[1:] }), true, full)}, findError, "ip address add"},
		{"no address, only observed", []finding{examineCard6(with(func(c *card6) { c.addresses = c.addresses[1:] }), true, observe)}, findOK, "up"},
		{"no link-local address", []finding{examineCard6(with(func(c *card6) { c.addresses = c.addresses[:1] }), true, full)}, findError, "no link-local address"},
		{"no router", []finding{examineRouters(full, own, nil)}, findWarning, "none announces itself"},
		{"a router that says managed", []finding{examineRouters(full, own, of(true, true, "fd00:99::/64"))}, findOK, "addresses are from DHCPv6"},
		{"a router that says other", []finding{examineRouters(boot, own, of(false, true, "fd00:99::/64"))}, findOK, "the rest is from DHCPv6"},
		{"a router that says neither", []finding{examineRouters(full, own, of(false, false, "fd00:99::/64"))}, findError, "AdvManagedFlag"},
		{"a router that says neither, only observed", []finding{examineRouters(observe, own, of(false, false, "fd00:99::/64"))}, findOK, ""},
		{"a router of another prefix", []finding{examineRouters(full, own, of(true, true, "fd00:98::/64"))}, findWarning, "none is of our address fd00:99::1"},
		{"two routers", []finding{examineRouters(full, own, append(of(false, false, "fd00:98::/64"), of(true, false, "fd00:99::/64")...))}, findOK, ""},
		{"another server", examineForeign6([]dhcp6.Interface{full}, foreign), findError, "fe80::3 (DUID 0001)"},
		{"a server of IPv4", examineForeign6([]dhcp6.Interface{full}, []dhcp4.Foreign{{Interface: "eth1", Address: netip.MustParseAddr("10.99.0.3")}}), findOK, "no other"},
		{"a server of IPv6 is none of IPv4", examineForeign(both.DHCP.Interfaces, foreign), findOK, "no other"},
		{"beside a server", examineForeign6([]dhcp6.Interface{boot}, foreign), findOK, "DUID 0001"},
		{"beside none", examineForeign6([]dhcp6.Interface{boot}, nil), findWarning, "gives no addresses"},
		{"another's port", []finding{examinePort(ports[3], "dnsmasq (process 7)", "8")}, findError, "taken by dnsmasq"},
		{"a firewall for IPv4 alone", []finding{examineFirewall(drop, ports, []string{"eth1"})}, findWarning, "names 547/udp, 4011/udp"},
	} {
		worst := slices.MaxFunc(c.found, func(a, b finding) int { return severity(a) - severity(b) })
		if worst.State != c.state || !strings.Contains(worst.Text+" "+worst.Fix, c.text) {
			t.Errorf("%s: %+v; want %s with %q", c.name, worst, c.state, c.text)
		}
		if (worst.State == findError || worst.State == findWarning) && worst.Fix == "" {
			t.Errorf("%s: %+v has no fix", c.name, worst)
		}
	}
	if c := examinePort(ports[3], "", "").Check; c != "port 547/udp over IPv6" {
		t.Errorf("the port of DHCPv6 is called %q", c)
	}
}

// TestParseRouter reads an advertisement as RFC 4861 lays it out: managed and
// other, one prefix, and the router's link-layer address; and no half of it.
func TestParseRouter(t *testing.T) {
	text, err := hex.DecodeString("8600000040c0000c0000000000000000" + "030440c00001518000003840" + "00000000" + "fd000099000000000000000000000000" + "0101525400120001")
	if err != nil {
		t.Fatal(err)
	}
	from := netip.MustParseAddr("fe80::1")
	r, ok := parseRouter(from, text)
	if !ok || !r.managed || !r.other || r.address != from || len(r.prefixes) != 1 || r.prefixes[0] != netip.MustParsePrefix("fd00:99::/64") {
		t.Errorf("parseRouter = %+v, %v", r, ok)
	}
	for n := range text {
		if r, ok := parseRouter(from, text[:n]); ok && (n < 16 || n < 48 && len(r.prefixes) > 0) {
			t.Errorf("of %d bytes: %+v", n, r)
		}
	}
	text[17] = 0 // an option without a length would be read for ever
	if _, ok := parseRouter(from, text); ok {
		t.Error("an option of length 0 is taken")
	}
}

// TestDoctor6: a server of IPv6 without a router is warned of, with one all is
// well, and another DHCPv6 server is found.
func TestDoctor6(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	f := newField(t, 2<<20)
	for _, c := range []*exec.Cmd{f.lan.Command(f.ctx, "ip", "address", "add", "fd00:99::1/64", "dev", "br0", "nodad"),
		f.crowd.Command(f.ctx, "ip", "address", "add", "fd00:99::fe/64", "dev", f.crowd.Card, "nodad")} {
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	f.write(settings + "dhcp6: {interfaces: [{name: br0}]}\n")
	examine := func() (list []finding) {
		cmd := asIngot(f.lan.Command(f.ctx, os.Args[0], "--store", f.store, "-o", "json", "doctor", "--config", f.config, "--no-trial"))
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
			t.Fatalf("ingot doctor: %v\n%s", err, out)
		}
		if err := json.Unmarshal(out, &list); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return list
	}
	of := func(list []finding, check string) finding {
		i := slices.IndexFunc(list, func(x finding) bool { return x.Check == check })
		if i < 0 {
			t.Fatalf("nothing was found of %s: %+v", check, list)
		}
		return list[i]
	}
	f.serve()
	f.until("the bridge's link-local address to be tested", func() bool { return of(examine(), "IPv6 br0").State == findOK })
	list := examine()
	for _, check := range []string{"port 547/udp over IPv6", "port 69/udp over IPv6", "port 80/tcp over IPv6", "DHCPv6 servers br0", "HTTP fd00:99::1", "TFTP fd00:99::1"} {
		if x := of(list, check); x.State != findOK {
			t.Errorf("beside a running server: %+v", x)
		}
	}
	if x := of(list, "routers br0"); x.State != findWarning {
		t.Errorf("without a router: %+v", x)
	}
	_ = f.server.Process.Kill()
	dnsmasq := f.crowd.Command(f.ctx, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface="+f.crowd.Card, "--enable-ra",
		"--dhcp-range=fd00:99::100,fd00:99::1ff,64", "--dhcp-leasefile="+filepath.Join(f.dir, "leases"))
	if err := dnsmasq.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dnsmasq.Process.Kill(); _ = dnsmasq.Wait() }()
	f.until("router and other server to be found", func() bool {
		list = examine()
		return of(list, "routers br0").State == findOK && of(list, "DHCPv6 servers br0").State == findError
	})
	if x := of(list, "routers br0"); !strings.Contains(x.Text, "fd00:99::/64") || !strings.Contains(x.Text, "addresses are from DHCPv6") {
		t.Errorf("the router is %q", x.Text)
	}
	if x := of(list, "DHCPv6 servers br0"); !strings.Contains(x.Text, "fe80::") {
		t.Errorf("the other server is %q", x.Text)
	}
}
