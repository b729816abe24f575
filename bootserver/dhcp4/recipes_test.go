package dhcp4

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/mdlayher/packet"
	"go.yaml.in/yaml/v4"
	"golang.org/x/sys/unix"

	"ingot/bootserver/fleet"
	"ingot/bootserver/lease/leasetest"
	"ingot/bootserver/network"
)

// recipe returns a block of docs/NETWORKS.md by its name.
func recipe(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/NETWORKS.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(name, " ") {
		name = "[a-z]+ " + regexp.QuoteMeta(name)
	}
	m := regexp.MustCompile("(?ms)^```" + name + "\n(.*?)^```$").FindSubmatch(b)
	if m == nil {
		t.Fatalf("docs/NETWORKS.md has no recipe %q", name)
	}
	return string(m[1])
}

func recipeConfig(t testing.TB, name string) Config {
	t.Helper()
	var c struct {
		DHCP Config `yaml:"dhcp"`
	}
	if err := yaml.Load([]byte(recipe(t, name)), &c, yaml.WithKnownFields()); err != nil {
		t.Fatal(err)
	}
	for i := range c.DHCP.Interfaces {
		c.DHCP.Interfaces[i].Quiet = true // tests ask by themselves
	}
	return c.DHCP
}

// answer is what a client got.
type answer struct {
	*dhcpv4.DHCPv4
	from netip.AddrPort
}

// ask sends a packet from a party's card, by broadcast to port 67 or to a boot
// server's port 4011, and returns what is answered within a second.
func askAs(t testing.TB, party, card string, p *dhcpv4.DHCPv4, to string) []answer {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", party, os.Args[0], "-test.run=^TestAskHelper$")
	cmd.Env = append(os.Environ(), "INGOT_TEST_ASK="+hex.EncodeToString(p.ToBytes()), "INGOT_TEST_ASK_CARD="+card,
		"INGOT_TEST_ASK_TO="+to)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("asking: %v\n%s", err, out)
	}
	var list []answer
	for s := bufio.NewScanner(strings.NewReader(string(out))); s.Scan(); {
		f := strings.Fields(s.Text())
		if len(f) != 3 || f[0] != "answer" {
			continue
		}
		b, err := hex.DecodeString(f[2])
		if err != nil {
			t.Fatal(err)
		}
		a, err := dhcpv4.FromBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, answer{a, netip.MustParseAddrPort(f[1])})
	}
	return list
}

// TestAskHelper is askAs's other half, in the party's namespace.
func TestAskHelper(t *testing.T) {
	text := os.Getenv("INGOT_TEST_ASK")
	if text == "" {
		t.Skip("only for other tests")
	}
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		t.Fatal(err)
	}
	card, err := net.InterfaceByName(os.Getenv("INGOT_TEST_ASK_CARD"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := packet.Listen(card, packet.Datagram, unix.ETH_P_IP, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if to := os.Getenv("INGOT_TEST_ASK_TO"); to != "" {
		conn, err := net.Dial("udp4", to)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(800 * time.Millisecond))
		buf := make([]byte, 4096)
		if n, err := conn.Read(buf); err == nil {
			fmt.Println("answer", conn.RemoteAddr(), hex.EncodeToString(buf[:n]))
		}
		return
	}
	all := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	d := datagram(netip.MustParseAddrPort("0.0.0.0:68"), netip.AddrPortFrom(broadcastClient.Addr(), PortDHCP), b)
	if _, err := c.WriteTo(d, &packet.Addr{HardwareAddr: all}); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(800 * time.Millisecond))
	buf := make([]byte, 4096)
	for {
		n, _, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		if n < headers || buf[9] != unix.IPPROTO_UDP || int(buf[22])<<8|int(buf[23]) != dhcpv4.ClientPort {
			continue
		}
		if a, err := dhcpv4.FromBytes(buf[headers:n]); err != nil || a.TransactionID != p.TransactionID {
			continue
		}
		src, _ := netip.AddrFromSlice(buf[12:16])
		fmt.Println("answer", netip.AddrPortFrom(src, uint16(buf[20])<<8|uint16(buf[21])), hex.EncodeToString(buf[headers:n]))
	}
}

