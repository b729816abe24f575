package bolt

import (
	"maps"
	"net/netip"
	"slices"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// index finds records without looking at all of them: a thousand machines that
// ask at once must not cost a thousand times a thousand looks.
type index struct {
	mac     map[string][]ingot.MachineID                  // a card may have moved to another board
	told    map[string][]ingot.MachineID                  // cards that machines told, and were not seen with
	uuid    map[string][]ingot.MachineID                  // some boards share one
	serial  map[string][]ingot.MachineID                  // some vendors give one twice
	port    map[fleet.SwitchPort]map[ingot.MachineID]bool // last seen there: some relays say the same of all
	address map[netip.Addr]ingot.MachineID                // last seen there
	latest  map[ingot.MachineID]ingot.BootID              // by start
	open    map[ingot.BootID]struct{}
	granted map[ingot.MachineID]struct{} // has a grant that no boot used yet
	pending int
}

func newIndex() index {
	return index{mac: map[string][]ingot.MachineID{}, told: map[string][]ingot.MachineID{}, uuid: map[string][]ingot.MachineID{}, serial: map[string][]ingot.MachineID{},
		port: map[fleet.SwitchPort]map[ingot.MachineID]bool{}, address: map[netip.Addr]ingot.MachineID{}, latest: map[ingot.MachineID]ingot.BootID{}, open: map[ingot.BootID]struct{}{}, granted: map[ingot.MachineID]struct{}{}}
}

// candidates collects machines, each once, and only as many as can matter.
type candidates struct {
	s    *Store
	list []fleet.Machine
}

// add adds the machines of ids that are of use, at most so many.
func (c *candidates) add(ids []ingot.MachineID, most int, use func(m *fleet.Machine) bool) {
	for _, id := range ids {
		if most == 0 {
			return
		}
		m := c.s.machines[id]
		if !use(&m) {
			continue
		}
		most--
		if !slices.ContainsFunc(c.list, func(o fleet.Machine) bool { return o.ID == id }) {
			c.list = append(c.list, m)
		}
	}
}

const (
	two       = 2  // are as good as many: what they have tells nothing of one
	maxAtPort = 16 // machines that came and went, retired ones included
)

// find is fleet.Identify over the index.
func (s *Store) find(sight fleet.Sighting) (fleet.Machine, *fleet.Question, bool) {
	m, ask := fleet.Identify(s.candidates(sight), sight)
	if m == nil {
		return fleet.Machine{}, ask, false
	}
	return *m, nil, true
}

// candidates are all machines that can matter for whose a sighting is, the
// longest known first.
func (s *Store) candidates(sight fleet.Sighting) []fleet.Machine {
	c := candidates{s: s}
	settled := func(m *fleet.Machine) bool { return !m.Newcomer() }
	cards := s.index.mac[sight.MAC]
	c.add(cards, state.MaxPerCard, settled)
	c.add(cards, 1, func(m *fleet.Machine) bool { return m.Newcomer() && m.UUID == sight.UUID })
	c.add(cards, 1, func(m *fleet.Machine) bool { return m.Newcomer() && m.UUID == "" })
	c.add(cards, 1, (*fleet.Machine).Newcomer)
	c.add(s.index.told[sight.MAC], two, settled)
	if sight.UUID != "" {
		c.add(s.index.uuid[sight.UUID], two, settled)
	}
	for _, m := range slices.Clone(c.list) { // whether the UUIDs of those with the card are shared
		if m.UUID != "" {
			c.add(s.index.uuid[m.UUID], two, settled)
		}
	}
	if at := s.index.port[sight.Port]; sight.Port.Relay.IsValid() && len(at) <= maxAtPort {
		c.add(slices.Collect(maps.Keys(at)), maxAtPort, func(*fleet.Machine) bool { return true })
	}
	slices.SortFunc(c.list, longerKnown)
	return c.list
}

// others are the machines that fleet.Learn is to know of: those that have a
// UUID or a serial number that m tells, or the serial number of m. Of many,
// enough to see that there are.
func (s *Store) others(m fleet.Machine, f ingot.Facts) []fleet.Machine {
	c := candidates{s: s}
	other := func(o *fleet.Machine) bool { return o.ID != m.ID && !o.Newcomer() }
	for _, u := range fleet.UUIDs(f.UUID) {
		c.add(s.index.uuid[u], two, other)
	}
	for _, serial := range []string{ingot.PlausibleSerial(f.Serial), m.Serial} {
		c.add(s.index.serial[serial], two, func(o *fleet.Machine) bool { return other(o) && o.State == fleet.Approved })
		c.add(s.index.serial[serial], 1, other)
	}
	for _, n := range f.NICs {
		if mac, err := ingot.ParseMAC(n.MAC); err == nil {
			c.add(s.index.mac[mac], 1, other)
		}
	}
	slices.SortFunc(c.list, longerKnown)
	return c.list
}

func (s *Store) setMachine(m fleet.Machine) {
	old := s.machines[m.ID]
	s.machines[m.ID] = m
	s.reindex(m.ID, old, m)
}

func (s *Store) dropMachine(id ingot.MachineID) {
	if m, had := s.machines[id]; had {
		delete(s.machines, id)
		s.reindex(id, m, fleet.Machine{})
	}
}

// reindex takes a machine from what it is found by to what it is found by now.
// Mostly that is the same: where thousands share a part, leaving and entering
// its list at every packet would cost.
func (s *Store) reindex(id ingot.MachineID, old, m fleet.Machine) {
	relist(s.index.mac, id, old.MACs, m.MACs)
	if !slices.Equal(old.MACs, m.MACs) || !slices.Equal(old.Facts.NICs, m.Facts.NICs) {
		relist(s.index.told, id, old.ToldCards(), m.ToldCards())
	}
	relist(s.index.uuid, id, []string{old.UUID}, []string{m.UUID})
	relist(s.index.serial, id, []string{old.Serial}, []string{m.Serial})
	if old.Port != m.Port {
		s.replug(id, old.Port, m.Port)
	}
	if old.Address != m.Address && s.index.address[old.Address] == id {
		delete(s.index.address, old.Address)
	}
	if m.Address.IsValid() {
		s.index.address[m.Address] = id
	}
	if old.State == fleet.Pending {
		s.index.pending--
	}
	delete(s.index.granted, id)
	if m.GrantWaits() {
		s.index.granted[id] = struct{}{}
	}
	if m.State == fleet.Pending {
		s.index.pending++
	}
}

func relist(index map[string][]ingot.MachineID, id ingot.MachineID, old, now []string) {
	for _, key := range old {
		if slices.Contains(now, key) {
			continue
		}
		rest := slices.DeleteFunc(index[key], func(o ingot.MachineID) bool { return o == id })
		if index[key] = rest; len(rest) == 0 {
			delete(index, key)
		}
	}
	for _, key := range now {
		if key != "" && !slices.Contains(old, key) {
			index[key] = append(index[key], id)
		}
	}
}

func (s *Store) replug(id ingot.MachineID, old, now fleet.SwitchPort) {
	if at := s.index.port[old]; len(at) > 1 {
		delete(at, id)
	} else if at[id] {
		delete(s.index.port, old)
	}
	if !now.Relay.IsValid() {
		return
	}
	if s.index.port[now] == nil {
		s.index.port[now] = map[ingot.MachineID]bool{}
	}
	s.index.port[now][id] = true
}

func (s *Store) setBoot(b fleet.Boot) {
	s.boots[b.ID] = b
	if now, had := s.boots[s.index.latest[b.Machine]]; !had || now.Machine != b.Machine || older(now, b) < 0 {
		s.index.latest[b.Machine] = b.ID
	}
	delete(s.index.open, b.ID)
	if b.Open() {
		s.index.open[b.ID] = struct{}{}
	}
}

func (s *Store) dropBoot(id ingot.BootID) {
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
