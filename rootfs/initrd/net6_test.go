package initrd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"ingot/internal/wire"
)

// TestForeignServers6: the networks of IPv6 that there are give the card an
// address: one with DHCPv6, one whose routers announce a prefix and nothing
// else; and of a network without either the words say what is missing.
func TestForeignServers6(t *testing.T) {
	if !wire.On(t, "dnsmasq", "radvd") {
		return
	}
	wire.AddSwitch(t, "sw")
	wire.Run(t, "ip", "link", "add", "eth1", "address", "52:54:00:12:00:01", "type", "veth", "peer", "name", "p-eth1", "netns", "sw")
	wire.In(t, "sw", "ip", "link", "set", "p-eth1", "master", "sw", "up")
	wire.Join(t, "sw", "router", "eth0", "52:54:00:12:00:fe")
	wire.In(t, "router", "ip", "address", "add", "fd00:99::fe/64", "dev", "eth0", "nodad")
	l, err := netlink.LinkByName("eth1")
	if err != nil {
		t.Fatal(err)
	}
	if err := raise(l); err != nil {
		t.Fatal(err)
	}
	if own, _, err := ask6(t.Context(), l, 3*time.Second, false); err == nil || !strings.Contains(err.Error(), "no answer to SOLICIT") {
		t.Errorf("a silent network: %s, %v", own, err)
	}
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	dnsmasq := wire.Start(t, "router", "dnsmasq", "--keep-in-foreground", "--user=root", "--leasefile-ro", "--conf-file="+
		write("dnsmasq.conf", "port=0\ninterface=eth0\nbind-interfaces\nenable-ra\nra-param=eth0,high,4\ndhcp-range=fd00:99::2:0,fd00:99::2:ffff,64,1h\n"))
	var own string
	wire.Eventually(t, "an address of dnsmasq", func() bool {
		ip, _, err := ask6(t.Context(), l, 3*time.Second, false)
		own = ip.String()
		return err == nil
	})
	if !strings.HasPrefix(own, "fd00:99::2:") {
		t.Errorf("the address is %s; want one of the pool", own)
	}
	// There is a DHCPv6 server, and none that knows of a boot.
	if _, _, err := findOn6(t.Context(), l); err == nil || !strings.Contains(err.Error(), errNoBoot.Error()) {
		t.Errorf("a server without ingot: %v; want %q", err, errNoBoot)
	}
	_ = dnsmasq.Process.Kill()
	wire.Run(t, "ip", "link", "set", "eth1", "down") // forgets its addresses
	if err := raise(l); err != nil {
		t.Fatal(err)
	}
	wire.In(t, "router", "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	wire.Start(t, "router", "radvd", "--nodaemon", "--logmethod", "stderr", "--pidfile", filepath.Join(t.TempDir(), "pid"), "--config",
		write("radvd.conf", "interface eth0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; prefix fd00:98::/64 { AdvOnLink on; AdvAutonomous on; }; };\n"))
	wire.Eventually(t, "an address of its own making", func() bool {
		ip, _, err := ask6(t.Context(), l, 3*time.Second, false)
		own = ip.String()
		return err == nil
	})
	if own != "fd00:98::5054:ff:fe12:1" {
		t.Errorf("the address is %s; want the prefix with the card's own part", own)
	}
}
