package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/advice"
)

// A machine is identified by its SMBIOS UUID, its serial number, its MAC addresses
// and its switch port. None of them is proof on its own. Placeholder values are
// ignored (ingot.PlausibleUUID), and so are values that two machines share.
//
// If the identifiers disagree, a card was moved, a board was replaced, or a value is
// wrong. Then nothing is guessed: the machine stays pending, with a Question for the
// operator. Identify evaluates packets; Learn evaluates what a machine reports about
// itself.

// Sighting is what a packet says about a machine.
type Sighting struct {
	MAC      string // canonical
	UUID     string // plausible or empty
	Firmware ingot.Firmware
	Port     SwitchPort // from a relay; may be zero
	At       time.Time  // zero: no question is raised about the port
}

// Question asks an operator whether a machine is the same as another one. Merging
// the machines answers yes, approving the machine answers no.
type Question struct {
	With ingot.MachineID `json:"with"` // the known machine that it may be
	What string          `json:"what"` // why the question arises, for the operator
	// the identifier that raised it, under which the answer is stored: "card 52:54:00:12:00:01"
	About string `json:"about,omitempty"`
	// Reported: the machine's own report raised it. Otherwise the machine is new, and known
	// only by its packets.
	Reported bool `json:"told,omitempty"`
}

// Answers returns the steps that answer the question of a machine: same if it is the
// same machine, other if it is another one.
func (q Question) Answers(m Machine) (same, other advice.Step) {
	return advice.Question{Machine: string(m.ID), Name: m.Hostname(), With: string(q.With), Reported: q.Reported}.Answers()
}

func aboutCard(mac string) string { return "card " + mac }

const aboutPort = "port "

// Unidentified reports whether a new machine may be a known one. Until an operator
// answers, none of its identifiers belongs to it alone.
func (m *Machine) Unidentified() bool { return m.Ask != nil && !m.Ask.Reported && m.Ask.With != m.ID }

// cards returns all MAC addresses of a machine, seen in packets or reported by it.
func (m *Machine) cards() []string { return append(slices.Clone(m.MACs), m.ReportedCards()...) }

// Cards returns the MAC addresses that may identify the machine.
func (m *Machine) Cards() []string { return m.cards() }

// ReportedCards returns the MAC addresses that the machine reported but that were not
// seen in its packets. Such an address identifies the machine only if no other machine
// was seen with it.
func (m *Machine) ReportedCards() (list []string) {
	for _, n := range m.Facts.NICs {
		if mac, err := ingot.ParseMAC(n.MAC); err == nil && ingot.IsCard(mac) && !slices.Contains(m.MACs, mac) &&
			!slices.Contains(list, mac) {
			list = append(list, mac)
		}
	}
	return list
}

// Identify returns the machine that a sighting belongs to, or nil if it is unknown.
// candidates are all machines with its MAC address, UUID or switch port. If the unknown
// machine may be a known one, ask is the question for the operator.
func Identify(candidates []*Machine, s Sighting) (found *Machine, ask *Question) {
	c := sorted(candidates, s)
	switch {
	case c.exact != nil:
		return c.exact, nil
	case s.UUID == "" || len(c.byBoard) > 1: // a shared UUID identifies no machine
		owners := c.byCard
		if both := withUUID(owners, s.UUID); len(both) > 0 {
			owners = both
		} else if confirmed := lastConfirmed(owners, s.MAC); c.waiting != nil &&
			(confirmed == nil || confirmed.answered(aboutCard(s.MAC)).Before(c.waiting.FirstSeen)) {
			return c.waiting, nil // an operator has to answer which machine has the card
		}
		found, ask = singleOwner(owners, s)
	case len(c.byBoard) == 0:
		found, ask = c.matchUnknownUUID(candidates, s)
	default:
		return c.matchKnownUUID(s)
	}
	if found == nil && ask == nil {
		ask = c.samePort(s)
	}
	return found, ask
}

// claims are the candidates by the identifier that they share with a sighting.
type claims struct {
	exact   *Machine   // an unidentified machine with the same card and UUID
	waiting *Machine   // an unidentified machine with the card; one without a UUID first
	byCard  []*Machine // others seen with the card; if none, those that reported it
	byBoard []*Machine // others with the UUID
	atPort  []*Machine // all that were last seen at the port
}

