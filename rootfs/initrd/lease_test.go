package initrd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ingot/internal/wire"
)

// TestRoutesOf: the order is that in which a kernel takes them.
func TestRoutesOf(t *testing.T) {
	router := func(ip string) dhcpv4.Option { return dhcpv4.OptRouter(net.ParseIP(ip)) }
	classless := func(b ...byte) dhcpv4.Option {
		return dhcpv4.OptGeneric(dhcpv4.OptionClasslessStaticRoute, b)
	}
	for name, c := range map[string]struct {
		own     string
		options []dhcpv4.Option
		want    string
	}{
		"a router in the subnet": {"10.0.0.5/24", []dhcpv4.Option{router("10.0.0.1")}, "to 0.0.0.0/0 via 10.0.0.1"},
		"no router":              {"10.0.0.5/24", nil, ""},
		"a lease of one address": {"10.0.0.5/32", []dhcpv4.Option{router("172.31.1.1")},
			"to 172.31.1.1/32 on the link, to 0.0.0.0/0 via 172.31.1.1"},
		"the machine is its own router": {"10.0.0.5/24", []dhcpv4.Option{router("10.0.0.5")}, "to 0.0.0.0/0 on the link"},
		"classless routes replace the router": {"10.0.0.5/24", []dhcpv4.Option{router("10.0.0.1"),
			classless(8, 172, 10, 0, 0, 2)}, "to 172.0.0.0/8 via 10.0.0.2"},
		"the gateway's route comes after it": {"10.0.0.5/32", []dhcpv4.Option{
			classless(0, 172, 31, 1, 1, 32, 172, 31, 1, 1, 0, 0, 0, 0)},
			"to 172.31.1.1/32 on the link, to 0.0.0.0/0 via 172.31.1.1"},
		"a subnet on the link covers the gateway": {"10.0.0.5/32", []dhcpv4.Option{
			classless(16, 10, 9, 172, 31, 1, 1, 24, 172, 31, 1, 0, 0, 0, 0)},
			"to 172.31.1.0/24 on the link, to 10.9.0.0/16 via 172.31.1.1"},
		"host bits, loopback and a second default": {"10.0.0.5/24", []dhcpv4.Option{
			classless(25, 10, 1, 1, 5, 10, 0, 0, 1, 8, 127, 10, 0, 0, 1, 0, 10, 0, 0, 1, 0, 10, 0, 0, 2)},
			"to 10.1.1.0/25 via 10.0.0.1, to 0.0.0.0/0 via 10.0.0.1"},
		"a broken option": {"10.0.0.5/24", []dhcpv4.Option{router("10.0.0.1"), classless(33, 1)},
			"to 0.0.0.0/0 via 10.0.0.1"},
	} {
		ack, err := dhcpv4.New()
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range c.options {
			ack.UpdateOption(o)
		}
		var got []string
		for _, r := range routesOf(ack, netip.MustParsePrefix(c.own)) {
			got = append(got, r.String())
		}
		if diff := cmp.Diff(c.want, strings.Join(got, ", ")); diff != "" {
			t.Errorf("%s: routesOf (-want +got):\n%s", name, diff)
		}
	}
}

func FuzzRoutesOf(f *testing.F) {
	f.Add([]byte{0, 172, 31, 1, 1, 32, 172, 31, 1, 1, 0, 0, 0, 0}, byte(32))
	f.Fuzz(func(t *testing.T, option []byte, bits byte) {
		ack, err := dhcpv4.New()
		if err != nil {
			t.Fatal(err)
		}
		ack.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionClasslessStaticRoute, option))
		own := netip.PrefixFrom(netip.MustParseAddr("10.0.0.5"), int(bits%33))
		links := []netip.Prefix{own.Masked()}
		for _, r := range routesOf(ack, own) {
			if !r.via.IsValid() {
				links = append(links, r.to)
				continue
			}
			reached := false
			for _, l := range links {
				reached = reached || l.Contains(r.via)
			}
			if !reached {
				t.Errorf("the gateway of %s is not on the link when it is set", r)
			}
		}
	})
}

