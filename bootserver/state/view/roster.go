package view

import (
	"bytes"
	"compress/flate"
	"encoding/gob"
	"fmt"
	"maps"
	"slices"

	"ingot"
	"ingot/bootserver/fleet/rollout"
)

// roster are the machines of a rollout. Those of a rollout that ended are packed: they change no more and are rarely
// read, and 40 such rollouts are kept, each of which may have all machines. One that is to change is unpacked first.
// A nil roster is one of no machines.
type roster struct {
	open   map[ingot.MachineID]rollout.Member
	packed [][]byte // machines that are not in open: a compressed gob of a list each
}

// packedAtOnce is how many machines are packed together: that takes a few milliseconds, in which nothing else can
// use the view.
const packedAtOnce = 1000

// packMembers packs some machines of a rollout that ended, if there are any that are not packed.
func (v *View) packMembers() {
	for id, r := range v.members {
		if len(r.open) > 0 && v.rollouts[id].State.Ended() {
			r.pack()
			return
		}
	}
}

// get returns a machine of a rollout that is not packed.
func (r *roster) get(id ingot.MachineID) (m rollout.Member, is bool) {
	if r == nil {
		return m, false
	}
	m, is = r.open[id]
	return m, is
}

// all returns the machines, in no order.
func (r *roster) all() (list []rollout.Member) {
	if r == nil {
		return nil
	}
	list = slices.AppendSeq(make([]rollout.Member, 0, len(r.open)+len(r.packed)*packedAtOnce), maps.Values(r.open))
	for _, p := range r.packed {
		list = append(list, unpacked(p)...)
	}
	return list
}

// pack packs at most packedAtOnce machines.
func (r *roster) pack() {
	var list []rollout.Member
	for _, m := range r.open {
		if list = append(list, m); len(list) == packedAtOnce {
			break
		}
	}
	var text bytes.Buffer
	w, err := flate.NewWriter(&text, flate.BestSpeed)
	if err == nil {
		err = gob.NewEncoder(w).Encode(list)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(fmt.Sprintf("packing machines of a rollout: %v", err)) // nothing of a Member cannot be written to memory
	}
	r.packed = append(r.packed, bytes.Clone(text.Bytes()))
	for _, m := range list {
		delete(r.open, m.Machine)
	}
	if len(r.open) == 0 { // a map keeps its room
		r.open = map[ingot.MachineID]rollout.Member{}
	}
}

// unpacked returns the machines that pack packed.
func unpacked(p []byte) (list []rollout.Member) {
	if err := gob.NewDecoder(flate.NewReader(bytes.NewReader(p))).Decode(&list); err != nil {
		panic(fmt.Sprintf("unpacking machines of a rollout: %v", err)) // they were packed by this process
	}
	return list
}

// unpack unpacks all machines: some of them are about to change.
func (r *roster) unpack() {
	if r == nil || len(r.packed) == 0 {
		return
	}
	for _, p := range r.packed {
		for _, m := range unpacked(p) {
			r.open[m.Machine] = m
		}
	}
	r.packed = nil
}
