package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
)

// A machine is known by a set: the UUID of its board, the serial number, the
// addresses of its cards, and where it is plugged in. No part of it is proof.
// UUIDs and serials that vendors leave blank are absent (ingot.PlausibleUUID),
// and so is a UUID that two machines have: some boards share one.
//
// When the parts disagree, somebody moved a card or changed a board, or lies.
// Nothing is guessed then: the machine is new, it waits, and an operator is
// asked (Question).

// Sighting is what a packet tells of a machine.
type Sighting struct {
	MAC      string // canonical
	UUID     string // plausible or empty
	Firmware ingot.Firmware
}

// Question is what an operator is asked about a machine: is it the same as
// another one? Merging says yes, approving says no.
type Question struct {
	With ingot.MachineID `json:"with"` // the machine that it may be
	What string          `json:"what"` // for people
}

// Answers are the commands that answer the question of a machine: what to type
// when it is the same machine, and when it is another one.
func (q Question) Answers(m Machine) (same, other string) {
	if q.With == m.ID { // it is known by this card, with another board than before
		return "ingot machine approve " + m.Hostname(), "ingot machine forget " + m.Hostname()
	}
	return fmt.Sprintf("ingot machine merge %s %s", m.ID, q.With), fmt.Sprintf("ingot machine approve %s --name NAME --image PROFILE:VERSION", m.ID)
}

// cards are all addresses that a machine has, by what it was seen with and by
// what it told.
func (m *Machine) cards() []string {
	list := m.MACs
	for _, n := range m.Facts.NICs {
		if mac, err := ingot.ParseMAC(n.MAC); err == nil && !slices.Contains(list, mac) {
			list = append(slices.Clone(list), mac)
		}
	}
	return list
}

// Cards are the addresses by which a machine is found.
func (m *Machine) Cards() []string { return m.cards() }

// Identify returns the machine that a sighting is of, among all that have its
// card or its UUID, or nil for a stranger. When a stranger may be a machine
// that is known, ask says which one.
func Identify(candidates []Machine, s Sighting) (found *Machine, ask *Question) {
	byCard, byBoard := sharing(candidates, s)
	if s.UUID == "" || len(byBoard) > 1 { // what boards share tells nothing
		return latestSeen(byCard), nil
	}
	if len(byBoard) == 0 {
		for _, m := range byCard {
			if m.UUID == "" || shared(candidates, m.UUID) {
				return m, nil // it shows its UUID only now
			}
		}
		if m := latestSeen(byCard); m != nil {
			return nil, &Question{m.ID, fmt.Sprintf("it has the card %s of %s, in a board with another UUID: the board was swapped, or the card was moved", s.MAC, m.Hostname())}
		}
		return nil, nil
	}
	board := byBoard[0]
	if slices.Contains(byCard, board) || len(board.cards()) == 0 {
		return board, nil
	}
	words := fmt.Sprintf("it has the UUID of %s and a card that %s did not have, %s: the card is new, or the boards share their UUID", board.Hostname(), board.Hostname(), s.MAC)
	if other := latestSeen(byCard); other != nil {
		words = fmt.Sprintf("it has the UUID of %s and the card %s of %s: the card was moved, or the boards share their UUID", board.Hostname(), s.MAC, other.Hostname())
	}
	return nil, &Question{board.ID, words}
}

// sharing are the candidates with the card, and those with the UUID.
func sharing(candidates []Machine, s Sighting) (byCard, byBoard []*Machine) {
	for i := range candidates {
		m := &candidates[i]
		if slices.Contains(m.cards(), s.MAC) {
			byCard = append(byCard, m)
		}
		if s.UUID != "" && m.UUID == s.UUID {
			byBoard = append(byBoard, m)
		}
	}
	if len(byBoard) > 1 { // of several with one UUID, the one that has both
		both := slices.DeleteFunc(slices.Clone(byCard), func(m *Machine) bool { return m.UUID != s.UUID })
		if len(both) > 0 {
			return both, byBoard
		}
	}
	return byCard, byBoard
}

