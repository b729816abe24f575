package main

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/wire"
	"ingot/testvm"
	"ingot/testvm/storm"
)

// unnamed is settings without a mode.
var unnamed = strings.Replace(settings, "mode: full, ", "", 1)

// dnsmasq starts the network's DHCP server, as it is before ingot comes.
func (f *field) dnsmasq(args ...string) (stop func()) {
	f.t.Helper()
	return f.other("dnsmasq", append([]string{"--no-daemon", "--conf-file=/dev/null", "--port=0", "--bind-interfaces",
		"--interface=" + f.crowd.Card, "--dhcp-leasefile=" + filepath.Join(f.dir, "dnsmasq.leases"), "--user=root"},
		args...)...)
}

// addresses4 makes dnsmasq assign IPv4 addresses.
var addresses4 = []string{"--dhcp-range=10.99.200.1,10.99.200.99", "--dhcp-option=option:router,10.99.0.254"}

// other starts another server among the machines.
func (f *field) other(name string, args ...string) (stop func()) {
	f.t.Helper()
	cmd := f.crowd.Command(f.ctx, name, args...)
	var log lines
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := f.lan.Start(cmd); err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	f.until(name+" to listen", func() bool {
		select {
		case <-ended:
			f.t.Fatalf("%s ended:\n%s", name, log.String())
		default:
		}
		out, err := f.crowd.Command(f.ctx, "ss", "-H", "-l", "-n", "-u").Output()
		return err == nil && (strings.Contains(string(out), ":67 ") || strings.Contains(string(out), ":547 "))
	})
	return func() { _ = cmd.Process.Kill(); <-ended }
}

// refusal runs a server that must not serve, and returns what it says and the
// configuration that it prints.
func (f *field) refusal(args ...string) (says, config string) {
	f.t.Helper()
	cmd := asIngot(f.lan.Command(f.ctx, os.Args[0], append([]string{"--store", f.store, "serve"}, args...)...))
	var out bytes.Buffer
	cmd.Stderr = &out
	if err := f.lan.Start(cmd); err != nil {
		f.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			f.t.Fatalf("ingot serve %v: %v\n%s", args, err, out.String())
		}
	case <-time.After(30 * time.Second):
		_ = cmd.Process.Kill()
		<-ended
		f.t.Fatalf("ingot serve %v serves beside another server:\n%s", args, out.String())
	}
	says, config, ok := strings.Cut(out.String(), "in place of its interfaces:\n\n")
	if !ok {
		f.t.Fatalf("ingot serve %v prints no configuration:\n%s", args, out.String())
	}
	return says, config
}

// leased lets an ordinary client get an address, and returns it with its gateway.
func (f *field) leased(client *testvm.Host) (ip, router string) {
	f.t.Helper()
	script := filepath.Join(f.dir, "udhcpc")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" != bound ] || echo \"$ip,$router\"\n"), 0o755); err != nil {
		f.t.Fatal(err)
	}
	out, err := client.Command(f.ctx, "busybox", "udhcpc", "-i", client.Card, "-n", "-q", "-f", "-t", "5", "-T", "2", "-s",
		script).Output()
	if err != nil {
		f.t.Fatalf("udhcpc: %v: %s", err, out)
	}
	ip, router, _ = strings.Cut(strings.TrimSpace(string(out)), ",")
	return ip, router
}

// end ends the server.
func (f *field) end() {
	f.t.Helper()
	_ = f.server.Process.Kill()
	<-f.ended
}

// warns waits until the log has an error about another server, and why it serves.
func (f *field) warns(before int, why string) {
	f.t.Helper()
	f.until("the log to say that it serves beside another server", func() bool {
		for line := range strings.Lines(f.log.String()[before:]) {
			if strings.Contains(line, "level=ERROR") && strings.Contains(line, "server answers on br0") &&
				strings.Contains(line, why) {
				return true
			}
		}
		return false
	})
}

