package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/fleet"
	"ingot/image"
)

// TestFindings: each thing that keeps machines from booting is found, with a
// fix; what is in order is not complained about.
func TestFindings(t *testing.T) {
	full, proxy := dhcp4.Interface{Name: "eth1"}, dhcp4.Interface{Name: "eth1", Mode: dhcp4.Proxy}
	good := card{name: "eth1", up: true, carrier: true, mtu: 1500,
		addresses: []netip.Prefix{netip.MustParsePrefix("10.99.0.1/24")}}
	with := func(f func(*card)) card { c := good; f(&c); return c }
	networks := []dhcp4.Network{{Name: "rack", Interface: "eth1"}}
	networks[0].Options.MTU = 9000
	foreign := []api.NetworkServer{{Interface: "eth1", Address: netip.MustParseAddr("10.99.0.3"),
		MAC: "52:54:00:00:00:03"}}
	ports := portsOf(config.Config{DHCP: dhcp4.Config{Interfaces: []dhcp4.Interface{full}}})
	drop := "table inet filter {\n chain input {\n  type filter hook input priority filter; policy drop;\n  %s\n }\n}\n"
	rules := func(r string) string { return strings.Replace(drop, "%s", r, 1) }
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	recorded := fmt.Sprintf(`{"files":{"undionly.kpxe":%q,"snponly.efi":%q}}`, ingot.DigestOf([]byte("undionly.kpxe")),
		ingot.DigestOf([]byte("snponly.efi")))
	for _, c := range []struct {
		name  string
		found []Finding
		state string
		text  string
	}{
		{"a good card", examineCard(good, true, full, nil), OK, "up"},
		{"address translation", examineTranslated(config.Config{DHCP: dhcp4.Config{Networks: []dhcp4.Network{
			{Name: "rack", NAT: true}, {Name: "plain"}}}}), Warning, "network rack of dhcp has nat: true"},
		{"a relay that is not listed", []Finding{examineRefused(api.RefusedRelay{Interface: "eth1",
			Text: "packets of the relay 10.7.0.1 are refused", Add: "relays: [10.7.0.1]", Packets: 3})}, Warning, "(3 times)"},
		{"no card", examineCard(card{}, false, full, nil), Error, "no such interface"},
		{"a card that is down", examineCard(with(func(c *card) { c.up = false }), true, full, nil), Error,
			"ip link set eth1 up"},
		{"no address", examineCard(with(func(c *card) { c.addresses = nil }), true, full, nil), Error, "ip address add"},
		{"no address, only observed", examineCard(with(func(c *card) { c.addresses = nil }), true,
			dhcp4.Interface{Name: "eth1", Mode: dhcp4.Observe}, nil), OK, "up"},
		{"no cable", examineCard(with(func(c *card) { c.carrier = false }), true, full, nil), Warning, "no carrier"},
		{"a small MTU", examineCard(with(func(c *card) { c.mtu = 1400 }), true, full, nil), Warning, "mtu 1500"},
		{"a larger MTU is announced", examineCard(good, true, full, networks), Error,
			"network rack announces an MTU of 9000"},
		{"a free port", []Finding{examinePort(ports[0], "", "")}, OK, "free"},
		{"our port", []Finding{examinePort(ports[0], "ingot (process 7)", "7")}, OK, "by ingot"},
		{"another's port", []Finding{examinePort(ports[0], "dnsmasq (process 7)", "8")}, Error, "used by dnsmasq"},
		{"a second ingot", []Finding{examinePort(ports[0], "ingot (process 7)", "")}, Error, "used by ingot"},
		{"some pending machines", examinePending(pendingMachines(100, now), now), OK, "100 are pending"},
		{"many new machines", examinePending(pendingMachines(600, now), now), Warning, "600 are new in the last hour"},
		{"many pending machines", examinePending(pendingMachines(2100, now.Add(-time.Hour)), now), Warning,
			"of at most 4096"},
		{"no room for new machines", examinePending(pendingMachines(4096, now), now), Error, "forget --pending"},
		{"another server", examineForeign([]dhcp4.Interface{full}, foreign), Error, "10.99.0.3"},
		{"another server on another network", examineForeign([]dhcp4.Interface{{Name: "eth2"}}, foreign), OK, "no other"},
		{"a proxy beside a server", examineForeign([]dhcp4.Interface{proxy}, foreign), OK, "10.99.0.3"},
		{"a proxy alone", examineForeign([]dhcp4.Interface{proxy}, nil), Warning, "gives no addresses"},
		{"no firewall", []Finding{examineFirewall("", ports, []string{"eth1"})}, OK, ""},
		{"a firewall that lets all through", []Finding{examineFirewall(strings.Replace(drop, "drop", "accept", 1), ports,
			[]string{"eth1"})}, OK, ""},
		{"a firewall that drops", []Finding{examineFirewall(rules("tcp dport 22 accept"), ports, []string{"eth1"})}, Warning,
			"67/udp, 69/udp, 80/tcp"},
		{"a firewall with one rule missing", []Finding{examineFirewall(rules("udp dport { 67, 69 } accept"), ports,
			[]string{"eth1"})}, Warning, "names 80/tcp"},
		{"a firewall with our rules", []Finding{examineFirewall(rules("udp dport { 67, 69 } accept\n  tcp dport 80 accept"),
			ports, []string{"eth1"})}, OK, ""},
		{"a firewall with a rule of the interface", []Finding{examineFirewall(rules(`iifname "eth1" accept`), ports,
			[]string{"eth1"})}, OK, "eth1"},
		{"a firewall without nft", []Finding{unseenFirewall(&exec.Error{Name: "nft", Err: exec.ErrNotFound}, ports)},
			Skipped, "nft is not installed apt install nftables; without it, check by hand that the firewall accepts " +
				"67/udp, 69/udp, 80/tcp"},
		{"a firewall that others may not see", []Finding{unseenFirewall(errors.New("exit status 1"), ports)}, Skipped,
			"run it as root"},
		{"a rule of another port that begins alike",
			[]Finding{examineFirewall(rules("udp dport { 67, 69 } accept\n  tcp dport 8080 accept"), ports, []string{"eth1"})},
			Warning, "80/tcp"},
		{"a good clock", []Finding{examineClock(now, true, nil)}, OK, ""},
		{"a clock that nobody keeps", []Finding{examineClock(now, false, nil)}, Warning, "set-ntp"},
		{"a clock after an empty battery", []Finding{examineClock(time.Unix(0, 0), false, nil)}, Error, "set-ntp"},
		{"a full disk", []Finding{examineSpace("/x", 1<<20, 1<<40)}, Error, "1.0 MiB left"},
		{"a nearly full disk", []Finding{examineSpace("/x", 1<<30, 1<<40)}, Warning, "gc"},
		{"an open key", []Finding{examineKey("server.key", 0o640)}, Error, "chmod 600"},
		{"a closed key", []Finding{examineKey("server.key", 0o600)}, OK, ""},
		{"a release key of the server's user", []Finding{examineRelease("release.key", 990, 990)}, Warning, "move the file"},
		{"a release key and a server that is root", []Finding{examineRelease("release.key", 1000, 0)}, Warning, "can read"},
		{"a release key of another user", []Finding{examineRelease("release.key", 0, 990)}, OK, ""},
		{"no loaders", examineLoaders(t.TempDir()), Warning, "ingot loaders"},
		{"all loaders", examineLoaders(loaders(t, recorded, nil)), OK, "2 files have the content"},
		{"a loader that was cut off", examineLoaders(loaders(t, recorded, func(dir string) error {
			return os.Truncate(filepath.Join(dir, "snponly.efi"), 3)
		})), Error, "snponly.efi has 3 bytes"},
		{"a missing loader", examineLoaders(loaders(t, recorded, func(dir string) error {
			return os.Remove(filepath.Join(dir, "undionly.kpxe"))
		})), Error, "undionly.kpxe is missing"},
		{"a loader replaced by a link", examineLoaders(loaders(t, recorded, func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "undionly.kpxe")),
				os.Symlink("snponly.efi", filepath.Join(dir, "undionly.kpxe")))
		})), Error, "is a symbolic link"},
		{"loaders of an earlier version", examineLoaders(loaders(t, "{}", nil)), Warning, "recorded no digests"},
		{"an empty loader of an earlier version", examineLoaders(loaders(t, "{}", func(dir string) error {
			return os.Truncate(filepath.Join(dir, "snponly.efi"), 0)
		})), Error, "missing or empty: snponly.efi"},
		{"an operator's own loader", examineLoaders(loaders(t, recorded, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "own.efi"), []byte("own"), 0o644)
		})), OK, ""},
	} {
		worst := slices.MaxFunc(c.found, func(a, b Finding) int { return severity(a) - severity(b) })
		if worst.State != c.state || !strings.Contains(worst.Text+" "+worst.Fix, c.text) {
			t.Errorf("%s: %+v; want %s with %q", c.name, worst, c.state, c.text)
		}
		if (worst.State == Error || worst.State == Warning) && worst.Fix == "" {
			t.Errorf("%s: %+v has no fix", c.name, worst)
		}
	}
}

