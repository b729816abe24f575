package main

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
)

// TestFindings: each thing that keeps machines from booting is found, with a
// fix; what is in order is not complained about.
func TestFindings(t *testing.T) {
	full, proxy := dhcp4.Interface{Name: "eth1"}, dhcp4.Interface{Name: "eth1", Mode: dhcp4.Proxy}
	good := card{name: "eth1", up: true, carrier: true, mtu: 1500, addresses: []netip.Prefix{netip.MustParsePrefix("10.99.0.1/24")}}
	with := func(f func(*card)) card { c := good; f(&c); return c }
	networks := []dhcp4.Network{{Name: "rack", Interface: "eth1"}}
	networks[0].MTU = 9000
	foreign := []dhcp4.Foreign{{Interface: "eth1", Address: netip.MustParseAddr("10.99.0.3"), MAC: "52:54:00:00:00:03"}}
	ports := portsOf(config.Config{DHCP: dhcp4.Config{Interfaces: []dhcp4.Interface{full}}})
	drop := "table inet filter {\n chain input {\n  type filter hook input priority filter; policy drop;\n  %s\n }\n}\n"
	rules := func(r string) string { return strings.Replace(drop, "%s", r, 1) }
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	loaders := []string{"undionly.kpxe", "snponly.efi", "ipxe.efi"}
	for _, c := range []struct {
		name  string
		found []finding
		state string
		text  string
	}{
		{"a good card", examineCard(good, true, full, nil), findOK, "up"},
		{"no card", examineCard(card{}, false, full, nil), findError, "no such interface"},
		{"a card that is down", examineCard(with(func(c *card) { c.up = false }), true, full, nil), findError, "ip link set eth1 up"},
		{"no address", examineCard(with(func(c *card) { c.addresses = nil }), true, full, nil), findError, "ip address add"},
		{"no address, only observed", examineCard(with(func(c *card) { c.addresses = nil }), true, dhcp4.Interface{Name: "eth1", Mode: dhcp4.Observe}, nil), findOK, "up"},
		{"no cable", examineCard(with(func(c *card) { c.carrier = false }), true, full, nil), findWarning, "no carrier"},
		{"a small MTU", examineCard(with(func(c *card) { c.mtu = 1400 }), true, full, nil), findWarning, "mtu 1500"},
		{"machines are told more", examineCard(good, true, full, networks), findError, "network rack tells machines an MTU of 9000"},
		{"a free port", []finding{examinePort(ports[0], "", "")}, findOK, "free"},
		{"our port", []finding{examinePort(ports[0], "ingot (process 7)", "7")}, findOK, "by ingot"},
		{"another's port", []finding{examinePort(ports[0], "dnsmasq (process 7)", "8")}, findError, "taken by dnsmasq"},
		{"a second ingot", []finding{examinePort(ports[0], "ingot (process 7)", "")}, findError, "taken by ingot"},
		{"another server", examineForeign([]dhcp4.Interface{full}, foreign), findError, "10.99.0.3"},
		{"another server on another network", examineForeign([]dhcp4.Interface{{Name: "eth2"}}, foreign), findOK, "no other"},
		{"a proxy beside a server", examineForeign([]dhcp4.Interface{proxy}, foreign), findOK, "10.99.0.3"},
		{"a proxy alone", examineForeign([]dhcp4.Interface{proxy}, nil), findWarning, "gives no addresses"},
		{"no firewall", []finding{examineFirewall("", ports, []string{"eth1"})}, findOK, ""},
		{"a firewall that lets all through", []finding{examineFirewall(strings.Replace(drop, "drop", "accept", 1), ports, []string{"eth1"})}, findOK, ""},
		{"a firewall that drops", []finding{examineFirewall(rules("tcp dport 22 accept"), ports, []string{"eth1"})}, findWarning, "67/udp, 69/udp, 80/tcp"},
		{"a firewall with one rule missing", []finding{examineFirewall(rules("udp dport { 67, 69 } accept"), ports, []string{"eth1"})}, findWarning, "names 80/tcp"},
		{"a firewall with our rules", []finding{examineFirewall(rules("udp dport { 67, 69 } accept\n  tcp dport 80 accept"), ports, []string{"eth1"})}, findOK, ""},
		{"a firewall with a rule of the interface", []finding{examineFirewall(rules(`iifname "eth1" accept`), ports, []string{"eth1"})}, findOK, "eth1"},
		{"a firewall without nft", []finding{unseenFirewall(&exec.Error{Name: "nft", Err: exec.ErrNotFound}, ports)}, findSkipped, "there is no nft apt install nftables; without it, look by hand whether the firewall lets in 67/udp, 69/udp, 80/tcp"},
		{"a firewall that others may not see", []finding{unseenFirewall(errors.New("exit status 1"), ports)}, findSkipped, "run it as root"},
		{"a rule of another port that begins alike", []finding{examineFirewall(rules("udp dport { 67, 69 } accept\n  tcp dport 8080 accept"), ports, []string{"eth1"})}, findWarning, "80/tcp"},
		{"a good clock", []finding{examineClock(now, true, nil)}, findOK, ""},
		{"a clock that nobody keeps", []finding{examineClock(now, false, nil)}, findWarning, "set-ntp"},
		{"a clock after an empty battery", []finding{examineClock(time.Unix(0, 0), false, nil)}, findError, "set-ntp"},
		{"a full disk", []finding{examineSpace("/x", 1<<20, 1<<40)}, findError, "1.0 MiB left"},
		{"a nearly full disk", []finding{examineSpace("/x", 1<<30, 1<<40)}, findWarning, "gc"},
		{"an open key", []finding{examineKey("server.key", 0o640)}, findError, "chmod 600"},
		{"a closed key", []finding{examineKey("server.key", 0o600)}, findOK, ""},
		{"no loaders", []finding{examineLoaders(nil, loaders)}, findWarning, "ingot loaders"},
		{"an empty loader", []finding{examineLoaders(map[string]int64{"undionly.kpxe": 0, "snponly.efi": 5}, loaders)}, findError, "undionly.kpxe"},
		{"all loaders", []finding{examineLoaders(map[string]int64{"undionly.kpxe": 1, "snponly.efi": 5, "ipxe.efi": 1}, loaders)}, findOK, "3 of 3"},
	} {
		worst := slices.MaxFunc(c.found, func(a, b finding) int { return severity(a) - severity(b) })
		if worst.State != c.state || !strings.Contains(worst.Text+" "+worst.Fix, c.text) {
			t.Errorf("%s: %+v; want %s with %q", c.name, worst, c.state, c.text)
		}
		if (worst.State == findError || worst.State == findWarning) && worst.Fix == "" {
			t.Errorf("%s: %+v has no fix", c.name, worst)
		}
	}
}

