package fleet

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"ingot"
)

func TestHardwareChanges(t *testing.T) {
	old := ingot.Facts{Vendor: "V", BIOS: "B 1.0", CPU: "X", Cores: 8, RAM: 256 << 30,
		NICs:  []ingot.NIC{{Name: "eth0", MAC: "a", Firmware: "22.31"}, {Name: "eth1", MAC: "b"}},
		Disks: []ingot.Disk{{Name: "sda", Serial: "S1", Size: 1 << 40}, {Name: "sdb", Serial: "S2", Size: 1 << 40}}}
	now := old
	now.BIOS, now.Cores, now.RAM = "B 1.1", 6, 192<<30
	now.NICs = []ingot.NIC{{Name: "eth0", MAC: "a", Firmware: "22.36"}, {Name: "eth1", MAC: "c", Driver: "ice"}}
	now.Disks = []ingot.Disk{{Name: "sda", Serial: "S2", Size: 1 << 40}, {Name: "sdb", Serial: "S3", Size: 2 << 40}}
	want := []string{"firmware B 1.0 → B 1.1", "cores 8 → 6", "lost 64 GiB of RAM (256 → 192 GiB)",
		"disk S/N S3 is new (sdb, 2048 GiB)",
		"disk S/N S1 is gone (sda, 1024 GiB)",
		"NIC firmware of a 22.31 → 22.36", "card c is new (ice)", "card b is gone"}
	if d := cmp.Diff(want, HardwareChanges(old, now)); d != "" {
		t.Errorf("HardwareChanges (-want +got):\n%s", d)
	}
	near := old
	near.RAM -= 1 << 30 // what another kernel keeps for itself
	if got := append(HardwareChanges(old, near), HardwareChanges(ingot.Facts{}, old)...); len(got) > 0 {
		t.Errorf("HardwareChanges of nothing = %q", got)
	}
}

