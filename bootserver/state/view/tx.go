package view

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Tx is a transaction on a view. It implements state.Tx.
type Tx struct {
	v    *View
	past Past

	reads   []Key
	steps   []Step
	undo    []func() // to be run last first
	lastSeq uint64   // of the Changes that were recorded, or 0
	records int      // written, Changes aside
	bytes   int
	err     error
	unbound bool    // any number of records is allowed
	looked  *uint64 // see LookedUp
}

var _ state.Tx = (*Tx)(nil)

// Step is a part of what a transaction wrote. Steps must be stored in their order; the
// records of one step in any.
type Step struct {
	// Puts are the last values of records, nil for one that was removed: fleet.Machine,
	// fleet.Boot, fleet.Lease, fleet.Change, access.Credential, access.Session, state.Removal,
	// rollout.Rollout, rollout.Member, webhook.Webhook, webhook.Progress, webhook.Letter,
	// desired.Record, Piece, and []byte for facts.
	Puts map[Key]any
	// Forget is a machine whose past is removed before the Puts: boots, consoles, facts.
	Forget ingot.MachineID
	// Moves are boots of the past that another machine gets, before and after.
	Moves []Move
}

// Move is a boot that another machine gets.
type Move struct{ Before, After fleet.Boot }

// Piece is a part of a console.
type Piece struct {
	Boot ingot.BootID
	Text string
}

// Begin starts a transaction. The caller holds the view's lock until the transaction has
// been committed or rolled back.
func (v *View) Begin(past Past) *Tx { return &Tx{v: v, past: past} }

// Run runs f in a transaction. If it fails, the transaction is rolled back.
func (v *View) Run(past Past, f func(tx state.Tx) error) (*Tx, error) {
	tx := v.Begin(past)
	if err := tx.Run(f); err != nil {
		tx.RollBack()
		return nil, err
	}
	return tx, nil
}

// Run calls f. It fails if f does, if the transaction became too large, or if a write was
// refused; the caller rolls the transaction back then.
func (tx *Tx) Run(f func(tx state.Tx) error) error {
	if err := f(tx); err != nil {
		return err
	}
	return tx.check()
}

// RollBack takes back all changes of the view, those of later transactions must have been
// taken back before.
func (tx *Tx) RollBack() {
	for _, f := range slices.Backward(tx.undo) {
		f()
	}
	tx.undo = nil
}

// Steps are what the transaction wrote.
func (tx *Tx) Steps() []Step { return tx.steps }

// Reads are the keys that the transaction read before it wrote them, each once.
func (tx *Tx) Reads() []Key {
	tx.reads = distinct(tx.reads)
	return tx.reads
}

func distinct(keys []Key) []Key {
	seen := make(map[Key]struct{}, len(keys))
	return slices.DeleteFunc(keys, func(k Key) bool {
		_, again := seen[k]
		seen[k] = struct{}{}
		return again
	})
}

// LastSeq is the sequence number of the last Change that was recorded, or 0.
func (tx *Tx) LastSeq() uint64 { return tx.lastSeq }

// check enforces the bound of a transaction.
func (tx *Tx) check() error {
	if tx.err != nil {
		return tx.err
	}
	if tx.unbound {
		return nil
	}
	if tx.records > state.MaxRecords {
		return fmt.Errorf("%w: it writes %d records", state.ErrTooLarge, tx.records)
	}
	if len(tx.reads) > state.MaxRecords {
		n := 0
		for _, k := range tx.Reads() {
			if k.Table.Records() {
				n++
			}
		}
		if n > state.MaxRecords {
			return fmt.Errorf("%w: it reads %d records", state.ErrTooLarge, n)
		}
	}
	if tx.bytes+tx.atMost() > state.MaxBytes {
		tx.measure()
	}
	if tx.bytes > state.MaxBytes {
		return fmt.Errorf("%w: it writes %d bytes", state.ErrTooLarge, tx.bytes)
	}
	return nil
}

// atMost is not less than the size of the records that were put.
func (tx *Tx) atMost() (n int) {
	for _, s := range tx.steps {
		for _, v := range s.Puts {
			switch v.(type) {
			case nil, Piece, []byte: // always counted
				continue
			}
			n += sizeAtMost(reflect.ValueOf(v))
		}
	}
	return n
}

// measure adds up the sizes of the records that were put.
func (tx *Tx) measure() {
	for _, s := range tx.steps {
		for _, v := range s.Puts {
			switch v.(type) {
			case nil, Piece, []byte:
				continue
			}
			n, err := tx.v.Size(v)
			if err != nil {
				tx.err = err
			}
			tx.bytes += n
		}
	}
}