// uefi is a DHCPDISCOVER of UEFI firmware.
func uefi(t testing.TB, mac byte, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	p := discover(t,
		append([]dhcpv4.Modifier{arch(iana.EFI_X86_64), says60("PXEClient:Arch:00007:UNDI:003000")}, mods...)...)
	p.ClientHWAddr = net.HardwareAddr{0x52, 0x54, 0, 0x12, 0, mac}
	return p
}

// byServer splits answers into ours and the other server's.
func byServer(list []answer, ours string) (us, them []answer) {
	for _, a := range list {
		if a.ServerIdentifier().String() == ours {
			us = append(us, a)
		} else {
			them = append(them, a)
		}
	}
	return us, them
}

// other is a DHCP server that was in the network first.
type other struct {
	name, recipe string
	tools        []string
	argv         func(conf string) []string
}

var others = []other{
	{"dnsmasq", "dnsmasq.conf", []string{"dnsmasq"}, func(c string) []string {
		return []string{"dnsmasq", "-k", "--log-facility=-", "-C", c, "--no-ping", "--dhcp-leasefile=/run/dnsmasq.leases",
			"--pid-file=", "-u", "root"}
	}},
	{"kea", "kea-dhcp4.conf", []string{"kea-dhcp4"}, func(c string) []string {
		return []string{"sh", "-c", "mkdir -p /run/kea && KEA_LOCKFILE_DIR=/run/kea exec kea-dhcp4 -c " + c}
	}},
	{"dhcpd", "dhcpd.conf", []string{"dhcpd"}, func(c string) []string {
		return []string{"sh", "-c", "touch /run/dhcpd.leases && echo \"ping-check false;\" >> " + c +
			" && exec dhcpd -4 -f -d -cf " + c + " -lf /run/dhcpd.leases -pf /run/dhcpd.pid eth0"}
	}},
}

// beside makes a LAN with another server in it, that is known to answer.
func (o other) beside(t *testing.T, conf string) {
	t.Helper()
	lan(t, "other", "pc")
	in(t, "other", "ip", "address", "add", "10.99.0.2/24", "dev", "eth0")
	start(t, "other", o.argv(write(t, o.recipe, conf))...)
	eventually(t, o.name+" answers", func() bool { return len(askAs(t, "pc", "eth0", uefi(t, 0xf0), "")) > 0 })
}

// TestRecipeProxy: beside each server a machine gets its address from there
// and what to boot from us, on both ports, with and without HTTP boot.
func TestRecipeProxy(t *testing.T) {
	for _, o := range others {
		t.Run(o.name, func(t *testing.T) { testProxyBeside(t, o) })
	}
}

func testProxyBeside(t *testing.T, o other) {
	t.Helper()
	if o.name != "dnsmasq" {
		requireAll(t)
	}
	if !onWire(t, o.tools...) {
		return
	}
	o.beside(t, recipe(t, o.recipe))
	s := serve(t, recipeConfig(t, "proxy"), &leasetest.Store{}, scripted{})
	us, them := byServer(askAs(t, "pc", "eth0", uefi(t, 0x31), ""), "10.99.0.1")
	if len(us) != 1 || len(them) != 1 {
		t.Fatalf("%d offers of ours and %d of %s; want one of each", len(us), len(them), o.name)
	}
	if us[0].BootFileName != "snponly.efi" || address(us[0].YourIPAddr).IsValid() ||
		us[0].from.String() != "10.99.0.1:67" {
		t.Errorf("our offer, from %s:\n%s", us[0].from, us[0].Summary())
	}
	if !address(them[0].YourIPAddr).IsValid() {
		t.Errorf("%s's offer has no address:\n%s", o.name, them[0].Summary())
	}
	// Having that address, the machine asks the boot server.
	in(t, "pc", "ip", "address", "add", them[0].YourIPAddr.String()+"/24", "dev", "eth0")
	q := uefi(t, 0x31, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(them[0].YourIPAddr))
	if got := askAs(t, "pc", "eth0", q, "10.99.0.1:4011"); len(got) != 1 ||
		got[0].MessageType() != dhcpv4.MessageTypeAck || got[0].BootFileName != "snponly.efi" {
		t.Errorf("port 4011 answers %v; want an ACK with the loader", got)
	}
	us, _ = byServer(askAs(t, "pc", "eth0", discover(t, arch(iana.EFI_X86_64_HTTP),
		says60("HTTPClient:Arch:00016:UNDI:003001")), ""), "10.99.0.1")
	if len(us) != 1 || us[0].ClassIdentifier() != "HTTPClient" || !strings.HasPrefix(us[0].BootFileNameOption(),
		"http://10.99.0.1/") {
		t.Errorf("HTTP firmware gets %v; want one offer with HTTPClient and a URL", us)
	}
	if us, _ := byServer(askAs(t, "pc", "eth0", discover(t), ""), "10.99.0.1"); len(us) != 0 {
		t.Error("a system that has nothing to do with us is answered")
	}
	if h := s.Observations(); len(h.Warnings) != 0 {
		t.Errorf("warnings %+v; want none in a network as it should be", h.Warnings)
	}
}

