package view

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// index finds records without looking at all of them: a thousand machines that
// ask at once must not cost a thousand times a thousand looks.
type index struct {
	mac          map[string][]ingot.MachineID                  // identified machines; a card may have moved
	unidentified map[string][]ingot.MachineID                  // unidentified machines, by MAC, and by MAC and UUID
	reported     map[string][]ingot.MachineID                  // cards that machines reported, and were not seen with
	uuid         map[string][]ingot.MachineID                  // identified machines; some boards share one
	serial       map[string][]ingot.MachineID                  // identified machines; vendors may repeat one
	approved     map[string][]ingot.MachineID                  // of serial, those that are approved
	name         map[string][]ingot.MachineID                  // one, unless a backup says otherwise
	port         map[fleet.SwitchPort]map[ingot.MachineID]bool // last seen there: some relays say the same of all
	address      map[netip.Addr][]ingot.MachineID              // that had it when they were last seen
	image        map[ingot.Digest]map[ingot.MachineID]struct{} // machines that need it, see fleet.Uses
	latest       map[ingot.MachineID]ingot.BootID              // by start
	boots        map[ingot.MachineID][]ingot.BootID            // that are in memory
	open         map[ingot.BootID]struct{}
	granted      map[ingot.MachineID]struct{} // has a grant that no boot has used
	token        map[string][]string          // ids of credentials by their names
	session      map[string][]string          // ids of sessions by their credentials
	pending      int
}

func newIndex() index {
	return index{mac: map[string][]ingot.MachineID{}, unidentified: map[string][]ingot.MachineID{},
		reported: map[string][]ingot.MachineID{},
		uuid:     map[string][]ingot.MachineID{}, serial: map[string][]ingot.MachineID{},
		approved: map[string][]ingot.MachineID{}, name: map[string][]ingot.MachineID{},
		port:    map[fleet.SwitchPort]map[ingot.MachineID]bool{},
		address: map[netip.Addr][]ingot.MachineID{}, image: map[ingot.Digest]map[ingot.MachineID]struct{}{},
		latest: map[ingot.MachineID]ingot.BootID{}, boots: map[ingot.MachineID][]ingot.BootID{},
		open:    map[ingot.BootID]struct{}{},
		granted: map[ingot.MachineID]struct{}{}, token: map[string][]string{},
		session: map[string][]string{}}
}

// candidates collects machines, each once, and only as many as can matter.
type candidates struct {
	v    *View
	read func(Key)
	list []*fleet.Machine // not to be changed
}

// add adds the machines of an index's entry that are of use, at most so many.
func (c *candidates) add(table Table, key string, ids []ingot.MachineID, most int, use func(m *fleet.Machine) bool) {
	c.read(Key{table, key})
	for _, id := range ids {
		if most == 0 {
			return
		}
		c.read(Key{Machines, string(id)})
		m := c.v.machines[id]
		if !use(m) {
			continue
		}
		most--
		if !slices.Contains(c.list, m) {
			c.list = append(c.list, m)
		}
	}
}

const (
	two       = 2  // are as good as many: what they have identifies none of them
	maxAtPort = 16 // machines that came and went, retired ones included
)

func all(*fleet.Machine) bool { return true }

// unidentifiedKey is the key of an unidentified machine with a card and a UUID.
func unidentifiedKey(mac, uuid string) string { return mac + " " + uuid }

// ignore is for reads outside of a transaction.
func ignore(Key) {}

// find is fleet.Identify of candidates.
func find(candidates []*fleet.Machine, sight fleet.Sighting) (fleet.Machine, *fleet.Question, bool) {
	m, ask := fleet.Identify(candidates, sight)
	if m == nil {
		return fleet.Machine{}, ask, false
	}
	return *m, nil, true
}

// candidates returns all machines that can matter for whose a sighting is, the
// longest known first.
func (v *View) candidates(sight fleet.Sighting, read func(Key)) []*fleet.Machine {
	var room [4]*fleet.Machine
	c := candidates{v: v, read: read, list: room[:0]}
	c.add(ByMAC, sight.MAC, v.index.mac[sight.MAC], state.MaxPerCard, all)
	for _, key := range []string{unidentifiedKey(sight.MAC, sight.UUID), unidentifiedKey(sight.MAC, ""), sight.MAC} {
		c.add(ByUnidentified, key, v.index.unidentified[key], 1, all)
	}
	c.add(ByReportedMAC, sight.MAC, v.index.reported[sight.MAC], two, all)
	if sight.UUID != "" {
		c.add(ByUUID, sight.UUID, v.index.uuid[sight.UUID], two, all)
	}
	for _, m := range c.list { // whether the UUIDs of those with the card are shared
		if m.UUID != "" {
			c.add(ByUUID, m.UUID, v.index.uuid[m.UUID], two, all)
		}
	}
	if sight.Port.Relay.IsValid() {
		at := v.index.port[sight.Port]
		if len(at) > maxAtPort {
			at = nil
		}
		c.add(ByPort, portKey(sight.Port), slices.Collect(maps.Keys(at)), maxAtPort, all)
	}
	slices.SortFunc(c.list, longerKnown)
	return c.list
}

