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
// and so are those that two machines have: some boards share one.
//
// When the parts disagree, a card was moved or a board was changed, or one of them is wrong.
// Nothing is guessed then: the machine is new, it waits, and an operator is
// asked (Question). Identify looks at packets, Learn at what a machine reports
// about itself.

// Sighting is what a packet shows of a machine.
type Sighting struct {
	MAC      string // canonical
	UUID     string // plausible or empty
	Firmware ingot.Firmware
	Port     SwitchPort // from a relay; may be zero
	At       time.Time  // when; zero: no question is asked about the port
}

// Question is what an operator is asked about a machine: is it the same as
// another one? Merging says yes, approving says no.
type Question struct {
	With ingot.MachineID `json:"with"` // the machine that it may be
	What string          `json:"what"` // for people
	// what raised it, by which the answer is remembered: "card 52:54:00:12:00:01"
	About string `json:"about,omitempty"`
	// Reported: what the machine reported about itself raised it. Else it is the question
	// of a newcomer, of which nothing but its packets is known.
	Reported bool `json:"told,omitempty"`
}

// Answers are the commands that answer the question of a machine: what to type
// when it is the same machine, and when it is another one.
func (q Question) Answers(m Machine) (same, other string) {
	if q.With == m.ID { // it is known by this card, with another board than before
		return "ingot machine approve " + m.Hostname(), "ingot machine forget " + m.Hostname()
	}
	same = fmt.Sprintf("ingot machine merge %s %s", m.ID, q.With)
	if q.Reported { // it was approved before, and has all that it needs
		return same, "ingot machine approve " + m.Hostname()
	}
	return same, fmt.Sprintf("ingot machine approve %s --name NAME --image PROFILE:VERSION", m.ID)
}

func aboutCard(mac string) string { return "card " + mac }

const aboutPort = "port "

// Newcomer reports whether a machine waits for the answer to whether it is
// another one: until then no part of the set is its own.
func (m *Machine) Newcomer() bool { return m.Ask != nil && !m.Ask.Reported && m.Ask.With != m.ID }

// cards are all addresses that a machine has, by what it was seen with and by
// what it reported.
func (m *Machine) cards() []string { return append(slices.Clone(m.MACs), m.ReportedCards()...) }

// Cards are the addresses that may be the machine's.
func (m *Machine) Cards() []string { return m.cards() }

// ReportedCards are the addresses that the machine reported, and was not seen with. It
// is found by one of them only when no other machine was seen with it.
func (m *Machine) ReportedCards() (list []string) {
	for _, n := range m.Facts.NICs {
		if mac, err := ingot.ParseMAC(n.MAC); err == nil && !slices.Contains(m.MACs, mac) && !slices.Contains(list, mac) {
			list = append(list, mac)
		}
	}
	return list
}

// Identify returns the machine that a sighting is of, among all that have its
// card, its UUID or its switch port, or nil for a stranger. When a stranger may
// be a machine that is known, ask says which one.
func Identify(candidates []Machine, s Sighting) (found *Machine, ask *Question) {
	c := sorted(candidates, s)
	switch {
	case c.itself != nil:
		return c.itself, nil
	case s.UUID == "" || len(c.byBoard) > 1: // a UUID that boards share identifies none
		owners := c.byCard
		if both := withUUID(owners, s.UUID); len(both) > 0 {
			owners = both
		} else if spoken := lastSpokenOf(owners, s.MAC); c.waits != nil &&
			(spoken == nil || spoken.answered(aboutCard(s.MAC)).Before(c.waits.FirstSeen)) {
			return c.waits, nil // whose card it is, an operator is asked
		}
		found, ask = only(owners, s)
	case len(c.byBoard) == 0:
		found, ask = c.strangeBoard(candidates, s)
	default:
		return c.knownBoard(s)
	}
	if found == nil && ask == nil {
		ask = c.samePort(s)
	}
	return found, ask
}

// claims are candidates by what they are candidates for.
type claims struct {
	itself  *Machine   // a newcomer that waits, with this very card and UUID
	waits   *Machine   // a newcomer that waits, with this card; one without a UUID before others
	byCard  []*Machine // the others that were seen with the card, or, if there are none, reported it
	byBoard []*Machine // and that have the UUID
	atPort  []*Machine // and all that were seen last at the port
}

func sorted(candidates []Machine, s Sighting) (c claims) {
	var reported []*Machine
	for i := range candidates {
		m := &candidates[i]
		has := slices.Contains(m.MACs, s.MAC)
		if s.Port.Relay.IsValid() && m.Port == s.Port && m.State != Retired {
			c.atPort = append(c.atPort, m)
		}
		switch {
		case m.Newcomer() && has && m.UUID == s.UUID:
			c.itself = m
		case m.Newcomer() && has && (c.waits == nil || m.UUID == ""):
			c.waits = m
		case m.Newcomer():
		case has:
			c.byCard = append(c.byCard, m)
		case slices.Contains(m.ReportedCards(), s.MAC):
			reported = append(reported, m)
		}
		if s.UUID != "" && m.UUID == s.UUID && !m.Newcomer() {
			c.byBoard = append(c.byBoard, m)
		}
	}
	if len(c.byCard) == 0 {
		c.byCard = reported
	}
	return c
}

