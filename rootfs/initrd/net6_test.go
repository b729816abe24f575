package initrd

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
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
	wire.Run(
		t,
		"ip",
		"link",
		"add",
		"eth1",
		"address",
		"52:54:00:12:00:01",
		"type",
		"veth",
		"peer",
		"name",
		"p-eth1",
		"netns",
		"sw",
	)
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
	if own, _, err := ask6(t.Context(), l, 3*time.Second, false); err == nil ||
		!strings.Contains(err.Error(), "no DHCPv6 server answers") {
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
		write(
			"dnsmasq.conf",
			"port=0\ninterface=eth0\nbind-interfaces\nenable-ra\nra-param=eth0,high,4\n"+
				"dhcp-range=fd00:99::2:0,fd00:99::2:ffff,64,1h\n",
		))
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
	wire.Start(
		t,
		"router",
		"radvd",
		"--nodaemon",
		"--logmethod",
		"stderr",
		"--pidfile",
		filepath.Join(t.TempDir(), "pid"),
		"--config",
		write(
			"radvd.conf",
			"interface eth0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; prefix fd00:98::/64 { AdvOnLink "+
				"on; AdvAutonomous on; }; };\n",
		),
	)
	wire.Eventually(t, "an address of its own making", func() bool {
		ip, _, err := ask6(t.Context(), l, 3*time.Second, false)
		own = ip.String()
		return err == nil
	})
	if own != "fd00:98::5054:ff:fe12:1" {
		t.Errorf("the address is %s; want the prefix with the card's own part", own)
	}
}

// TestMessage6: what the library of the boot server writes is read, and what we
// write it reads.
func TestMessage6(t *testing.T) {
	mac := net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, 1}
	c := &client6{link: &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{HardwareAddr: mac}}}
	m, err := dhcpv6.MessageFromBytes(c.message(solicit6, option6{optIANA, association(mac)}).bytes())
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := m.Options.ClientID().(*dhcpv6.DUIDLL); m.MessageType != dhcpv6.MessageTypeSolicit || !ok ||
		id.LinkLayerAddr.String() != mac.String() ||
		string(m.Options.UserClasses()[0]) != vendorClass ||
		m.Options.OneIANA().IaId != [4]byte{0, 0x12, 0, 1} ||
		!m.IsOptionRequested(dhcpv6.OptionBootfileURL) {
		t.Errorf("the library reads\n%s", m.Summary())
	}
	answer := func(ip string, valid time.Duration, server bool) []byte {
		a := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
		if server {
			a.AddOption(dhcpv6.OptServerID(&dhcpv6.DUIDUUID{}))
		}
		ia := &dhcpv6.OptIANA{}
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(ip), ValidLifetime: valid})
		a.AddOption(ia)
		a.AddOption(dhcpv6.OptBootFileURL("http://[fd00::1]/b/"))
		return a.ToBytes()
	}
	for _, w := range []struct {
		b    []byte
		want string
	}{
		{answer("fd00::5", time.Hour, true), "fd00::5"}, {answer("fd00::5", 0, true),
			"invalid IP"}, {answer("fd00::5", time.Hour, false), "invalid IP"},
		{answer("fe80::5", time.Hour, true), "invalid IP"}, {answer("::ffff:10.0.0.1", time.Hour, true), "invalid IP"},
	} {
		a, err := parse6(w.b)
		if err != nil || a.address().String() != w.want || string(a.get(optBootURL)) != "http://[fd00::1]/b/" ||
			a.kind != reply6 ||
			a.id != m.TransactionID {
			t.Errorf("%x is read as %+v with the address %s, %v; want %s", w.b, a, a.address(), err, w.want)
		}
		for n := range w.b { // cut anywhere, it is an error or a shorter message
			if a, err := parse6(w.b[:n]); err == nil && a.address().IsValid() && n < 4+22+44 {
				t.Errorf("of %d bytes the address %s is read", n, a.address())
			}
		}
	}
}

func FuzzMessage6(f *testing.F) {
	f.Add([]byte{7, 1, 2, 3, 0, 3, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parse6(b)
		if err == nil && !bytes.Equal(m.bytes(), b) {
			t.Errorf("%x is written as %x", b, m.bytes())
		}
		if ip := m.address(); ip.IsValid() && !ip.IsGlobalUnicast() {
			t.Errorf("%s is taken for an address", ip)
		}
	})
}