func longerKnown(a, b *fleet.Machine) int {
	if c := a.FirstSeen.Compare(b.FirstSeen); c != 0 {
		return c
	}
	return strings.Compare(string(a.ID), string(b.ID))
}

// others returns the machines that fleet.Learn needs: those that have a UUID or
// a serial number that m reports, or the serial number of m. Of many, enough to
// see that there are.
func (v *View) others(m fleet.Machine, f ingot.Facts, read func(Key)) []fleet.Machine {
	c := candidates{v: v, read: read}
	other := func(o *fleet.Machine) bool { return o.ID != m.ID }
	for _, u := range fleet.UUIDs(f.UUID) {
		c.add(ByUUID, u, v.index.uuid[u], two, other)
	}
	for _, serial := range []string{ingot.PlausibleSerial(f.Serial), m.Serial} {
		c.add(BySerial, approvedKey(serial), v.index.approved[serial], two, other)
		c.add(BySerial, serial, v.index.serial[serial], 1, other)
	}
	for _, n := range f.NICs {
		if mac, err := ingot.ParseMAC(n.MAC); err == nil {
			c.add(ByMAC, mac, v.index.mac[mac], 1, other)
		}
	}
	slices.SortFunc(c.list, longerKnown)
	list := make([]fleet.Machine, len(c.list))
	for i, m := range c.list {
		list[i] = *m
	}
	return list
}

// nobody is a machine that no record has.
var nobody fleet.Machine

func (v *View) setMachine(m fleet.Machine) {
	old := cmp.Or(v.machines[m.ID], &nobody)
	v.reuse(m.ID, old, v.imageOf(old.Boot), &m, v.imageOf(m.Boot))
	v.machines[m.ID] = &m
	v.reindex(m.ID, old, &m)
}

func (v *View) dropMachine(id ingot.MachineID) {
	if m, had := v.machines[id]; had {
		v.reuse(id, m, v.imageOf(m.Boot), &nobody, "")
		delete(v.machines, id)
		v.reindex(id, m, &nobody)
	}
}

// imageOf is the image of a boot that is in memory.
func (v *View) imageOf(id ingot.BootID) ingot.Digest { return v.boots[id].Image.Image }

// reuse takes a machine from the images that it needed to those that it needs.
func (v *View) reuse(id ingot.MachineID, old *fleet.Machine, oldBoot ingot.Digest, m *fleet.Machine,
	boot ingot.Digest) {
	var room [10]ingot.Digest
	before := room[:0:5]
	now := room[5:5]
	fleet.Uses(old, oldBoot, func(d ingot.Digest, _ fleet.Use) { before = append(before, d) })
	fleet.Uses(m, boot, func(d ingot.Digest, _ fleet.Use) { now = append(now, d) })
	for _, d := range before {
		if slices.Contains(now, d) {
			continue
		}
		if delete(v.index.image[d], id); len(v.index.image[d]) == 0 {
			delete(v.index.image, d)
		}
	}
	for _, d := range now {
		if slices.Contains(before, d) {
			continue
		}
		if v.index.image[d] == nil {
			v.index.image[d] = map[ingot.MachineID]struct{}{}
		}
		v.index.image[d][id] = struct{}{}
	}
}

// reindex takes a machine from what it is found by to what it is found by now.
// Mostly that is the same: where thousands share a part, leaving and entering
// its list at every packet would cost.
func (v *View) reindex(id ingot.MachineID, old, m *fleet.Machine) {
	relistKnown(v, id, old, m)
	if old.Unidentified() || m.Unidentified() {
		relist(v.index.unidentified, id, unidentifiedKeys(old), unidentifiedKeys(m))
	}
	relist(v.index.name, id, []string{old.Name}, []string{m.Name})
	if old.Port != m.Port {
		v.replug(id, old.Port, m.Port)
	}
	relist(v.index.address, id, old.Addresses(), m.Addresses())
	if old.State == fleet.Pending {
		v.index.pending--
	}
	delete(v.index.granted, id)
	if m.HasUnusedGrant() {
		v.index.granted[id] = struct{}{}
	}
	if m.State == fleet.Pending {
		v.index.pending++
	}
}

