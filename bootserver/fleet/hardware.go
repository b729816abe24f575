package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"ingot"
)

// HardwareChanges lists the hardware changes between two boots in words: parts that were
// added, removed or changed. It is empty if the old facts are unknown.
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
	list = append(list, memoryChanges(old, now)...)
	list = append(list, diskChanges(old.Disks, now.Disks)...)
	list = append(list, nicChanges(old.NICs, now.NICs)...)
	for i := range list {
		list[i] = Clip(list[i], maxChangeText)
	}
	if more := len(list) - maxChanges; more > 0 {
		list = append(list[:maxChanges], fmt.Sprintf("and %d more", more))
	}
	return list
}

// maxChanges limits the list of one boot: a whole disk enclosure may be disconnected.
const maxChanges = 64

// maxChangeText limits the text of one of them.
const maxChangeText = 240

func gib(n int64) string { return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/(1<<30)), ".0") }

// memoryChanges says how the memory changed. Memory that is lost is said to be.
func memoryChanges(old, now ingot.Facts) []string {
	what, before, after := comparedMemory(old, now)
	switch {
	case before == after:
		return nil
	case after < before:
		return []string{LostMemory(old, now)}
	}
	return []string{fmt.Sprintf("%s %s → %s GiB", what, gib(before), gib(after))}
}

// LostMemory says how much memory a machine lost between two boots: "lost 64 GiB of RAM (256 → 192
// GiB)". It is empty if it lost none.
func LostMemory(old, now ingot.Facts) string {
	what, before, after := comparedMemory(old, now)
	if after >= before {
		return ""
	}
	return fmt.Sprintf("lost %s GiB of %s (%s → %s GiB)", gib(before-after), what, gib(before), gib(after))
}

// comparedMemory compares installed with installed memory and usable with usable memory, never one
// with the other: older versions of ingot do not report installed memory. The values are the same
// if nothing that counts changed.
func comparedMemory(old, now ingot.Facts) (what string, before, after int64) {
	if old.RAM == 0 || now.RAM == 0 {
		return "", 0, 0 // not known
	}
	both := old.RAMInstalled > 0 && now.RAMInstalled > 0
	if both && old.RAMInstalled != now.RAMInstalled {
		return "RAM", old.RAMInstalled, now.RAMInstalled
	}
	what = "RAM"
	if both { // the firmware or kernel does not use all of it
		what = "usable RAM"
	}
	// The kernel reserves some memory; how much depends on its version.
	if d := old.RAM - now.RAM; d <= old.RAM/50 && -d <= old.RAM/50 {
		return what, old.RAM, old.RAM
	}
	return what, old.RAM, now.RAM
}

// sameDisk has the criteria to match a disk of one boot with a disk of another, the most
// reliable first. Names change from boot to boot, some disks have no serial number, and
// identifiers may be shared, so each disk is matched with at most one other.
var sameDisk = []func(a, b ingot.Disk) bool{
	func(a, b ingot.Disk) bool { return identified(a, b) && a.Name == b.Name && a.Size == b.Size },
	func(a, b ingot.Disk) bool { return identified(a, b) && a.Size == b.Size },
	identified,
	func(a, b ingot.Disk) bool { return bothUnidentified(a, b) && a.Name == b.Name && a.Size == b.Size },
	func(a, b ingot.Disk) bool { return bothUnidentified(a, b) && a.Size == b.Size },
	func(a, b ingot.Disk) bool { return bothUnidentified(a, b) && a.Name == b.Name },
}

// identified reports whether two disks have the same WWN, or, where one of
// them reports none, the same serial number.
func identified(a, b ingot.Disk) bool {
	if a.WWN != "" && b.WWN != "" {
		return a.WWN == b.WWN
	}
	serial := ingot.PlausibleSerial(a.Serial)
	return serial != "" && serial == ingot.PlausibleSerial(b.Serial)
}

// bothUnidentified reports whether two disks may be the same one, without identifiers.
func bothUnidentified(a, b ingot.Disk) bool {
	blank := func(d ingot.Disk) bool { return d.WWN == "" && ingot.PlausibleSerial(d.Serial) == "" }
	return blank(a) && blank(b) && a.Model == b.Model
}

// diskChanges compares disks. Partitions, which are listed among them, are ignored.
func diskChanges(old, now []ingot.Disk) (list []string) {
	old, now = wholeDisks(old), wholeDisks(now)
	before := make([]*ingot.Disk, len(now)) // the old disk of each
	gone := slices.Repeat([]bool{true}, len(old))
	for _, same := range sameDisk {
		for i, d := range now {
			if before[i] != nil {
				continue
			}
			for k := range old {
				if gone[k] && same(old[k], d) {
					before[i], gone[k] = &old[k], false
					break
				}
			}
		}
	}
	for i, d := range now {
		switch was := before[i]; {
		case was == nil:
			list = append(list, fmt.Sprintf("disk %s is new (%s, %s GiB)", diskName(d), d.Name, gib(d.Size)))
		case was.Size != d.Size:
			list = append(list, fmt.Sprintf("disk %s %s → %s GiB", diskName(d), gib(was.Size), gib(d.Size)))
		}
	}
	for k, d := range old {
		if gone[k] {
			list = append(list, fmt.Sprintf("disk %s is gone (%s, %s GiB)", diskName(d), d.Name, gib(d.Size)))
		}
	}
	return list
}

// wholeDisks removes partitions. A partition has the name of its disk and a number, after
// a p if the disk's name ends in a digit, and the identifiers of the disk.
func wholeDisks(list []ingot.Disk) (whole []ingot.Disk) {
	names := map[string]ingot.Disk{}
	for _, d := range list {
		names[d.Name] = d
	}
	for _, d := range list {
		parent := strings.TrimRight(d.Name, "0123456789")
		if p, cut := strings.CutSuffix(parent, "p"); cut && strings.TrimRight(p, "0123456789") != p {
			parent = p
		}
		on, is := names[parent]
		if parent == d.Name || !is || on.Serial != d.Serial || on.WWN != d.WWN || on.Model != d.Model {
			whole = append(whole, d)
		}
	}
	return whole
}

func diskName(d ingot.Disk) string {
	if serial := ingot.PlausibleSerial(d.Serial); serial != "" {
		return "S/N " + serial
	}
	return cmp.Or(d.WWN, d.Name)
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
			continue
		case was.Firmware != n.Firmware && was.Firmware != "" && n.Firmware != "":
			list = append(list, fmt.Sprintf("NIC firmware of %s %s → %s", n.MAC, was.Firmware, n.Firmware))
		}
		if was.Speed != n.Speed && was.Speed > 0 && n.Speed > 0 {
			list = append(list, fmt.Sprintf("speed of %s %d → %d Mbit/s", n.MAC, was.Speed, n.Speed))
		}
	}
	for _, n := range old {
		if !after[n.MAC] {
			list = append(list, fmt.Sprintf("card %s is gone", n.MAC))
		}
	}
	return list
}
