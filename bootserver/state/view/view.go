// Package view is the part of a state that is kept in memory, with its indexes, and the
// transaction on it. Backends of package state share it: they fill it when they open, run
// transactions on it, and store what those wrote.
//
// A transaction changes the view at once and can be taken back (Tx.RollBack). It records
// the keys of all that it read, absences included, so that a backend can tell whether
// another server has changed any of that meanwhile.
//
// Left out on purpose: locks, disks and the past. A View has no lock of its own, and old
// boots and hardware facts are asked of the backend (Past).
package view

import (
	"cmp"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/desired"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
)

// Past is what a backend keeps out of memory. Its methods are called by transactions, under
// the lock of the view.
type Past interface {
	// Boot returns a boot that is not in the view.
	Boot(id ingot.BootID) (fleet.Boot, bool)
	// Boots returns the boots of a machine, those in the view included, oldest first.
	Boots(machine ingot.MachineID) ([]fleet.Boot, error)
	// Facts returns what was stored by Tx.KeepFacts under a boot's id, or nil.
	Facts(id ingot.BootID) []byte
}

// View is what is kept in memory. It is not safe for concurrent use.
type View struct {
	Seq uint64 // of the ledger's last Change
	// Size returns the size of a value's record, in bytes.
	Size func(v any) (int, error)

	machines    map[ingot.MachineID]*fleet.Machine // replaced, never changed
	boots       map[ingot.BootID]fleet.Boot
	credentials map[string]access.Credential // by id
	sessions    map[string]access.Session    // by id
	removals    map[ingot.Digest]state.Removal
	removed     uint64 // removals that ended
	rollouts    map[string]rollout.Rollout
	members     map[string]*roster // by rollout
	lastRollout int                // the highest number
	webhooks    map[string]webhook.Webhook
	progress    map[string]webhook.Progress          // of webhooks
	letters     map[string]map[uint64]webhook.Letter // by webhook
	desired     desired.Record
	ended       map[ingot.Outcome]uint64 // boots that ended since the state was opened
	pieces      uint64                   // of consoles, since the state was opened
	index       index
}

// New returns an empty view. size returns the size of a value's record, in bytes.
func New(size func(v any) (int, error)) *View {
	return &View{Size: size, machines: map[ingot.MachineID]*fleet.Machine{}, boots: map[ingot.BootID]fleet.Boot{},
		credentials: map[string]access.Credential{}, sessions: map[string]access.Session{},
		removals: map[ingot.Digest]state.Removal{},
		ended:    map[ingot.Outcome]uint64{}, index: newIndex(), rollouts: map[string]rollout.Rollout{},
		members:  map[string]*roster{},
		webhooks: map[string]webhook.Webhook{}, progress: map[string]webhook.Progress{},
		letters: map[string]map[uint64]webhook.Letter{}}
}

// SeqKey is the key of a Change.
func SeqKey(seq uint64) string { return string(binary.BigEndian.AppendUint64(nil, seq)) }

// KeepCounts takes over what was counted by the view before a restore. What was looked up
// before it is out of date.
func (v *View) KeepCounts(old *View) {
	v.ended, v.pieces, v.removed = old.ended, old.pieces, old.removed+1
}

// AddMachine adds a machine that is stored.
func (v *View) AddMachine(m fleet.Machine) { v.setMachine(m) }

// AddBoot adds a boot that is stored.
func (v *View) AddBoot(b fleet.Boot) { v.setBoot(b) }

// AddCredential adds a token or certificate that is stored.
func (v *View) AddCredential(c access.Credential) { v.setCredential(c.ID, &c) }

// AddRemoval adds a pending removal that is stored.
func (v *View) AddRemoval(r state.Removal) { v.removals[r.Image] = r }

// Machine returns one machine.
func (v *View) Machine(id ingot.MachineID) (fleet.Machine, bool) {
	return known(v.machines[id])
}

// known returns the machine of a record, which may be missing.
func known(m *fleet.Machine) (fleet.Machine, bool) {
	if m == nil {
		return fleet.Machine{}, false
	}
	return *m, true
}

// Machines returns all machines, the longest known first.
func (v *View) Machines() []fleet.Machine {
	order := make([]place[ingot.MachineID], 0, len(v.machines))
	for id, m := range v.machines {
		order = append(order, place[ingot.MachineID]{m.FirstSeen, id})
	}
	return inOrder(order, func(id ingot.MachineID) fleet.Machine { return *v.machines[id] })
}

// place is where a record is in a list. Records are large: what is sorted is small, and each record
// is copied once.
type place[ID ~string] struct {
	since time.Time
	id    ID
}

// inOrder returns the records of a list, the oldest first.
func inOrder[ID ~string, T any](list []place[ID], get func(ID) T) []T {
	slices.SortFunc(list, func(a, b place[ID]) int {
		return cmp.Or(a.since.Compare(b.since), strings.Compare(string(a.id), string(b.id)))
	})
	records := make([]T, len(list))
	for i, p := range list {
		records[i] = get(p.id)
	}
	return records
}

