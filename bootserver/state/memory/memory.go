// Package memory is a backend of package state for tests. It keeps everything in memory, and
// is as unkind to transactions as an optimistic store may be: it runs the function of each
// twice, apart from each other, and panics when the runs differ although nothing that was
// read has changed; it aborts one commit in five, after which the function runs again; and
// it enforces the bound of a transaction to the byte. A large change is staged in pieces
// within that bound.
//
// What was stored outlives Close: Open finds it by the name of its folder, in this process
// only.
package memory

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/desired"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
	"net/netip"
	"runtime"
	"slices"
	"sync"
)

// Fault is a fault that a test plants into a store, to see whether it is found.
type Fault int

// The faults.
const (
	None      Fault = iota
	LostWrite       // what one transaction in seven wrote over an older value is not stored
	StaleRead       // a transaction commits although a record that it read has changed
	Half            // one transaction in seven is stored to its half only
	Phantom         // a transaction commits although an entry of an index that it read has changed
)

// Store is a state in memory.
type Store struct {
	dir   string
	plant Fault

	mu       sync.RWMutex
	closed   bool
	view     *view.View
	data     *data
	versions map[view.Key]uint64            // of what was written since Open
	entries  map[ingot.MachineID][]view.Key // of indexes that machines are in
	commits  int                            // counted, for aborts and faults
	news     chan struct{}                  // closed when there are more Changes, and made anew
	restores int
	dies     func() bool // of a test: the process dies at this step of a large change

	restoring sync.Mutex // held while a backup comes in
}

var _ state.Store = (*Store)(nil)

// folders are the states of this process that exist, by folder.
var folders = struct {
	sync.Mutex
	data map[string]*data
	open map[string]bool
}{data: map[string]*data{}, open: map[string]bool{}}

// Open opens the state of a folder, or makes a new one.
func Open(_ context.Context, dir string) (*Store, error) { return OpenFaulty(dir, None) }

// OpenFaulty opens a store with a fault.
func OpenFaulty(dir string, plant Fault) (*Store, error) {
	folders.Lock()
	defer folders.Unlock()
	if folders.open[dir] {
		return nil, state.ErrLocked
	}
	d := folders.data[dir]
	if d == nil {
		d = newData()
		_, _ = rand.Read(d.Identity) // never fails, see crypto/rand
	}
	s := &Store{dir: dir, plant: plant, news: make(chan struct{})}
	if err := s.load(d); err != nil {
		return nil, fmt.Errorf("opening state: %w", err)
	}
	folders.data[dir], folders.open[dir] = d, true
	return s, nil
}

// load makes the view of what is stored.
func (s *Store) load(d *data) error {
	if err := d.finish(); err != nil {
		return err
	}
	v := view.New(record.Size)
	if s.view != nil {
		v.KeepCounts(s.view)
	}
	v.Seq = d.lastSeq()
	s.view, s.data, s.versions, s.entries = v, d, map[view.Key]uint64{}, map[ingot.MachineID][]view.Key{}
	for _, id := range d.sorted(view.Machines) {
		m, err := record.DecodeMachine(d.Records[view.Machines][id])
		if err != nil {
			return err
		}
		v.AddMachine(m)
	}
	if err := d.index(v); err != nil {
		return err
	}
	for _, b := range d.Records[view.Credentials] {
		c, err := record.DecodeCredential(b)
		if err != nil {
			return err
		}
		v.AddCredential(c)
	}
	for _, b := range d.Records[view.Sessions] {
		c, err := record.DecodeSession(b)
		if err != nil {
			return err
		}
		v.AddSession(c)
	}
	for _, b := range d.Records[view.Removals] {
		r, err := record.DecodeRemoval(b)
		if err != nil {
			return err
		}
		v.AddRemoval(r)
	}
	if err := errors.Join(addRollouts(v, d), addWebhooks(v, d)); err != nil {
		return err
	}
	for _, m := range v.Machines() {
		s.touchMachine(m.ID)
	}
	return nil
}

// Close implements state.Keeper.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.close()
	return nil
}

