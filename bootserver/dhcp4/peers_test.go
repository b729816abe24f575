package dhcp4

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/lease/leasetest"
)

// scriptOf writes a script that a client runs when it gets something; it
// keeps the client's environment.
func scriptOf(t *testing.T) (script, out string) {
	t.Helper()
	dir := t.TempDir()
	script, out = filepath.Join(dir, "script"), filepath.Join(dir, "env")
	if err := os.WriteFile(script,
		[]byte("#!/bin/sh\necho \"# $1 $reason\" >> "+out+"\nenv >> "+out+"\n[ -z \"$new_ip_address\" ] || ip address "+
			"replace $new_ip_address/24 dev eth0\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return script, out
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func says(t *testing.T, file string, lines ...string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
		return
	}
	for _, l := range lines {
		if !strings.Contains(string(b), l) {
			t.Errorf("the client did not get %q; it has\n%s", l, b)
		}
	}
}

// TestForeignSystems: the DHCP clients that systems use take what we say, and
// all of them on one machine have one address.
func TestForeignSystems(t *testing.T) {
	if !onWire(t, "udhcpc", "dhclient", "dhcpcd") {
		return
	}
	lan(t, "pc")
	store := &leasetest.Store{}
	s := serve(t, wireConfig(), store, scripted{})
	script, out := scriptOf(t)

	begin := time.Now()
	in(t, "pc", "udhcpc", "-f", "-i", "eth0", "-n", "-q", "-t", "5", "-T", "1", "-s", script, "-O", "staticroutes", "-O",
		"mtu", "-O", "search", "-O", "ntpsrv", "-x", "hostname:pc1")
	says(t, out, "ip=10.99.0.100", "mask=24", "router=10.99.0.254", "dns=10.99.0.53", "domain=lab.example",
		"ntpsrv=10.99.0.123", "mtu=1400",
		"search=lab.example example", "lease=3600", "staticroutes=192.168.0.0/16 10.99.0.2 0.0.0.0/0 10.99.0.254")
	if l := s.Leases(); len(l) != 1 || l[0].Hostname != "pc1" || l[0].Expires.Before(begin.Add(time.Hour)) {
		t.Errorf("leases = %+v; want one, of pc1, for an hour", l)
	}

	_ = os.Remove(out)
	leases, pid := filepath.Join(t.TempDir(), "leases"), filepath.Join(t.TempDir(), "pid")
	conf := write(t, "dhclient.conf", `request subnet-mask, routers, domain-name-servers, interface-mtu, host-name;
send vendor-class-identifier "PXEClient:Arch:00007:UNDI:003016";
send dhcp-client-identifier "another"; timeout 10;
option arch code 93 = unsigned integer 16; send arch 7;`)
	in(t, "pc", "dhclient", "-4", "-1", "-v", "-cf", conf, "-sf", script, "-lf", leases, "-pf", pid, "eth0")
	says(t, out, "new_ip_address=10.99.0.100", "new_routers=10.99.0.254", "new_interface_mtu=1400",
		"new_filename=snponly.efi", "new_dhcp_client_identifier", "new_next_server=10.99.0.1")
	in(t, "pc", "dhclient", "-4", "-r", "-v", "-cf", conf, "-sf", script, "-lf", leases, "-pf", pid, "eth0")
	in(t, "pc", "ip", "address", "flush", "dev", "eth0")
	eventually(t, "the release ends the lease", func() bool { l := s.Leases(); return !time.Now().Before(l[0].Expires) })

	_ = os.Remove(out)
	conf = write(t, "dhcpcd.conf",
		"option routers, domain_name_servers, interface_mtu, classless_static_routes\nnoipv6rs\nnoipv4ll\nrequire "+
			"dhcp_server_identifier\n")
	in(t, "pc", "dhcpcd", "-4", "-1", "-B", "-t", "15", "-f", conf, "-c", script, "eth0")
	says(t, out, "new_ip_address=10.99.0.100", "new_domain_name_servers=10.99.0.53", "new_interface_mtu=1400",
		"new_classless_static_routes=192.168.0.0/16 10.99.0.2 0.0.0.0/0 10.99.0.254")

	if l := s.Leases(); len(l) != 1 {
		t.Errorf("%d leases of one card; want 1: %+v", len(l), l)
	}
	if h := s.Observations(); len(h.Warnings) > 0 || len(h.Servers) > 0 {
		t.Errorf("heard %+v; want no other servers and nothing to warn of", h)
	}
}

// TestNetworkd is systemd's client, which needs a little of systemd around it.
func TestNetworkd(t *testing.T) {
	requireAll(t)
	const networkd = "/lib/systemd/systemd-networkd"
	if _, err := os.Stat(networkd); err != nil {
		cannot(t, "systemd-networkd is not installed")
	}
	if !onWire(t) {
		return
	}
	lan(t, "pc")
	s := serve(t, wireConfig(), &leasetest.Store{}, scripted{})
	if err := os.MkdirAll("/run/systemd/network", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"/run/systemd/netif/links", "/run/systemd/netif/leases", "/run/systemd/netif/lldp"} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	text := "[Match]\nName=eth0\n[Network]\nDHCP=ipv4\nLinkLocalAddressing=no\n" +
		"IPv6AcceptRA=no\n[DHCPv4]\nUseMTU=yes\nUseDomains=yes\n"
	if err := os.WriteFile("/run/systemd/network/10-eth0.network", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// With /sys read-only it does not wait for a udev that is not there.
	start(t, "pc", "sh", "-c", "mount -o remount,ro,bind /sys && exec "+networkd)
	eventually(t, "networkd has a lease", func() bool { return len(s.Leases()) == 1 })
	eventually(t, "the card has the address", func() bool {
		out, _ := exec.Command("ip", "netns", "exec", "pc", "ip", "-o", "address", "show", "dev", "eth0").CombinedOutput()
		return strings.Contains(string(out), "inet 10.99.0.100/24")
	})
	if routes := in(t, "pc", "ip", "route"); !strings.Contains(routes, "192.168.0.0/16 via 10.99.0.2") ||
		!strings.Contains(routes, "default via 10.99.0.254") {
		t.Errorf("networkd set these routes; want the static one and the default\n%s", routes)
	}
}
