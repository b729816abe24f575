//go:build e2e

package testvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/bootserver/api"
)

// ways are the firmwares of x64 machines, by how they boot.
var ways = map[string]Config{"BIOS": {Firmware: BIOS}, "PXE": {Firmware: UEFI},
	"HTTP": {Firmware: UEFI, HTTPBoot: true}}

// TestSceneProxy: dnsmasq lends the addresses, ingot says what to boot, and each
// firmware comes to healthy: the ROM in a BIOS machine, UEFI by PXE and UEFI by
// HTTP. Every address is dnsmasq's.
func TestSceneProxy(t *testing.T) {
	requireAll(t)
	t.Parallel()
	for name, c := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.beside("dnsmasq.conf")
			vm := s.start(1, c)
			b := s.healthy(vm, 1, "lab:v1")
			want := first[c.Firmware]
			if c.HTTPBoot {
				want = api.FirstUKI
			}
			if b.First != want {
				t.Errorf("the first stage is %q; want %q", b.First, want)
			}
			s.lentByOther(vm)
		})
	}
}

// first are the loaders that PXE firmware gets. Debian has no snponly for arm64.
var first = map[Firmware]string{BIOS: "undionly.kpxe", UEFI: "snponly.efi", ARM64: "ipxe-arm64.efi"}

// lentByOther: the machine's address is one of dnsmasq's leases.
func (s *stage) lentByOther(vm *VM) {
	s.t.Helper()
	leases, err := os.ReadFile(filepath.Join(s.dir, "dnsmasq.leases"))
	if err != nil {
		s.t.Fatal(err)
	}
	m := s.machine(vm, "the machine", func(api.Machine) bool { return true })
	if want := vm.MAC + " " + m.Address.String() + " "; !strings.Contains(string(leases), want) {
		s.t.Errorf("%s has the address %s; dnsmasq lent\n%s", vm.Name, m.Address, leases)
	}
}

// despiteStray are the first stages beside a server that says PXEClient: OVMF's
// PXE takes that server for its boot server and fails, and OVMF goes on to boot
// by HTTP (docs/NETWORKS.md). SeaBIOS has an iPXE ROM, which takes our offer.
var despiteStray = map[string]string{"BIOS": first[BIOS], "PXE": api.FirstUKI, "HTTP": api.FirstUKI}

// TestSceneStrayClass: the other server says PXEClient to everybody.
func TestSceneStrayClass(t *testing.T) {
	requireAll(t)
	t.Parallel()
	for name, c := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.beside("dnsmasq-stray60.conf")
			vm := s.start(1, c)
			b := s.healthy(vm, 1, "lab:v1")
			if want := despiteStray[name]; b.First != want {
				t.Errorf("the first stage is %q; want %q", b.First, want)
			}
			s.lentByOther(vm)
			if out := s.run("network"); !strings.Contains(out, "option 60") || !strings.Contains(out, "10.99.0.2") {
				t.Errorf("ingot network does not name who says PXEClient:\n%s", out)
			}
		})
	}
}
