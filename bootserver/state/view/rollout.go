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

// AddMember adds a machine of a rollout that is stored, once. The rollout was added before.
func (v *View) AddMember(m rollout.Member) {
	r := v.members[m.Rollout]
	if r == nil {
		v.setMember(m)
		return
	}
	if r.open[m.Machine] = m; len(r.open) >= packedAtOnce && v.rollouts[m.Rollout].State.Ended() {
		r.pack()
	}
}

func (v *View) setRollout(r rollout.Rollout) {
	if !r.State.Ended() {
		v.members[r.ID].unpack()
	}
	v.rollouts[r.ID] = r
	v.lastRollout = max(v.lastRollout, r.Number)
}

func (v *View) setMember(m rollout.Member) {
	r := v.members[m.Rollout]
	if r == nil {
		r = &roster{open: map[ingot.MachineID]rollout.Member{}}
		v.members[m.Rollout] = r
	}
	r.unpack()
	r.open[m.Machine] = m
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
	list := v.members[id].all()
	order := make([]*rollout.Member, len(list)) // records are large: each is copied once
	for i := range list {
		order[i] = &list[i]
	}
	slices.SortFunc(order, func(a, b *rollout.Member) int {
		return cmp.Or(cmp.Compare(a.Place, b.Place), strings.Compare(string(a.Machine), string(b.Machine)))
	})
	sorted := make([]rollout.Member, len(list))
	for i, m := range order {
		sorted[i] = *m
	}
	return sorted
}

// rolloutOf returns the rollout that has not ended and that a machine belongs to, as long as an operator
// did not take the machine out of it.
func (v *View) rolloutOf(machine ingot.MachineID) (id string) {
	for of, r := range v.rollouts {
		if r.State.Ended() {
			continue
		}
		if m, is := v.members[of].get(machine); is && m.Left == "" && (id == "" || of < id) {
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
		rollout.Uses(r, v.members[r.ID].all(), func(needed ingot.Digest, reason string) {
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
	tx.v.members[id].unpack()
	if _, had := tx.v.members[id].get(machine); !had {
		return
	}
	tx.undoMember(id, machine)
	tx.v.dropMember(id, machine)
	tx.put(Members, MemberKey(id, machine), nil)
}

func (v *View) dropMember(id string, machine ingot.MachineID) {
	r := v.members[id]
	if r == nil {
		return
	}
	r.unpack()
	if delete(r.open, machine); len(r.open) == 0 {
		delete(v.members, id)
	}
}

func (tx *Tx) undoMember(id string, machine ingot.MachineID) {
	tx.v.members[id].unpack()
	old, had := tx.v.members[id].get(machine)
	tx.undo = append(tx.undo, func() {
		tx.v.dropMember(id, machine)
		if had {
			tx.v.setMember(old)
		}
	})
}