func (tx *Tx) read(k Key) { tx.reads = append(tx.reads, k) }

// put writes a record; nil removes it.
func (tx *Tx) put(t Table, key string, v any) {
	if n := len(tx.steps); n == 0 || tx.steps[n-1].Puts == nil {
		tx.steps = append(tx.steps, Step{Puts: map[Key]any{}})
	}
	puts := tx.steps[len(tx.steps)-1].Puts
	k := Key{t, key}
	if _, again := puts[k]; !again && t != Ledger && t != Audit {
		tx.records++
	}
	puts[k] = v
}

// Machine implements state.Tx.
func (tx *Tx) Machine(id ingot.MachineID) (fleet.Machine, bool) {
	tx.read(Key{Machines, string(id)})
	return tx.v.Machine(id)
}

// MachinesNamed implements state.Tx.
func (tx *Tx) MachinesNamed(name string) (list []fleet.Machine) {
	tx.read(Key{ByName, name})
	for _, id := range tx.v.index.name[name] {
		m, _ := tx.Machine(id)
		list = append(list, m)
	}
	return list
}

// Find implements state.Tx.
func (tx *Tx) Find(sight fleet.Sighting) (fleet.Machine, *fleet.Question, bool) {
	return find(tx.v.candidates(sight, tx.read), sight)
}

// Others implements state.Tx.
func (tx *Tx) Others(m fleet.Machine, f ingot.Facts) []fleet.Machine {
	return tx.v.others(m, f, tx.read)
}

// WithCard implements state.Tx.
func (tx *Tx) WithCard(mac string) int {
	tx.read(Key{ByMAC, mac})
	tx.read(Key{ByUnidentified, mac})
	return len(tx.v.index.mac[mac]) + len(tx.v.index.unidentified[mac])
}

// Pending implements state.Tx.
func (tx *Tx) Pending() int {
	tx.read(Key{Numbers, PendingKey})
	return tx.v.index.pending
}

// ImageUse implements state.Tx.
func (tx *Tx) ImageUse(image ingot.Digest) (why string, used bool) {
	tx.read(Key{ByImage, string(image)})
	var first ingot.MachineID
	for id := range tx.v.index.image[image] {
		if first == "" || id < first {
			first = id
		}
	}
	if first == "" {
		return tx.v.rolloutUse(image)
	}
	m, _ := tx.Machine(first)
	latest := tx.v.imageOf(m.Boot)
	tx.read(Key{Boots, string(m.Boot)})
	fleet.Uses(&m, latest, func(d ingot.Digest, w fleet.Use) {
		if d == image && why == "" {
			why = m.Hostname() + " " + w.String()
		}
	})
	return why, true
}

// Removal implements state.Tx.
func (tx *Tx) Removal(image ingot.Digest) (state.Removal, bool) {
	tx.read(Key{Removals, string(image)})
	r, ok := tx.v.removals[image]
	return r, ok
}

// PutRemoval implements state.Tx.
func (tx *Tx) PutRemoval(r state.Removal) { tx.replaceRemoval(r.Image, &r) }

// DropRemoval implements state.Tx.
func (tx *Tx) DropRemoval(image ingot.Digest) { tx.replaceRemoval(image, nil) }

func (tx *Tx) replaceRemoval(image ingot.Digest, r *state.Removal) {
	old, had := tx.v.removals[image]
	tx.undo = append(tx.undo, func() {
		delete(tx.v.removals, image)
		if had {
			tx.v.removals[image] = old
		}
	})
	if r == nil {
		tx.undo = append(tx.undo, func() { tx.v.removed-- })
		tx.v.removed++
		delete(tx.v.removals, image)
		tx.put(Removals, string(image), nil)
		return
	}
	tx.v.removals[image] = *r
	tx.put(Removals, string(image), *r)
}

// Boot implements state.Tx.
func (tx *Tx) Boot(id ingot.BootID) (fleet.Boot, bool) {
	tx.read(Key{Boots, string(id)})
	return tx.boot(id)
}

func (tx *Tx) boot(id ingot.BootID) (fleet.Boot, bool) {
	if b, ok := tx.v.boots[id]; ok {
		return b, true
	}
	if id == "" {
		return fleet.Boot{}, false
	}
	return tx.past.Boot(id)
}

// StoreMachine implements state.Tx.
func (tx *Tx) StoreMachine(m fleet.Machine) {
	m = m.Bound()
	id, old := m.ID, tx.v.machines[m.ID] // what the function below has is kept for it
	tx.refuseRemoved(cmp.Or(old, &nobody), &m)
	tx.undo = append(tx.undo, func() {
		if old != nil {
			tx.v.setMachine(*old)
		} else {
			tx.v.dropMachine(id)
		}
	})
	tx.v.setMachine(m)
	tx.put(Machines, string(m.ID), m)
}

