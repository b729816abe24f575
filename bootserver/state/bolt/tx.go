package bolt

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Tx is one change. What is put is seen by later gets of the same Tx, and by
// others once the function of Update returned.
type Tx struct {
	s      *Store
	writes map[record]any // nil: delete
	undo   []func()       // to be run last first
}

// now is when entries of the ledger are from that have no time of their own.
func (tx *Tx) now() time.Time { return tx.s.Now() }

// record names one record of the file.
type record struct {
	bucket string
	key    string
}

func (r record) compare(o record) int {
	return cmp.Or(strings.Compare(r.bucket, o.bucket), strings.Compare(r.key, o.key))
}

func (tx *Tx) write(bucket []byte, key string, v any) {
	if tx.writes == nil {
		tx.writes = map[record]any{}
	}
	tx.writes[record{string(bucket), key}] = v
}

func (tx *Tx) rollBack() {
	for _, f := range slices.Backward(tx.undo) {
		f()
	}
}

func put(db *bbolt.Tx, bucket []byte, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return db.Bucket(bucket).Put([]byte(key), b)
}

// Machines returns all machines, the longest known first.
func (tx *Tx) Machines() []fleet.Machine { return tx.s.sortedMachines() }

// Machine returns one machine.
func (tx *Tx) Machine(id ingot.MachineID) (fleet.Machine, bool) {
	m, ok := tx.s.machines[id]
	return m, ok
}

// Find returns the machine that a sighting is of, or a question for an
// operator, see fleet.Identify.
func (tx *Tx) Find(sight fleet.Sighting) (fleet.Machine, *fleet.Question, bool) {
	return tx.s.find(sight)
}

// Others returns the machines that fleet.Learn is to know of when m tells f.
func (tx *Tx) Others(m fleet.Machine, f ingot.Facts) []fleet.Machine { return tx.s.others(m, f) }

// WithCard is the number of machines that were seen with a card.
func (tx *Tx) WithCard(mac string) int { return len(tx.s.index.mac[mac]) }

// Pending is the number of machines that wait for an operator.
func (tx *Tx) Pending() int { return tx.s.index.pending }

// Boot returns one boot.
func (tx *Tx) Boot(id ingot.BootID) (fleet.Boot, bool) { return tx.s.boot(id) }

// LatestBoots returns the latest boot of each machine, and some older ones.
func (tx *Tx) LatestBoots() []fleet.Boot { return slices.Collect(maps.Values(tx.s.boots)) }

// OpenBoots returns the boots that have not ended.
func (tx *Tx) OpenBoots() []fleet.Boot {
	var list []fleet.Boot
	for id := range tx.s.index.open {
		list = append(list, tx.s.boots[id])
	}
	return list
}

// PutMachine stores a machine.
func (tx *Tx) PutMachine(m fleet.Machine) {
	old, had := tx.s.machines[m.ID]
	neighbour, taken := tx.s.index.address[m.Address]
	tx.undo = append(tx.undo, func() {
		if had {
			tx.s.setMachine(old)
		} else {
			tx.s.dropMachine(m.ID)
		}
		if taken {
			tx.s.index.address[m.Address] = neighbour
		}
	})
	tx.s.setMachine(m)
	tx.write(bucketMachines, string(m.ID), m)
	before := &old
	if !had {
		before = nil
	}
	tx.Note(fleet.MachineEntries(before, m, tx.now())...)
}

// Granted returns the machines with a grant that no boot used yet.
func (tx *Tx) Granted() []fleet.Machine {
	list := make([]fleet.Machine, 0, len(tx.s.index.granted))
	for id := range tx.s.index.granted {
		list = append(list, tx.s.machines[id])
	}
	return list
}

// DropMachine forgets a machine and its boots. What became of it is for the
// caller to note.
func (tx *Tx) DropMachine(id ingot.MachineID) error {
	old, had := tx.s.machines[id]
	if !had {
		return nil
	}
	boots, err := tx.s.bootsOf(id, state.Place{}, 0)
	if err != nil {
		return err
	}
	tx.undo = append(tx.undo, func() { tx.s.setMachine(old) })
	tx.s.dropMachine(id)
	tx.write(bucketMachines, string(id), nil)
	for _, b := range boots {
		tx.write(bucketBoots, string(b.ID), nil)
		tx.undo = append(tx.undo, func() { tx.s.setBoot(b) })
		tx.s.dropBoot(b.ID)
	}
	return nil
}

// MoveBoots gives the boots of one machine to another. They take their places
// among those that are there by when they started; the order that the boots of
// one machine have stays, for clocks jump.
func (tx *Tx) MoveBoots(from, to ingot.MachineID) error {
	moved, err := tx.s.bootsOf(from, state.Place{}, 0)
	if err != nil {
		return err
	}
	have, err := tx.s.bootsOf(to, state.Place{}, 0)
	if err != nil {
		return err
	}
	var all []fleet.Boot
	for len(have) > 0 || len(moved) > 0 {
		next := &have
		if len(have) == 0 || len(moved) > 0 && moved[0].Started.Before(have[0].Started) {
			next = &moved
		}
		all = append(all, (*next)[0])
		*next = (*next)[1:]
	}
	number := 0
	for _, b := range all {
		after := b
		number = max(number+1, b.Number) // of those that stay most keep theirs
		after.Machine, after.Number = to, number
		if b.Machine == after.Machine && b.Number == after.Number {
			continue
		}
		tx.undo = append(tx.undo, func() { tx.s.dropBoot(b.ID); tx.s.setBoot(b) })
		tx.write(bucketHistory, string(historyKey(b)), nil)
		tx.s.dropBoot(b.ID)
		tx.s.setBoot(after)
		tx.write(bucketBoots, string(b.ID), after)
		tx.write(bucketHistory, string(historyKey(after)), []byte{})
	}
	return nil
}

// PutBoot stores a boot. Of a machine's boots the oldest are forgotten.
func (tx *Tx) PutBoot(b fleet.Boot) {
	old, had := tx.s.boot(b.ID)
	latest, hadLatest := tx.s.index.latest[b.Machine]
	tx.undo = append(tx.undo, func() {
		tx.s.dropBoot(b.ID)
		if had {
			tx.s.setBoot(old)
		}
		if hadLatest {
			tx.s.index.latest[b.Machine] = latest
		}
	})
	tx.s.setBoot(b)
	tx.write(bucketBoots, string(b.ID), b)
	before := &old
	if !had {
		before = nil
	}
	tx.countEnd(old, b)
	tx.Note(fleet.BootEntries(before, b, tx.now())...)
}

// PutLease stores the lease of an address.
func (tx *Tx) PutLease(l fleet.Lease) { tx.write(bucketLeases, string(l.Address.AsSlice()), l) }