func severity(f Finding) int {
	return slices.Index([]string{OK, Skipped, Warning, Error}, f.State)
}

// pendingMachines are so many machines that were first seen at a time, and one that is approved.
func pendingMachines(n int, at time.Time) []api.Machine {
	list := []api.Machine{{State: api.Approved, FirstSeen: at}}
	for range n {
		list = append(list, api.Machine{State: api.Pending, FirstSeen: at})
	}
	return list
}

// TestExamineOffer: what a new machine is offered is judged, and silence is an error.
func TestExamineOffer(t *testing.T) {
	i := api.NetworkInterface{Name: "eth1", Addresses: []netip.Addr{netip.MustParseAddr("10.99.0.1")}}
	offer := func(server, ip, file, why string) *dhcpv4.DHCPv4 {
		p, err := dhcpv4.New(dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(server))))
		if err != nil {
			t.Fatal(err)
		}
		if p.BootFileName = file; ip != "" {
			p.YourIPAddr = net.ParseIP(ip)
		}
		if why != "" {
			p.UpdateOption(dhcpv4.OptMessage(why))
		}
		return p
	}
	for _, c := range []struct {
		name  string
		offer *dhcpv4.DHCPv4
		state string
		text  string
	}{
		{"nothing", nil, Error, "does not answer"},
		{"address and loader", offer("10.99.0.1", "10.99.0.100", "snponly.efi", ""), OK, "10.99.0.100 and snponly.efi"},
		{"a loader", offer("10.99.0.1", "", "snponly.efi", ""), OK, "is offered snponly.efi"},
		{"known machines only", offer("10.99.0.1", "", "", ""), OK, "gets nothing here"},
		{"no loader", offer("10.99.0.1", "10.99.0.100", "", ""), Error, "nothing to boot"},
		{"no address left", offer("10.99.0.1", "", "", "all addresses are in use"), Error, "all addresses are in use"},
		{"another server's", offer("10.99.0.9", "10.99.0.100", "snponly.efi", ""), Error, "comes from 10.99.0.9"},
	} {
		if x := examineOffer(i, c.offer); x.State != c.state || !strings.Contains(x.Text, c.text) {
			t.Errorf("%s: %+v; want %s, %q", c.name, x, c.state, c.text)
		}
	}
}

