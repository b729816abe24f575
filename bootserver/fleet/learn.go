package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
)

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
