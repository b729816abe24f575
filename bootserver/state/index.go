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
	mac     map[string][]ingot.MachineID     // a card may have moved to another board
	uuid    map[string][]ingot.MachineID     // some boards share one
	address map[netip.Addr]ingot.MachineID   // last seen there
	latest  map[ingot.MachineID]ingot.BootID // by start
	open    map[ingot.BootID]struct{}
	granted map[ingot.MachineID]struct{} // has a grant that no boot used yet
	pending int
}

func newIndex() index {
	return index{mac: map[string][]ingot.MachineID{}, uuid: map[string][]ingot.MachineID{}, address: map[netip.Addr]ingot.MachineID{},
		latest: map[ingot.MachineID]ingot.BootID{}, open: map[ingot.BootID]struct{}{}, granted: map[ingot.MachineID]struct{}{}}
}

// find is fleet.Identify over the index.
func (s *State) find(sight fleet.Sighting) (fleet.Machine, *fleet.Question, bool) {
	var candidates []fleet.Machine
	add := func(ids []ingot.MachineID) {
		for _, id := range ids {
			if !slices.ContainsFunc(candidates, func(m fleet.Machine) bool { return m.ID == id }) {
				candidates = append(candidates, s.machines[id])
			}
		}
	}
	add(s.index.mac[sight.MAC])
	if sight.UUID != "" {
		add(s.index.uuid[sight.UUID])
	}
	for _, m := range slices.Clone(candidates) { // whether the UUIDs of those with the card are shared
		if m.UUID != "" {
			add(s.index.uuid[m.UUID][:min(2, len(s.index.uuid[m.UUID]))])
		}
	}
	slices.SortFunc(candidates, longerKnown)
	m, ask := fleet.Identify(candidates, sight)
	if m == nil {
		return fleet.Machine{}, ask, false
	}
	return *m, nil, true
}

func (s *State) setMachine(m fleet.Machine) {
	if _, had := s.machines[m.ID]; had {
		s.dropMachine(m.ID)
	}
	s.machines[m.ID] = m
	for _, mac := range m.Cards() {
		s.index.mac[mac] = append(s.index.mac[mac], m.ID)
	}
	if m.UUID != "" {
		s.index.uuid[m.UUID] = append(s.index.uuid[m.UUID], m.ID)
	}
	if m.Address.IsValid() {
		s.index.address[m.Address] = m.ID
	}
	if m.GrantWaits() {
		s.index.granted[m.ID] = struct{}{}
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
	delete(s.index.granted, id)
	for _, mac := range m.Cards() {
		without(s.index.mac, mac, id)
	}
	if m.UUID != "" {
		without(s.index.uuid, m.UUID, id)
	}
	if s.index.address[m.Address] == id {
		delete(s.index.address, m.Address)
	}
	if m.State == fleet.Pending {
		s.index.pending--
	}
}

func without(index map[string][]ingot.MachineID, key string, id ingot.MachineID) {
	rest := slices.DeleteFunc(slices.Clone(index[key]), func(o ingot.MachineID) bool { return o == id })
	if index[key] = rest; len(rest) == 0 {
		delete(index, key)
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