// inParty runs f on a thread in the namespace of a party.
func inParty(t *testing.T, party string, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + party)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			ns.Close()
		}
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestRoutedLease: dnsmasq gives leases as hosters do, of one address with a gateway outside the
// subnet. The machine then reaches what lies behind the gateway, and has the MTU of the network.
func TestRoutedLease(t *testing.T) {
	if !wire.On(t, "dnsmasq") {
		return
	}
	wire.AddSwitch(t, "sw")
	wire.Join(t, "sw", "router", "eth0", "52:54:00:12:00:fe")
	wire.In(t, "router", "sh", "-ec", "ip address add 10.50.0.1/24 dev eth0; ip address add 10.77.0.1/32 dev eth0; "+
		"ip address add 203.0.113.7/32 dev lo; echo 1 >/proc/sys/net/ipv4/ip_forward")
	wire.Join(t, "sw", "unplugged", "eth9", "52:54:00:12:00:99")
	wire.In(t, "sw", "ip", "link", "set", "p-unplugged9", "down")
	inParty(t, "unplugged", func() {
		if hasLink("eth9") {
			t.Error("a card without a cable has a link")
		}
		if !hasLink("lo") {
			t.Error("a card that is up has no link")
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, err := askDHCP(ctx, "eth9", func(err error) {
			if !errors.Is(err, errNoLink) || !strings.Contains(err.Error(), "no link") {
				t.Errorf("without a cable, asking fails with %q; want that there is no link", err)
			}
			cancel()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("askDHCP = %v; want that the caller ended it", err)
		}
	})
	for i, c := range []struct{ name, options, want string }{
		{"a router outside the subnet", "dhcp-option=1,255.255.255.255\ndhcp-option=3,10.77.0.1\n", "default via 10.77.0.1"},
		{"classless routes beside a router that is none", "dhcp-option=1,255.255.255.255\ndhcp-option=3,10.50.0.66\n" +
			"dhcp-option=121,0.0.0.0/0,10.77.0.1,10.77.0.1/32,0.0.0.0\n", "default via 10.77.0.1"},
		{"classless routes in a subnet", "dhcp-option=3,10.50.0.66\ndhcp-option=121,203.0.113.0/24,10.50.0.1\n",
			"203.0.113.0/24 via 10.50.0.1"},
	} {
		party := fmt.Sprintf("pc%d", i)
		conf := filepath.Join(t.TempDir(), "dnsmasq.conf")
		text := "port=0\ninterface=eth0\nbind-interfaces\ndhcp-authoritative\nno-ping\ndhcp-option=26,1400\n" +
			"dhcp-range=10.50.0.10,10.50.0.20,255.255.255.0,1h\n" + c.options
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		server := wire.Start(t, "router", "dnsmasq", "--keep-in-foreground", "--user=root", "--leasefile-ro",
			"--conf-file="+conf)
		wire.Join(t, "sw", party, "eth"+fmt.Sprint(i), fmt.Sprintf("52:54:00:12:00:%02d", i))
		inParty(t, party, func() {
			l, err := netlink.LinkByName("eth" + fmt.Sprint(i))
			if err != nil {
				t.Error(err)
				return
			}
			for try := 0; ; try++ { // dnsmasq has to start
				ack, err := askOnce(t.Context(), l.Attrs().Name, time.Second)
				if err == nil {
					err = apply(l, ack)
				}
				if err == nil {
					break
				}
				if try == 20 {
					t.Errorf("%s: %v", c.name, err)
					return
				}
			}
		})
		if out := wire.In(t, party, "ip", "route"); !strings.Contains(out, c.want) || strings.Contains(out, "10.50.0.66") {
			t.Errorf("%s: routes:\n%s; want %q", c.name, out, c.want)
		}
		if out := wire.In(t, party, "ip", "link"); !strings.Contains(out, "mtu 1400") {
			t.Errorf("%s: the link has another MTU than the network:\n%s", c.name, out)
		}
		inParty(t, party, func() { // a port that is closed answers
			if _, err := net.DialTimeout("tcp", "203.0.113.7:9", 5*time.Second); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: what is behind the gateway: %v", c.name, err)
			}
		})
		_ = server.Process.Kill()
	}
}
