//go:build e2e

package testvm

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSceneLocalBoot exports an image as a disk and as an ISO and boots
// machines without a network card from them, to a login and the agent's checks.
// A volume is found by its label, with the machine's identity on it. A root
// that was tampered with does not boot.
func TestSceneLocalBoot(t *testing.T) {
	requireAll(t)
	t.Parallel()
	t.Run("disk", func(t *testing.T) {
		s, raw := exported(t, "lab.raw")
		data := s.disk("data")
		if out, err := exec.Command("mkfs.ext4", "-q", "-L", "data", data.Path).CombinedOutput(); err != nil {
			t.Fatalf("making a volume: %v: %s", err, out)
		}
		vm := s.offline("disk", Config{Disks: []Disk{{Path: raw, Serial: "SER-root"}, data}})
		s.localHealthy(vm)
		if got := words(s.at(vm, "hostname; cat /etc/ingot-version; findmnt -n -o FSTYPE /data; findmnt -n -o "+
			"FSTYPE /")); got != "lab v1 ext4 overlay" {
			t.Errorf("the machine says %q; want lab v1 ext4 overlay", got)
		}
		key := s.at(vm, "echo precious > /data/kept; sync; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub; cat "+
			"/etc/machine-id")
		// What dm-verity vouches for is what is mounted.
		hash := s.inspect("lab:v1").Manifest.Verity.RootHash
		if got := s.at(vm, "cat /proc/cmdline"); !strings.Contains(got, hash) {
			t.Errorf("the kernel's command line is %q; want the root hash %s in it", got, hash)
		}
		if got := s.at(vm, "cat /sys/block/dm-0/dm/name; cat /sys/block/dm-0/ro; grep -c /dev/dm-0 "+
			"/proc/mounts"); words(got) != "ingot-root 1 1" {
			t.Errorf("the root's device: %q; want ingot-root, read-only, mounted", words(got))
		}
		if err := vm.PowerCycle(s.ctx); err != nil {
			t.Fatal(err)
		}
		s.localHealthy(vm)
		if got := s.at(vm, "cat /data/kept >&2; ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub; cat "+
			"/etc/machine-id"); !strings.Contains(got, strings.TrimSpace(key)) {
			t.Errorf("identity after a power cut = %q; want %q", got, key)
		}
		vm.Kill()
	})
	t.Run("iso", func(t *testing.T) {
		s, iso := exported(t, "lab.iso")
		vm := s.offline("iso", Config{ISO: iso})
		s.localHealthy(vm)
		vm.Kill()
	})
	t.Run("tampered", func(t *testing.T) {
		s, raw := exported(t, "lab.raw")
		s.tamper(raw)
		vm := s.offline("tampered", Config{Disks: []Disk{{Path: raw, Serial: "SER-root"}}})
		if _, err := vm.Console.WaitFor(s.ctx, `(?s)could not boot.*root|verity.*corrupted`); err != nil {
			t.Errorf("a tampered root: %v", err)
		}
		vm.Kill()
	})
}

// exported is a stage with an export of lab:v1.
func exported(t *testing.T, name string) (s *stage, file string) {
	t.Helper()
	s = newStage(t)
	file = filepath.Join(s.dir, name)
	s.run("image", "export", "lab:v1", file)
	return s, file
}

// offline starts a UEFI machine without a network card.
func (s *stage) offline(name string, c Config) *VM {
	s.t.Helper()
	c.Name, c.Firmware, c.Offline, c.MAC = name, UEFI, true, fmt.Sprintf("52:54:00:12:01:%02x", len(s.lan.vms))
	vm, err := s.lan.StartVM(s.ctx, c)
	if err != nil {
		s.t.Fatal(err)
	}
	return vm
}

// localHealthy waits for the agent's word on the console, and for the prompt.
func (s *stage) localHealthy(vm *VM) {
	s.t.Helper()
	start := time.Now()
	if _, err := vm.Console.WaitFor(s.ctx, `ingot: lab:v1 is healthy, [1-9]`); err != nil {
		s.t.Fatal(err)
	}
	s.t.Logf("VM boot: %s, without a network, to healthy in %.1f s", vm.Name, time.Since(start).Seconds())
	if err := vm.Console.Send("\n"); err != nil { // the prompt may stand before the agent's line
		s.t.Fatal(err)
	}
	s.login(vm)
}

// tamper flips a bit in the superblock of a disk's root.
func (s *stage) tamper(disk string) {
	s.t.Helper()
	out, err := exec.Command("sfdisk", "--json", disk).Output()
	if err != nil {
		s.t.Fatal(err)
	}
	var table struct {
		PartitionTable struct{ Partitions []struct{ Start int64 } }
	}
	if err := json.Unmarshal(out, &table); err != nil {
		s.t.Fatal(err)
	}
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	b, at := make([]byte, 1), table.PartitionTable.Partitions[1].Start*512+20
	if _, err := f.ReadAt(b, at); err != nil {
		s.t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, at); err != nil {
		s.t.Fatal(err)
	}
}
