package booter

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// ErrTooManyPending: too many strangers wait already.
var ErrTooManyPending = fmt.Errorf("%d machines are pending already; approve or remove some before new ones are recorded", state.MaxPending)

// ErrTooManyPerCard: many records have one card, which one machine makes by telling
// another UUID each time.
var ErrTooManyPerCard = fmt.Errorf("%d machines were seen with this card already; forget some before new ones are recorded", state.MaxPerCard)

// machine finds the machine of a sighting or records a new one.
func (b *Booter) machine(tx state.Tx, s fleet.Sighting, now time.Time) (m fleet.Machine, known bool, err error) {
	found, ask, ok := tx.Find(s)
	if ok {
		return found, true, nil
	}
	if tx.Pending() >= state.MaxPending {
		return m, false, ErrTooManyPending
	}
	if tx.WithCard(s.MAC) >= state.MaxPerCard {
		return m, false, ErrTooManyPerCard
	}
	id, err := ingot.MachineIDFromMAC(s.MAC)
	if err != nil {
		return m, false, err
	}
	if _, taken := tx.Machine(id); taken { // its card was first seen in another machine
		id += ingot.MachineID("-" + hex.EncodeToString(b.Derive("id", s.UUID+s.MAC)[:2]))
	}
	m = fleet.Machine{ID: id, State: fleet.Pending, Ask: ask, FirstSeen: now, MachineKey: b.MachineKey(id)}
	if ask != nil {
		b.log.Warn("a machine that may be known: an operator is asked", "machine", id, "mac", s.MAC, "uuid", s.UUID, "what", ask.What)
		return m, false, nil
	}
	m = b.welcome(m)
	b.log.Info("a new machine", "machine", id, "mac", s.MAC, "uuid", s.UUID, "state", string(m.State))
	return m, false, nil
}

// welcome approves a machine that is new, where all are.
func (b *Booter) welcome(m fleet.Machine) fleet.Machine {
	policy := b.policy.Load()
	if !policy.ApproveAll {
		return m
	}
	m.State = fleet.Approved
	if policy.Image != "" && m.Assignment.Image == "" {
		if as, err := b.catalog.Assignment(context.Background(), policy.Image, "first image, by the server's --image", b.now()); err == nil {
			m.Assignment = as
		} else {
			b.log.Error("assigning the first image", "machine", m.ID, "err", err)
		}
	}
	return m
}

// unasked takes back the question of a machine that fell away: then it is as
// any other that is new. And a rule may speak; what it did is for the ledger.
func (b *Booter) unasked(tx state.Tx, m fleet.Machine) (after fleet.Machine, ruled string) {
	if m.Ask != nil {
		if with, known := tx.Machine(m.Ask.With); fleet.Moot(m, with, known) {
			m.Ask = nil
			m = b.welcome(m)
		}
	}
	return b.rule(m)
}

// noteRule tells the ledger what a rule did.
func (b *Booter) noteRule(tx state.Tx, m fleet.Machine, did string) {
	if did != "" {
		tx.Note(fleet.Entry{At: b.now(), Kind: fleet.KindDecision, Machine: m.ID, Text: did})
	}
}

// rule lets the first rule that is about a machine speak. What it did is for
// the ledger, and empty when nothing changed.
func (b *Booter) rule(m fleet.Machine) (after fleet.Machine, did string) {
	r, ok := fleet.FirstRule(b.policy.Load().Rules, m)
	if !ok {
		return m, ""
	}
	var as fleet.Assignment
	if r.Image != "" && m.Assignment.Image == "" { // what is assigned stays; to look for an image reads the store
		var err error
		if as, err = b.catalog.Assignment(context.Background(), r.Image, "by a rule", b.now()); err != nil {
			b.log.Error("assigning a rule's image", "machine", m.ID, "err", err)
		}
	}
	after = r.Apply(m, as)
	did = r.Spoke(m, after)
	if after.State != m.State {
		b.log.Info("approved by a rule", "machine", m.ID, "image", after.Assignment.Name, "rule", r.String())
	}
	return after, did
}
