package state

import (
	"net/netip"
	"slices"

	"ingot"
	"ingot/bootserver/fleet"
)

// index finds records without looking at all of them: a thousand machines that
// ask at once must not cost a thousand times a thousand looks.
type index struct {
	mac     map[string][]ingot.MachineID // a card may have moved to another board
	uuid    map[string]ingot.MachineID
	address map[netip.Addr]ingot.MachineID   // last seen there
	latest  map[ingot.MachineID]ingot.BootID // by start
	open    map[ingot.BootID]struct{}
	pending int
}

func newIndex() index {
	return index{mac: map[string][]ingot.MachineID{}, uuid: map[string]ingot.MachineID{}, address: map[netip.Addr]ingot.MachineID{},
		latest: map[ingot.MachineID]ingot.BootID{}, open: map[ingot.BootID]struct{}{}}
}

// find is fleet.Find over the index.
func (s *State) find(sight fleet.Sighting) (fleet.Machine, bool) {
	if id, ok := s.index.uuid[sight.UUID]; ok && sight.UUID != "" {
		m, ok := s.machines[id]
		return m, ok
	}
	var candidates []fleet.Machine
	for _, id := range s.index.mac[sight.MAC] {
		candidates = append(candidates, s.machines[id])
	}
	slices.SortFunc(candidates, longerKnown)
	if m := fleet.Find(candidates, sight); m != nil {
		return *m, true
	}
	return fleet.Machine{}, false
}

func (s *State) setMachine(m fleet.Machine) {
	if _, had := s.machines[m.ID]; had {
		s.dropMachine(m.ID)
	}
	s.machines[m.ID] = m
	for _, mac := range m.MACs {
		s.index.mac[mac] = append(s.index.mac[mac], m.ID)
	}
	if _, taken := s.index.uuid[m.UUID]; m.UUID != "" && !taken {
		s.index.uuid[m.UUID] = m.ID
	}
	if m.Address.IsValid() {
		s.index.address[m.Address] = m.ID
	}
	if m.State == fleet.Pending {
		s.index.pending++
	}
}

func (s *State) dropMachine(id ingot.MachineID) {
	m, had := s.machines[id]
	if !had {
		return
	}
	delete(s.machines, id)
	for _, mac := range m.MACs {
		rest := slices.DeleteFunc(slices.Clone(s.index.mac[mac]), func(o ingot.MachineID) bool { return o == id })
		if s.index.mac[mac] = rest; len(rest) == 0 {
			delete(s.index.mac, mac)
		}
	}
	if s.index.uuid[m.UUID] == id {
		delete(s.index.uuid, m.UUID)
	}
	if s.index.address[m.Address] == id {
		delete(s.index.address, m.Address)
	}
	if m.State == fleet.Pending {
		s.index.pending--
	}
}

func (s *State) setBoot(b fleet.Boot) {
	s.boots[b.ID] = b
	if now, had := s.boots[s.index.latest[b.Machine]]; !had || now.Machine != b.Machine || older(now, b) < 0 {
		s.index.latest[b.Machine] = b.ID
	}
	delete(s.index.open, b.ID)
	if b.Open() {
		s.index.open[b.ID] = struct{}{}
	}
}

func (s *State) dropBoot(id ingot.BootID) {
	b, had := s.boots[id]
	if !had {
		return
	}
	delete(s.boots, id)
	delete(s.index.open, id)
	if s.index.latest[b.Machine] == id {
		delete(s.index.latest, b.Machine)
	}
}