// relistKnown keeps the indexes that exclude unidentified machines.
func relistKnown(v *View, id ingot.MachineID, old, m *fleet.Machine) {
	if old.Unidentified() {
		old = &nobody
	}
	if m.Unidentified() {
		m = &nobody
	}
	relist(v.index.mac, id, old.MACs, m.MACs)
	if !slices.Equal(old.MACs, m.MACs) || !slices.Equal(old.Facts.NICs, m.Facts.NICs) {
		relist(v.index.reported, id, old.ReportedCards(), m.ReportedCards())
	}
	relist(v.index.uuid, id, []string{old.UUID}, []string{m.UUID})
	relist(v.index.serial, id, []string{old.Serial}, []string{m.Serial})
	relist(v.index.approved, id, []string{approvedSerial(old)}, []string{approvedSerial(m)})
}

func approvedSerial(m *fleet.Machine) string {
	if m.State != fleet.Approved {
		return ""
	}
	return m.Serial
}

func unidentifiedKeys(m *fleet.Machine) (keys []string) {
	if !m.Unidentified() {
		return nil
	}
	for _, mac := range m.MACs {
		keys = append(keys, mac, unidentifiedKey(mac, m.UUID))
	}
	return keys
}

// relist takes an id from the entries that it was in to those that it is in now. Entries are sorted:
// of many, the same few are taken by a server that has just started and by any other.
func relist[K comparable, ID ~string](index map[K][]ID, id ID, old, now []K) {
	for _, key := range old {
		if slices.Contains(now, key) {
			continue
		}
		rest := slices.DeleteFunc(index[key], func(o ID) bool { return o == id })
		if index[key] = rest; len(rest) == 0 {
			delete(index, key)
		}
	}
	var none K
	for _, key := range now {
		if key != none && !slices.Contains(old, key) {
			at, _ := slices.BinarySearch(index[key], id)
			index[key] = slices.Insert(index[key], at, id)
		}
	}
}

func (v *View) replug(id ingot.MachineID, old, now fleet.SwitchPort) {
	if at := v.index.port[old]; len(at) > 1 {
		delete(at, id)
	} else if at[id] {
		delete(v.index.port, old)
	}
	if !now.Relay.IsValid() {
		return
	}
	if v.index.port[now] == nil {
		v.index.port[now] = map[ingot.MachineID]bool{}
	}
	v.index.port[now][id] = true
}

// older sorts boots: those of one machine by their number, others by their start.
func older(a, b fleet.Boot) int {
	if a.Machine == b.Machine && a.Number != b.Number {
		return cmp.Compare(a.Number, b.Number)
	}
	return cmp.Or(a.Started.Compare(b.Started), strings.Compare(string(a.ID), string(b.ID)))
}

func (v *View) setBoot(b fleet.Boot) {
	old, had := v.boots[b.ID]
	if had && old.Machine != b.Machine {
		v.dropBoot(b.ID)
		had = false
	}
	if m, known := v.machines[b.Machine]; known && m.Boot == b.ID && old.Image.Image != b.Image.Image {
		v.reuse(m.ID, m, old.Image.Image, m, b.Image.Image)
	}
	v.boots[b.ID] = b
	if !had {
		v.index.boots[b.Machine] = append(v.index.boots[b.Machine], b.ID)
	}
	if now, is := v.boots[v.index.latest[b.Machine]]; !is || now.Machine != b.Machine || older(now, b) < 0 {
		v.index.latest[b.Machine] = b.ID
	}
	delete(v.index.open, b.ID)
	if b.Open() {
		v.index.open[b.ID] = struct{}{}
	}
}

func (v *View) dropBoot(id ingot.BootID) {
	b, had := v.boots[id]
	if !had {
		return
	}
	if m, known := v.machines[b.Machine]; known && m.Boot == id {
		v.reuse(m.ID, m, b.Image.Image, m, "")
	}
	delete(v.boots, id)
	delete(v.index.open, id)
	rest := slices.DeleteFunc(v.index.boots[b.Machine], func(o ingot.BootID) bool { return o == id })
	if v.index.boots[b.Machine] = rest; len(rest) == 0 {
		delete(v.index.boots, b.Machine)
	}
	if v.index.latest[b.Machine] == id {
		delete(v.index.latest, b.Machine)
	}
}

// setCredential stores the record of a credential; nil removes it.
func (v *View) setCredential(id string, c *access.Credential) {
	if old, had := v.credentials[id]; had {
		relist(v.index.token, id, []string{old.Name}, nil)
		delete(v.credentials, id)
	}
	if c != nil {
		relist(v.index.token, id, nil, []string{c.Name})
		v.credentials[id] = *c
	}
}
