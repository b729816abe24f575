//go:build e2e

package testvm

import (
	"strings"
	"testing"

	"ingot/bootserver/fleet"
)

// TestSceneUpgradeAndRollback is the whole loop: a new machine waits for
// approval, boots v1, writes to its root and its volume, boots v2, and goes
// back to v1. What was written to the root is gone, what was written to the
// volume is there.
func TestSceneUpgradeAndRollback(t *testing.T) {
	for i, f := range []Firmware{BIOS, UEFI} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			s.serve()
			vm := s.vm(f, i+1, s.disk("data"))
			s.machine(vm, "the machine to be seen", func(m fleet.Machine) bool { return m.State == fleet.Pending })
			if _, err := vm.Console.WaitFor(s.ctx, `waiting for approval`); err != nil {
				t.Fatal(err)
			}
			s.run("grant", vm.id(), "data", "--disk", "SER-data")
			s.run("machine", "approve", vm.id(), "--name", "node", "--image", "lab:v1")

			b := s.healthy(vm, 1, "lab:v1")
			if want := s.inspect("lab:v1").Manifest.Root.Digest; b.Report.Root != want {
				t.Errorf("measured root = %s; want %s", b.Report.Root, want)
			}
			t.Logf("memory at healthy: %d of %d MiB", b.Report.RAMUsed>>20, b.Report.RAMTotal>>20)
			s.login(vm)
			if got := strings.Join(strings.Fields(s.at(vm, "hostname; cat /etc/ingot-version; findmnt -n -o FSTYPE /data")), " "); got != "node v1 ext4" {
				t.Errorf("the machine says %q; want its name, v1, ext4", got)
			}
			key := s.at(vm, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub; cat /etc/machine-id")
			s.at(vm, "echo precious > /data/kept; echo lost > /etc/lost; sync")

			s.run("assign", "node", "lab:v2", "--why", "upgrade")
			s.at(vm, "systemctl reboot")
			s.healthy(vm, 2, "lab:v2")
			s.login(vm)
			if got := strings.Join(strings.Fields(s.at(vm, "cat /etc/ingot-version /data/kept; test ! -e /etc/lost")), " "); got != "v2 precious" {
				t.Errorf("after the upgrade the machine says %q; want v2 precious", got)
			}
			if got := s.at(vm, "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub; cat /etc/machine-id"); got != key {
				t.Errorf("identity after the upgrade = %q; want %q", got, key)
			}

			s.run("rollback", "node")
			s.at(vm, "systemctl reboot")
			s.healthy(vm, 3, "lab:v1")
			s.login(vm)
			if got := strings.Join(strings.Fields(s.at(vm, "cat /etc/ingot-version /data/kept")), " "); got != "v1 precious" {
				t.Errorf("after the rollback the machine says %q; want v1 precious", got)
			}
			t.Logf("\n%s", s.run("boots", "node", "--timeline"))
		})
	}
}