// TestRecipeStray60: the other server's option 60 is found, and it is named.
func TestRecipeStray60(t *testing.T) {
	o := others[0]
	if !onWire(t, o.tools...) {
		return
	}
	o.beside(t, recipe(t, "dnsmasq-stray60.conf"))
	c := recipeConfig(t, "proxy")
	c.Interfaces[0].Quiet = false
	s := serve(t, c, &leasetest.Store{}, scripted{})
	var h network.Observations
	eventually(t, "our question to the network finds it", func() bool { h = s.Observations(); return len(h.Warnings) > 0 })
	if w := h.Warnings[0].Text; len(h.Warnings) != 1 || !strings.Contains(w, "10.99.0.2 (MAC 52:54:00:12:00:01)") ||
		!strings.Contains(w, "option 60") {
		t.Errorf("warnings %+v; want one that names 10.99.0.2, its MAC and option 60", h.Warnings)
	}
	if len(h.Servers) != 1 || h.Servers[0].Class != "PXEClient" {
		t.Errorf("servers %+v; want dnsmasq", h.Servers)
	}
}

// TestForeignServer: in full mode another server is an accident, and is named.
func TestForeignServer(t *testing.T) {
	requireAll(t)
	o := others[0]
	if !onWire(t, o.tools...) {
		return
	}
	o.beside(t, recipe(t, o.recipe))
	c := recipeConfig(t, "full")
	c.Interfaces[0].Quiet = false
	s := serve(t, c, &leasetest.Store{}, scripted{})
	var h network.Observations
	eventually(t, "it is found", func() bool { h = s.Observations(); return len(h.Warnings) > 0 })
	if w := h.Warnings[0].Text; !strings.Contains(w,
		"another DHCP server answers on this network: 10.99.0.2 (MAC 52:54:00:12:00:01)") {
		t.Errorf("warning %q; want the server named", w)
	}
}

