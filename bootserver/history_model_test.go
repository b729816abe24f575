package bootserver

import (
	"maps"
	"slices"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/image"
)

// kept is an image as the observer knows it.
type kept struct {
	image.Image
	here   bool   // in the store
	signer string // who signed it last
}

// computer is one physical machine: what runs on it.
type computer struct {
	client.Sighting
	boot   ingot.BootID // the boot that runs on it
	image  ingot.Digest // that it runs
	serial bool         // its board was swapped: it has the other serial number
}

// life is what the observer remembers of a machine of the server.
type life struct {
	healthy []ingot.Digest // in the order in which they were, the last one last
	moves   int            // changes of what it boots since an operator's word
	next    ingot.Digest   // as last decided; empty while it may not boot
	word    ingot.Digest   // an operator's word that no boot has followed yet
	// the boots that used up what one boot was to do, by the number of that decision
	once map[int]ingot.BootID
}

// held stands for an image where there is none.
const held ingot.Digest = "held"

func (s *history) life(id ingot.MachineID) *life {
	if s.lives[id] == nil {
		s.lives[id] = &life{once: map[int]ingot.BootID{}}
	}
	return s.lives[id]
}

// copyLives is for backups.
func copyLives(lives map[ingot.MachineID]*life) map[ingot.MachineID]*life {
	other := map[ingot.MachineID]*life{}
	for id, l := range lives {
		c := *l
		c.healthy, c.once = slices.Clone(l.healthy), maps.Clone(l.once)
		other[id] = &c
	}
	return other
}

// said: an operator said something about a machine that counts anew.
func (s *history) said(m fleet.Machine) *life {
	l := s.life(m.ID)
	l.moves, l.next = 0, nextOf(m)
	return l
}

// ordered: an operator said what a machine is to boot.
func (s *history) ordered(m fleet.Machine) {
	l := s.said(m)
	if l.word = m.Assignment.Image; m.State == fleet.Approved && l.word != "" && l.next != l.word {
		s.t.Fatalf("an operator wants %s to boot %s, and it is to boot %s", m.ID, m.Assignment.Name, l.next)
	}
}

// nextOf is what a machine boots next, but for one boot: an image, held, or nothing.
func nextOf(m fleet.Machine) ingot.Digest {
	m.Once = nil
	ref, err := fleet.Next(m)
	if err != nil && m.State == fleet.Approved && m.Assignment.Image != "" {
		return held
	}
	return ref.Image
}

// servable reports whether an image may be given to a machine.
func (s *history) servable(d ingot.Digest) bool {
	for _, i := range s.kept {
		if i.Digest == d {
			return i.here && s.trusted[i.signer]
		}
	}
	return false
}

// able reports whether an image verifies its kernel arguments.
func (s *history) able(d ingot.Digest) bool {
	for _, i := range s.kept {
		if i.Digest == d {
			return i.Manifest.Has(ingot.FeatureArguments)
		}
	}
	return false
}

// may reports whether a boot may have an image's files and tickets now.
func (s *history) may(id ingot.BootID, d ingot.Digest) bool {
	b, ok := s.state.Boot(id)
	m, known := s.state.Machine(b.Machine)
	return ok && known && s.mayHave(m, b, d)
}

func (s *history) mayHave(m fleet.Machine, b fleet.Boot, d ingot.Digest) bool {
	return b.Open() && m.Boot == b.ID && m.State == fleet.Approved && d != "" && b.Image.Image == d && s.servable(d)
}

// holds is what always holds, and asking for all of it changes nothing.
func (s *history) holds() {
	s.getsChangeNothing()
	s.recordsHold()
}

