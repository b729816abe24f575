package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
)

// Learn takes over what a machine reports about its hardware at a boot, and says
// what differs from the report before. Others are those that have the UUID or the
// serial number that it reports, or its own serial number. When what it reports
// is not of this machine, it waits, and an operator is asked; what it is known
// by stays as it was until the answer.
func Learn(m Machine, f ingot.Facts, others []Machine, now time.Time) (after Machine, changes []string) {
	changes = HardwareChanges(m.Facts, f)
	m.Facts, m.LastSeen = f, now
	q := doubt(m, f, others)
	if q != nil && m.answered(q.About).IsZero() {
		m.State, m.Ask = Pending, q
		return m, changes
	}
	uuid, serial := ingot.PlausibleUUID(f.UUID), ingot.PlausibleSerial(f.Serial)
	if held(others, uuid) == nil && uuid != "" && (m.UUID == "" || q != nil && !sameUUID(m.UUID, uuid)) {
		m.UUID = uuid // of a board that an operator spoke of, too
	}
	if serial != "" {
		m.Serial = serial
	}
	return m, changes
}

// doubt is the question that facts raise. The serial number counts where no
// UUID does, or together with it.
func doubt(m Machine, f ingot.Facts, others []Machine) *Question {
	uuid, serial, known := ingot.PlausibleUUID(f.UUID), ingot.PlausibleSerial(f.Serial), m.Serial
	ask := func(with Machine, format string, args ...any) *Question {
		return &Question{With: with.ID, About: "board " + strings.TrimSpace(uuid+" "+ingot.PlausibleSerial(f.Serial)),
			Reported: true, What: fmt.Sprintf(format, args...)}
	}
	board, sibling := held(others, uuid), withSerial(others, serial)
	ours := sameUUID(m.UUID, uuid)
	if double(m, others, serial) {
		serial = "" // what several have identifies none
	}
	if double(m, others, known) {
		known = ""
	}
	switch {
	case serial != "" && serial == known:
		return nil
	case board != nil && !ours:
		return ask(*board, "it has a network card of %s and reports the UUID of %s: the card was moved, or both boards "+
			"have the same UUID", m.Hostname(), board.Hostname())
	case serial == "", board == nil && uuid != "" && (m.UUID == "" || ours):
		return nil // there is a UUID, and it does not disagree
	case sibling != nil:
		return ask(*sibling, "it has a network card of %s and reports %s, the serial number of %s: the card was moved, or "+
			"both machines have the same serial number", m.Hostname(), serial, sibling.Hostname())
	case known == "":
		return nil // a UUID alone may be what new firmware made of it
	case uuid != "" && board == nil:
		return ask(m, "its UUID changed from %s to %s, and its serial number from %s to %s: its board was replaced, or its "+
			"card was moved", m.UUID, uuid, known, serial)
	}
	return ask(m, "its serial number changed from %s to %s: its card was moved, or its board was replaced", known, serial)
}

// held is another machine that has a UUID.
func held(others []Machine, uuid string) *Machine {
	for i := range others {
		if o := &others[i]; sameUUID(uuid, o.UUID) && !o.Newcomer() {
			return o
		}
	}
	return nil
}

// withSerial is another machine that has a serial number, an approved one
// before others.
func withSerial(others []Machine, serial string) (found *Machine) {
	for i := range others {
		if o := &others[i]; serial != "" && o.Serial == serial &&
			(found == nil || o.State == Approved && found.State != Approved) {
			found = o
		}
	}
	return found
}

// double reports whether two approved machines have a serial number.
func double(m Machine, others []Machine, serial string) bool {
	n := 0
	for _, o := range append([]Machine{m}, others...) {
		if serial != "" && o.Serial == serial && o.State == Approved {
			n++
		}
	}
	return n > 1
}

// sameUUID compares UUIDs whose first three fields may be in either order of
// bytes: network cards and kernels do not agree on it (DSP0134, section 7.2.1).
func sameUUID(a, b string) bool { return a != "" && (a == b || a == swappedUUID(b)) }

func swappedUUID(u string) string {
	d := strings.ReplaceAll(u, "-", "")
	if len(d) != 32 {
		return ""
	}
	return d[6:8] + d[4:6] + d[2:4] + d[0:2] + "-" + d[10:12] + d[8:10] + "-" + d[14:16] + d[12:14] + "-" + d[16:20] +
		"-" + d[20:]
}

// UUIDs are the ways to write a UUID that a machine reports; none when it is not an
// identity.
func UUIDs(reported string) []string {
	uuid := ingot.PlausibleUUID(reported)
	if uuid == "" {
		return nil
	}
	return []string{uuid, swappedUUID(uuid)}
}

// Claimed are the cards that a machine reports and others were seen with: it is
// not found by them.
func Claimed(m Machine, others []Machine) (list []string) {
	for _, mac := range m.ReportedCards() {
		for i := range others {
			if o := &others[i]; !o.Newcomer() && slices.Contains(o.MACs, mac) {
				list = append(list, fmt.Sprintf("%s of %s", mac, o.Hostname()))
				break
			}
		}
	}
	return list
}