// TestTwoIngots: each of them names the other.
func TestTwoIngots(t *testing.T) {
	if !onWire(t) {
		return
	}
	lan(t)
	run(t, "ip", "link", "add", "eth2", "address", "02:00:00:00:00:02", "type", "veth", "peer", "name", "p-eth2",
		"netns", "sw")
	in(t, "sw", "ip", "link", "set", "p-eth2", "master", "sw", "up")
	run(t, "ip", "address", "add", "10.99.0.3/24", "dev", "eth2")
	run(t, "ip", "link", "set", "eth2", "up")
	one := serve(t, Config{Interfaces: []Interface{{Name: "eth1", Mode: Proxy}}}, &leasetest.Store{}, scripted{})
	two := serveAs(t, "them", Config{Interfaces: []Interface{{Name: "eth2", Mode: Observe}}}, &leasetest.Store{},
		scripted{})
	eventually(t, "the observer hears the other", func() bool { return len(two.Observations().Warnings) > 0 })
	if w := two.Observations().Warnings[0].Text; !strings.Contains(w,
		"a second ingot serves this network: 10.99.0.1 (MAC 02:00:00:00:00:01)") {
		t.Errorf("the observer says %q", w)
	}
	if h := one.Observations(); len(h.Warnings) != 0 {
		t.Errorf("the observer was heard: %+v", h.Warnings)
	}
	if err := two.Apply(Config{Interfaces: []Interface{{Name: "eth2", Mode: Proxy}}}, two.cards(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "each hears the other", func() bool { return len(one.Observations().Warnings) > 0 })
	if w := one.Observations().Warnings[0].Text; !strings.Contains(w, "a second ingot") ||
		!strings.Contains(w, "10.99.0.3 (MAC 02:00:00:00:00:02)") {
		t.Errorf("the first says %q", w)
	}
}

func (s *Server) cards(t *testing.T) map[string]network.Card {
	t.Helper()
	var conf Config
	for _, served := range s.Site().Interfaces {
		conf.Interfaces = append(conf.Interfaces, served.Config)
	}
	c, err := conf.Cards()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestRecipeObserve: nothing is answered; the clients, what dnsmasq answers and what
// we would say is known.
func TestRecipeObserve(t *testing.T) {
	requireAll(t)
	o := others[0]
	if !onWire(t, o.tools...) {
		return
	}
	o.beside(t, recipe(t, o.recipe))
	s := serve(t, recipeConfig(t, "observe"), &leasetest.Store{}, scripted{})
	us, them := byServer(askAs(t, "pc", "eth0", uefi(t, 0x31, dhcpv4.WithBroadcast(true)), ""), "10.99.0.1")
	if len(us) != 0 || len(them) != 1 {
		t.Fatalf("%d answers of the observer, %d of dnsmasq; want none and one", len(us), len(them))
	}
	var h network.Observations
	eventually(t, "the machine is listed with dnsmasq's offer, and with what we would have", func() bool {
		h = s.Observations()
		return slices.ContainsFunc(h.Clients, func(a network.ObservedClient) bool {
			return a.MAC == "52:54:00:12:00:31" && a.WouldAnswer == "snponly.efi by TFTP" && len(a.Answers) == 1 &&
				strings.HasPrefix(a.Answers[0], "OFFER from 10.99.0.2 (MAC 52:54:00:12:00:01) of 10.99.0.1")
		})
	})
	if len(h.Servers) != 1 || h.Servers[0].Address.String() != "10.99.0.2" {
		t.Errorf("servers %+v; want dnsmasq", h.Servers)
	}
}

// TestRecipeFull: the configuration for a network of our own, with an address
// that a host uses without a lease.
func TestRecipeFull(t *testing.T) {
	if !onWire(t, "udhcpc") {
		return
	}
	lan(t, "pc", "pc2", "squatter")
	in(t, "squatter", "ip", "address", "add", "10.99.0.100/24", "dev", "eth0")
	s := serve(t, recipeConfig(t, "full"), &leasetest.Store{}, scripted{})
	for party, want := range map[string]string{"pc": "10.99.0.11", "pc2": "10.99.0.101"} {
		script, out := scriptOf(t)
		in(t, party, "udhcpc", "-f", "-i", "eth0", "-n", "-q", "-t", "5", "-T", "1", "-s", script)
		says(t, out, "ip="+want, "router=10.99.0.254", "dns=10.99.0.53")
	}
	if w := s.Observations().Warnings; len(w) != 1 || !strings.Contains(w[0].Text, "10.99.0.100") ||
		!strings.Contains(w[0].Text, "MAC 52:54:00:12:00:03") {
		t.Errorf("warnings %+v; want one that names the squatter", w)
	}
}

// behindRelay makes two networks with ISC's relay between them, parties on the
// far one, and a server as docs/NETWORKS.md configures it.
func behindRelay(t *testing.T, parties ...string) *Server {
	t.Helper()
	lan(t)
	addSwitch(t, "sw2")
	join(t, "sw2", "router", "eth0", "52:54:00:12:01:01")
	join(t, "sw", "router", "eth1", "52:54:00:12:01:02")
	for i, party := range parties {
		join(t, "sw2", party, "eth0", fmt.Sprintf("52:54:00:12:00:%02x", i+1))
	}
	in(t, "router", "ip", "address", "add", "10.7.0.1/24", "dev", "eth0")
	in(t, "router", "ip", "address", "add", "10.99.0.254/24", "dev", "eth1")
	in(t, "router", "sysctl", "-qw", "net.ipv4.ip_forward=1")
	run(t, "ip", "route", "add", "10.7.0.0/24", "via", "10.99.0.254")
	s := serve(t, recipeConfig(t, "relay"), &leasetest.Store{}, scripted{})
	relay := start(t, "router", strings.Fields(recipe(t, "dhcrelay"))...)
	eventually(t, "the relay runs", func() bool { return relay.Process.Signal(unix.Signal(0)) == nil })
	time.Sleep(300 * time.Millisecond) // it says nothing when it is ready
	return s
}

// TestRecipeRelay: ISC's relay between two networks; the machine is answered
// through it, and where it is plugged in is known.
func TestRecipeRelay(t *testing.T) {
	if !onWire(t, "dhcrelay", "udhcpc", "dhclient") {
		return
	}
	s := behindRelay(t, "pc")
	script, out := scriptOf(t)
	in(t, "pc", "udhcpc", "-f", "-i", "eth0", "-n", "-q", "-t", "5", "-T", "2", "-s", script)
	says(t, out, "ip=10.7.0.100", "mask=24", "router=10.7.0.1")
	want := fleet.SwitchPort{Relay: netip.MustParseAddr("10.7.0.1"), Circuit: "eth0"}
	if l := s.Leases(); len(l) != 1 || l[0].Port != want {
		t.Errorf("leases %+v; want one at switch port %+v", l, want)
	}
	// Renewing goes to the server directly, past the relay.
	in(t, "pc", "ip", "address", "add", "10.7.0.100/24", "dev", "eth0")
	in(t, "pc", "ip", "route", "add", "default", "via", "10.7.0.1")
	p := discover(t, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(net.IPv4(10, 7, 0, 100).To4()))
	before := s.Leases()[0].Expires
	sendFrom68(t, "pc", p, "10.99.0.1:67")
	eventually(t, "the lease is renewed", func() bool { return s.Leases()[0].Expires.After(before) })
	if w := s.Observations().Warnings; len(w) != 0 {
		t.Errorf("warnings %+v; want none", w)
	}
}

// TestProbeBehindRelay: an address that a host behind the relay uses is found
// to be, by ICMP echo: ARP does not reach there.
func TestProbeBehindRelay(t *testing.T) {
	if !onWire(t, "dhcrelay", "udhcpc") {
		return
	}
	s := behindRelay(t, "pc", "squatter")
	in(t, "squatter", "ip", "address", "add", "10.7.0.100/24", "dev", "eth0")
	in(t, "squatter", "ip", "route", "add", "default", "via", "10.7.0.1")
	script, out := scriptOf(t)
	in(t, "pc", "udhcpc", "-f", "-i", "eth0", "-n", "-q", "-t", "5", "-T", "2", "-s", script)
	says(t, out, "ip=10.7.0.101")
	if w := s.Observations().Warnings; len(w) != 1 || !strings.Contains(w[0].Text,
		"the address 10.7.0.100 of a pool is used by host 10.7.0.100") {
		t.Errorf("warnings %+v; want one that names the squatter", w)
	}
}

func sendFrom68(t *testing.T, party string, p *dhcpv4.DHCPv4, to string) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", party, os.Args[0], "-test.run=^TestSendHelper$")
	cmd.Env = append(os.Environ(), "INGOT_TEST_SEND="+hex.EncodeToString(p.ToBytes()), "INGOT_TEST_SEND_TO="+to)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sending: %v\n%s", err, out)
	}
}

