//go:build e2e

package testvm

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
)

// TestSceneOnce: a machine boots exactly once with other kernel arguments, and with a shell in its
// initramfs only if its profile permits one. Somebody on its cable changes an argument: the machine
// refuses to go on, and is not given an older image for it.
func TestSceneOnce(t *testing.T) {
	requireAll(t)
	t.Parallel()
	for i, f := range []Firmware{BIOS, UEFI} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			s := newStageFor(t, 25*time.Minute) // five boots
			s.run("build", s.file("look.yaml", "name: lab\nextends: lab\npackages: [busybox-static]\nrescueShell: true\n"),
				"--version", "look")
			s.router()
			s.serve("--approve-all", "--image", "lab:v1")
			vm := s.vm(f, 70+i)
			s.healthy(vm, 1, "lab:v1")
			s.login(vm)
			s.arguments(vm)
			if f == BIOS {
				s.shell(vm)
			} else {
				s.tampers(vm)
			}
		})
	}
}

// arguments boots once with another argument, and then as before.
func (s *stage) arguments(vm *VM) {
	s.t.Helper()
	s.t.Log(s.run("assign", vm.id(), "--once", "--append", "ingot-scene=1", "--append", "loglevel=5"))
	s.t.Log(s.run("machine", "show", vm.id()))
	s.reboot(vm)
	b := s.healthy(vm, 2, "lab:v1")
	if b.Once == nil {
		s.t.Error("the boot does not say what it did once")
	}
	s.login(vm)
	if out := s.at(vm, "cat /proc/cmdline"); !strings.Contains(out, "ingot-scene=1 loglevel=5 ingot.server=") {
		s.t.Errorf("the kernel has the arguments %s", out)
	}
	s.t.Log(s.run("why", vm.id()))
	s.reboot(vm)
	s.healthy(vm, 3, "lab:v1")
	s.login(vm)
	if out := s.at(vm, "cat /proc/cmdline"); strings.Contains(out, "ingot-scene") {
		s.t.Errorf("the boot after it has the arguments %s", out)
	}
}

// shell looks around in the initramfs of an image that permits it; another image permits none, and this
// one starts none when no operator asked for it.
func (s *stage) shell(vm *VM) {
	s.t.Helper()
	out, err := ingotCommand(s.ctx, s.store, "assign", vm.id(), "--once", "--shell").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "its profile does not permit one") {
		s.t.Errorf("a shell in an image that permits none: %v\n%s", err, out)
	}
	s.t.Log(s.run("assign", vm.id(), "lab:look", "--once", "--shell"))
	s.reboot(vm)
	if _, err := vm.Console.WaitFor(s.ctx, `The root is mounted at /sysroot(?s:.*)[/~] # `); err != nil {
		s.t.Fatal(err)
	}
	s.boot(vm, 4, "the shell to be reported", func(b api.Boot) bool {
		return b.Open() && strings.Contains(b.Events[len(b.Events)-1].Detail, "a shell runs on the consoles")
	})
	s.t.Log(s.run("why", vm.id()))
	said := s.at(vm, "ls -d /sysroot/etc/os-release && cat /proc/1/comm")
	if !strings.Contains(said, "/sysroot/etc/os-release") || !strings.Contains(said, "init") {
		s.t.Errorf("the shell says %s", said)
	}
	if err := vm.Console.Send("exit\n"); err != nil {
		s.t.Fatal(err)
	}
	s.healthy(vm, 4, "lab:look")
	s.login(vm)
	s.run("assign", vm.id(), "lab:look")
	s.reboot(vm)
	s.healthy(vm, 5, "lab:look") // nobody leaves a shell
	s.login(vm)
}

// tampers changes an argument on the way to the loader.
func (s *stage) tampers(vm *VM) {
	s.t.Helper()
	if os.Getuid() != 0 {
		s.t.Log("changing frames needs root")
		return
	}
	wire, err := s.lan.NewWire(s.ctx, vm.tap)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = wire.Close() }()
	wire.Change(func(frame []byte) {
		if i := bytes.Index(frame, []byte(" panic=10 ")); i > 0 && bytes.Contains(frame, []byte("#!ipxe")) {
			copy(frame[i:], " pa1ic=n0 ") // the sum stays
		}
	})
	s.reboot(vm)
	b := s.boot(vm, 4, "the machine to refuse its arguments", func(b api.Boot) bool { return !b.Open() })
	last := b.Events[len(b.Events)-1]
	if b.Outcome != ingot.OutcomeFailed || last.Code != ingot.FailureArguments ||
		!strings.Contains(last.Error, "it has pa1ic=n0 and it lacks panic=10") {
		s.t.Errorf("the boot with a changed argument is %s: %s %q", b.Outcome, last.Code, last.Error)
	}
	s.t.Log(s.run("why", vm.id()))
	wire.Change(nil)
	s.healthy(vm, 5, "lab:v1")
	m := s.machine(vm, "the machine", func(api.Machine) bool { return true })
	if m.Setback != nil || len(m.Trial.Failures) > 0 {
		s.t.Errorf("the changed argument counts against the image: %+v", m)
	}
	s.t.Logf("\n%s", s.timelines())
}