func (s *Store) close() {
	if s.closed {
		return
	}
	s.closed = true
	folders.Lock()
	defer folders.Unlock()
	delete(folders.open, s.dir)
}

// Update implements state.Decisions.
func (s *Store) Update(f func(tx state.Tx) error) error { return s.Begin(f)() }

// patience is how often a transaction is run before it keeps the lock.
const patience = 20

// Begin implements state.Decisions. What it did is stored when it returns.
func (s *Store) Begin(f func(tx state.Tx) error) (wait func() error) {
	var err error
	for attempt := 0; ; attempt++ {
		var done bool
		if done, err = s.attempt(f, attempt >= patience); done {
			break
		}
	}
	return func() error { return err }
}

// View implements state.Decisions.
func (s *Store) View(f func(r state.Reader)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	f(s.view.Begin(past{s}))
}

// Append implements state.Observations.
func (s *Store) Append(list ...fleet.Change) error {
	return s.Update(func(tx state.Tx) error { tx.Record(list...); return nil })
}

// attempt runs a transaction once to see what it does, lets others go first, and runs it
// once more to do that. It is not done when something has changed that it had read, or when
// it is its turn to be aborted. A transaction that waits no longer keeps the lock meanwhile.
func (s *Store) attempt(f func(tx state.Tx) error, last bool) (done bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return true, state.ErrClosed
	}
	first := s.run(f)
	if first.tx != nil {
		first.tx.RollBack()
	}
	if !last {
		s.mu.Unlock()
		runtime.Gosched()
		s.mu.Lock()
	}
	stale, conflict := s.changed(first.reads)
	switch {
	case s.closed:
		return true, state.ErrClosed
	case conflict:
		return false, nil
	case stale && first.err == nil:
		f = again(first.steps) // the fault: it commits what it made of old values
	}
	second := s.run(f)
	if second.wrote != first.wrote && !stale {
		panic(fmt.Sprintf("state/memory: a transaction did not do the same when it ran twice, and nothing that it read "+
			"had changed:\n%.2000s\n--- and then ---\n%.2000s", first.wrote, second.wrote))
	}
	if second.tx == nil {
		return true, second.err
	}
	if s.commits++; s.commits%5 == 0 {
		second.tx.RollBack()
		return false, nil
	}
	s.store(second.tx)
	return true, nil
}

// ran is what a transaction did.
type ran struct {
	tx    *view.Tx // nil when it failed
	err   error
	reads map[view.Key]uint64 // with the versions that were read
	steps []view.Step
	wrote string // in words, to compare
}

func (s *Store) run(f func(tx state.Tx) error) ran {
	r := ran{reads: map[view.Key]uint64{}}
	tx := s.view.Begin(past{s})
	err := tx.Run(f)
	for _, k := range tx.Reads() {
		r.reads[k] = s.versions[k]
	}
	r.steps = tx.Steps()
	if err == nil {
		var size int
		r.wrote, size, err = describe(tx)
		if err == nil && size > state.MaxBytes {
			err = fmt.Errorf("%w: it writes %d bytes", state.ErrTooLarge, size)
		}
	}
	if err != nil {
		tx.RollBack()
		r.err, r.wrote = err, "failed: "+err.Error()
		return r
	}
	r.tx = tx
	return r
}

// changed reports whether something was written since it was read, and whether that is a
// reason to run a transaction again: a planted fault overlooks some.
func (s *Store) changed(reads map[view.Key]uint64) (stale, conflict bool) {
	for k, version := range reads {
		if s.versions[k] == version {
			continue
		}
		stale = true
		overlooked := s.plant == StaleRead && k.Table.Records() || s.plant == Phantom && !k.Table.Records()
		conflict = conflict || !overlooked
	}
	return stale, conflict
}

// again is a transaction that writes what another one wrote.
func again(steps []view.Step) func(tx state.Tx) error {
	return func(tx state.Tx) error {
		for _, step := range steps {
			for _, k := range sortedKeys(step.Puts) {
				switch v := step.Puts[k].(type) {
				case fleet.Machine:
					tx.StoreMachine(v)
				case fleet.Boot:
					tx.StoreBoot(v)
				case fleet.Change:
					tx.Record(v)
				}
			}
		}
		return nil
	}
}