// Find returns the machine that a sighting is of, see fleet.Identify.
func (v *View) Find(sight fleet.Sighting) (fleet.Machine, bool) {
	m, _, ok := find(v.candidates(sight, ignore), sight)
	return m, ok
}

// AtAddress returns the machine that was last seen with an address.
func (v *View) AtAddress(ip netip.Addr) (fleet.Machine, bool) {
	var latest *fleet.Machine
	for _, id := range v.index.address[ip] {
		if m := v.machines[id]; latest == nil || m.LastSeen.After(latest.LastSeen) {
			latest = m
		}
	}
	return known(latest)
}

// Boot returns a boot that is in memory.
func (v *View) Boot(id ingot.BootID) (fleet.Boot, bool) {
	b, ok := v.boots[id]
	return b, ok
}

// BootsOf returns the boots of one machine that are in memory, in no order; for an empty id
// those of all machines.
func (v *View) BootsOf(id ingot.MachineID) []fleet.Boot {
	if id == "" {
		return slices.Collect(maps.Values(v.boots))
	}
	ids := v.index.boots[id]
	list := make([]fleet.Boot, len(ids))
	for i, b := range ids {
		list[i] = v.boots[b]
	}
	return list
}

// MissingBoots returns the boots that machines have and that are not in memory.
func (v *View) MissingBoots() []ingot.BootID {
	var list []ingot.BootID
	for _, m := range v.machines {
		if _, is := v.boots[m.Boot]; m.Boot != "" && !is {
			list = append(list, m.Boot)
		}
	}
	return list
}

// LatestOf returns the latest boot of a machine, as the machine has it: one that began later may have
// ended because this one still ran.
func (v *View) LatestOf(id ingot.MachineID) (fleet.Boot, bool) {
	if b, ok := v.boots[v.bootOf(id)]; ok {
		return b, true
	}
	b, ok := v.boots[v.index.latest[id]]
	return b, ok
}

// bootOf returns the boot that a machine has, "" for none.
func (v *View) bootOf(id ingot.MachineID) ingot.BootID { return cmp.Or(v.machines[id], &nobody).Boot }

// Latest returns the latest boot of each machine, sorted by start.
func (v *View) Latest() []fleet.Boot {
	list := make([]fleet.Boot, 0, len(v.index.latest))
	for id := range v.index.latest {
		b, _ := v.LatestOf(id)
		list = append(list, b)
	}
	// Not by number: with clocks that jump, numbers within a machine and times between
	// machines are no order together.
	slices.SortFunc(list, func(a, b fleet.Boot) int {
		return cmp.Or(a.Started.Compare(b.Started), strings.Compare(string(a.ID), string(b.ID)))
	})
	return list
}

// OpenBoots returns those of the boots that have not ended for which wanted returns true, sorted by start.
func (v *View) OpenBoots(wanted func(fleet.Boot) bool) []fleet.Boot {
	var order []place[ingot.BootID]
	for id := range v.index.open {
		if b := v.boots[id]; wanted(b) {
			order = append(order, place[ingot.BootID]{b.Started, id})
		}
	}
	return inOrder(order, func(id ingot.BootID) fleet.Boot { return v.boots[id] })
}

// Granted returns the machines with a grant that no boot has used, sorted by id.
func (v *View) Granted() []fleet.Machine {
	list := make([]fleet.Machine, 0, len(v.index.granted))
	for id := range v.index.granted {
		list = append(list, *v.machines[id])
	}
	slices.SortFunc(list, func(a, b fleet.Machine) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return list
}

// Credential returns the record of a token or client certificate.
func (v *View) Credential(id string) (access.Credential, bool) {
	c, ok := v.credentials[id]
	return c, ok
}

// Credentials returns all tokens and client certificates, the oldest first.
func (v *View) Credentials() []access.Credential {
	return slices.SortedFunc(maps.Values(v.credentials), func(a, b access.Credential) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
}

// Removals returns the pending removals of images, the oldest first.
func (v *View) Removals() []state.Removal {
	return slices.SortedFunc(maps.Values(v.removals), func(a, b state.Removal) int {
		return cmp.Or(a.Since.Compare(b.Since), strings.Compare(string(a.Image), string(b.Image)))
	})
}

// Removed is the number of removals that ended.
func (v *View) Removed() uint64 { return v.removed }

// Counts counts what is in memory.
func (v *View) Counts() state.Counts {
	c := state.Counts{Machines: map[fleet.State]int{}, Open: len(v.index.open), Ended: maps.Clone(v.ended)}
	for _, m := range v.machines {
		c.Machines[m.State]++
	}
	return c
}

// Forget drops boots that ended and are not the latest of their machine, unless keep returns true: all
// that is dropped must be stored. Machines of rollouts that ended are packed.
func (v *View) Forget(keep func(ingot.BootID) bool) {
	for id, b := range v.boots {
		if !b.Open() && v.index.latest[b.Machine] != id && v.bootOf(b.Machine) != id && !keep(id) {
			v.dropBoot(id)
		}
	}
	v.packMembers()
}