// TestSendHelper is sendFrom68's other half.
func TestSendHelper(t *testing.T) {
	b, err := hex.DecodeString(os.Getenv("INGOT_TEST_SEND"))
	if err != nil || len(b) == 0 {
		t.Skip("only for other tests")
	}
	to, err := net.ResolveUDPAddr("udp4", os.Getenv("INGOT_TEST_SEND_TO"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialUDP("udp4", &net.UDPAddr{Port: dhcpv4.ClientPort}, to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// TestTwoNetworks: one server on two cards, each in a mode of its own; answers
// leave from the card and the address that were asked.
func TestTwoNetworks(t *testing.T) {
	requireAll(t)
	if !onWire(t, "udhcpc") {
		return
	}
	lan(t, "pc")
	addSwitch(t, "sw2")
	join(t, "sw2", "pc2", "eth0", "52:54:00:12:00:02")
	run(t, "ip", "link", "add", "eth2", "type", "veth", "peer", "name", "p-eth2", "netns", "sw2")
	in(t, "sw2", "ip", "link", "set", "p-eth2", "master", "sw2", "up")
	run(t, "ip", "address", "add", "10.20.0.1/24", "dev", "eth2")
	run(t, "ip", "link", "set", "eth2", "up")
	s := serve(t, Config{Interfaces: []Interface{{Name: "eth1", Quiet: true}, {Name: "eth2", Mode: Proxy, Quiet: true}}},
		&leasetest.Store{}, scripted{})
	script, out := scriptOf(t)
	in(t, "pc", "udhcpc", "-f", "-i", "eth0", "-n", "-q", "-t", "5", "-T", "1", "-s", script)
	says(t, out, "ip=10.99.0.128", "serverid=10.99.0.1")
	got := askAs(t, "pc2", "eth0", uefi(t, 0x20), "")
	if len(got) != 1 || got[0].from.String() != "10.20.0.1:67" || got[0].ServerIdentifier().String() != "10.20.0.1" ||
		address(got[0].YourIPAddr).IsValid() {
		t.Errorf("the second network answers %v; want the proxy, from 10.20.0.1", got)
	}
	if w := s.Observations().Warnings; len(w) != 0 {
		t.Errorf("warnings %+v; want none", w)
	}
}

// TestRecipeVLANs: a network for each VLAN, in a mode of its own, and answers
// from the address of the VLAN.
func TestRecipeVLANs(t *testing.T) {
	requireAll(t)
	if !onWire(t, "udhcpc") {
		return
	}
	lan(t, "pc")
	if exec.Command("ip", "link", "add", "link", "eth1", "name", "try", "type", "vlan", "id", "9").Run() != nil {
		t.Skip("this kernel has no VLANs")
	}
	run(t, "sh", "-ec", recipe(t, "sh vlans"))
	for id, mac := range map[string]string{"10": "52:54:00:12:00:10", "20": "52:54:00:12:00:20"} {
		in(t, "pc", "ip", "link", "add", "link", "eth0", "name", "v"+id, "address", mac, "type", "vlan", "id", id)
		in(t, "pc", "ip", "link", "set", "v"+id, "up")
	}
	s := serve(t, recipeConfig(t, "yaml vlans"), &leasetest.Store{}, scripted{})
	script, out := scriptOf(t)
	in(t, "pc", "udhcpc", "-f", "-i", "v10", "-n", "-q", "-t", "5", "-T", "1", "-s", script)
	says(t, out, "ip=10.10.0.128", "serverid=10.10.0.1")
	got := askAs(t, "pc", "v20", uefi(t, 0x20), "")
	if len(got) != 1 || got[0].from.String() != "10.20.0.1:67" || got[0].ServerIdentifier().String() != "10.20.0.1" ||
		address(got[0].YourIPAddr).IsValid() {
		t.Errorf("VLAN 20 answers %v; want the proxy, from 10.20.0.1", got)
	}
	if w := s.Observations().Warnings; len(w) != 0 {
		t.Errorf("warnings %+v; want none", w)
	}
}

// TestRecipeSnooping: the switch port that a switch adds without being a relay is believed
// where the operator says so, and nowhere else.
func TestRecipeSnooping(t *testing.T) {
	if !onWire(t) {
		return
	}
	lan(t, "pc")
	c := recipeConfig(t, "snooping")
	s := serve(t, c, &leasetest.Store{}, scripted{})
	port := func(mac byte) fleet.SwitchPort {
		p := uefi(t, mac, dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, []byte("\x01\x06Eth1/7"))))
		if got := askAs(t, "pc", "eth0", p, ""); len(got) != 1 {
			t.Fatalf("%d answers; want one", len(got))
		}
		for _, o := range s.Observations().Clients {
			if o.MAC == fmt.Sprintf("52:54:00:12:00:%02x", mac) {
				return o.Port
			}
		}
		t.Fatal("the client is not listed")
		return fleet.SwitchPort{}
	}
	if got := port(0x31).String(); got != "Eth1/7 via 10.99.0.0" {
		t.Errorf("with snooping: the switch port is %q", got)
	}
	c.Networks[0].Snooping = false
	if err := s.Apply(c, s.cards(t)); err != nil {
		t.Fatal(err)
	}
	if got := port(0x32); got != (fleet.SwitchPort{}) {
		t.Errorf("without snooping: the switch port is %q; want none, since the client can write it", got)
	}
}
