package state

import (
	"maps"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
)

// Counts are how much there is, for metrics.
type Counts struct {
	Machines  map[fleet.State]int
	Open      int                      // boots under way
	Ended     map[ingot.Outcome]uint64 // boots that ended since the state was opened
	FileBytes int64
}

// Counts counts.
func (s *State) Counts() Counts {
	s.mu.RLock()
	c := Counts{Machines: map[fleet.State]int{}, Open: len(s.index.open), Ended: maps.Clone(s.ended)}
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
