package view

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/rollout"
)

// MemberKey is the key of a machine of a rollout.
func MemberKey(id string, machine ingot.MachineID) string { return id + "\x00" + string(machine) }

// CutMemberKey returns the parts of a MemberKey.
func CutMemberKey(key string) (id string, machine ingot.MachineID) {
	id, m, _ := strings.Cut(key, "\x00")
	return id, ingot.MachineID(m)
}

// AddRollout adds a rollout that is stored.
func (v *View) AddRollout(r rollout.Rollout) { v.setRollout(r) }

// AddMember adds a machine of a rollout that is stored.
func (v *View) AddMember(m rollout.Member) { v.setMember(m) }

func (v *View) setRollout(r rollout.Rollout) {
	v.rollouts[r.ID] = r
	v.lastRollout = max(v.lastRollout, r.Number)
}

func (v *View) setMember(m rollout.Member) {
	if v.members[m.Rollout] == nil {
		v.members[m.Rollout] = map[ingot.MachineID]rollout.Member{}
	}
	v.members[m.Rollout][m.Machine] = m
}

// Rollouts returns all rollouts, the oldest first.
func (v *View) Rollouts() []rollout.Rollout {
	return slices.SortedFunc(maps.Values(v.rollouts), func(a, b rollout.Rollout) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), strings.Compare(a.ID, b.ID))
	})
}

// Rollout returns one rollout.
func (v *View) Rollout(id string) (rollout.Rollout, bool) {
	r, ok := v.rollouts[id]
	return r, ok
}

// Members returns the machines of a rollout, in the order in which they are moved.
func (v *View) Members(id string) []rollout.Member {
	return slices.SortedFunc(maps.Values(v.members[id]), func(a, b rollout.Member) int {
		return cmp.Or(cmp.Compare(a.Place, b.Place), strings.Compare(string(a.Machine), string(b.Machine)))
	})
}

// rolloutOf returns the rollout that has not ended and that a machine belongs to, as long as an operator
// did not take the machine out of it.
func (v *View) rolloutOf(machine ingot.MachineID) (id string) {
	for of, r := range v.rollouts {
		if m, is := v.members[of][machine]; is && !r.State.Ended() && m.Left == "" && (id == "" || of < id) {
			id = of
		}
	}
	return id
}

// rolloutUse returns why rollouts that have not ended need an image: it is on its way to machines, or
// what they go back to.
func (v *View) rolloutUse(image ingot.Digest) (why string, used bool) {
	for _, r := range v.Rollouts() {
		if r.State.Ended() { // it needs none, and its machines may be many
			continue
		}
		rollout.Uses(r, slices.Collect(maps.Values(v.members[r.ID])), func(needed ingot.Digest, reason string) {
			if needed == image && !used {
				why, used = reason, true
			}
		})
	}
	return why, used
}

// Rollout implements state.Tx.
func (tx *Tx) Rollout(id string) (rollout.Rollout, bool) {
	tx.read(Key{Rollouts, id})
	return tx.v.Rollout(id)
}

// RolloutOf implements state.Tx.
func (tx *Tx) RolloutOf(machine ingot.MachineID) string {
	tx.read(Key{ByMember, string(machine)})
	return tx.v.rolloutOf(machine)
}

// LastRollout implements state.Tx.
func (tx *Tx) LastRollout() int {
	tx.read(Key{Numbers, RolloutsKey})
	return tx.v.lastRollout
}

// PutRollout implements state.Tx.
func (tx *Tx) PutRollout(r rollout.Rollout) {
	old, had := tx.v.rollouts[r.ID]
	last := tx.v.lastRollout
	if !had {
		tx.refuseRemovedImage(fleet.ImageRef(r.Image))
	}
	tx.undo = append(tx.undo, func() {
		delete(tx.v.rollouts, r.ID)
		if had {
			tx.v.rollouts[r.ID] = old
		}
		tx.v.lastRollout = last
	})
	tx.v.setRollout(r)
	tx.put(Rollouts, r.ID, r)
}

// DropRollout implements state.Tx.
func (tx *Tx) DropRollout(id string) {
	old, had := tx.v.rollouts[id]
	if !had {
		return
	}
	tx.undo = append(tx.undo, func() { tx.v.rollouts[id] = old })
	delete(tx.v.rollouts, id)
	tx.put(Rollouts, id, nil)
}

// PutMember implements state.Tx.
func (tx *Tx) PutMember(m rollout.Member) {
	tx.undoMember(m.Rollout, m.Machine)
	tx.v.setMember(m)
	tx.put(Members, MemberKey(m.Rollout, m.Machine), m)
}

// DropMember implements state.Tx.
func (tx *Tx) DropMember(id string, machine ingot.MachineID) {
	if _, had := tx.v.members[id][machine]; !had {
		return
	}
	tx.undoMember(id, machine)
	tx.v.dropMember(id, machine)
	tx.put(Members, MemberKey(id, machine), nil)
}

func (v *View) dropMember(id string, machine ingot.MachineID) {
	delete(v.members[id], machine)
	if len(v.members[id]) == 0 {
		delete(v.members, id)
	}
}

func (tx *Tx) undoMember(id string, machine ingot.MachineID) {
	old, had := tx.v.members[id][machine]
	tx.undo = append(tx.undo, func() {
		tx.v.dropMember(id, machine)
		if had {
			tx.v.setMember(old)
		}
	})
}
