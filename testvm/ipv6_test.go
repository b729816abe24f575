//go:build e2e

package testvm

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
)

// managed is the router of a network of IPv6 whose addresses come from DHCPv6.
const managed = `interface br0 {
  AdvSendAdvert on;
  MinRtrAdvInterval 3;
  MaxRtrAdvInterval 4;
  AdvManagedFlag on;
  AdvOtherConfigFlag on;
  prefix fd00:99::/64 { AdvOnLink on; AdvAutonomous off; };
};
`

// sixStage is a LAN without IPv4: its host has an IPv6 address, and a router
// announces the prefix.
func sixStage(t *testing.T, radvd string) *stage {
	t.Helper()
	s := newStageFor(t, 15*time.Minute)
	for _, args := range [][]string{{"-4", "address", "flush", "dev", Bridge},
		{"address", "add", "fd00:99::1/64", "dev", Bridge, "nodad"}} {
		if err := s.lan.ip(s.ctx, args...); err != nil {
			t.Fatal(err)
		}
	}
	conf := filepath.Join(s.dir, "radvd.conf")
	if err := os.WriteFile(conf, []byte(radvd), 0o644); err != nil {
		t.Fatal(err)
	}
	router := s.lan.Command(context.Background(), "radvd", "--nodaemon", "--logmethod", "stderr", "--config",
		conf, "--pidfile", filepath.Join(s.dir, "radvd.pid"))
	router.Stderr = s.log
	if err := s.lan.Start(router); err != nil {
		t.Fatal(err)
	}
	go func() { _ = router.Wait() }() // ends with the LAN
	return s
}

// overIPv6 boots a machine to healthy on that LAN and looks at what was recorded.
func overIPv6(t *testing.T, c Config, radvd string, firmware ingot.Firmware, first string) {
	requireAll(t)
	s := sixStage(t, radvd)
	s.serveOn("--interface6", Bridge, "--mode", "full", "--approve-all", "--image", "lab:v1")
	c.Disks = []Disk{s.disk("data")}
	vm, err := s.lan.StartVM(s.ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	m := s.machine(vm, "the machine to be seen", func(api.Machine) bool { return true })
	if m.Firmware != firmware || m.UUID != vm.uuid() {
		t.Errorf("the machine has firmware %q and UUID %q; want %q and %q", m.Firmware, m.UUID, firmware, vm.uuid())
	}
	s.run("grant", vm.id(), "data", "--disk", "SER-data")
	b := s.healthy(vm, 1, "lab:v1")
	if b.First != first {
		t.Errorf("the first stage is %q; want %q", b.First, first)
	}
	m = s.machine(vm, "its address", func(m api.Machine) bool { return m.Address.IsValid() })
	if !netip.MustParsePrefix("fd00:99::/64").Contains(m.Address) || len(m.MACs) != 1 {
		t.Errorf("the machine is at %s with the cards %v; want one card, at an address of fd00:99::/64", m.Address, m.MACs)
	}
	if out := s.run("network"); !strings.Contains(out, m.Address.String()) {
		t.Errorf("ingot network does not show the lease of %s:\n%s", m.Address, out)
	}
	t.Logf("\n%s", s.timelines())
}

// TestScenePXEv6: UEFI loads iPXE by TFTP over IPv6, iPXE kernel and initramfs
// by HTTP, and the system comes up, all without IPv4.
func TestScenePXEv6(t *testing.T) {
	t.Parallel()
	overIPv6(t, Config{Name: "pxe6", Firmware: UEFI, IPv6: true, MAC: "52:54:00:12:00:01"}, managed, ingot.FirmwareUEFIx64,
		"snponly.efi")
}

// TestSceneHTTPv6: UEFI loads the image's UKI by HTTP over IPv6, and ingot-init
// finds its server there.
func TestSceneHTTPv6(t *testing.T) {
	t.Parallel()
	overIPv6(t, Config{Name: "http6", Firmware: UEFI, HTTPBoot: true, IPv6: true, MAC: "52:54:00:12:00:01"}, managed,
		ingot.FirmwareUEFIx64HTTP, api.FirstUKI)
}
