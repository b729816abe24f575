package bolt

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// The latest boot of each machine is in memory, older ones are in the file
// only. Two indexes find them there, in order; numbers and times (nanoseconds)
// are 8 bytes, big-endian, and an id is 32 digits:
//
//	history  MACHINE 0 NUMBER ID
//	recent   START ID

func historyKey(b fleet.Boot) []byte {
	return slices.Concat([]byte(b.Machine), []byte{0}, []byte(state.PlaceOf(b, false).Key()))
}

func recentKey(b fleet.Boot) []byte { return []byte(state.PlaceOf(b, true).Key()) }

// writeBoot stores a boot and, when it is new, its place in the indexes. Of a
// machine's boots the oldest are forgotten.
func writeBoot(tx *bbolt.Tx, b fleet.Boot) error {
	isNew := tx.Bucket(bucketBoots).Get([]byte(b.ID)) == nil
	if err := put(tx, bucketBoots, string(b.ID), b); err != nil || !isNew {
		return err
	}
	if err := tx.Bucket(bucketHistory).Put(historyKey(b), nil); err != nil {
		return err
	}
	if err := tx.Bucket(bucketRecent).Put(recentKey(b), nil); err != nil {
		return err
	}
	return forgetBoots(tx, b.Machine)
}

// forgetBoots keeps the newest boots of a machine, and the consoles of fewer.
func forgetBoots(tx *bbolt.Tx, m ingot.MachineID) error {
	prefix := append([]byte(m), 0)
	var keys [][]byte
	c := tx.Bucket(bucketHistory).Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for i, k := range keys {
		if i == len(keys)-state.ConsolesPerMachine-1 {
			if err := forgetConsole(tx, state.IDOf(k)); err != nil {
				return err
			}
		}
		if i < len(keys)-state.BootsPerMachine {
			b, err := readBoot(tx, state.IDOf(k))
			if err != nil {
				return err
			}
			var left []ingot.BootID
			for _, k := range keys[i+1:] {
				left = append(left, state.IDOf(k))
			}
			if err := firstOf(forgetFacts(tx, b, left), deleteBoot(tx, b)); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteBoot forgets a boot, its place in the indexes, and its console.
func deleteBoot(tx *bbolt.Tx, b fleet.Boot) error {
	return firstOf(tx.Bucket(bucketBoots).Delete([]byte(b.ID)), tx.Bucket(bucketHistory).Delete(historyKey(b)),
		tx.Bucket(bucketRecent).Delete(recentKey(b)), forgetConsole(tx, b.ID))
}

// indexBoots makes the indexes of a file that an older version wrote.
func indexBoots(tx *bbolt.Tx) error {
	history, recent := tx.Bucket(bucketHistory), tx.Bucket(bucketRecent)
	if k, _ := history.Cursor().First(); k != nil {
		return nil
	}
	var boots []fleet.Boot
	if err := each(tx, bucketBoots, func(b fleet.Boot) { boots = append(boots, b) }); err != nil {
		return err
	}
	slices.SortFunc(boots, older)
	count := map[ingot.MachineID]int{}
	for _, b := range boots {
		count[b.Machine]++
		b.Number = count[b.Machine]
		if err := firstOf(put(tx, bucketBoots, string(b.ID), b), history.Put(historyKey(b), nil), recent.Put(recentKey(b), nil)); err != nil {
			return err
		}
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// loadLatest brings the latest boot of each machine into memory.
func (s *Store) loadLatest(tx *bbolt.Tx) error {
	c := tx.Bucket(bucketHistory).Cursor()
	for k, _ := c.Last(); k != nil; {
		b, err := readBoot(tx, state.IDOf(k))
		if err != nil {
			return err
		}
		s.setBoot(b)
		c.Seek(append([]byte(b.Machine), 0))
		k, _ = c.Prev() // the latest of the machine before
	}
	return nil
}

func readBoot(tx *bbolt.Tx, id ingot.BootID) (b fleet.Boot, err error) {
	text := tx.Bucket(bucketBoots).Get([]byte(id))
	if text == nil {
		return b, fmt.Errorf("boot %s is in an index, and nowhere else", id.Short())
	}
	if err := json.Unmarshal(text, &b); err != nil {
		return b, fmt.Errorf("record %q of boots: %w", id, err)
	}
	return b, nil
}

// boot returns a boot from memory, or else from the file.
func (s *Store) boot(id ingot.BootID) (b fleet.Boot, ok bool) {
	if b, ok = s.boots[id]; ok {
		return b, true
	}
	err := s.view(func(tx *bbolt.Tx) (err error) {
		if tx.Bucket(bucketBoots).Get([]byte(id)) == nil {
			return nil
		}
		ok = true
		b, err = readBoot(tx, id)
		return err
	})
	return b, ok && err == nil
}

// Boots returns the newest boots of one machine, or of all for an empty id,
// oldest first; limit 0 is all of them.
func (s *Store) Boots(machine ingot.MachineID, limit int) ([]fleet.Boot, error) {
	return s.BootsBefore(machine, state.Place{}, limit)
}

// BootsBefore returns the newest boots that began before a place, as Boots does.
func (s *Store) BootsBefore(machine ingot.MachineID, before state.Place, limit int) ([]fleet.Boot, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.bootsOf(machine, before, limit)
}

func (s *Store) bootsOf(machine ingot.MachineID, before state.Place, limit int) ([]fleet.Boot, error) {
	if machine != "" && limit == 0 {
		limit = state.BootsPerMachine // some that were forgotten may still be in memory
	}
	place := func(b fleet.Boot) string { return state.PlaceOf(b, machine == "").Key() }
	list := map[ingot.BootID]fleet.Boot{}
	for id, b := range s.boots { // those that are on their way to the disk, too
		if (machine == "" || b.Machine == machine) && (before == state.Place{} || place(b) < before.Key()) {
			list[id] = b
		}
	}
	err := s.view(func(tx *bbolt.Tx) error {
		bucket, prefix, end := bucketRecent, []byte(nil), []byte{0xff}
		if machine != "" {
			bucket, prefix, end = bucketHistory, append([]byte(machine), 0), append([]byte(machine), 1)
		}
		if before != (state.Place{}) {
			end = append(slices.Clone(prefix), before.Key()...)
		}
		c := tx.Bucket(bucket).Cursor()
		k, _ := c.Seek(end)
		if k == nil {
			k, _ = c.Last()
		} else {
			k, _ = c.Prev()
		}
		for n := 0; k != nil && bytes.HasPrefix(k, prefix) && (limit == 0 || n < limit); k, _ = c.Prev() {
			id := state.IDOf(k)
			if b, ok := s.boots[id]; ok && machine != "" && b.Machine != machine {
				continue // it was moved, and that is not on the disk yet
			}
			n++
			if list[id].ID == "" {
				b, err := readBoot(tx, id)
				if err != nil {
					return err
				}
				list[id] = b
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading boots: %w", err)
	}
	sorted := make([]fleet.Boot, 0, len(list))
	for _, b := range list {
		sorted = append(sorted, b)
	}
	slices.SortFunc(sorted, func(a, b fleet.Boot) int { return strings.Compare(place(a), place(b)) })
	if limit > 0 && len(sorted) > limit {
		sorted = sorted[len(sorted)-limit:]
	}
	return sorted, nil
}

// Latest returns the latest boot of each machine, by when it began.
func (s *Store) Latest() []fleet.Boot {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]fleet.Boot, 0, len(s.index.latest))
	for _, id := range s.index.latest {
		list = append(list, s.boots[id])
	}
	// Not by older: with clocks that jump, numbers within a machine and times
	// between machines are no order together.
	slices.SortFunc(list, func(a, b fleet.Boot) int {
		return cmp.Or(a.Started.Compare(b.Started), strings.Compare(string(a.ID), string(b.ID)))
	})
	return list
}

// Forget drops from memory what the file has as well and nobody asks for often:
// boots that ended and are not the latest of their machine.
func (s *Store) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log.pending != nil || s.log.writing != nil {
		return // not all is on the disk
	}
	for id, b := range s.boots {
		if !b.Open() && s.index.latest[b.Machine] != id {
			s.dropBoot(id)
		}
	}
}