// strangeBoard is a sighting with a UUID that no machine has.
func (c claims) strangeBoard(candidates []Machine, s Sighting) (*Machine, *Question) {
	var open []*Machine // those with the card that have no UUID of their own
	for _, m := range c.byCard {
		if m.UUID == "" || shared(candidates, m.UUID) {
			open = append(open, m)
		}
	}
	switch {
	case len(open) > 0:
		return only(open, s) // it shows its UUID only now
	case c.waits != nil && c.waits.UUID == "":
		return c.waits, nil
	case len(c.byCard) > 0:
		m := latestSeen(c.byCard)
		return nil, &Question{With: m.ID, About: aboutCard(s.MAC),
			What: fmt.Sprintf("it has network card %s of %s, but a different UUID: the board was replaced, or the card was "+
				"moved", s.MAC, m.Hostname())}
	}
	return nil, nil
}

// knownBoard is a sighting with the UUID of one machine.
func (c claims) knownBoard(s Sighting) (*Machine, *Question) {
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

// only returns the one of several machines with a card that a sighting is of:
// of two, the one that an operator was asked about and spoke of last.
func only(owners []*Machine, s Sighting) (*Machine, *Question) {
	if len(owners) < 2 {
		return latestSeen(owners), nil
	}
	if last := lastSpokenOf(owners, s.MAC); last != nil {
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

// lastSpokenOf is, of machines with a card, the one that an operator gave it to
// last, or nil.
func lastSpokenOf(owners []*Machine, mac string) (last *Machine) {
	var latest time.Time
	for _, m := range owners {
		if at := m.answered(aboutCard(mac)); at.After(latest) {
			last, latest = m, at
		}
	}
	return last
}

// PortQuiet is how long a machine must not have been heard before another one
// at its switch port may be it: a machine that runs is heard from more often.
const PortQuiet = 2 * time.Minute

// samePort asks about a stranger at the switch port of a machine that fell
// silent. A port that several machines have is none: relays that report only the
// network, and chassis with one cable, say the same for all.
func (c claims) samePort(s Sighting) *Question {
	if len(c.atPort) != 1 || c.atPort[0].State != Approved || c.atPort[0].Newcomer() ||
		s.At.Sub(c.atPort[0].LastSeen) < PortQuiet {
		return nil
	}
	m := c.atPort[0]
	return &Question{With: m.ID, About: aboutPort + s.Port.String(),
		What: fmt.Sprintf("it is connected to the switch port of %s, %s: it replaces that machine, or it is another one",
			m.Hostname(), s.Port)}
}

// moved reports whether a machine was plugged in elsewhere. Ports that relays of
// IPv4 and of IPv6 report cannot be compared.
func moved(old, m Machine) bool {
	was, is := old.Port, m.Port
	return was != is && was.Relay.IsValid() && is.Relay.IsValid() && was.Relay.Is4() == is.Relay.Is4()
}

// QuestionResolved reports whether the question of a machine no longer arises: it has the switch
// port of another one, which was seen since, or is not known any more.
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

// shared reports whether several machines have a UUID. Newcomers that wait do
// not count: a newcomer with the UUID of another machine must not make that UUID useless.
func shared(machines []Machine, uuid string) bool {
	n := 0
	for i := range machines {
		if m := &machines[i]; m.UUID == uuid && !m.Newcomer() {
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

// See returns the machine with what a sighting shows added.
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

// Merge makes one machine of two: from is the same machine as into, with other
// parts. What operators gave into stays. What the machine is now (its board,
// its hardware, its boot) is what was seen last, be it of from or of into: the
// one that runs must not lose its boot to a record that is old.
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
		into.Boot = from.Boot
	}
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

// maxAnswered bounds how many answers are remembered of a machine.
const maxAnswered = 16

// Answer notes that the question of a machine, if it has one, is answered: it
// is not asked the same again.
func Answer(m Machine, now time.Time) Machine {
	if m.Ask != nil {
		m.Answered = remember(m.Answered, Answered{m.Ask.About, now})
		m.Ask = nil
	}
	return m
}

// remember adds answers to a list, which it leaves as it is.
func remember(list []Answered, more ...Answered) []Answered {
	for _, a := range more {
		if a.About != "" {
			list = append(slices.DeleteFunc(slices.Clone(list), func(o Answered) bool { return o.About == a.About }), a)
		}
	}
	return list[max(0, len(list)-maxAnswered):]
}

// answered is when a question of the machine was answered; zero: never.
func (m *Machine) answered(about string) time.Time {
	for _, a := range m.Answered {
		if a.About == about {
			return a.At
		}
	}
	return time.Time{}
}
