//go:build e2e

package testvm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
)

// badImage is one of bad.
type badImage struct {
	name, profile, why string // why in lower case
	firmware           bool
}

// bad are images that are broken in different ways: what is added to lab, and
// what `ingot why` says of it. Whether the machine resets, and what is kept of its last words, depends on the
// firmware for those with firmware set.
var bad = []badImage{
	{"panic", "kernel: {arguments: [rdinit=/nothing]}\ndeadline: 90s\n",
		"the machine fetched the kernel and initramfs, then sent nothing", true},
	{"crash", `
files:
  - path: /etc/systemd/system/crash.service
    content: |
      [Unit]
      DefaultDependencies=no
      Before=sysinit.target
      [Service]
      Type=oneshot
      ExecStart=/bin/sh -c 'echo c > /proc/sysrq-trigger'
      [Install]
      WantedBy=sysinit.target
units: {enable: [crash.service]}
`, "kernel panic - not syncing: sysrq triggered crash", true},
	{"init", "ram: {budget: 64GiB}\n", "the image requires 65536 mib of memory", false},
	{"never", `
files:
  - path: /etc/systemd/system/stuck.service
    content: |
      [Unit]
      DefaultDependencies=no
      Before=sysinit.target
      [Service]
      Type=oneshot
      TimeoutStartSec=infinity
      ExecStart=/bin/sleep infinity
      [Install]
      WantedBy=sysinit.target
units: {enable: [stuck.service]}
deadline: 3m
`, "stuck.service", false},
	{"check", "checks: [{name: broken, command: [/bin/false], within: 2s}]\n", "check broken failed", false},
	{"hang", `
files:
  - path: /etc/systemd/system/freeze.service
    content: |
      [Unit]
      DefaultDependencies=no
      Before=sysinit.target
      [Service]
      Type=oneshot
      TimeoutStartSec=infinity
      WorkingDirectory=/sys/fs/cgroup
      ExecStart=/bin/sh -c 'for g in init.scope user.slice system.slice; do \
        echo 1 > $g/cgroup.freeze; done; sleep infinity'
      [Install]
      WantedBy=sysinit.target
units: {enable: [freeze.service]}
deadline: 10m
`, "sent nothing for", true},
}

// TestSceneHeals: a machine without a disk that was healthy with v1 is given one broken image after the
// other, on UEFI those whose end depends on the firmware, and each time comes back on v1 by itself, within
// the policy's number of reboots.
func TestSceneHeals(t *testing.T) {
	requireAll(t)
	t.Parallel()
	for i, f := range []Firmware{BIOS, UEFI} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			s := newStageFor(t, 70*time.Minute) // up to 19 boots
			images := slices.Clone(bad)
			if f == UEFI {
				images = slices.DeleteFunc(images, func(c badImage) bool { return !c.firmware })
			}
			for _, c := range images {
				profile := s.file(c.name+".yaml", "name: lab\nextends: lab\n"+c.profile)
				s.run("build", profile, "--version", c.name)
			}
			s.router()
			s.serve("--approve-all", "--image", "lab:v1")
			vm := s.vm(f, 10*i+1)
			s.healthy(vm, 1, "lab:v1")
			for n, c := range images {
				s.login(vm)
				s.run("assign", vm.id(), "lab:"+c.name)
				s.reboot(vm)
				if c.name == "panic" && f == BIOS { // ERST is in the kernel; what writes variables of UEFI is in the initramfs
					c.why = "kernel panic - not syncing: vfs: unable to mount root fs"
				}
				s.heals(vm, 2+n*(fleet.DefaultAttempts+1), "lab:"+c.name, c.why)
				if c.name == "crash" {
					s.keptOfCrash(vm, 2+n*(fleet.DefaultAttempts+1))
				}
			}
			t.Logf("\n%s", s.timelines())
		})
	}
}

// heals waits until the machine is healthy with v1 again, after the bad image was booted as often as the
// policy says, first in boot n of the machine.
func (s *stage) heals(vm *VM, n int, bad, why string) {
	s.t.Helper()
	for end := n + fleet.DefaultAttempts; n < end; n++ {
		b := s.boot(vm, n, "a bad boot to end", func(b api.Boot) bool { return !b.Open() })
		if b.Image.Name != bad {
			s.t.Fatalf("boot %d is of %s; want %s\n%s", n, b.Image.Name, bad, s.timelines())
		}
		s.t.Logf("boot %d of %s: %s %s: %s", n, bad, b.Outcome, b.Stage(), b.Reason)
	}
	s.healthy(vm, n, "lab:v1")
	words := s.run("why", vm.id())
	s.t.Logf("ingot why: %s", words)
	if !strings.Contains(strings.ToLower(words), why) || !strings.Contains(words, "fell back to lab:v1") {
		s.t.Errorf("ingot why does not say %q and that it fell back", why)
	}
}

// keptOfCrash looks for the kernel's last words in what is recorded of the boots that crashed, the first of
// which is boot n of the machine.
func (s *stage) keptOfCrash(vm *VM, n int) {
	s.t.Helper()
	boots, err := s.api.Boots(s.ctx, vm.id(), 0)
	if err != nil {
		s.t.Fatal(err)
	}
	for end := n + fleet.DefaultAttempts; n < end; n++ {
		out := s.run("console", vm.id(), "--boot", boots[n-1].ID.Short())
		_, kept, found := strings.Cut(out, "what the firmware kept of the crash (pstore)")
		if !found || !strings.Contains(kept, "Kernel panic - not syncing: sysrq triggered crash") {
			s.t.Errorf("boot %d: the console does not end with what pstore kept; it ends:\n%s", n, out[max(0, len(out)-2000):])
		}
	}
}
