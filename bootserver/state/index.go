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
	address map[netip.Addr]ingot.MachineID // last seen there
	boots   map[ingot.MachineID][]ingot.BootID
	open    map[ingot.BootID]struct{}
	pending int
}

func newIndex() index {
	return index{mac: map[string][]ingot.MachineID{}, uuid: map[string]ingot.MachineID{}, address: map[netip.Addr]ingot.MachineID{},
		boots: map[ingot.MachineID][]ingot.BootID{}, open: map[ingot.BootID]struct{}{}}
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
	if _, had := s.boots[b.ID]; !had {
		s.index.boots[b.Machine] = append(s.index.boots[b.Machine], b.ID)
	}
	s.boots[b.ID] = b
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
	rest := slices.DeleteFunc(slices.Clone(s.index.boots[b.Machine]), func(o ingot.BootID) bool { return o == id })
	if s.index.boots[b.Machine] = rest; len(rest) == 0 {
		delete(s.index.boots, b.Machine)
	}
}
