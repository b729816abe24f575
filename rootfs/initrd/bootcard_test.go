package initrd

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"go.yaml.in/yaml/v4"

	"ingot/internal/wire"
)

func TestBootCardText(t *testing.T) {
	const mac = "52:54:00:12:00:01"
	for all, want := range map[string]string{
		"[Match]\nType=ether\n\n[Network]\nDHCP=ipv4\n": "[Match]\nMACAddress=" + mac +
			"\nType=ether\n\n[Network]\nDHCP=ipv4\n" + bootCardSettings,
		"[Match]\nMACAddress=02:00:00:00:00:01\n[Network]\nDHCP=ipv4\n": "",
		"": "",
	} {
		if got, ok := bootCardText(all, mac); got != want || ok != (want != "") {
			t.Errorf("bootCardText(%q) = %q, %t; want %q", all, got, ok, want)
		}
	}
}

// ethernetText is what the shipped profile says of every card. Its condition that a card is
// hardware is taken out: those of the test are not.
func ethernetText(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../profiles/debian/profile.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Files []struct{ Path, Content string }
	}
	if err := yaml.Unmarshal(b, &p); err != nil {
		t.Fatal(err)
	}
	for _, f := range p.Files {
		if f.Path == "/"+ethernetFile {
			return strings.Replace(f.Content, "Kind=!*\n", "", 1)
		}
	}
	t.Fatalf("the profile has no %s", ethernetFile)
	return ""
}

// keaConf serves one network with leases of six seconds.
const keaConf = `{"Dhcp4": {"interfaces-config": {"interfaces": ["eth0"], "dhcp-socket-type": "raw"},
"lease-database": {"type": "memfile", "persist": false}, "valid-lifetime": 6, "renew-timer": 3, "rebind-timer": 4,
"option-def": [{"name": "routes", "code": 121, "space": "dhcp4", "type": "binary"}],
"subnet4": [{"id": 1, "subnet": "NET.0/24", "pools": [{"pool": "NET.100-NET.150"}], "option-data": [
{"name": "routers", "data": "NET.1"}, {"name": "domain-name-servers", "data": "NET.53"},
{"name": "interface-mtu", "data": "1400"}, {"name": "ntp-servers", "data": "NET.123"},
{"name": "domain-search", "data": "lab.example"}, {"name": "routes", "data": "ROUTES"}]}]}}`

// twoNetworks are two networks with a DHCP server each, and a machine with a card in both.
type twoNetworks struct {
	t       *testing.T
	confs   []string
	servers []*exec.Cmd
}

func newTwoNetworks(t *testing.T) *twoNetworks {
	t.Helper()
	n := &twoNetworks{t: t}
	for i, mac := range []string{bootMAC, "52:54:00:12:00:02"} {
		sw, card, prefix := fmt.Sprintf("sw%d", i+1), fmt.Sprintf("eth%d", i+1), fmt.Sprintf("10.0.%d", i+1)
		wire.AddSwitch(t, sw)
		wire.Join(t, sw, "router"+sw, "eth0", "52:54:00:12:00:fe")
		wire.Join(t, sw, "pc", card, mac)
		wire.In(t, "router"+sw, "ip", "address", "add", prefix+".1/24", "dev", "eth0")
		gateway := net.ParseIP(prefix + ".1").To4()
		routes := dhcpv4.Routes{
			{Dest: &net.IPNet{IP: net.IPv4(192, 168, byte(i+1), 0).To4(), Mask: net.CIDRMask(24, 32)}, Router: gateway},
			{Dest: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Router: gateway},
		}
		conf := filepath.Join(t.TempDir(), "kea.conf")
		text := strings.NewReplacer("NET", prefix, "ROUTES", hex.EncodeToString(routes.ToBytes())).Replace(keaConf)
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		n.confs = append(n.confs, conf)
	}
	return n
}

// start starts the DHCP servers, stop ends them.
func (n *twoNetworks) start() {
	for i, conf := range n.confs {
		n.servers = append(n.servers, wire.Start(n.t, fmt.Sprintf("routersw%d", i+1), "sh", "-c",
			fmt.Sprintf("mkdir -p /run/kea%d && KEA_PIDFILE_DIR=/run/kea%d KEA_LOCKFILE_DIR=/run/kea%d exec kea-dhcp4 -c %s",
				i, i, i, conf)))
	}
}

func (n *twoNetworks) stop() {
	for _, s := range n.servers {
		_ = s.Process.Kill()
		_ = s.Wait()
	}
	n.servers = nil
}

// card returns the addresses and routes of a card, and what networkd says of it.
func (n *twoNetworks) card(name string) string {
	n.t.Helper()
	index := strings.TrimSpace(wire.In(n.t, "pc", "cat", "/sys/class/net/"+name+"/ifindex"))
	state, _ := os.ReadFile("/run/systemd/netif/links/" + index)
	return wire.In(n.t, "pc", "ip", "-4", "address", "show", "dev", name) +
		wire.In(n.t, "pc", "ip", "route", "show", "dev", name) + string(state)
}

