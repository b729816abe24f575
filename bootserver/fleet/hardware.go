package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

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

// Learn records the hardware that a machine reports at a boot, and returns the changes
// since the previous report. others are the machines with the reported UUID or serial
// number, or with the recorded serial number of m. If the report does not fit m, the
// machine becomes pending with a question for the operator, and its identifiers stay
// unchanged until the answer.
func Learn(m Machine, f ingot.Facts, others []Machine, now time.Time) (after Machine, changes []string) {
	changes = HardwareChanges(m.Facts, f)
	m.Had = hadVolumes(m)
	m.Facts, m.LastSeen = f, now
	q := identityConflict(m, f, others)
	if q != nil && m.answered(q.About).IsZero() {
		m.State, m.Ask = Pending, q
		return m, changes
	}
	uuid, serial := ingot.PlausibleUUID(f.UUID), ingot.PlausibleSerial(f.Serial)
	if otherWithUUID(others, uuid) == nil && uuid != "" && (m.UUID == "" || q != nil && !sameUUID(m.UUID, uuid)) {
		m.UUID = uuid // also when an operator confirmed the new board
	}
	if serial != "" {
		m.Serial = serial
	}
	return m, changes
}

// maxHad limits the disks in Machine.Had.
const maxHad = 64

// hadVolumes returns the disks with filesystems that the machine could use so far without their
// saying whose they are: those that it reported when it last booted an image whose ingot-init
// did not check owners of volumes.
func hadVolumes(m Machine) (had []ingot.Disk) {
	if m.Facts.Stamps || m.Facts.RAM == 0 {
		return m.Had
	}
	for _, d := range m.Facts.Disks {
		if strings.HasPrefix(d.Holds, "ext4 ") && len(had) < maxHad {
			had = append(had, d)
		}
	}
	return had
}

// identityConflict returns the question that reported facts raise, or nil. The serial
// number is used where there is no UUID, or together with it.
func identityConflict(m Machine, f ingot.Facts, others []Machine) *Question {
	uuid, serial, known := ingot.PlausibleUUID(f.UUID), ingot.PlausibleSerial(f.Serial), m.Serial
	ask := func(with Machine, format string, args ...any) *Question {
		return &Question{With: with.ID, About: "board " + strings.TrimSpace(uuid+" "+ingot.PlausibleSerial(f.Serial)),
			Reported: true, What: fmt.Sprintf(format, args...)}
	}
	board, sibling := otherWithUUID(others, uuid), otherWithSerial(others, serial)
	ours := sameUUID(m.UUID, uuid)
	if sharedSerial(m, others, serial) {
		serial = "" // a shared value identifies no machine
	}
	if sharedSerial(m, others, known) {
		known = ""
	}
	switch {
	case serial != "" && serial == known:
		return nil
	case board != nil && !ours:
		return ask(*board, "it has a network card of %s and reports the UUID of %s: the card was moved, or both boards "+
			"have the same UUID", m.Hostname(), board.Hostname())
	case serial == "", board == nil && uuid != "" && (m.UUID == "" || ours):
		return nil // no UUID or serial number disagrees
	case sibling != nil:
		return ask(*sibling, "it has a network card of %s and reports %s, the serial number of %s: the card was moved, or "+
			"both machines have the same serial number", m.Hostname(), serial, sibling.Hostname())
	case known == "":
		return nil // new firmware may change the UUID alone
	case uuid != "" && board == nil:
		return ask(m, "its UUID changed from %s to %s, and its serial number from %s to %s: its board was replaced, or its "+
			"card was moved", m.UUID, uuid, known, serial)
	}
	return ask(m, "its serial number changed from %s to %s: its card was moved, or its board was replaced", known, serial)
}

// otherWithUUID returns another machine that has a UUID, or nil.
func otherWithUUID(others []Machine, uuid string) *Machine {
	for i := range others {
		if o := &others[i]; sameUUID(uuid, o.UUID) && !o.Unidentified() {
			return o
		}
	}
	return nil
}

// otherWithSerial returns another machine that has a serial number, preferably an
// approved one, or nil.
func otherWithSerial(others []Machine, serial string) (found *Machine) {
	for i := range others {
		if o := &others[i]; serial != "" && o.Serial == serial &&
			(found == nil || o.State == Approved && found.State != Approved) {
			found = o
		}
	}
	return found
}

// sharedSerial reports whether several approved machines have a serial number.
func sharedSerial(m Machine, others []Machine, serial string) bool {
	n := 0
	for _, o := range append([]Machine{m}, others...) {
		if serial != "" && o.Serial == serial && o.State == Approved {
			n++
		}
	}
	return n > 1
}

// sameUUID compares UUIDs whose first three fields may be in either byte order: network
// cards and kernels do not agree on it (DSP0134, section 7.2.1).
func sameUUID(a, b string) bool { return a != "" && (a == b || a == swappedUUID(b)) }

func swappedUUID(u string) string {
	d := strings.ReplaceAll(u, "-", "")
	if len(d) != 32 {
		return ""
	}
	return d[6:8] + d[4:6] + d[2:4] + d[0:2] + "-" + d[10:12] + d[8:10] + "-" + d[14:16] + d[12:14] + "-" + d[16:20] +
		"-" + d[20:]
}

// UUIDs returns a reported UUID in both byte orders; nil for a placeholder.
func UUIDs(reported string) []string {
	uuid := ingot.PlausibleUUID(reported)
	if uuid == "" {
		return nil
	}
	return []string{uuid, swappedUUID(uuid)}
}

// claimedCards lists the cards that a machine reports but that other machines were seen
// with. They do not identify the machine.
func claimedCards(m Machine, others []Machine) (list []string) {
	for _, mac := range m.ReportedCards() {
		for i := range others {
			if o := &others[i]; !o.Unidentified() && slices.Contains(o.MACs, mac) {
				list = append(list, fmt.Sprintf("%s of %s", mac, o.Hostname()))
				break
			}
		}
	}
	return list
}