// TestRogueServer: beside a living DHCP server, a server whose mode nobody chose answers
// nothing, and prints a configuration that works. Where a mode is chosen, or machines
// got addresses before, it serves, and says so loudly.
func TestRogueServer(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	wire.Need(t, "dnsmasq", "busybox", "ss")
	f := newField(t, 1<<20)
	client, err := f.lan.NewHost(f.ctx, "client0", netip.MustParsePrefix("10.99.255.253/16"))
	if err != nil {
		t.Fatal(err)
	}
	stop := f.dnsmasq(addresses4...)
	f.write(unnamed)
	says, config := f.refusal("--config", f.config)
	if !strings.Contains(says, "10.99.255.254 (MAC ") || strings.Contains(says, "ingot machine ls") {
		t.Errorf("the refusal does not name the other server, or it served:\n%s", says)
	}
	_, again := f.refusal("--config=", "--interface", "br0", "--range", "10.99.16.0-10.99.16.9")
	if strings.TrimSpace(again) != "dhcp:\n  interfaces:\n    - {name: br0, mode: proxy}" {
		t.Errorf("with flags alone the configuration is\n%s", again)
	}
	if ip, router := f.leased(client); !strings.HasPrefix(ip, "10.99.200.") || router != "10.99.0.254" {
		t.Errorf("a client got %s with the gateway %q", ip, router)
	}

	f.write(config + strings.SplitAfterN(settings, "probe: 10ms}]\n", 2)[1]) // in place of its interfaces
	f.serve()
	if !strings.Contains(f.log.String(), "proxy DHCP beside another server") {
		t.Errorf("the printed configuration\n%s\nis not one beside another server:\n%s", config, f.log.String())
	}
	if ip, router := f.leased(client); !strings.HasPrefix(ip, "10.99.200.") || router != "10.99.0.254" {
		t.Errorf("beside the proxy a client got %s with the gateway %q", ip, router)
	}
	out, _ := asIngot(f.lan.Command(f.ctx, os.Args[0], "--store", f.store, "doctor", "--config", f.config)).Output()
	if !strings.Contains(string(out), "a new machine is offered snponly.efi") {
		t.Errorf("the printed configuration offers nothing:\n%s", out)
	}
	f.end()

	for why, conf := range map[string]string{"since mode full is chosen for it": settings,
		"since known: true is set for it": strings.Replace(unnamed, "probe:", "known: true, probe:", 1)} {
		f.write(conf)
		before := len(f.log.String())
		f.serve()
		f.warns(before, why)
		f.end()
	}
	stop()

	f.write(unnamed)
	f.serve()
	f.startStorm(storm.Config{Machines: 1, Timeout: time.Minute})()
	f.end() // a power cut
	stop = f.dnsmasq(addresses4...)
	defer stop()
	before, began := len(f.log.String()), time.Now()
	f.serve()
	t.Logf("where machines got addresses before, it served after %.1f s", time.Since(began).Seconds())
	f.warns(before, "since machines got addresses from it before")
}

