package dhcp6

import (
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"go.yaml.in/yaml/v4"

	"ingot/bootserver/lease/leasetest"
	"ingot/internal/wire"
)

// recipe returns a block of docs/NETWORKS.md by its name.
func recipe(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/NETWORKS.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?ms)^```[a-z]+ " + regexp.QuoteMeta(name) + "\n(.*?)^```$").FindSubmatch(b)
	if m == nil {
		t.Fatalf("docs/NETWORKS.md has no recipe %q", name)
	}
	return string(m[1])
}

func recipeConfig(t *testing.T, name string) Config {
	t.Helper()
	var c struct {
		DHCP6 Config `yaml:"dhcp6"`
	}
	if err := yaml.Load([]byte(recipe(t, name)), &c, yaml.WithKnownFields()); err != nil {
		t.Fatal(err)
	}
	return c.DHCP6
}

// askAs sends a message from a party's card and returns what is answered within
// two seconds.
func askAs(t *testing.T, party string, m *dhcpv6.Message) (list []*dhcpv6.Message) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", party, os.Args[0], "-test.run=^TestAskHelper$")
	cmd.Env = append(os.Environ(), "INGOT_TEST_ASK="+hex.EncodeToString(m.ToBytes()))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("asking: %v\n%s", err, out)
	}
	for _, line := range strings.Split(string(out), "\n") {
		text, ok := strings.CutPrefix(line, "answer ")
		if !ok {
			continue
		}
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		a, err := dhcpv6.MessageFromBytes(b)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, a)
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
	c, err := net.ListenUDP("udp6", &net.UDPAddr{Port: PortClient})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.WriteToUDP(b, &net.UDPAddr{IP: allServersAndRelays.AsSlice(), Port: PortServer,
		Zone: "eth0"}); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	room := make([]byte, maxPacket)
	for {
		n, err := c.Read(room)
		if err != nil {
			return
		}
		fmt.Printf("answer %x\n", room[:n])
	}
}

// TestRecipeFull: ingot assigns addresses, the router is radvd or dnsmasq.
func TestRecipeFull(t *testing.T) {
	if !wire.On(t, "radvd", "dnsmasq", "dhclient") {
		return
	}
	lan(t, "pc", "router")
	wire.In(t, "router", "ip", "address", "add", "fd00:99::fe/64", "dev", "eth0", "nodad")
	wire.In(t, "router", "sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	s := serve(t, recipeConfig(t, "full6"), &leasetest.Store{}, scripted{})
	routed := func() bool {
		out := wire.In(t, "pc", "ip", "-6", "route")
		return strings.Contains(out, "fd00:99::/64") && strings.Contains(out, "default")
	}
	conf := write(t, "radvd.conf", recipe(t, "radvd.conf"))
	if err := os.Chmod(conf, 0o644); err != nil {
		t.Fatal(err)
	}
	radvd := wire.Start(t, "router", "radvd", "--nodaemon", "--logmethod", "stderr", "--config", conf, "--pidfile",
		filepath.Join(t.TempDir(), "pid"))
	wire.Eventually(t, "radvd's routes", routed)
	dir := t.TempDir()
	for _, flag := range []string{"-1", "-x"} { // it stays as a daemon otherwise
		wire.In(t, "pc", "dhclient", "-6", flag, "-v", "-sf", "/bin/true", "-cf", "/dev/null", "-lf",
			filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "eth0")
	}
	if l := s.Leases(); len(l) != 1 || l[0].Address.String() != "fd00:99::11" {
		t.Errorf("leases = %+v; want the reservation", l)
	}
	_ = radvd.Process.Kill()
	wire.In(t, "pc", "ip", "link", "set", "eth0", "down") // forgets its addresses
	wire.Start(t, "router", "dnsmasq", "--keep-in-foreground", "--user=root", "--leasefile-ro",
		"--conf-file="+write(t, "dnsmasq.conf", recipe(t, "dnsmasq-ra.conf")))
	wire.In(t, "pc", "ip", "link", "set", "eth0", "up")
	wire.Eventually(t, "dnsmasq's routes", routed)
}

// TestRecipeBoot: dnsmasq assigns addresses, ingot says what to boot, and to a
// system nothing.
func TestRecipeBoot(t *testing.T) {
	if !wire.On(t, "dnsmasq") {
		return
	}
	lan(t, "pc", "router")
	wire.In(t, "router", "ip", "address", "add", "fd00:99::fe/64", "dev", "eth0", "nodad")
	s := serve(t, recipeConfig(t, "boot6"), &leasetest.Store{}, scripted{})
	wire.Start(t, "router", "dnsmasq", "--keep-in-foreground", "--user=root", "--leasefile-ro",
		"--conf-file="+write(t, "dnsmasq.conf", recipe(t, "dnsmasq6.conf")))
	var theirs, ours *dhcpv6.Message
	sort := func(list []*dhcpv6.Message) {
		theirs, ours = nil, nil
		for _, m := range list {
			if m.Options.BootFileURL() != "" {
				ours = m
			} else {
				theirs = m
			}
		}
	}
	rows := rows()
	wire.Eventually(t, "both answer firmware", func() bool {
		sort(askAs(t, "pc", rows[0].packet))
		return theirs != nil &&
			ours != nil
	})
	if ip, _ := given(theirs); !ip.IsValid() {
		t.Errorf("dnsmasq gives no address:\n%s", theirs.Summary())
	}
	if ip, _ := given(ours); ip.IsValid() || vendorClassOf(ours) != "PXEClient" ||
		ours.Options.BootFileURL() != "tftp://[fd00:99::1]/snponly.efi" {
		t.Errorf("we answer\n%s", ours.Summary())
	}
	if sort(askAs(t, "pc", rows[1].packet)); ours == nil || vendorClassOf(ours) != "HTTPClient" {
		t.Errorf("HTTP boot does not get its URL")
	}
	if sort(askAs(t, "pc", rows[3].packet)); ours != nil {
		t.Errorf("an iPXE, which takes any offer, is offered\n%s", ours.Summary())
	}
	if sort(askAs(t, "pc", rows[4].packet)); ours == nil ||
		ours.Options.BootFileURL() != "http://[fd00:99::1]/b/0123456789abcdef0123456789abcdef/" {
		t.Errorf("ingot-init does not get its boot")
	}
	if sort(askAs(t, "pc", rows[5].packet)); ours != nil || theirs == nil {
		t.Errorf("a system gets %v from dnsmasq and %v from us; want an answer and silence", theirs, ours)
	}
	if l := s.Leases(); len(l) != 0 {
		t.Errorf("ingot has the leases %+v", l)
	}
}
