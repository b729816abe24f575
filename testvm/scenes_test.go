//go:build e2e

package testvm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/bootserver/api"
)

// TestSceneUpgradeAndRollback is the whole loop: a new machine waits for
// approval, boots v1, writes to its root and its volume, boots v2, and goes
// back to v1. What was written to the root is gone, what was written to the
// volume is there, and the machine is still itself. `make test` plays one boot
// on BIOS, and on UEFI the upgrade too; `make test-all` plays all of it on both.
func TestSceneUpgradeAndRollback(t *testing.T) {
	all := os.Getenv("INGOT_TEST_ALL") != ""
	for i, f := range []Firmware{BIOS, UEFI} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.router()
			s.serve()
			vm := s.vm(f, i+1, s.disk("data"))
			s.meet(vm)
			key := s.firstBoot(vm)
			if f == BIOS && !all {
				return
			}
			s.upgrade(vm, key)
			if all {
				s.rollBack(vm)
			}
			t.Logf("\n%s", s.run("boots", "node", "--timeline"))
		})
	}
}

// meet lets a new machine wait for its approval, and gives it.
func (s *stage) meet(vm *VM) {
	s.t.Helper()
	m := s.machine(vm, "the machine to be seen", func(api.Machine) bool { return true })
	if m.State != api.Pending || m.UUID != vm.uuid() {
		s.t.Errorf("a new machine is %s with UUID %q; want pending with %q", m.State, m.UUID, vm.uuid())
	}
	if _, err := vm.Console.WaitFor(s.ctx, `waiting for approval`); err != nil {
		s.t.Fatal(err)
	}
	m = s.machine(vm, "what SMBIOS says", func(m api.Machine) bool { return m.Facts.Serial != "" })
	if m.State != api.Pending || m.Facts.Vendor != "ingot" || m.Facts.Product != "lab" ||
		m.Facts.Serial != "LAB-"+vm.Name {
		s.t.Errorf("the loader of a machine that is %s says %q %q %q; want pending, ingot lab LAB-%s", m.State,
			m.Facts.Vendor, m.Facts.Product, m.Facts.Serial, vm.Name)
	}
	s.run("grant", vm.id(), "data", "--disk", "SER-data")
	s.run("machine", "approve", vm.id(), "--name", "node", "--image", "lab:v1")
}

// firstBoot boots v1 and leaves traces; it returns what the machine calls itself.
func (s *stage) firstBoot(vm *VM) (identity string) {
	s.t.Helper()
	b := s.healthy(vm, 1, "lab:v1")
	if want := s.inspect("lab:v1").Manifest.Root.Digest; b.Report.Root != want {
		s.t.Errorf("measured root = %s; want %s", b.Report.Root, want)
	}
	if b.Report.RAMUsed <= 0 || b.Report.RAMTotal <= 0 {
		s.t.Errorf("memory at healthy = %d of %d; want both recorded", b.Report.RAMUsed, b.Report.RAMTotal)
	}
	s.t.Logf("memory at healthy: %d of %d MiB", b.Report.RAMUsed>>20, b.Report.RAMTotal>>20)
	s.login(vm)
	if got := words(s.at(vm, "hostname; cat /etc/ingot-version; findmnt -n -o FSTYPE /data; findmnt -n -o "+
		"FSTYPE /")); got != "node v1 ext4 overlay" {
		s.t.Errorf("the machine says %q; want node v1 ext4 overlay", got)
	}
	s.at(vm, "echo precious > /data/kept; echo lost > /etc/lost; sync")
	return s.at(vm, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub; cat /etc/machine-id")
}

func (s *stage) upgrade(vm *VM, identity string) {
	s.t.Helper()
	s.run("assign", "node", "lab:v2", "--why", "upgrade")
	s.reboot(vm)
	s.healthy(vm, 2, "lab:v2")
	s.login(vm)
	if got := words(s.at(vm, "cat /etc/ingot-version /data/kept; test ! -e /etc/lost")); got != "v2 precious" {
		s.t.Errorf("after the upgrade the machine says %q; want v2 precious", got)
	}
	if got := s.at(vm, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub; cat /etc/machine-id"); got != identity {
		s.t.Errorf("identity after the upgrade = %q; want %q", got, identity)
	}
	if why := words(s.run("why", "node")); !strings.Contains(why, "its system shut down or rebooted") {
		s.t.Errorf("the agent did not say that the system of the boot before shuts down: %s", why)
	}
}

func (s *stage) rollBack(vm *VM) {
	s.t.Helper()
	s.run("rollback", "node")
	s.reboot(vm)
	s.healthy(vm, 3, "lab:v1")
	s.login(vm)
	if got := words(s.at(vm, "cat /etc/ingot-version /data/kept")); got != "v1 precious" {
		s.t.Errorf("after the rollback the machine says %q; want v1 precious", got)
	}
}

func words(s string) string { return strings.Join(strings.Fields(s), " ") }

// TestSceneSizes holds the bars of what every machine has to load.
func TestSceneSizes(t *testing.T) {
	st, err := os.Stat(filepath.Join(bin, "ingot-init"))
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > 8_000_000 {
		t.Errorf("ingot-init has %d bytes; want at most 8 MB", st.Size())
	}
	s := newStage(t)
	if size := s.inspect("lab:v1").Manifest.Initramfs.Size; size > 12_000_000 {
		t.Errorf("the initramfs of lab has %d bytes; want at most 12 MB", size)
	}
}