// shared reports whether several machines have a UUID.
func shared(machines []Machine, uuid string) bool {
	n := 0
	for _, m := range machines {
		if m.UUID == uuid {
			n++
		}
	}
	return n > 1
}

func latestSeen(list []*Machine) (latest *Machine) {
	for _, m := range list {
		if latest == nil || m.LastSeen.After(latest.LastSeen) {
			latest = m
		}
	}
	return latest
}

// See returns the machine with what a sighting tells added.
func See(m Machine, s Sighting, now time.Time) Machine {
	m.LastSeen = now
	if m.UUID == "" {
		m.UUID = s.UUID
	}
	if s.Firmware != ingot.FirmwareUnknown {
		m.Firmware = s.Firmware
	}
	if !slices.Contains(m.MACs, s.MAC) {
		m.MACs = append(slices.Clone(m.MACs), s.MAC)
	}
	return m
}

// Learn takes over what a machine tells of its hardware at a boot, and says
// what is other than it was told before. The serial number speaks only where
// no UUID does: when it is another one, an operator is asked.
func Learn(m Machine, f ingot.Facts, now time.Time) (after Machine, changes []string) {
	changes = HardwareChanges(m.Facts, f)
	serial, uuid := ingot.PlausibleSerial(f.Serial), ingot.PlausibleUUID(f.UUID)
	if uuid == "" && serial != "" && m.Serial != "" && serial != m.Serial {
		m.State = Pending
		m.Ask = &Question{m.ID, fmt.Sprintf("its serial number is %s, before: %s: its card was moved, or its board swapped", serial, m.Serial)}
	}
	m.Facts, m.LastSeen = f, now
	if serial != "" {
		m.Serial = serial
	}
	if uuid != "" && m.UUID == "" {
		m.UUID = uuid
	}
	return m, changes
}

// Merge makes one machine of two: from is the same machine as into, with other
// parts. What operators gave into stays. What the machine is now (its board,
// its hardware, its boot) is what was seen last, be it of from or of into: the
// one that runs must not lose its boot to a record that is old.
func Merge(into, from Machine) Machine {
	for _, mac := range from.MACs {
		if !slices.Contains(into.MACs, mac) {
			into.MACs = append(slices.Clone(into.MACs), mac)
		}
	}
	later := !from.LastSeen.Before(into.LastSeen)
	if from.UUID != "" && (later || into.UUID == "") {
		into.UUID = from.UUID
	}
	if from.Serial != "" && (later || into.Serial == "") {
		into.Serial = from.Serial
	}
	if from.Facts.RAM != 0 && (later || into.Facts.RAM == 0) {
		into.Facts = from.Facts
	}
	if from.Boot != "" && (later || into.Boot == "") {
		into.Boot = from.Boot
	}
	if later {
		into.LastSeen, into.Address, into.Port, into.Firmware = from.LastSeen, from.Address, from.Port, from.Firmware
	}
	if from.FirstSeen.Before(into.FirstSeen) && !from.FirstSeen.IsZero() {
		into.FirstSeen = from.FirstSeen
	}
	into.Ask = nil
	return into
}

// Match returns the machines that an operator's word names: an id, a host
// name, a MAC address, a UUID, or else a beginning of one of these.
func Match(machines []Machine, ref string) []Machine {
	exact := func(m Machine) bool {
		return string(m.ID) == ref || (m.Name != "" && m.Name == ref) || (m.UUID != "" && m.UUID == ref) || slices.Contains(m.MACs, canonicalMAC(ref))
	}
	var found []Machine
	for _, m := range machines {
		if exact(m) {
			return []Machine{m}
		}
		if len(ref) >= 3 && (strings.HasPrefix(string(m.ID), ref) || strings.HasPrefix(m.Name, ref) || strings.HasPrefix(m.UUID, ref)) {
			found = append(found, m)
		}
	}
	return found
}

func canonicalMAC(s string) string {
	if m, err := ingot.ParseMAC(s); err == nil {
		return m
	}
	return s
}