func severity(f finding) int {
	return slices.Index([]string{findOK, findSkipped, findWarning, findError}, f.State)
}

// TestDoctor: on a host whose server runs, all is well, and the trial's machine
// gets its script; beside another DHCP server, and with an interface that is
// not there, it is not.
func TestDoctor(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	f := newField(t, 2<<20)
	examine := func(args ...string) (list []finding, failed bool) {
		argv := append([]string{"--store", f.store, "-o", "json", "doctor"}, args...)
		cmd := asIngot(f.lan.Command(f.ctx, os.Args[0], argv...))
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
			t.Fatalf("ingot doctor %v: %v\n%s", args, err, out)
		}
		if err := json.Unmarshal(out, &list); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return list, err != nil
	}
	of := func(list []finding, check string) finding {
		i := slices.IndexFunc(list, func(x finding) bool { return x.Check == check })
		if i < 0 {
			t.Fatalf("nothing was found of %s: %+v", check, list)
		}
		return list[i]
	}
	f.serve()
	list, failed := examine("--config", f.config)
	for _, check := range []string{"configuration", "server", "interface br0", "port 67/udp", "port 80/tcp", "DHCP servers br0", "trial"} {
		if x := of(list, check); x.State != findOK {
			t.Errorf("beside a running server: %+v", x)
		}
	}
	if failed && !slices.ContainsFunc(list, func(x finding) bool { return x.State == findError }) {
		t.Error("it fails without an error")
	}
	if list, failed := examine("--config=", "--interface", "br7", "--no-trial"); !failed || of(list, "interface br7").State != findError {
		t.Errorf("with an interface that is not there: %+v", list)
	}
	_ = f.server.Process.Kill()
	dnsmasq := f.crowd.Command(f.ctx, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface="+f.crowd.Card, "--dhcp-range=10.99.200.1,10.99.200.9", "--dhcp-leasefile="+filepath.Join(f.dir, "leases"))
	if err := dnsmasq.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dnsmasq.Process.Kill(); _ = dnsmasq.Wait() }()
	f.until("the other server to be found", func() bool {
		list, failed := examine("--config", f.config, "--no-trial")
		return failed && of(list, "DHCP servers br0").State == findError && of(list, "server").State == findWarning
	})
}
