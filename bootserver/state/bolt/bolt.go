// Package bolt keeps a state (see package state) in a bbolt file and a journal beside it.
// Every change is on disk before Update returns, all of it or nothing: after kill -9 both
// together hold all that was acknowledged. Changes that wait at the same time share one
// write to the journal (group commit), so that a thousand machines do not wait for a
// thousand of them, and many of these writes are applied to the file at once.
//
// Decisions are also kept in memory (package view), except leases, which package lease
// keeps. Older boots, the ledger and consoles are on the disk alone, so that memory grows
// with the number of machines only.
//
// The file has a schema version (record.Schema). One of an older schema is converted when
// it is opened, and kept beside; one of a newer schema is refused.
package bolt

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/desired"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
)

// Store is a state in a file.
type Store struct {
	restoring sync.Mutex   // held while a backup comes in
	copying   sync.Mutex   // held while the file is copied for a backup; taken before mu and swap
	backups   atomic.Int32 // that are being read
	swap      sync.RWMutex // held, for writing, while a backup replaces db
	db        *bbolt.DB
	lock      *os.File
	log       committer

	converted *Conversion // when it was opened

	disk      sync.Mutex // held while journal or file are written; taken after mu and before swap
	journal   *journal   // nil before the first change
	unapplied unapplied  // what only the journal has
	unsure    bool       // a write failed: nothing more goes to the journal until the file was written
	content   []byte     // of the journal's next record
	room      int64      // of the journal: maxJournal, but for tests
	audited   int        // actions in the file
	keepAudit int        // state.MaxAudit, but for tests

	identity atomic.Pointer[[]byte] // read while mu is held, and while it is not

	mu     sync.RWMutex
	view   *view.View
	stored uint64        // the last Change that is on the disk
	ledger ledgerName    // changes with a restore
	news   chan struct{} // closed when there are more Changes, and made anew
}

var _ state.Store = (*Store)(nil)

var (
	bucketMachines    = []byte(view.Machines)
	bucketBoots       = []byte(view.Boots)
	bucketLeases      = []byte(view.Leases)
	bucketLedger      = []byte(view.Ledger)
	bucketConsole     = []byte(view.Consoles)
	bucketFacts       = []byte(view.Facts)
	bucketCredentials = []byte(view.Credentials)
	bucketAudit       = []byte(view.Audit)
	bucketRemovals    = []byte(view.Removals)
	bucketRollouts    = []byte(view.Rollouts)
	bucketMembers     = []byte(view.Members)
	bucketSessions    = []byte(view.Sessions)
	bucketWebhooks    = []byte(view.Webhooks)
	bucketProgress    = []byte(view.Progress)
	bucketLetters     = []byte(view.Letters)
	bucketDesired     = []byte(view.Desired)
	bucketMeta        = []byte("meta")
	bucketHistory     = []byte("history")
	bucketRecent      = []byte("recent")
)

var buckets = [][]byte{bucketMachines, bucketBoots, bucketLeases, bucketMeta, bucketHistory, bucketRecent, bucketLedger,
	bucketConsole,
	bucketFacts, bucketCredentials, bucketAudit, bucketRemovals, bucketRollouts, bucketMembers, bucketSessions,
	bucketWebhooks, bucketProgress, bucketLetters, bucketDesired}

// Open opens the state in dir, making it when it is missing, and takes its
// lock. A second server gets state.ErrLocked with the process id of the first.
func Open(_ context.Context, dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening state: %w", err)
	}
	lock, err := takeLock(dir)
	if err != nil {
		return nil, err
	}
	sweep(dir)
	return openLocked(dir, lock)
}

// openLocked opens the state in dir, of which lock is held. An error closes it.
func openLocked(dir string, lock *os.File) (*Store, error) {
	path := filepath.Join(dir, file)
	made := Absent(dir) != ""
	err := unseal(path)
	if made && HasJournal(dir) {
		err = fmt.Errorf("%w: it is %s, but a server has used it (it has a journal)", state.ErrLost, Absent(dir))
	}
	var db *bbolt.DB
	if err == nil {
		db, err = openKnown(path)
	}
	if err != nil {
		lock.Close()
		if errors.Is(err, berrors.ErrTimeout) {
			return nil, fmt.Errorf("opening state %q: %w", path, state.ErrLocked)
		}
		return nil, fmt.Errorf("opening state %q: %w", path, err)
	}
	s := &Store{db: db, lock: lock, news: make(chan struct{}), keepAudit: state.MaxAudit, room: maxJournal}
	if err := guarded(s.begin); err != nil {
		return nil, errors.Join(fmt.Errorf("reading state %q: %w", path, err), db.Close(), lock.Close())
	}
	if made { // a server that starts here writes keys next; they must not outlive the state
		if err := firstOf(syncDir(dir), syncDir(filepath.Dir(dir))); err != nil {
			return nil, errors.Join(fmt.Errorf("making state %q: %w", path, err), db.Close(), lock.Close())
		}
	}
	s.log.start(s)
	return s, nil
}