// store makes durable what a transaction wrote.
func (s *Store) store(tx *view.Tx) {
	faulty := s.commits%7 == 0
	touched := map[ingot.MachineID]bool{}
	for _, step := range tx.Steps() {
		s.touchWebhooks(step)
		for _, m := range step.Moves {
			s.data.putBoot(m.After)
			s.touch(view.Key{Table: view.Boots, Key: string(m.After.ID)})
			touched[m.Before.Machine], touched[m.After.Machine] = true, true
		}
		if step.Forget != "" {
			s.data.forget(step.Forget)
			touched[step.Forget] = true
		}
		keys := sortedKeys(step.Puts)
		for _, k := range keys {
			s.touch(k)
			if k.Table == view.Machines {
				touched[ingot.MachineID(k.Key)] = true
			}
		}
		if faulty && s.plant == Half {
			keys = keys[:len(keys)/2]
		}
		for _, k := range keys {
			if faulty && s.plant == LostWrite && s.data.has(k) {
				continue
			}
			s.put(k, step.Puts[k], touched)
		}
	}
	for id := range touched {
		s.touchMachine(id)
	}
	if tx.LastSeq() > 0 {
		close(s.news)
		s.news = make(chan struct{})
	}
}

func (s *Store) put(k view.Key, v any, touched map[ingot.MachineID]bool) {
	switch v := v.(type) {
	case fleet.Boot:
		s.data.putBoot(v)
		touched[v.Machine] = true
	case view.Piece:
		s.data.addPiece(v)
	case rollout.Rollout:
		s.touchRollout(v)
		s.data.put(k, encoded(v))
	case rollout.Member:
		s.touchMember(v)
		s.data.put(k, encoded(v))
	case access.Credential:
		s.touchCredential(k.Key)
		s.data.put(k, encoded(v))
		s.touchCredential(k.Key)
	case access.Session:
		s.touchSession(k.Key, v.Credential)
		s.data.put(k, encoded(v))
	case []byte:
		s.data.put(k, v)
	case nil:
		switch k.Table {
		case view.Sessions:
			s.touchSession(k.Key, "")
		case view.Credentials:
			s.touchCredential(k.Key)
		case view.Rollouts:
			s.dropRollout(k)
		case view.Members:
			s.dropMember(k)
		case view.Removals:
			s.touch(view.Key{Table: view.Numbers, Key: view.RemovedKey})
		}
		s.data.remove(k)
	default:
		s.data.put(k, encoded(v))
	}
}

// encoded is the record of a value; describe has encoded it before.
func encoded(v any) []byte {
	b, err := record.Encode(v)
	if err != nil {
		panic(err)
	}
	return b
}

func (s *Store) touch(k view.Key) { s.versions[k]++ }

// touchCredential touches the entries of indexes that a credential is in, as stored.
func (s *Store) touchCredential(id string) {
	s.touch(view.Key{Table: view.Numbers, Key: view.CredentialsKey})
	if c, err := record.DecodeCredential(s.data.Records[view.Credentials][id]); err == nil {
		s.touch(view.Key{Table: view.ByToken, Key: c.Name})
	}
}

// touchSession touches the entries of indexes that a session is in, as stored, and the one that it
// enters.
func (s *Store) touchSession(id, credential string) {
	s.touch(view.Key{Table: view.Numbers, Key: view.SessionsKey})
	if old, err := record.DecodeSession(s.data.Records[view.Sessions][id]); err == nil {
		s.touch(view.Key{Table: view.BySession, Key: old.Credential})
	}
	if credential != "" {
		s.touch(view.Key{Table: view.BySession, Key: credential})
	}
}

// touchMachine touches the entries of indexes that a machine has left or entered.
func (s *Store) touchMachine(id ingot.MachineID) {
	var now []view.Key
	if m, known := s.view.Machine(id); known {
		b, _ := s.view.Boot(m.Boot)
		view.IndexKeys(&m, b.Image.Image, func(k view.Key) { now = append(now, k) })
	}
	for _, k := range s.entries[id] {
		if !slices.Contains(now, k) {
			s.touch(k)
		}
	}
	for _, k := range now {
		if !slices.Contains(s.entries[id], k) {
			s.touch(k)
		}
	}
	s.entries[id] = now
}

