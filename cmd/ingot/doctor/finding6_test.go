package doctor

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
)

// TestFindings6: each thing that keeps machines from booting over IPv6 is found,
// with a fix; what is in order is not complained about.
func TestFindings6(t *testing.T) {
	full, boot, observe := dhcp6.Interface{Name: "eth1"}, dhcp6.Interface{Name: "eth1", Mode: dhcp6.Boot},
		dhcp6.Interface{Name: "eth1", Mode: dhcp6.Observe}
	local, global := address6{Prefix: netip.MustParsePrefix("fe80::1/64")},
		address6{Prefix: netip.MustParsePrefix("fd00:99::1/64")}
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
	foreign := []api.NetworkServer{{Interface: "eth1", DUID: "0001", From: netip.MustParseAddr("fe80::3")}}
	both := config.Config{DHCP: dhcp4.Config{Interfaces: []dhcp4.Interface{{Name: "eth1"}}},
		DHCP6: dhcp6.Config{Interfaces: []dhcp6.Interface{boot}}}
	ports := portsOf(both)
	drop := "table inet filter {\n chain input {\n  type filter hook input priority filter; policy drop;\n" +
		"  udp dport { 67, 69 } accept\n  tcp dport 80 accept\n }\n}\n"
	for _, c := range []struct {
		name  string
		found []Finding
		state string
		text  string
	}{
		{"a good card", []Finding{examineCard6(good(), true, full)}, OK, "fd00:99::1"},
		{"no card", []Finding{examineCard6(card6{}, false, full)}, Error, "no such interface"},
		{"a card that is down", []Finding{examineCard6(with(func(c *card6) { c.up = false }), true, full)}, Error,
			"ip link set eth1 up"},
		{"no IPv6", []Finding{examineCard6(with(func(c *card6) { c.off = true }), true, full)}, Error, "disable_ipv6=0"},
		{"no cable", []Finding{examineCard6(with(func(c *card6) { c.carrier = false }), true, full)}, Warning, "no carrier"},
		{"a tentative address", []Finding{examineCard6(with(func(c *card6) { c.addresses[0].tentative = true }), true,
			full)}, Warning, "detection of fd00:99::1 is still running"},
		{"a twin", []Finding{examineCard6(with(func(c *card6) {
			c.addresses[0].twin, c.addresses[0].tentative = true,
				true
		}), true, full)}, Error, "another host has the same address fd00:99::1"},
		{"no address", []Finding{examineCard6(with(func(c *card6) { c.addresses = c.addresses[1:] }), true, full)}, Error,
			"ip address add"},
		{"no address, only observed", []Finding{examineCard6(with(func(c *card6) { c.addresses = c.addresses[1:] }), true,
			observe)}, OK, "up"},
		{"no link-local address", []Finding{examineCard6(with(func(c *card6) { c.addresses = c.addresses[:1] }), true,
			full)}, Error, "no link-local address"},
		{"no router", []Finding{examineRouters(full, own, nil)}, Warning, "no router advertisement was received"},
		{"a router that says managed", []Finding{examineRouters(full, own, of(true, true, "fd00:99::/64"))}, OK,
			"addresses from DHCPv6"},
		{"a router that says other", []Finding{examineRouters(boot, own, of(false, true, "fd00:99::/64"))}, OK,
			"other settings from DHCPv6"},
		{"a router that says neither", []Finding{examineRouters(full, own, of(false, false, "fd00:99::/64"))}, Error,
			"AdvManagedFlag"},
		{"a router that says neither, only observed",
			[]Finding{examineRouters(observe, own, of(false, false, "fd00:99::/64"))}, OK, ""},
		{"a router of another prefix", []Finding{examineRouters(full, own, of(true, true, "fd00:98::/64"))}, Warning,
			"no prefix contains our address fd00:99::1"},
		{"two routers", []Finding{examineRouters(full, own, append(of(false, false, "fd00:98::/64"),
			of(true, false, "fd00:99::/64")...))}, OK, ""},
		{"another server", examineForeign6([]dhcp6.Interface{full}, foreign), Error, "fe80::3 (DUID 0001)"},
		{"a server of IPv4", examineForeign6([]dhcp6.Interface{full},
			[]api.NetworkServer{{Interface: "eth1", Address: netip.MustParseAddr("10.99.0.3")}}), OK, "no other"},
		{"a server of IPv6 is none of IPv4", examineForeign(both.DHCP.Interfaces, foreign), OK, "no other"},
		{"beside a server", examineForeign6([]dhcp6.Interface{boot}, foreign), OK, "DUID 0001"},
		{"beside none", examineForeign6([]dhcp6.Interface{boot}, nil), Warning, "gives no addresses"},
		{"another's port", []Finding{examinePort(ports[3], "dnsmasq (process 7)", "8")}, Error, "used by dnsmasq"},
		{"a firewall for IPv4 alone", []Finding{examineFirewall(drop, ports, []string{"eth1"})}, Warning,
			"names 547/udp, 4011/udp"},
	} {
		worst := slices.MaxFunc(c.found, func(a, b Finding) int { return severity(a) - severity(b) })
		if worst.State != c.state || !strings.Contains(worst.Text+" "+worst.Fix, c.text) {
			t.Errorf("%s: %+v; want %s with %q", c.name, worst, c.state, c.text)
		}
		if (worst.State == Error || worst.State == Warning) && worst.Fix == "" {
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
	text, err := hex.DecodeString("8600000040c0000c0000000000000000" + "030440c00001518000003840" + "00000000" +
		"fd000099000000000000000000000000" + "0101525400120001")
	if err != nil {
		t.Fatal(err)
	}
	from := netip.MustParseAddr("fe80::1")
	r, ok := parseRouter(from, text)
	if !ok || !r.managed || !r.other || r.address != from || len(r.prefixes) != 1 ||
		r.prefixes[0] != netip.MustParsePrefix("fd00:99::/64") {
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