// begin brings the file up to date and reads what is kept in memory.
func (s *Store) begin() error {
	if err := s.recover(); err != nil {
		return err
	}
	var err error
	if s.converted, err = migrate(s.db, true); err != nil {
		return err
	}
	return s.load()
}

// Absent says how the folder dir has no state: "missing" or "empty". It returns "" if there is a file
// that is not empty, or one that cannot be looked at.
func Absent(dir string) string {
	st, err := os.Stat(filepath.Join(dir, file))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "missing"
	case err == nil && st.Size() == 0:
		return "empty"
	}
	return ""
}

// openKnown opens a file unless it is of a newer schema: bbolt writes to what it opens.
func openKnown(path string) (*bbolt.DB, error) {
	if _, err := os.Stat(path); err == nil {
		err := readFile(path, func(tx *bbolt.Tx) error {
			_, err := schemaOf(tx)
			return err
		})
		if errors.Is(err, state.ErrSchema) {
			return nil, err
		}
	}
	return openFile(path, options())
}

func options() *bbolt.Options {
	return &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType}
}

// Close waits for what is being stored, closes the file and lets another
// server in.
func (s *Store) Close() error {
	s.log.stop(s)
	s.disk.Lock()
	defer s.disk.Unlock()
	err := guarded(s.endJournal)
	err = errors.Join(err, s.db.Close())
	s.lock.Close()
	return err
}

// read reads from the file. A file that is damaged, or that faults, is state.ErrDamaged: the server
// goes on with what is in memory.
func (s *Store) read(f func(*bbolt.Tx) error) error {
	s.swap.RLock()
	defer s.swap.RUnlock()
	return withAdvice(guarded(func() error { return s.db.View(f) }))
}

// write writes to the file; errors are as those of read.
func (s *Store) write(f func(*bbolt.Tx) error) error {
	s.swap.RLock()
	defer s.swap.RUnlock()
	return withAdvice(guarded(func() error { return s.db.Update(f) }))
}

// withAdvice says what to do about a file that turns out to be damaged while it is used.
func withAdvice(err error) error {
	if errors.Is(err, state.ErrDamaged) {
		return fmt.Errorf("%w; stop the server, run ingot doctor, and restore a backup: ingot restore FILE", err)
	}
	return err
}

// load reads what is kept in memory. Whatever cannot be read is an error: a
// server must not go on from half of what it knew.
func (s *Store) load() error {
	v := view.New(record.Size)
	if s.view != nil {
		v.KeepCounts(s.view)
	}
	s.view = v
	return s.db.Update(func(tx *bbolt.Tx) error { // nothing else uses it yet
		s.stored = max(lastKey(tx.Bucket(bucketLedger)), lastKey(tx.Bucket(bucketAudit)))
		v.Seq = s.stored
		s.audited = tx.Bucket(bucketAudit).Stats().KeyN
		return firstOf(
			s.loadLedger(tx),
			each(tx, bucketMachines, record.DecodeMachine, v.AddMachine),
			loadLatest(tx, v),
			each(tx, bucketCredentials, record.DecodeCredential, v.AddCredential),
			each(tx, bucketRemovals, record.DecodeRemoval, v.AddRemoval),
			each(tx, bucketRollouts, record.DecodeRollout, v.AddRollout),
			each(tx, bucketMembers, record.DecodeMember, v.AddMember),
			each(tx, bucketSessions, record.DecodeSession, v.AddSession),
			each(tx, bucketWebhooks, record.DecodeWebhook, v.AddWebhook),
			each(tx, bucketProgress, record.DecodeProgress, v.AddProgress),
			each(tx, bucketLetters, record.DecodeLetter, v.AddLetter),
			each(tx, bucketDesired, record.DecodeDesired, v.SetDesired),
			s.loadIdentity(tx),
		)
	})
}

// lastKey is the last sequence number in a bucket, or 0.
func lastKey(b *bbolt.Bucket) uint64 {
	if k, _ := b.Cursor().Last(); len(k) == 8 {
		return binary.BigEndian.Uint64(k)
	}
	return 0
}

func each[T any](tx *bbolt.Tx, bucket []byte, decode func([]byte) (T, error), f func(T)) error {
	return tx.Bucket(bucket).ForEach(func(k, b []byte) error {
		if bytes.Equal(k, keyNewer) {
			return nil // for programs before schema 2
		}
		v, err := decode(b)
		if err != nil {
			return fmt.Errorf("%w: record %q of %s: %w", state.ErrDamaged, k, bucket, err)
		}
		f(v)
		return nil
	})
}