// Machine implements state.Decisions.
func (s *Store) Machine(id ingot.MachineID) (fleet.Machine, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.Machine(id)
}

// Machines implements state.Decisions.
func (s *Store) Machines() []fleet.Machine { return seen(s, (*view.View).Machines) }

// Find implements state.Decisions.
func (s *Store) Find(sight fleet.Sighting) (fleet.Machine, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.Find(sight)
}

// AtAddress implements state.Decisions.
func (s *Store) AtAddress(ip netip.Addr) (fleet.Machine, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.AtAddress(ip)
}

// Latest implements state.Decisions.
func (s *Store) Latest() []fleet.Boot { return seen(s, (*view.View).Latest) }

// OpenBoots implements state.Decisions.
func (s *Store) OpenBoots(wanted func(fleet.Boot) bool) []fleet.Boot {
	return seen(s, func(v *view.View) []fleet.Boot { return v.OpenBoots(wanted) })
}

// Granted implements state.Decisions.
func (s *Store) Granted() []fleet.Machine { return seen(s, (*view.View).Granted) }

// Credential implements state.Decisions.
func (s *Store) Credential(id string) (access.Credential, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.Credential(id)
}

// Credentials implements state.Decisions.
func (s *Store) Credentials() []access.Credential { return seen(s, (*view.View).Credentials) }

// Session implements state.Decisions.
func (s *Store) Session(id string) (access.Session, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.Session(id)
}

// Sessions implements state.Decisions.
func (s *Store) Sessions() []access.Session { return seen(s, (*view.View).Sessions) }

// Removals implements state.Decisions.
func (s *Store) Removals() []state.Removal { return seen(s, (*view.View).Removals) }

// Desired implements state.Decisions.
func (s *Store) Desired() desired.Record { return seen(s, (*view.View).Desired) }

// Rollouts implements state.Decisions.
func (s *Store) Rollouts() []rollout.Rollout { return seen(s, (*view.View).Rollouts) }

// Rollout implements state.Decisions.
func (s *Store) Rollout(id string) (rollout.Rollout, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.Rollout(id)
}

// Members implements state.Decisions.
func (s *Store) Members(id string) []rollout.Member {
	return seen(s, func(v *view.View) []rollout.Member { return v.Members(id) })
}

// Webhooks implements state.Decisions.
func (s *Store) Webhooks() []webhook.Webhook { return seen(s, (*view.View).Webhooks) }

// Webhook implements state.Decisions.
func (s *Store) Webhook(id string) (webhook.Webhook, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.Webhook(id)
}

// WebhookProgress implements state.Decisions.
func (s *Store) WebhookProgress(id string) (webhook.Progress, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.view.WebhookProgress(id)
}

// DeadLetters implements state.Decisions.
func (s *Store) DeadLetters(id string) []webhook.Letter {
	return seen(s, func(v *view.View) []webhook.Letter { return v.DeadLetters(id) })
}

// Removed implements state.Decisions.
func (s *Store) Removed() uint64 { return seen(s, (*view.View).Removed) }

// Counts implements state.Decisions.
func (s *Store) Counts() state.Counts {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c := s.view.Counts()
	c.FileBytes = int64(s.data.size())
	return c
}

// Identity implements state.Decisions.
func (s *Store) Identity() []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.data.Identity
}

// Leases implements state.Decisions.
func (s *Store) Leases() (list []fleet.Lease, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, k := range s.data.sorted(view.Leases) {
		l, err := record.DecodeLease(s.data.Records[view.Leases][k])
		if err != nil {
			return nil, fmt.Errorf("reading leases: %w", err)
		}
		list = append(list, l)
	}
	return list, nil
}

// Forget implements state.Keeper.
func (s *Store) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.Forget(func(ingot.BootID) bool { return false })
}

func seen[T any](s *Store, f func(v *view.View) T) T {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return f(s.view)
}