func sorted(candidates []*Machine, s Sighting) (c claims) {
	var reported []*Machine
	for _, m := range candidates {
		has := slices.Contains(m.MACs, s.MAC)
		if s.Port.Relay.IsValid() && m.Port == s.Port && m.State != Retired {
			c.atPort = append(c.atPort, m)
		}
		switch {
		case m.Unidentified() && has && m.UUID == s.UUID:
			c.exact = m
		case m.Unidentified() && has && (c.waiting == nil || m.UUID == ""):
			c.waiting = m
		case m.Unidentified():
		case has:
			c.byCard = append(c.byCard, m)
		case slices.Contains(m.ReportedCards(), s.MAC):
			reported = append(reported, m)
		}
		if s.UUID != "" && m.UUID == s.UUID && !m.Unidentified() {
			c.byBoard = append(c.byBoard, m)
		}
	}
	if len(c.byCard) == 0 {
		c.byCard = reported
	}
	return c
}

// matchUnknownUUID identifies a sighting with a UUID that no machine has.
func (c claims) matchUnknownUUID(candidates []*Machine, s Sighting) (*Machine, *Question) {
	var open []*Machine // machines with the card and without a UUID of their own
	for _, m := range c.byCard {
		if m.UUID == "" || shared(candidates, m.UUID) {
			open = append(open, m)
		}
	}
	switch {
	case len(open) > 0:
		return singleOwner(open, s) // the machine sends its UUID for the first time
	case c.waiting != nil && c.waiting.UUID == "":
		return c.waiting, nil
	case len(c.byCard) > 0:
		m := latestSeen(c.byCard)
		return nil, &Question{With: m.ID, About: aboutCard(s.MAC),
			What: fmt.Sprintf("it has network card %s of %s, but a different UUID: the board was replaced, or the card was "+
				"moved", s.MAC, m.Hostname())}
	}
	return nil, nil
}

// matchKnownUUID identifies a sighting with the UUID of exactly one machine.
func (c claims) matchKnownUUID(s Sighting) (*Machine, *Question) {
	board := c.byBoard[0]
	if slices.Contains(c.byCard, board) || len(c.byCard) == 0 && len(board.cards()) == 0 {
		return board, nil
	}
	what := fmt.Sprintf("it has the UUID of %s and a network card that %s did not have, %s: the card is new, or both "+
		"boards have the same UUID", board.Hostname(), board.Hostname(), s.MAC)
	if other := latestSeen(c.byCard); other != nil {
		what = fmt.Sprintf("it has the UUID of %s and network card %s of %s: the card was moved, or both boards have the "+
			"same UUID", board.Hostname(), s.MAC, other.Hostname())
	}
	return nil, &Question{With: board.ID, What: what, About: aboutCard(s.MAC)}
}

// singleOwner returns the machine that a sighting belongs to, of those that have its
// card: of several, the one that an operator confirmed last.
func singleOwner(owners []*Machine, s Sighting) (*Machine, *Question) {
	if len(owners) < 2 {
		return latestSeen(owners), nil
	}
	if last := lastConfirmed(owners, s.MAC); last != nil {
		return last, nil
	}
	var names []string
	for _, m := range owners {
		names = append(names, m.Hostname())
	}
	const most = 5
	if more := len(names) - most; more > 0 {
		names = append(names[:most], fmt.Sprintf("%d more", more))
	}
	return nil, &Question{With: latestSeen(owners).ID, About: aboutCard(s.MAC),
		What: fmt.Sprintf("it has network card %s, which %s also have, and no UUID to distinguish them",
			s.MAC, strings.Join(names, " and "))}
}

// lastConfirmed returns the machine that an operator confirmed last as the owner of a
// card, or nil.
func lastConfirmed(owners []*Machine, mac string) (last *Machine) {
	var latest time.Time
	for _, m := range owners {
		if at := m.answered(aboutCard(mac)); at.After(latest) {
			last, latest = m, at
		}
	}
	return last
}