// LookedUp implements state.Tx.
func (tx *Tx) LookedUp(n uint64) { tx.looked = &n }

// refuseRemoved fails the transaction if a machine gets an image that is being removed, or
// may have been removed since it was looked up.
func (tx *Tx) refuseRemoved(old, m *fleet.Machine) {
	if m.Assignment.Image != old.Assignment.Image {
		tx.refuseRemovedImage(m.Assignment.ImageRef)
	}
}

func (tx *Tx) refuseRemovedImage(ref fleet.ImageRef) {
	if ref.Image == "" {
		return
	}
	_, pending := tx.Removal(ref.Image)
	ended := false
	if tx.looked != nil {
		tx.read(Key{Numbers, RemovedKey})
		ended = *tx.looked != tx.v.removed
	}
	switch {
	case tx.err != nil:
	case pending:
		tx.err = fmt.Errorf("%w: %s", state.ErrBeingRemoved, ref.Name)
	case ended:
		tx.err = state.ErrRemoved
	}
}

// DropMachine implements state.Tx.
func (tx *Tx) DropMachine(id ingot.MachineID) error {
	old, had := tx.v.Machine(id)
	if !had {
		return nil
	}
	boots := tx.v.BootsOf(id)
	latest := tx.v.index.latest[id]
	tx.undo = append(tx.undo, func() {
		tx.v.setMachine(old)
		for _, b := range boots {
			tx.v.setBoot(b)
		}
		if latest != "" {
			tx.v.index.latest[id] = latest
		}
	})
	tx.v.dropMachine(id)
	for _, b := range boots {
		tx.v.dropBoot(b.ID)
	}
	tx.steps = append(tx.steps, Step{Forget: id})
	tx.put(Machines, string(id), nil)
	return nil
}

// MoveBoots implements state.Tx.
func (tx *Tx) MoveBoots(from, to ingot.MachineID) (number int, err error) {
	moved, err := tx.past.Boots(from)
	if err != nil {
		return 0, err
	}
	have, err := tx.past.Boots(to)
	if err != nil {
		return 0, err
	}
	var moves []Move
	for _, b := range interleave(have, moved) {
		after := b
		number = max(number+1, b.Number) // of those that stay most keep theirs
		after.Machine, after.Number = to, number
		if b.Machine == after.Machine && b.Number == after.Number {
			continue
		}
		tx.undo = append(tx.undo, func() { tx.v.dropBoot(b.ID); tx.v.setBoot(b) })
		tx.v.dropBoot(b.ID)
		tx.v.setBoot(after)
		moves = append(moves, Move{b, after})
	}
	if len(moves) > 0 {
		tx.records++
		tx.steps = append(tx.steps, Step{Moves: moves})
	}
	return number, nil
}

// interleave merges two lists of boots by when they started; the order that boots have in
// their list stays, for clocks jump.
func interleave(a, b []fleet.Boot) []fleet.Boot {
	all := make([]fleet.Boot, 0, len(a)+len(b))
	for len(a) > 0 || len(b) > 0 {
		next := &a
		if len(a) == 0 || len(b) > 0 && b[0].Started.Before(a[0].Started) {
			next = &b
		}
		all = append(all, (*next)[0])
		*next = (*next)[1:]
	}
	return all
}

// StoreBoot implements state.Tx.
func (tx *Tx) StoreBoot(b fleet.Boot) {
	b = b.Bound()
	tx.countEnd(b)
	id, machine := b.ID, b.Machine // what the function below has is kept for it
	latest, hadLatest := tx.v.index.latest[machine]
	restore := func(*View) {} // of the past, or new
	if old, had := tx.v.boots[id]; had {
		restore = func(v *View) { v.setBoot(old) }
	}
	tx.undo = append(tx.undo, func() {
		tx.v.dropBoot(id)
		restore(tx.v)
		if hadLatest {
			tx.v.index.latest[machine] = latest
		}
	})
	tx.v.setBoot(b)
	tx.put(Boots, string(b.ID), b)
}

// countEnd counts a boot that ends as it is stored.
func (tx *Tx) countEnd(b fleet.Boot) {
	if b.Open() {
		return
	}
	if before, _ := tx.boot(b.ID); !before.Open() {
		return
	}
	outcome := b.Outcome
	tx.v.ended[outcome]++
	tx.undo = append(tx.undo, func() { tx.v.ended[outcome]-- })
}

// PutLease implements state.Tx.
func (tx *Tx) PutLease(l fleet.Lease) { tx.put(Leases, addressKey(l.Address), l) }

