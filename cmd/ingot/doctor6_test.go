package main

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ingot/cmd/ingot/doctor"
)

// TestDoctor6: a server of IPv6 without a router is warned of, with one all is
// well, and another DHCPv6 server is found.
func TestDoctor6(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	f := newField(t, 2<<20)
	for _, c := range []*exec.Cmd{f.lan.Command(f.ctx, "ip", "address", "add", "fd00:99::1/64", "dev", "br0", "nodad"),
		f.crowd.Command(f.ctx, "ip", "address", "add", "fd00:99::fe/64", "dev", f.crowd.Card, "nodad")} {
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	f.write(settings + "dhcp6: {interfaces: [{name: br0, mode: full}]}\n")
	examine := func() (list []doctor.Finding) {
		cmd := asIngot(f.lan.Command(f.ctx, os.Args[0], "--store", f.store, "-o", "json", "doctor", "--config", f.config,
			"--no-trial"))
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
			t.Fatalf("ingot doctor: %v\n%s", err, out)
		}
		if err := json.Unmarshal(out, &list); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return list
	}
	of := func(list []doctor.Finding, check string) doctor.Finding {
		i := slices.IndexFunc(list, func(x doctor.Finding) bool { return x.Check == check })
		if i < 0 {
			t.Fatalf("nothing was found of %s: %+v", check, list)
		}
		return list[i]
	}
	f.serve()
	f.until("the bridge's link-local address to be tested",
		func() bool { return of(examine(), "IPv6 br0").State == doctor.OK })
	list := examine()
	for _, check := range []string{"port 547/udp over IPv6", "port 69/udp over IPv6", "port 80/tcp over IPv6",
		"DHCPv6 servers br0", "HTTP fd00:99::1", "TFTP fd00:99::1"} {
		if x := of(list, check); x.State != doctor.OK {
			t.Errorf("beside a running server: %+v", x)
		}
	}
	if x := of(list, "routers br0"); x.State != doctor.Warning {
		t.Errorf("without a router: %+v", x)
	}
	_ = f.server.Process.Kill()
	dnsmasq := f.crowd.Command(f.ctx, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0",
		"--interface="+f.crowd.Card, "--enable-ra",
		"--dhcp-range=fd00:99::100,fd00:99::1ff,64", "--dhcp-leasefile="+filepath.Join(f.dir, "leases"))
	if err := dnsmasq.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dnsmasq.Process.Kill(); _ = dnsmasq.Wait() }()
	f.until("router and other server to be found", func() bool {
		list = examine()
		return of(list, "routers br0").State == doctor.OK && of(list, "DHCPv6 servers br0").State == doctor.Error
	})
	if x := of(list, "routers br0"); !strings.Contains(x.Text, "fd00:99::/64") || !strings.Contains(x.Text,
		"addresses from DHCPv6") {
		t.Errorf("the router is %q", x.Text)
	}
	if x := of(list, "DHCPv6 servers br0"); !strings.Contains(x.Text, "fe80::") {
		t.Errorf("the other server is %q", x.Text)
	}
}