// loaders makes a store with two loaders and a lock, and damages them.
func loaders(t *testing.T, lock string, damage func(dir string) error) (root string) {
	t.Helper()
	root = t.TempDir()
	dir := filepath.Join(root, "loaders")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"undionly.kpxe": "undionly.kpxe", "snponly.efi": "snponly.efi",
		"lock.json": lock} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if damage != nil {
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// TestMissingImagesOfRules: doctor finds images that the configuration gives to new machines and that
// the store lacks.
func TestMissingImagesOfRules(t *testing.T) {
	root := t.TempDir()
	c := config.Boots{Rules: []fleet.Rule{{Port: "Eth1/*", Approve: true, Image: "lab:v9"}}}
	if list := examineFirst(t.Context(), c, root); len(list) > 0 {
		t.Errorf("without a store: %+v; want nothing", list)
	}
	if _, err := image.Open(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	list := examineFirst(t.Context(), c, root)
	if len(list) != 1 || list[0].State != Error || list[0].Text != "the rule for port Eth1/* gives lab:v9 to new "+
		"machines, and the store has no such image" || !strings.Contains(list[0].Fix, "ingot image ls") {
		t.Errorf("examineFirst = %+v; want an error about lab:v9", list)
	}
	if list := examineFirst(t.Context(), config.Boots{}, root); len(list) > 0 {
		t.Errorf("without rules: %+v; want nothing", list)
	}
}
