package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ingot/cmd/ingot/doctor"
	"ingot/internal/wire"
)

// deafen lets a socket of the server hear nothing, without an error: a filter on it drops
// every packet. It changes the sockets of UDP that are bound to a port.
func (f *field) deafen(port int, deaf bool) {
	f.t.Helper()
	pid := f.server.Process.Pid
	p, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	defer unix.Close(p)
	fds, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	if err != nil {
		f.t.Fatal(err)
	}
	done := 0
	for _, path := range fds {
		if to, _ := os.Readlink(path); !strings.HasPrefix(to, "socket:") {
			continue
		}
		n, _ := strconv.Atoi(filepath.Base(path))
		fd, err := unix.PidfdGetfd(p, n, 0)
		if err != nil {
			continue // closed meanwhile
		}
		kind, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
		if at, err := unix.Getsockname(fd); err == nil && kind == unix.SOCK_DGRAM && portOf(at) == port {
			drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}
			if err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
				&unix.SockFprog{Len: 1, Filter: &drop}); !deaf {
				err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
			}
			if err != nil {
				f.t.Fatal(err)
			}
			done++
		}
		unix.Close(fd)
	}
	if done == 0 {
		f.t.Fatalf("the server has no socket at port %d", port)
	}
}

func portOf(a unix.Sockaddr) int {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return a.Port
	case *unix.SockaddrInet6:
		return a.Port
	}
	return 0
}

// TestDoctorHearsDeafness: a server whose sockets of DHCP hear nothing is an error for
// doctor, and nothing of what doctor tries is recorded.
func TestDoctorHearsDeafness(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	wire.Need(t, "setpriv")
	f := newField(t, 1<<20)
	f.ip("address", "add", "fd00:99::1/64", "dev", "br0", "nodad")
	f.write(strings.Replace(settings, "boots:", "dhcp6: {interfaces: [{name: br0, mode: full}]}\nboots:", 1))
	f.serve()
	examine := func(before ...string) map[string]doctor.Finding {
		t.Helper()
		argv := append(before, os.Args[0], "--store", f.store, "-o", "json", "doctor", "--config", f.config)
		out, _ := asIngot(f.lan.Command(f.ctx, argv[0], argv[1:]...)).Output() // it may fail
		var list []doctor.Finding
		if err := json.Unmarshal(out, &list); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		found := map[string]doctor.Finding{}
		for _, x := range list {
			found[x.Check] = x
		}
		return found
	}
	want := func(when string, states map[string]string) {
		t.Helper()
		found := examine()
		for check, state := range states {
			if x := found[check]; x.State != state {
				t.Errorf("%s: %s is %+v; want %s", when, check, x, state)
			}
		}
		t.Logf("%s: %+v, %+v", when, found["DHCP at br0"], found["DHCPv6 at br0"])
	}
	f.until("IPv6 to settle", func() bool {
		out, err := f.lan.Command(f.ctx, "ip", "-6", "address", "show", "dev", "br0", "tentative").Output()
		return err == nil && len(out) == 0
	})
	want("at first", map[string]string{"DHCP at br0": doctor.OK, "DHCPv6 at br0": doctor.OK, "trial": doctor.OK,
		"TFTP 10.99.0.1": doctor.OK, "HTTP 10.99.0.1": doctor.OK})
	f.deafen(67, true)
	want("deaf to DHCP", map[string]string{"DHCP at br0": doctor.Error, "DHCPv6 at br0": doctor.OK})
	f.deafen(67, false)
	f.deafen(547, true)
	want("deaf to DHCPv6", map[string]string{"DHCP at br0": doctor.OK, "DHCPv6 at br0": doctor.Error})
	f.deafen(547, false)
	want("in the end", map[string]string{"DHCP at br0": doctor.OK, "DHCPv6 at br0": doctor.OK})

	without := examine("setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all")
	for _, check := range []string{"DHCP at br0", "DHCPv6 at br0"} {
		if x := without[check]; x.State != doctor.Skipped || x.Fix != "run it as root" {
			t.Errorf("without rights: %s is %+v; want it skipped", check, x)
		}
	}

	n, err := f.api().Network(f.ctx)
	if err != nil || len(n.Clients) != 0 || len(n.Leases) != 0 || len(n.Servers) != 0 || len(n.Warnings) != 0 {
		t.Errorf("doctor left traces: %+v, %v", n, err)
	}
	if list, err := f.api().MachinesBrief(f.ctx); err != nil || len(list) != 0 {
		t.Errorf("doctor made machines: %+v, %v", list, err)
	}
	out, err := f.lan.Command(f.ctx, "ip", "-o", "link").Output()
	if err != nil || slices.ContainsFunc(strings.Fields(string(out)), func(w string) bool {
		return strings.HasPrefix(w, "ingot")
	}) {
		t.Errorf("doctor left interfaces: %v\n%s", err, out)
	}
}
