package main

import (
	"encoding/json"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/bootserver/api"
	"ingot/cmd/ingot/doctor"
	"ingot/internal/wire"
	"ingot/testvm/storm"
)

// linkSettings serve two interfaces besides br0: a bridge, also over IPv6, and a veth.
const linkSettings = `dhcp:
  interfaces: [{name: br1, mode: full, probe: 10ms}, {name: v2, mode: full, probe: 10ms}]
  networks:
    - {name: one, interface: br1, subnets: [{prefix: 10.98.0.0/24, pools: [10.98.0.16-10.98.0.99]}]}
dhcp6: {interfaces: [{name: br1, mode: full}]}
boots: {approveAll: true, image: "storm:v1"}
`

// linkField is a field whose machines are at other interfaces than br0.
type linkField struct {
	*field
	clients string // a process in the machines' namespace
	next    int    // number of the next machine
}

func newLinkField(t *testing.T) *linkField {
	t.Helper()
	f := &linkField{field: newField(t, 1<<20)}
	holder := f.crowd.Command(f.ctx, "sleep", "infinity")
	if err := f.lan.Start(holder); err != nil {
		t.Fatal(err)
	}
	f.clients = strconv.Itoa(holder.Process.Pid) // nsenter becomes it
	there, err := f.crowd.Command(f.ctx, "readlink", "/proc/self/ns/net").Output()
	if err != nil {
		t.Fatal(err)
	}
	f.until("nsenter", func() bool {
		ns, err := os.Readlink("/proc/" + f.clients + "/ns/net")
		return err == nil && ns == strings.TrimSpace(string(there))
	})
	return f
}