// PortQuiet is how long a machine must have been silent before an unknown machine at its
// switch port may be its replacement. A running machine sends heartbeats more often.
const PortQuiet = 2 * time.Minute

// samePort returns the question about an unknown machine at the switch port of a machine
// that is silent. A port that several machines share is ignored: some relays report
// only the network, and some chassis have one uplink.
func (c claims) samePort(s Sighting) *Question {
	if len(c.atPort) != 1 || c.atPort[0].State != Approved || c.atPort[0].Unidentified() ||
		s.At.Sub(c.atPort[0].LastSeen) < PortQuiet {
		return nil
	}
	m := c.atPort[0]
	return &Question{With: m.ID, About: aboutPort + s.Port.String(),
		What: fmt.Sprintf("it is connected to the switch port of %s, %s: it replaces that machine, or it is another one",
			m.Hostname(), s.Port)}
}

// portChanged reports whether a machine moved to another switch port. Ports reported by
// IPv4 and IPv6 relays cannot be compared.
func portChanged(old, m Machine) bool {
	was, is := old.Port, m.Port
	return was != is && was.Relay.IsValid() && is.Relay.IsValid() && was.Relay.Is4() == is.Relay.Is4()
}

// QuestionResolved reports whether a question about a switch port no longer applies,
// because the other machine was seen since or is no longer known.
func QuestionResolved(m Machine, with Machine, known bool) bool {
	return m.Ask != nil && strings.HasPrefix(m.Ask.About, aboutPort) && (!known || with.LastSeen.After(m.FirstSeen))
}

func withUUID(list []*Machine, uuid string) (with []*Machine) {
	for _, m := range list {
		if uuid != "" && m.UUID == uuid {
			with = append(with, m)
		}
	}
	return with
}

// shared reports whether several machines have a UUID. Unidentified machines do not
// count: otherwise any client could make the UUID of another machine useless.
func shared(machines []*Machine, uuid string) bool {
	n := 0
	for _, m := range machines {
		if m.UUID == uuid && !m.Unidentified() {
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

// AddSighting returns the machine with the identifiers and firmware of a sighting added.
func AddSighting(m Machine, s Sighting, now time.Time) Machine {
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

// Merge merges from into into: both are the same machine, with different identifiers.
// Name, labels and assignment of into stay. UUID, serial number, hardware and boot are
// those of the record that was seen last, so that a running machine keeps its boot.
func Merge(into, from Machine, now time.Time) Machine {
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
		into.Boot, into.Authenticated = from.Boot, from.Authenticated
	}
	into.Claim = nil
	if later {
		into.LastSeen, into.Address, into.Port, into.Firmware = from.LastSeen, from.Address, from.Port, from.Firmware
	}
	if from.FirstSeen.Before(into.FirstSeen) && !from.FirstSeen.IsZero() {
		into.FirstSeen = from.FirstSeen
	}
	into.Answered = remember(into.Answered, from.Answered...)
	if from.Ask != nil {
		into.Answered = remember(into.Answered, Answered{from.Ask.About, now})
	}
	return Answer(into, now)
}

// Answered is a question that an operator answered.
type Answered struct {
	About string    `json:"about"`
	At    time.Time `json:"at"`
}

// maxAnswered limits the stored answers of a machine.
const maxAnswered = 16

// Answer marks the open question of a machine, if any, as answered, so that the same
// question is not raised again.
func Answer(m Machine, now time.Time) Machine {
	if m.Ask != nil {
		m.Answered = remember(m.Answered, Answered{m.Ask.About, now})
		m.Ask = nil
	}
	return m
}

// remember returns a copy of a list with answers added; list is not modified.
func remember(list []Answered, more ...Answered) []Answered {
	for _, a := range more {
		if a.About != "" {
			list = append(slices.DeleteFunc(slices.Clone(list), func(o Answered) bool { return o.About == a.About }), a)
		}
	}
	return list[max(0, len(list)-maxAnswered):]
}

// answered returns when a question about the machine was answered; zero means never.
func (m *Machine) answered(about string) time.Time {
	for _, a := range m.Answered {
		if a.About == about {
			return a.At
		}
	}
	return time.Time{}
}