func (n *twoNetworks) has(name string, want ...string) bool {
	n.t.Helper()
	text := n.card(name)
	for _, w := range want {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

const bootMAC = "52:54:00:12:00:01"

// TestNetworkdKeepsBootCard: a real systemd-networkd has two cards, with the network files of the
// shipped profile and of ingot-init. It starts while no DHCP server answers; then what DHCP says
// reaches the system, and the boot card's default route and name servers go first; then the
// servers are away for longer than a lease. The boot card always has its address and routes. The
// other card, as the control, loses them.
func TestNetworkdKeepsBootCard(t *testing.T) {
	wire.RequireAll(t)
	const networkd = "/lib/systemd/systemd-networkd"
	if _, err := os.Stat(networkd); err != nil {
		wire.Cannot(t, "systemd-networkd is not installed")
	}
	if !wire.On(t, "kea-dhcp4") {
		return
	}
	n := newTwoNetworks(t)
	root := t.TempDir()
	for _, dir := range []string{filepath.Join(root, filepath.Dir(ethernetFile)), "/run/systemd/network",
		"/run/systemd/netif/links", "/run/systemd/netif/leases", "/run/systemd/netif/lldp"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	wire.Run(t, "chmod", "-R", "a+rwX", "/run/systemd") // networkd is not root
	for _, name := range []string{filepath.Join(root, ethernetFile), "/run/systemd/network/80-ingot-ethernet.network"} {
		if err := os.WriteFile(name, []byte(ethernetText(t)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeBootCard(root, "/", bootMAC); err != nil {
		t.Fatal(err)
	}
	n.start()
	inParty(t, "pc", func() { n.boot() })
	n.stop()

	// With /sys read-only it does not wait for a udev that is not there.
	wire.Start(t, "pc", "sh", "-c", "mount -o remount,ro,bind /sys && exec "+networkd)
	wire.Eventually(t, "networkd manages the cards", func() bool { return n.has("eth1", "ADMIN_STATE=configuring") })
	time.Sleep(3 * time.Second)
	if !n.has("eth1", "inet 10.0.1.100/24", "192.168.1.0/24 via 10.0.1.1") {
		t.Errorf("without a DHCP server, networkd took what ingot-init had set up:\n%s", n.card("eth1"))
	}

	n.start()
	wire.Eventually(t, "leases of networkd", func() bool {
		return n.has("eth1", "ADMIN_STATE=configured", "10.0.1.53") && n.has("eth2", "ADMIN_STATE=configured", "10.0.2.53")
	})
	for card, net := range map[string]string{"eth1": "1", "eth2": "2"} {
		if !n.has(card, "mtu 1400", "192.168."+net+".0/24 via 10.0."+net+".1", "DOMAINS=lab.example", "NTP=10.0."+net+".123",
			"DNS=10.0."+net+".53") {
			t.Errorf("what DHCP says does not reach the system:\n%s", n.card(card))
		}
	}
	if !n.has("eth1", "ROUTE_DOMAINS=.") || n.has("eth2", "ROUTE_DOMAINS=.") {
		t.Errorf("name servers: want those of eth1 first:\n%s\n%s", n.card("eth1"), n.card("eth2"))
	}
	if out := wire.In(t, "pc", "ip", "route", "get", "203.0.113.1"); !strings.Contains(out, "dev eth1") {
		t.Errorf("the default route is not that of the boot card: %s", out)
	}
	if strings.Count(n.card("eth1"), "default via") != 1 {
		t.Errorf("the route of ingot-init was not replaced by that of networkd:\n%s", n.card("eth1"))
	}

	n.stop()
	wire.Eventually(t, "the lease of the other card to end", func() bool { return !n.has("eth2", "inet 10.0.2.") })
	time.Sleep(6 * time.Second)
	if !n.has("eth1", "inet 10.0.1.100/24", "192.168.1.0/24 via 10.0.1.1", "default via 10.0.1.1", "DNS=10.0.1.53") {
		t.Errorf("without a DHCP server the boot card lost what it had:\n%s", n.card("eth1"))
	}
}

// boot is what ingot-init does with the boot card; it runs in the machine's namespace.
func (n *twoNetworks) boot() {
	l, err := netlink.LinkByName("eth1")
	if err != nil {
		n.t.Error(err)
		return
	}
	for try := 0; ; try++ { // the server has to start
		ack, err := askOnce(n.t.Context(), "eth1", time.Second)
		if err == nil {
			err = apply(l, ack)
		}
		if err == nil {
			return
		}
		if try == 20 {
			n.t.Errorf("a lease of kea: %v", err)
			return
		}
	}
}
