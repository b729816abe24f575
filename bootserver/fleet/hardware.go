package fleet

import (
	"fmt"
	"strings"

	"ingot"
)

// HardwareChanges says in words what is other between two boots: what came,
// what is gone, what differs. Nothing is said of what was not known before.
func HardwareChanges(old, now ingot.Facts) []string {
	var list []string
	if old.RAM == 0 && old.CPU == "" && len(old.NICs) == 0 {
		return nil
	}
	differs := func(what, a, b string) {
		if a != "" && b != "" && a != b {
			list = append(list, fmt.Sprintf("%s %s → %s", what, a, b))
		}
	}
	differs("vendor", old.Vendor, now.Vendor)
	differs("product", old.Product, now.Product)
	differs("serial number", ingot.PlausibleSerial(old.Serial), ingot.PlausibleSerial(now.Serial))
	differs("UUID", ingot.PlausibleUUID(old.UUID), ingot.PlausibleUUID(now.UUID))
	differs("firmware", old.BIOS, now.BIOS)
	differs("CPU", old.CPU, now.CPU)
	if old.Cores != now.Cores && old.Cores > 0 {
		list = append(list, fmt.Sprintf("cores %d → %d", old.Cores, now.Cores))
	}
	// The kernel keeps a little for itself, more or less with each version.
	if d := old.RAM - now.RAM; d > old.RAM/50 || -d > old.RAM/50 {
		list = append(list, fmt.Sprintf("RAM %s → %s GiB", gib(old.RAM), gib(now.RAM)))
	}
	list = append(list, diskChanges(old.Disks, now.Disks)...)
	return append(list, nicChanges(old.NICs, now.NICs)...)
}

func gib(n int64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/(1<<30)), ".0") }

// diskKey is what a disk is known by: names change from boot to boot.
func diskKey(d ingot.Disk) string {
	for _, k := range []string{d.WWN, d.Serial} {
		if k != "" {
			return k
		}
	}
	return d.Name
}

func diskChanges(old, now []ingot.Disk) (list []string) {
	before, after := map[string]ingot.Disk{}, map[string]ingot.Disk{}
	for _, d := range old {
		before[diskKey(d)] = d
	}
	for _, d := range now {
		after[diskKey(d)] = d
		was, had := before[diskKey(d)]
		switch {
		case !had:
			list = append(list, fmt.Sprintf("disk %s is new (%s, %s GiB)", diskName(d), d.Name, gib(d.Size)))
		case was.Size != d.Size:
			list = append(list, fmt.Sprintf("disk %s %s → %s GiB", diskName(d), gib(was.Size), gib(d.Size)))
		}
	}
	for _, d := range old {
		if _, has := after[diskKey(d)]; !has {
			list = append(list, fmt.Sprintf("disk %s is gone (%s, %s GiB)", diskName(d), d.Name, gib(d.Size)))
		}
	}
	return list
}

func diskName(d ingot.Disk) string {
	if d.Serial != "" {
		return "S/N " + d.Serial
	}
	return diskKey(d)
}

func nicChanges(old, now []ingot.NIC) (list []string) {
	before, after := map[string]ingot.NIC{}, map[string]bool{}
	for _, n := range old {
		before[n.MAC] = n
	}
	for _, n := range now {
		after[n.MAC] = true
		was, had := before[n.MAC]
		switch {
		case !had:
			list = append(list, fmt.Sprintf("card %s is new (%s)", n.MAC, n.Driver))
		case was.Firmware != n.Firmware && was.Firmware != "" && n.Firmware != "":
			list = append(list, fmt.Sprintf("NIC firmware of %s %s → %s", n.MAC, was.Firmware, n.Firmware))
		}
	}
	for _, n := range old {
		if !after[n.MAC] {
			list = append(list, fmt.Sprintf("card %s is gone", n.MAC))
		}
	}
	return list
}
