package booter

import (
	"fmt"
	"sync"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
	"ingot/bootserver/state"
)

// restores is what the audit log says of restores, and of machines that operators removed. A restore
// carries the audit log over. It is read when a machine proves a boot that the state does not know,
// each time as far as it is new.
type restores struct {
	mu      sync.Mutex
	ledger  string // name of the ledger that was read
	seq     uint64 // up to here
	list    []fleet.Restore
	removed map[ingot.MachineID]removal
}

// removal is when an operator last removed a machine.
type removal struct {
	at      time.Time
	retired bool // which an approval undoes
}

// auditPage is how many Changes are read at a time.
const auditPage = 1000

// read reads what is new in the audit log.
func (r *restores) read(st state.Store) error {
	if name, _ := st.LedgerName(); name != r.ledger || r.removed == nil {
		r.ledger, r.seq, r.list, r.removed = name, 0, nil, map[ingot.MachineID]removal{}
	}
	for {
		list, _, err := st.Changes(state.Query{Audit: true, After: r.seq, Limit: auditPage})
		if err != nil {
			return fmt.Errorf("reading which machines were removed: %w", err)
		}
		for _, c := range list {
			r.add(c)
		}
		if len(list) < auditPage {
			return nil
		}
	}
}

func (r *restores) add(c fleet.Change) {
	r.seq = c.Seq
	switch c.Code {
	case fleet.ActionServerRestore:
		taken, err := time.Parse(time.RFC3339Nano, c.To.Text(fleet.RestoreTaken))
		if err == nil { // an older server did not write it
			r.list = append(r.list, fleet.Restore{Taken: taken, At: c.At, Complete: c.To.Bool(fleet.RestoreComplete)})
		}
	case fleet.ActionForget:
		r.removed[c.Machine] = removal{at: c.At}
	case fleet.ActionMerge:
		r.removed[ingot.MachineID(c.From.Text("from.id"))] = removal{at: c.At}
	case fleet.ActionRetire:
		r.removed[c.Machine] = removal{c.At, true}
	case fleet.ActionApprove:
		if r.removed[c.Machine].retired {
			delete(r.removed, c.Machine)
		}
	}
}

// returning returns the facts for bringing the boot of a proven message back; nil if the state knows
// the boot, or the message has no passport.
func (s *sender) returning() (*fleet.Returning, error) {
	if s.secret == nil || s.passport == nil {
		return nil, nil
	}
	if _, known := s.b.state.Boot(s.boot); known {
		return nil, nil
	}
	r := &s.b.restores
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.read(s.b.state); err != nil {
		return nil, err
	}
	return &fleet.Returning{Boot: s.boot, Passport: *s.passport, Restores: append([]fleet.Restore(nil), r.list...),
		Removed: r.removed[s.passport.Machine].at}, nil
}

// comesBack decides about a message of a boot that the state does not know: a restore may have lost it.
func (s *sender) comesBack(tx state.Tx, r fleet.Returning, policy fleet.BootPolicy, images *images,
	now time.Time, f func(tx state.Tx, d *fleet.Decision) error) (*fleet.Decision, error) {
	p := r.Passport
	if m, known := tx.Machine(p.Machine); known {
		r.Machine = &m
		r.Latest, _ = tx.Boot(m.Boot)
	}
	for _, mac := range p.MACs {
		m, _, known := tx.Find(fleet.Sighting{MAC: mac, UUID: p.UUID})
		r.Other = r.Other || known && m.ID != p.Machine
	}
	for _, m := range tx.MachinesNamed(p.Name) {
		r.NameTaken = r.NameTaken || m.ID != p.Machine
	}
	d, err := r.Decide(policy, images.facts, now)
	if err != nil {
		return nil, fmt.Errorf("%w boot %s: %w", httpboot.ErrUnknown, s.boot.Short(), err)
	}
	err = d.Authenticate(s.proof)
	s.newest = d.Boot.Auth.Counters[s.part]
	if err != nil {
		return nil, unproven(s.boot, err)
	}
	return d, f(tx, d)
}