// Credential implements state.Tx.
func (tx *Tx) Credential(id string) (access.Credential, bool) {
	tx.read(Key{Credentials, id})
	return tx.v.Credential(id)
}

// CredentialsNamed implements state.Tx.
func (tx *Tx) CredentialsNamed(name string) []access.Credential {
	tx.read(Key{ByToken, name})
	list := make([]access.Credential, 0, 1)
	for _, id := range tx.v.index.token[name] {
		c, _ := tx.Credential(id)
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b access.Credential) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// CredentialCount implements state.Tx.
func (tx *Tx) CredentialCount() int {
	tx.read(Key{Numbers, CredentialsKey})
	return len(tx.v.credentials)
}

// PutCredential implements state.Tx.
func (tx *Tx) PutCredential(c access.Credential) { tx.replaceCredential(c.ID, &c) }

// DropCredential implements state.Tx.
func (tx *Tx) DropCredential(id string) { tx.replaceCredential(id, nil) }

func (tx *Tx) replaceCredential(id string, c *access.Credential) {
	replace(tx, Credentials, tx.v.credentials, tx.v.setCredential, id, c)
}

// replace stores a record, or removes it if it is nil. set changes it in all, and in the indexes.
func replace[T any](tx *Tx, table Table, all map[string]T, set func(id string, record *T), id string, record *T) {
	old, had := all[id]
	tx.undo = append(tx.undo, func() {
		set(id, nil)
		if had {
			set(id, &old)
		}
	})
	set(id, record)
	if record == nil {
		tx.put(table, id, nil)
		return
	}
	tx.put(table, id, *record)
}

// factsBack is how many boots are looked back at for the same facts: some end before they
// report any.
const factsBack = 8

// KeepFacts implements state.Tx. What a machine reports at a boot is stored under the id of
// the boot that reported it first: as long as nothing changes, the boots after it refer to
// that one (fleet.Boot.Facts).
func (tx *Tx) KeepFacts(b fleet.Boot, f ingot.Facts) (fleet.Boot, error) {
	text, err := json.Marshal(f)
	if err != nil {
		return b, err
	}
	before, known := b, true
	for range factsBack {
		if before, known = tx.Boot(before.Before); !known || before.Facts != "" {
			break
		}
	}
	if known && before.Facts != "" {
		tx.read(Key{Facts, string(before.Facts)})
		if string(tx.past.Facts(before.Facts)) == string(text) {
			b.Facts = before.Facts
			return b, nil
		}
	}
	b.Facts = b.ID
	tx.bytes += len(text)
	tx.put(Facts, string(b.ID), text)
	return b, nil
}

// AddConsole implements state.Tx.
func (tx *Tx) AddConsole(id ingot.BootID, text string) {
	tx.v.pieces++
	tx.bytes += len(text)
	tx.put(Consoles, fmt.Sprintf("%s%016x", id, tx.v.pieces), Piece{id, text})
}

// BootOf returns the boot of a piece of a console, by its key.
func BootOf(k Key) ingot.BootID { return ingot.BootID(k.Key[:max(0, len(k.Key)-16)]) }

// Record implements state.Tx. A transaction that is rolled back takes no numbers.
func (tx *Tx) Record(list ...fleet.Change) {
	if len(list) == 0 {
		return
	}
	last := tx.v.Seq
	tx.undo = append(tx.undo, func() { tx.v.Seq = last })
	for _, c := range list {
		tx.v.Seq++
		c.Seq, tx.lastSeq = tx.v.Seq, tx.v.Seq
		k := ChangeKey(c)
		tx.put(k.Table, k.Key, c)
	}
}

// ChangeKey is the key of a Change that has its sequence number.
func ChangeKey(c fleet.Change) Key {
	if c.Audit() {
		return Key{Audit, SeqKey(c.Seq)}
	}
	return Key{Ledger, SeqKey(c.Seq)}
}

// Replace stores machines and Changes, of which there may be any number. It is for
// state.Decisions.ReplaceMachines, outside of the bound of a transaction: an engine with such a
// bound stores it in pieces.
func (tx *Tx) Replace(c state.LargeChange) error {
	tx.unbound = true
	tx.LookedUp(c.LookedUp)
	for _, r := range c.Machines {
		now, had := tx.v.Machine(r.After.ID)
		if had != (r.Before != nil) || had && !reflect.DeepEqual(now, *r.Before) {
			return fmt.Errorf("%w: %s", state.ErrChanged, r.After.Hostname())
		}
	}
	for _, r := range c.Machines {
		tx.StoreMachine(r.After)
	}
	tx.Record(c.Changes...)
	return nil
}