// recordsHold is what holds of what the server knows.
func (s *history) recordsHold() {
	for _, c := range s.computers {
		for _, i := range s.kept {
			if c.image == i.Digest {
				s.fetch(c.boot, i, "config")
			}
		}
	}
	type card struct{ mac, uuid string }
	cards, of := map[card]ingot.MachineID{}, map[ingot.MachineID]bool{}
	for _, m := range s.state.Machines() {
		of[m.ID] = true
		l := s.life(m.ID)
		if next := nextOf(m); next != "" && next != l.next {
			if l.next != "" {
				l.moves++
			}
			l.next = next
		}
		// One move away from an image, and one back when it was only slow.
		if l.moves > 2 {
			s.t.Fatalf("%s changes its image for the %d. time without an operator's word", m.ID, l.moves)
		}
		if n := len(l.healthy); n > 0 && m.LastHealthy.Image != l.healthy[n-1] || n == 0 &&
			m.LastHealthy != (fleet.ImageRef{}) {
			s.t.Fatalf("%s remembers %q as healthy last, the observer %v", m.ID, m.LastHealthy.Image, l.healthy)
		}
		s.setbackHolds(m, l)
		for _, mac := range m.MACs {
			if other, taken := cards[card{mac, m.UUID}]; taken && !s.mixed && !s.apart(m.ID, other) {
				s.t.Fatalf("the card %s with UUID %q is of %s and of %s", mac, m.UUID, other, m.ID)
			}
			cards[card{mac, m.UUID}] = m.ID
		}
	}
	for id := range maps.Keys(s.lives) {
		switch m, waited := s.waiting[id]; {
		case of[id]:
		case waited && s.clock.Sub(m.LastSeen) > fleet.StrangerAge:
			delete(s.lives, id) // nobody said a word about it, and it has been silent
		default:
			s.t.Fatalf("the server forgot %s by itself", id)
		}
	}
	s.waiting = map[ingot.MachineID]fleet.Machine{}
	for _, m := range s.state.Machines() {
		if m.State == fleet.Pending && m.Name == "" && m.Assignment.Image == "" {
			s.waiting[m.ID] = m
		}
	}
	for _, b := range s.state.Latest() {
		s.onceHolds(b)
		if m, _ := s.state.Machine(b.Machine); b.Open() && m.Boot != b.ID {
			s.t.Fatalf("%s has an open boot %s beside its latest one, %s", b.Machine, b.ID.Short(), m.Boot.Short())
		}
	}
}

// onceHolds: what one boot was to do is done by one boot, and is over for the machine when that boot has
// what it starts. A boot that has it does not have it to itself before.
func (s *history) onceHolds(b fleet.Boot) {
	m, _ := s.state.Machine(b.Machine)
	if b.Once == nil || m.Boot != b.ID || b.Ticket.IsZero() && b.Stage().Rank() < ingot.StageInitramfs.Rank() {
		return
	}
	l := s.life(b.Machine)
	if other, spent := l.once[b.Once.Order]; spent && other != b.ID {
		s.t.Fatalf("%s does once what it was to do in boot %s, and again in boot %s", b.Machine, other.Short(), b.ID.Short())
	}
	if l.once[b.Once.Order] = b.ID; m.Once != nil && m.Once.Order == b.Once.Order {
		s.t.Fatalf("%s is still to do once what it does in boot %s", b.Machine, b.ID.Short())
	}
}

// setbackHolds: never past the image that was healthy here last.
func (s *history) setbackHolds(m fleet.Machine, l *life) {
	b := m.Setback
	if b == nil {
		return
	}
	if b.To == b.Gave {
		s.t.Fatalf("%s gives %s up for itself", m.ID, b.To.Name)
	}
	if b.To.Image != "" && !slices.Contains(l.healthy, b.To.Image) {
		s.t.Fatalf("%s falls to %s, which was never healthy here", m.ID, b.To.Name)
	}
	if b.To.Image != "" && b.To.Image != m.LastHealthy.Image {
		s.t.Fatalf("%s falls to %s, past %s, which was healthy here last", m.ID, b.To.Name, m.LastHealthy.Name)
	}
	if l.word != "" {
		s.t.Fatalf("%s gives %s up before it tried it once, although an operator wants it", m.ID, b.Gave.Name)
	}
}

// apart reports whether an operator said of one of two machines that it is not the one whose parts it has.
// When that one is then merged into another one, both have the same parts.
func (s *history) apart(ids ...ingot.MachineID) bool {
	return slices.ContainsFunc(ids, func(id ingot.MachineID) bool {
		m, _ := s.state.Machine(id)
		return len(m.Answered) > 0
	})
}
