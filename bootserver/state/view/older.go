package view

import (
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// What is in this file goes when nothing uses it: reads of the whole fleet inside a
// transaction, and entries that are not typed.

// Machines implements state.Tx.
func (tx *Tx) Machines() []fleet.Machine {
	tx.unbound = true
	return tx.v.Machines()
}

// LatestBoots implements state.Tx.
func (tx *Tx) LatestBoots() []fleet.Boot {
	tx.unbound = true
	return tx.v.BootsOf("")
}

// OpenBoots implements state.Tx.
func (tx *Tx) OpenBoots() []fleet.Boot {
	tx.unbound = true
	return tx.v.OpenBoots()
}

// Granted implements state.Tx.
func (tx *Tx) Granted() []fleet.Machine {
	tx.unbound = true
	return tx.v.Granted()
}

// Credentials implements state.Tx.
func (tx *Tx) Credentials() []access.Credential {
	tx.unbound = true
	return tx.v.Credentials()
}

// Note implements state.Tx.
func (tx *Tx) Note(list ...fleet.Entry) {
	for _, e := range list {
		c := fleet.TextChange(e.Kind, e.Text, e.Bad)
		c.At, c.Machine, c.Boot, c.Stage, c.Bytes = e.At, e.Machine, e.Boot, e.Stage, e.Bytes
		tx.Record(c)
	}
}

// Audit implements state.Tx.
func (tx *Tx) Audit(a access.Change) {
	last := tx.v.Seq
	tx.undo = append(tx.undo, func() { tx.v.Seq = last })
	tx.append(Audit, state.ActionOf(a))
}