// Identity implements state.Decisions.
func (s *Store) Identity() []byte { return *s.identity.Load() }

var keyIdentity = []byte("identity") // in bucketMeta

func (s *Store) loadIdentity(tx *bbolt.Tx) error {
	b := tx.Bucket(bucketMeta)
	secret := bytes.Clone(b.Get(keyIdentity))
	if secret == nil {
		secret = make([]byte, 32)
		_, _ = rand.Read(secret) // never fails, see crypto/rand
		if err := b.Put(keyIdentity, secret); err != nil {
			return err
		}
	}
	s.identity.Store(&secret)
	return nil
}

// seen returns what f reads of the view.
func seen[T any](s *Store, f func(v *view.View) T) T {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return f(s.view)
}

// found is like seen, for what may be absent.
func found[T any](s *Store, f func(v *view.View) (T, bool)) (T, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return f(s.view)
}

// Machine implements state.Decisions.
func (s *Store) Machine(id ingot.MachineID) (fleet.Machine, bool) {
	return found(s, func(v *view.View) (fleet.Machine, bool) { return v.Machine(id) })
}

// Machines implements state.Decisions.
func (s *Store) Machines() []fleet.Machine { return seen(s, (*view.View).Machines) }

// Find implements state.Decisions.
func (s *Store) Find(sight fleet.Sighting) (fleet.Machine, bool) {
	return found(s, func(v *view.View) (fleet.Machine, bool) { return v.Find(sight) })
}

// AtAddress implements state.Decisions.
func (s *Store) AtAddress(ip netip.Addr) (fleet.Machine, bool) {
	return found(s, func(v *view.View) (fleet.Machine, bool) { return v.AtAddress(ip) })
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
	return found(s, func(v *view.View) (access.Credential, bool) { return v.Credential(id) })
}

// Credentials implements state.Decisions.
func (s *Store) Credentials() []access.Credential { return seen(s, (*view.View).Credentials) }

// Session implements state.Decisions.
func (s *Store) Session(id string) (access.Session, bool) {
	return found(s, func(v *view.View) (access.Session, bool) { return v.Session(id) })
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
	return found(s, func(v *view.View) (rollout.Rollout, bool) { return v.Rollout(id) })
}

// Members implements state.Decisions.
func (s *Store) Members(id string) []rollout.Member {
	return seen(s, func(v *view.View) []rollout.Member { return v.Members(id) })
}

// Webhooks implements state.Decisions.
func (s *Store) Webhooks() []webhook.Webhook { return seen(s, (*view.View).Webhooks) }

// Webhook implements state.Decisions.
func (s *Store) Webhook(id string) (webhook.Webhook, bool) {
	return found(s, func(v *view.View) (webhook.Webhook, bool) { return v.Webhook(id) })
}

// WebhookProgress implements state.Decisions.
func (s *Store) WebhookProgress(id string) (webhook.Progress, bool) {
	return found(s, func(v *view.View) (webhook.Progress, bool) { return v.WebhookProgress(id) })
}

// DeadLetters implements state.Decisions.
func (s *Store) DeadLetters(id string) []webhook.Letter {
	return seen(s, func(v *view.View) []webhook.Letter { return v.DeadLetters(id) })
}

// Removed implements state.Decisions.
func (s *Store) Removed() uint64 { return seen(s, (*view.View).Removed) }

// Counts implements state.Decisions.
func (s *Store) Counts() state.Counts {
	c := seen(s, (*view.View).Counts)
	_ = s.read(func(tx *bbolt.Tx) error { // fails only when it is closed: then there is no file
		c.FileBytes = tx.Size()
		return nil
	})
	return c
}

// Leases implements state.Decisions. They are in the file only.
func (s *Store) Leases() ([]fleet.Lease, error) {
	var list []fleet.Lease
	if err := s.applyAll(); err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	err := s.read(func(tx *bbolt.Tx) error {
		return each(tx, bucketLeases, record.DecodeLease, func(l fleet.Lease) { list = append(list, l) })
	})
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	return list, nil
}

// Forget implements state.Keeper. What is not in the file is not forgotten.
func (s *Store) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := map[ingot.BootID]bool{}
	for _, b := range []*batch{s.log.pending, s.log.writing} {
		if b == nil {
			continue
		}
		for _, tx := range b.txs {
			for _, step := range tx.Steps() {
				if step.Puts == nil { // it removes or moves others
					return
				}
				for k := range step.Puts {
					if k.Table == view.Boots {
						waiting[ingot.BootID(k.Key)] = true
					}
				}
			}
		}
	}
	s.view.Forget(func(id ingot.BootID) bool {
		_, is := s.unapplied.get(view.Key{Table: view.Boots, Key: string(id)})
		return is || waiting[id]
	})
}