// TestRogueServerLater: nothing is answered either on an interface that a reload adds, that
// appears later, or that had no carrier at the start.
func TestRogueServerLater(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	wire.Need(t, "dnsmasq", "ss", "curl")
	f := newLinkField(t)
	f.write(settings)
	f.serve()
	// v1 has the other server, and v2 nobody.
	f.pair("v1", "10.98.0.254/24")
	f.ip("address", "add", "10.98.0.1/24", "dev", "v1")
	defer f.other("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--bind-interfaces", "--interface=v1m",
		"--dhcp-range=10.98.0.200,10.98.0.250", "--dhcp-leasefile="+filepath.Join(f.dir, "v1.leases"), "--user=root")()
	with := func(more string) string { return strings.Replace(settings, "probe: 10ms}", "probe: 10ms}, "+more, 1) }
	f.write(with("{name: v1}"))
	if r, err := f.api().Reload(f.ctx); err == nil || !strings.Contains(err.Error(),
		"write {name: v1, mode: proxy} under dhcp.interfaces") {
		t.Errorf("Reload = %+v, %v; want that it is refused", r, err)
	}
	if at := f.listening("-u", 67); len(at) != 1 {
		t.Errorf("after the refusal, DHCP is open at %v", at)
	}
	// An interface that is not there yet is accepted, and refused when it is.
	f.ip("link", "set", "v1", "name", "v9")
	f.write(with("{name: v1}, {name: v2, probe: 10ms}"))
	if _, err := f.api().Reload(f.ctx); err != nil {
		t.Fatal(err)
	}
	f.ip("link", "set", "v9", "down")
	f.ip("link", "set", "v9", "name", "v1")
	f.ip("link", "set", "v1", "up")
	f.until("v1 to be refused", func() bool {
		i := f.served("v1")
		return !i.Served && strings.Contains(i.Why, "another DHCP server answers on v1: 10.98.0.254")
	})
	if f.answers("http://10.98.0.1/") {
		t.Error("HTTP answers on a refused interface")
	}
	// Without a carrier nobody can be heard: it waits.
	f.pair("v2", "10.97.0.254/24")
	if out, err := f.crowd.Command(f.ctx, "ip", "link", "set", "v2m", "down").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f.ip("address", "add", "10.97.0.1/24", "dev", "v2")
	f.until("v2 to wait", func() bool { return strings.Contains(f.served("v2").Why, "it has no link") })
	if out, err := f.crowd.Command(f.ctx, "ip", "link", "set", "v2m", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f.boots("v2m", "after v2 got a carrier")
	if i := f.served("v2"); !i.Served {
		t.Errorf("v2 is %+v", i)
	}
	// Whoever chooses a mode is served: v1 was not, so a reload is enough.
	f.write(with("{name: v1, mode: proxy}, {name: v2, probe: 10ms}"))
	if r, err := f.api().Reload(f.ctx); err != nil || len(r.Restart) != 0 || !f.served("v1").Served {
		t.Errorf("Reload = %+v, %v; want v1 served in the mode that was chosen", r, err)
	}
}

// TestRogueServerGoes: an interface that is refused is served when the other server is gone.
func TestRogueServerGoes(t *testing.T) {
	wire.RequireAll(t) // it takes a minute
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	wire.Need(t, "dhcpd", "ss")
	f := newLinkField(t)
	f.pair("v1", "10.98.0.254/24")
	f.ip("address", "add", "10.98.0.1/24", "dev", "v1")
	file := func(name, text string) string {
		path := filepath.Join(f.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	stop := f.other("dhcpd", "-4", "-f", "-d", "-cf", file("dhcpd.conf", "authoritative;\n"+
		"subnet 10.98.0.0 netmask 255.255.255.0 { range 10.98.0.200 10.98.0.250; }\n"), "-lf", file("dhcpd.leases", ""),
		"-pf", filepath.Join(f.dir, "dhcpd.pid"), "v1m")
	f.write(strings.Replace(settings, "probe: 10ms}", "probe: 10ms}, {name: v1, probe: 10ms}", 1))
	f.serve() // br0 is served
	if i := f.served("v1"); i.Served || !strings.Contains(i.Why, "another DHCP server answers on v1: 10.98.0.254") {
		t.Errorf("beside dhcpd, v1 is %+v", i)
	}
	stop()
	for end := time.Now().Add(2 * time.Minute); !f.served("v1").Served; time.Sleep(time.Second) {
		if time.Now().After(end) {
			t.Fatal("v1 is not served")
		}
	}
	f.boots("v1m", "after dhcpd went")
}

// TestRogueServer6: the same over IPv6.
func TestRogueServer6(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	wire.Need(t, "dnsmasq", "ss")
	f := newField(t, 1<<20)
	f.ip("address", "add", "fd00:99::1/64", "dev", "br0", "nodad")
	if out, err := f.crowd.Command(f.ctx, "ip", "address", "add", "fd00:99::fe/64", "dev", f.crowd.Card,
		"nodad").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	stop := f.dnsmasq("--dhcp-range=fd00:99::1:0,fd00:99::1:ffff,64,1h", "--enable-ra")
	says, config := f.refusal("--config=", "--interface6", "br0")
	// It answers from its link-local address, or from the other one while that is tentative.
	named := strings.Contains(says, "another DHCPv6 server answers on br0: fe80::") ||
		strings.Contains(says, "another DHCPv6 server answers on br0: fd00:99::fe ")
	if !named || strings.TrimSpace(config) !=
		"dhcp6:\n  interfaces:\n    - {name: br0, mode: boot}" {
		t.Errorf("it says\n%s\nand prints\n%s", says, config)
	}
	f.write(config)
	f.serve()
	f.end()
	f.write("dhcp6: {interfaces: [{name: br0, mode: full}]}\n")
	before := len(f.log.String())
	f.serve()
	f.warns(before, "since mode full is chosen for it")
	f.end()
	stop()
	f.write("dhcp6: {interfaces: [{name: br0}]}\n")
	f.serve() // nobody is heard
}

// TestOneInstallation: a server that was restored from the state of another one is not
// foreign to it, and one of another installation is.
func TestOneInstallation(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	f := newField(t, 1<<20)
	f.serve()
	f.end() // it has a state now, without leases
	twin, stranger := filepath.Join(f.dir, "twin"), filepath.Join(f.dir, "stranger")
	for _, dir := range []string{twin, stranger} {
		if out, err := exec.Command("cp", "-a", f.store, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, dir := range []string{"state", "keys"} {
		if err := os.RemoveAll(filepath.Join(stranger, dir)); err != nil {
			t.Fatal(err)
		}
	}
	f.serve()
	run := func(store string) string {
		cmd := asIngot(f.crowd.Command(f.ctx, os.Args[0], "--store", store, "serve", "--config=", "--interface",
			f.crowd.Card, "--range", "10.99.240.1-10.99.240.9"))
		var log lines
		cmd.Stderr = &log
		if err := f.lan.Start(cmd); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = cmd.Wait() }()
		defer func() { _ = cmd.Process.Kill(); <-ended }()
		f.until("the other ingot to serve, or not", func() bool {
			return slices.ContainsFunc([]string{"ingot machine ls", "in place of"}, func(s string) bool {
				return strings.Contains(log.String(), s)
			})
		})
		return log.String()
	}
	if log := run(twin); !strings.Contains(log, "ingot machine ls") {
		t.Errorf("a server of the same installation is foreign:\n%s", log)
	}
	if log := run(stranger); !strings.Contains(log, "which is another ingot") || !strings.Contains(log, "mode: observe}") {
		t.Errorf("a server of another installation is not foreign:\n%s", log)
	}
}