// TestMemoryChanges: modules are compared with modules, what is usable with
// what was, and what only one of two boots told with nothing.
func TestMemoryChanges(t *testing.T) {
	const gib = 1 << 30
	for name, c := range map[string]struct {
		old, now ingot.Facts
		want     []string
	}{
		"modules are gone": {ingot.Facts{RAM: 251*gib + gib/2, RAMInstalled: 256 * gib},
			ingot.Facts{RAM: 188 * gib, RAMInstalled: 192 * gib}, []string{"lost 64 GiB of RAM (256 → 192 GiB)"}},
		"one small module of many": {ingot.Facts{RAM: 1000 * gib, RAMInstalled: 1024 * gib},
			ingot.Facts{RAM: 992 * gib, RAMInstalled: 1016 * gib}, []string{"lost 8 GiB of RAM (1024 → 1016 GiB)"}},
		"ingot tells modules only now": {ingot.Facts{RAM: 251 * gib},
			ingot.Facts{RAM: 251 * gib, RAMInstalled: 256 * gib}, nil},
		"and does not any more": {ingot.Facts{RAM: 251 * gib, RAMInstalled: 256 * gib},
			ingot.Facts{RAM: 251 * gib}, nil},
		"modules are gone, only now told": {ingot.Facts{RAM: 252 * gib},
			ingot.Facts{RAM: 188 * gib, RAMInstalled: 192 * gib}, []string{"lost 64 GiB of RAM (252 → 188 GiB)"}},
		"firmware leaves a broken module out": {ingot.Facts{RAM: 252 * gib, RAMInstalled: 256 * gib},
			ingot.Facts{RAM: 188 * gib, RAMInstalled: 256 * gib}, []string{"lost 64 GiB of usable RAM (252 → 188 GiB)"}},
		"another kernel keeps more": {ingot.Facts{RAM: 252 * gib, RAMInstalled: 256 * gib},
			ingot.Facts{RAM: 251 * gib, RAMInstalled: 256 * gib}, nil},
	} {
		c.old.CPU, c.now.CPU = "X", "X"
		if d := cmp.Diff(c.want, HardwareChanges(c.old, c.now)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestDisksAlike: what several disks have tells nothing of one of them.
func TestDisksAlike(t *testing.T) {
	disk := func(name, serial, wwn string, size int64) ingot.Disk {
		return ingot.Disk{Name: name, Serial: serial, WWN: wwn, Model: "M", Size: size << 30}
	}
	disks := func(list ...ingot.Disk) []ingot.Disk { return list }
	for name, c := range map[string]struct {
		old, now []ingot.Disk
		want     []string
	}{
		"one of two with a placeholder": {disks(disk("sda", "0000", "", 10), disk("sdb", "0000", "", 10)),
			disks(disk("sda", "0000", "", 10)), []string{"disk sdb is gone (sdb, 10 GiB)"}},
		"the other one, and names move": {disks(disk("sda", "None", "", 10), disk("sdb", "None", "", 20)),
			disks(disk("sda", "None", "", 20)), []string{"disk sda is gone (sda, 10 GiB)"}},
		"one of two with one serial": {disks(disk("sda", "BRIDGE1", "", 10), disk("sdb", "BRIDGE1", "", 20)),
			disks(disk("sdb", "BRIDGE1", "", 20)), []string{"disk S/N BRIDGE1 is gone (sda, 10 GiB)"}},
		"placeholders with names that are": {disks(disk("sda", "0000", "naa.1", 10), disk("sdb", "0000", "naa.2", 10)),
			disks(disk("sda", "0000", "naa.2", 10)), []string{"disk naa.1 is gone (sda, 10 GiB)"}},
		"of an array, with its serial": {disks(disk("sda", "ARRAY", "naa.1", 10)),
			disks(disk("sda", "ARRAY", "naa.2", 10)), []string{"disk S/N ARRAY is new (sda, " +
				"10 GiB)", "disk S/N ARRAY is " +
				"gone (sda, 10 GiB)"}},
		"names changed": {disks(disk("sda", "S1", "", 10), disk("sdb", "S2", "", 10)),
			disks(disk("sda", "S2", "", 10), disk("sdb", "S1", "", 10)), nil},
		"it tells its WWN only now": {disks(disk("sda", "S1", "", 10)), disks(disk("sda", "S1", "naa.1", 10)), nil},
		"it grew": {disks(disk("vda", "", "", 10)), disks(disk("vda", "", "", 20)),
			[]string{"disk vda 10 → 20 GiB"}},
		"it was partitioned": {disks(disk("nvme0n1", "S1", "", 10)),
			disks(disk("nvme0n1", "S1", "", 10), disk("nvme0n1p1", "S1", "", 4), disk("nvme0n1p12", "S1", "", 4)), nil},
		"with its partitions": {disks(disk("sda", "S1", "", 10), disk("sda1", "S1", "", 4)),
			nil, []string{"disk S/N S1 is gone (sda, 10 GiB)"}},
		"a namespace of the same NVMe": {disks(disk("nvme0n1", "S1", "", 10), disk("nvme0n10", "S1", "", 4)),
			disks(disk("nvme0n1", "S1", "", 10)), []string{"disk S/N S1 is gone (nvme0n10, 4 GiB)"}},
	} {
		if d := cmp.Diff(c.want, diskChanges(c.old, c.now)); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// TestDisksCounted: whatever disks call themselves, as many are said to be gone
// as are fewer, and disks in another order are the same.
func TestDisksCounted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var old []ingot.Disk
		for i := range rapid.IntRange(0, 6).Draw(t, "disks") {
			old = append(old, ingot.Disk{Name: fmt.Sprint("sd", string(rune('a'+i))),
				Size:   rapid.Int64Range(1, 2).Draw(t, "size") << 30,
				Serial: rapid.SampledFrom([]string{"", "0000", "S1", "S2"}).Draw(t, "serial"),
				WWN:    rapid.SampledFrom([]string{"", "w1", "w2"}).Draw(t, "wwn")})
		}
		now := rapid.Permutation(old).Draw(t, "now")
		if got := diskChanges(old, now); len(got) > 0 {
			t.Fatalf("in another order: %q", got)
		}
		n := rapid.IntRange(0, len(now)).Draw(t, "left")
		if got := diskChanges(old, now[:n]); len(got) != len(old)-n {
			t.Fatalf("%d of %d are left: %q", n, len(old), got)
		}
	})
}

func TestNICSpeed(t *testing.T) {
	nic := func(speed int) []ingot.NIC { return []ingot.NIC{{MAC: "a", Speed: speed}} }
	if d := cmp.Diff([]string{"speed of a 25000 → 1000 Mbit/s"}, nicChanges(nic(25000), nic(1000))); d != "" {
		t.Error(d)
	}
	if got := append(nicChanges(nic(25000), nic(0)), nicChanges(nic(0), nic(1000))...); len(got) > 0 {
		t.Errorf("a link that is down changed: %q", got)
	}
}