// TestSceneRescue: the shipped profile boots once on a machine with disks, mounts none of them, becomes
// healthy, and the machine goes back by itself.
func TestSceneRescue(t *testing.T) {
	requireAll(t)
	t.Parallel()
	s := newStageFor(t, 25*time.Minute)
	s.run("build", "rescue", "--version", "1")
	s.router()
	s.serve("--approve-all", "--image", "lab:v1")
	vm, err := s.lan.StartVM(s.ctx, Config{Name: "http9", Firmware: UEFI, HTTPBoot: true, MAC: "52:54:00:12:00:79",
		RAM: 2048, Disks: []Disk{s.filled("data"), s.disk("array"), s.disk("group")}})
	if err != nil {
		t.Fatal(err)
	}
	s.healthy(vm, 1, "lab:v1")
	s.login(vm)
	s.t.Log(s.run("assign", vm.id(), "rescue:1", "--once"))
	s.reboot(vm)
	if b := s.healthy(vm, 2, "rescue:1"); b.First != api.FirstUKI {
		t.Errorf("one boot of another image began with %s; want its UKI", b.First)
	}
	s.t.Log(s.run("why", vm.id()))
	s.login(vm)
	out := s.at(vm, "findmnt --real --noheadings --output SOURCE; cat /proc/mdstat; swapon --show")
	if strings.Contains(out, "/dev/vd") || strings.Contains(out, "active") {
		t.Errorf("rescue uses a disk: %s", out)
	}
	s.touchesNothing(vm)
	s.at(vm, "type mdadm vgs nvme smartctl ethtool tcpdump xfs_repair fsck.ext4 busybox")
	s.reboot(vm)
	s.healthy(vm, 3, "lab:v1")
	// One boot with arguments goes through our loader.
	s.login(vm)
	s.run("assign", vm.id(), "--once", "--append", "ingot-scene=1")
	s.reboot(vm)
	if b := s.healthy(vm, 4, "lab:v1"); b.First == api.FirstUKI || b.Once == nil {
		t.Errorf("one boot with other arguments began with %s; want our loader", b.First)
	}
	s.login(vm)
	s.reboot(vm)
	if b := s.healthy(vm, 5, "lab:v1"); b.First != api.FirstUKI {
		t.Errorf("the boot after it began with %s; want the UKI", b.First)
	}
	t.Logf("\n%s", s.timelines())
}

// touchesNothing makes an array and a volume group on disks, and lets udev see them as it does in a boot: no
// array is assembled and no group activated, until somebody does.
func (s *stage) touchesNothing(vm *VM) {
	s.t.Helper()
	s.at(vm, "mdadm --create /dev/md7 --run --force --level=1 --raid-devices=1 --metadata=1.2 /dev/vdb && "+
		"mdadm --stop /dev/md7 && pvcreate /dev/vdc && vgcreate group /dev/vdc && lvcreate -y -L 8M -n logical group && "+
		"vgchange -an group")
	s.at(vm, "udevadm trigger --action=add /dev/vdb /dev/vdc && udevadm settle")
	out := s.at(vm, "grep -c active /proc/mdstat; ls /dev/group; true")
	if strings.HasPrefix(strings.TrimSpace(out), "1") || strings.Contains(out, "logical\n") {
		s.t.Errorf("rescue assembles an array or activates a group by itself: %s", out)
	}
	s.at(vm, "mdadm --assemble --scan --config=none --readonly && grep -c active /proc/mdstat && "+
		"vgchange -ay group && test -e /dev/group/logical && mount -o ro /dev/vda /mnt && umount /mnt")
}

// filled is a disk with a filesystem that is labelled as a volume of lab, and unowned.
func (s *stage) filled(name string) Disk {
	s.t.Helper()
	d := s.disk(name)
	s.tool("mkfs.ext4", "-q", "-L", name, d.Path)
	return d
}
