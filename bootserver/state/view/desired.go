package view

import "ingot/bootserver/fleet/desired"

// SetDesired sets the desired state that is stored.
func (v *View) SetDesired(r desired.Record) { v.desired = r }

// Desired returns the desired state.
func (v *View) Desired() desired.Record { return v.desired }

// Desired implements state.Tx.
func (tx *Tx) Desired() desired.Record {
	tx.read(Key{Desired, DesiredKey})
	return tx.v.desired
}

// PutDesired implements state.Tx.
func (tx *Tx) PutDesired(r desired.Record) {
	old := tx.v.desired
	tx.undo = append(tx.undo, func() { tx.v.desired = old })
	tx.v.desired = r
	tx.put(Desired, DesiredKey, r)
}
