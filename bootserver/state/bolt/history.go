package bolt

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
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

// writeBoot stores a boot and, when it is new, its place in the indexes. The caller removes the oldest
// boots of the machine then.
func writeBoot(tx *bbolt.Tx, e entry) (isNew bool, err error) {
	b := tx.Bucket(bucketBoots)
	isNew = b.Get([]byte(e.key.Key)) == nil
	if err := b.Put([]byte(e.key.Key), e.value); err != nil || !isNew {
		return false, err
	}
	return true, firstOf(tx.Bucket(bucketHistory).Put(e.boot.history, nil),
		tx.Bucket(bucketRecent).Put(e.boot.recent, nil))
}

// trimBoots keeps the newest boots of a machine, of which so many are new, and the consoles of fewer.
// The boot that runs is kept even if many others began since: DHCP alone begins boots, in anybody's
// name.
func trimBoots(tx *bbolt.Tx, id ingot.MachineID, begun int) error {
	ids := historyOf(tx, id)
	var m fleet.Machine
	if text := tx.Bucket(bucketMachines).Get([]byte(id)); text != nil && len(ids) > state.BootsPerMachine {
		var err error
		if m, err = record.DecodeMachine(text); err != nil {
			return nil // which boot runs is not known: all are kept
		}
	}
	without := len(ids) - state.ConsolesPerMachine // so many of the oldest have no console
	for i, boot := range ids {
		if i >= without-begun && i < without {
			if err := removeConsole(tx, boot); err != nil {
				return err
			}
		}
		if i < len(ids)-state.BootsPerMachine && !m.Current(boot) {
			if err := removeBoot(tx, id, boot, ids[i+1:]); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeBoot removes a boot and its facts, unless one of the boots that are left refers to them. A record
// that is damaged goes as well: it must not keep others from being stored.
func removeBoot(tx *bbolt.Tx, m ingot.MachineID, id ingot.BootID, left []ingot.BootID) error {
	if b, err := readBoot(tx, id); err == nil {
		return firstOf(removeFacts(tx, b, left), deleteBoot(tx, b))
	}
	err := firstOf(tx.Bucket(bucketBoots).Delete([]byte(id)), removeConsole(tx, id))
	for bucket, prefix := range map[string][]byte{string(bucketHistory): append([]byte(m), 0), string(bucketRecent): nil} {
		c := tx.Bucket([]byte(bucket)).Cursor()
		for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
			if state.IDOf(k) == id {
				err = firstOf(err, c.Delete())
				break
			}
		}
	}
	return err
}

// deleteBoot removes a boot, its place in the indexes, and its console.
func deleteBoot(tx *bbolt.Tx, b fleet.Boot) error {
	return firstOf(tx.Bucket(bucketBoots).Delete([]byte(b.ID)), tx.Bucket(bucketHistory).Delete(historyKey(b)),
		tx.Bucket(bucketRecent).Delete(recentKey(b)), removeConsole(tx, b.ID))
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// loadLatest brings the latest boot of each machine into memory, and the one that the machine has
// if that is an earlier one.
func loadLatest(tx *bbolt.Tx, v *view.View) error {
	c := tx.Bucket(bucketHistory).Cursor()
	for k, _ := c.Last(); k != nil; {
		b, err := readBoot(tx, state.IDOf(k))
		if err != nil {
			return err
		}
		v.AddBoot(b)
		c.Seek(append([]byte(b.Machine), 0))
		k, _ = c.Prev() // the latest of the machine before
	}
	for _, id := range v.MissingBoots() {
		if tx.Bucket(bucketBoots).Get([]byte(id)) == nil {
			continue
		}
		b, err := readBoot(tx, id)
		if err != nil {
			return err
		}
		v.AddBoot(b)
	}
	return nil
}

func readBoot(tx *bbolt.Tx, id ingot.BootID) (b fleet.Boot, err error) {
	text := tx.Bucket(bucketBoots).Get([]byte(id))
	if text == nil {
		return b, fmt.Errorf("boot %s is in an index, and nowhere else", id.Short())
	}
	if b, err = record.DecodeBoot(text); err != nil {
		return b, fmt.Errorf("record %q of boots: %w", id, err)
	}
	return b, nil
}

// Boot implements state.Observations.
func (s *Store) Boot(id ingot.BootID) (fleet.Boot, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if b, ok := s.view.Boot(id); ok {
		return b, true
	}
	return past{s}.Boot(id)
}

// past implements view.Past.
type past struct{ *Store }

// Boot implements view.Past.
func (p past) Boot(id ingot.BootID) (b fleet.Boot, ok bool) {
	err := p.read(func(tx *bbolt.Tx) (err error) {
		if ok = tx.Bucket(bucketBoots).Get([]byte(id)) != nil; ok {
			b, err = readBoot(tx, id)
		}
		return err
	})
	return b, ok && err == nil
}

// Boots implements view.Past.
func (p past) Boots(machine ingot.MachineID) ([]fleet.Boot, error) {
	return p.bootsOf(machine, state.Place{}, 0)
}

// Facts implements view.Past.
func (p past) Facts(id ingot.BootID) []byte {
	text, _ := p.facts(id) // what cannot be read is not the same
	return text
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
		limit = state.BootsPerMachine // some that were removed may still be in memory
	}
	place := func(b fleet.Boot) string { return state.PlaceOf(b, machine == "").Key() }
	list := map[ingot.BootID]fleet.Boot{}
	for _, b := range s.view.BootsOf(machine) { // those that are on their way to the disk, too
		if (before == state.Place{} || place(b) < before.Key()) {
			list[b.ID] = b
		}
	}
	err := s.read(func(tx *bbolt.Tx) error {
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
			if b, ok := s.view.Boot(id); ok && machine != "" && b.Machine != machine {
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