// pair makes a veth with its other end, named like it with an "m", among the machines.
func (f *linkField) pair(name, theirs string) {
	f.t.Helper()
	f.ip("link", "add", name, "type", "veth", "peer", "name", name+"m", "netns", f.clients)
	f.ip("link", "set", name, "up")
	for _, args := range [][]string{{"address", "add", theirs, "dev", name + "m"}, {"link", "set", name + "m", "up"}} {
		if out, err := f.crowd.Command(f.ctx, "ip", args...).CombinedOutput(); err != nil {
			f.t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
}

// bridged makes br1 with the machines' cable v1.
func (f *linkField) bridged() {
	f.t.Helper()
	f.bridge("br1", "10.98.0.1/24", "fd00:98::1/64")
	f.ip("link", "set", "v1", "master", "br1")
}

// boots lets new machines boot at a card.
func (f *linkField) boots(card, when string) {
	f.t.Helper()
	began := time.Now()
	wait := f.startStorm(storm.Config{Machines: 2, First: f.next, Card: card, Timeout: time.Minute,
		Retry: 200 * time.Millisecond})
	f.next += 2
	wait() // all must be healthy
	f.t.Logf("%s: two machines at %s were healthy after %.1f s", when, card, time.Since(began).Seconds())
}

// served returns what the server says of an interface of IPv4.
func (f *linkField) served(name string) api.NetworkInterface {
	f.t.Helper()
	n, err := f.api().Network(f.ctx)
	if err != nil {
		f.t.Fatal(err)
	}
	i := slices.IndexFunc(n.Interfaces, func(i api.NetworkInterface) bool { return i.Name == name && !i.IPv6 })
	if i < 0 {
		f.t.Fatalf("the server says nothing of %s: %+v", name, n.Interfaces)
	}
	return n.Interfaces[i]
}

// soon waits for what the kernel's word on an interface brings about, and no timer does.
func (f *linkField) soon(what string, ok func() bool) {
	f.t.Helper()
	began := time.Now()
	f.until(what, ok)
	if d := time.Since(began); d > 4*time.Second {
		f.t.Errorf("waiting for %s took %v; the server does not listen to the kernel", what, d)
	}
}

// TestInterfaceMadeAgain: machines boot on an interface that is deleted and made again
// under the running server, on one that appears after it started, and after addresses
// changed. Nobody reloads anything.
func TestInterfaceMadeAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	wire.Need(t, "curl", "dnsmasq", "ss")
	f := newLinkField(t)
	f.write(linkSettings)
	f.pair("v1", "10.98.0.254/24")
	f.bridged()
	f.serve()
	if !strings.Contains(f.log.String(), "v2: not yet: there is no such interface") {
		t.Errorf("the start does not name the interface that is not there:\n%s", f.log.String())
	}
	f.boots("v1m", "after the start")

	f.ip("link", "del", "br1")
	f.soon("br1 to be gone", func() bool { return !f.served("br1").Served })
	f.soon("its address to be left", func() bool {
		return !slices.Contains(f.listening("-t", 80), "10.98.0.1:80") && !slices.Contains(f.listening("-u", 69),
			"10.98.0.1:69")
	})
	f.bridged()
	f.boots("v1m", "after br1 was made again")
	f.soon("DHCPv6 to be served on the new br1", func() bool {
		return strings.Contains(strings.Join(f.listening("-u", 547), " "), "%br1:547") && f.joined("br1", "ff02::1:2")
	})
	f.ip("link", "del", "br1") // at once: the server sees only that another one is there
	f.bridged()
	f.boots("v1m", "after br1 was made again at once")

	f.pair("v2", "10.97.0.254/24")
	f.soon("the missing address to be named", func() bool {
		return strings.Contains(f.served("v2").Why, "it has no IPv4 address")
	})
	f.ip("address", "add", "10.97.0.1/24", "dev", "v2")
	f.boots("v2m", "after v2 appeared")
	f.ip("link", "del", "v2")
	f.soon("v2 to be gone", func() bool { return !f.served("v2").Served })
	f.reportsUnserved("v2")
	f.pair("v2", "10.97.0.254/24")
	f.ip("address", "add", "10.97.0.1/24", "dev", "v2")
	f.boots("v2m", "after v2 was made again")

	f.ip("address", "del", "10.97.0.1/24", "dev", "v2")
	f.soon("v2 to have no address", func() bool { return !f.served("v2").Served })
	f.ip("address", "add", "10.97.0.7/24", "dev", "v2")
	f.soon("its new address to be served", func() bool {
		return slices.Equal(f.served("v2").Addresses, []netip.Addr{netip.MustParseAddr("10.97.0.7")})
	})
	f.boots("v2m", "after v2 got another address")
	f.takenPort()
	f.boots("v1m", "in the end")
	_ = f.server.Process.Signal(syscall.SIGTERM)
}

// takenPort: an address whose port another program has is not served until the program
// ends, and the others are served on.
func (f *linkField) takenPort() {
	f.t.Helper()
	f.ip("address", "del", "10.97.0.7/24", "dev", "v2")
	f.ip("address", "add", "10.97.0.8/24", "dev", "br0") // where nobody serves
	other := f.lan.Command(f.ctx, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--bind-interfaces", "--port=69",
		"--listen-address=10.97.0.8")
	if err := f.lan.Start(other); err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	f.until("the other program to have the port", func() bool {
		return slices.Contains(f.listening("-u", 69), "10.97.0.8:69")
	})
	f.ip("address", "del", "10.97.0.8/24", "dev", "br0")
	f.ip("address", "add", "10.97.0.8/24", "dev", "v2")
	f.soon("the port to be missed", func() bool { return strings.Contains(f.served("v2").Why, "port 69/udp is taken") })
	f.boots("v1m", "while a port of v2 is taken")
	_ = other.Process.Kill()
	f.until("v2 to be served", func() bool { return f.served("v2").Served })
	f.boots("v2m", "after the port was free")
}

// joined reports whether an interface receives what is sent to a multicast group.
func (f *linkField) joined(card, group string) bool {
	out, err := f.lan.Command(f.ctx, "ip", "maddr", "show", "dev", card).Output()
	return err == nil && strings.Contains(string(out), group)
}

// reportsUnserved: an interface that is not served is named to whoever looks.
func (f *linkField) reportsUnserved(name string) {
	f.t.Helper()
	why := "there is no such interface"
	if i := f.served(name); i.Why != why {
		f.t.Errorf("the server says %+v; want %q", i, why)
	}
	out, err := asIngot(f.lan.Command(f.ctx, os.Args[0], "--store", f.store, "network")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "! "+name+": not served: "+why) {
		f.t.Errorf("ingot network: %v\n%s", err, out)
	}
	out, err = asIngot(f.lan.Command(f.ctx, os.Args[0], "--store", f.store, "-o", "json", "doctor", "--config", f.config,
		"--no-trial")).Output()
	var list []doctor.Finding
	if err == nil || json.Unmarshal(out, &list) != nil || !slices.ContainsFunc(list, func(x doctor.Finding) bool {
		return x.Check == "serving "+name && x.State == doctor.Error && strings.Contains(x.Text, why)
	}) {
		f.t.Errorf("ingot doctor: %v\n%s", err, out)
	}
	metrics, err := f.lan.Command(f.ctx, "curl", "-s", "--unix-socket", f.store+"/ingot.sock",
		"http://ingot/metrics").Output()
	if err != nil || !strings.Contains(string(metrics), "\ningot_interfaces_not_served 1\n") {
		f.t.Errorf("the metrics, %v, do not count it:\n%s", err, metrics)
	}
}
