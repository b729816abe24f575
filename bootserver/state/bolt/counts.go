package bolt

import (
	"maps"

	"go.etcd.io/bbolt"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// state.Counts counts.
func (s *Store) Counts() state.Counts {
	s.mu.RLock()
	c := state.Counts{Machines: map[fleet.State]int{}, Open: len(s.index.open), Ended: maps.Clone(s.ended)}
	for _, m := range s.machines {
		c.Machines[m.State]++
	}
	s.mu.RUnlock()
	_ = s.view(func(tx *bbolt.Tx) error { // fails only when it is closed: then there is no file
		c.FileBytes = tx.Size()
		return nil
	})
	return c
}

// countEnd counts a boot that ends with this change.
func (tx *Tx) countEnd(before, after fleet.Boot) {
	if !before.Open() || after.Open() {
		return
	}
	tx.s.ended[after.Outcome]++
	tx.undo = append(tx.undo, func() { tx.s.ended[after.Outcome]-- })
}
