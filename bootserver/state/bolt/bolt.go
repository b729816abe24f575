// Package bolt keeps a state (see package state) in one bbolt file. Every change is on
// disk before Update returns, all of it or nothing: after kill -9 the file holds all that
// was acknowledged. Changes that wait at the same time share one write to the disk (group
// commit), so that a thousand machines do not wait for a thousand of them.
//
// Machines and their latest boots are also kept in memory, as values; readers get copies.
// Leases are kept in memory by package lease. Older boots, the ledger and consoles are in
// the file alone, so that memory grows with the number of machines only.
package bolt

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// Store is the memory of one server.
type Store struct {
	Now func() time.Time // for the ledger; time.Now

	restoring sync.Mutex   // held while a backup comes in
	copying   sync.Mutex   // held while the file is copied for a backup; taken before mu and swap
	backups   atomic.Int32 // that are being read
	swap      sync.RWMutex // held, for writing, while a backup replaces db
	db        *bbolt.DB
	lock      *os.File
	log       committer

	identity atomic.Pointer[[]byte] // read while mu is held, and while it is not

	mu       sync.RWMutex
	machines map[ingot.MachineID]fleet.Machine
	boots    map[ingot.BootID]fleet.Boot
	index    index
	seq      uint64        // of the ledger's last entry
	stored   uint64        // of the last one that is on the disk
	ledger   ledgerName    // changes with a restore
	news     chan struct{} // closed when there are more, and made anew
	pieces   uint64        // of consoles, since the start

	credentials map[string]access.Credential // by id
	audited     uint64                       // sequence number of the last change in the audit log
	keepAudit   uint64                       // state.MaxAudit, but for tests
	ended       map[ingot.Outcome]uint64     // boots that ended since the state was opened
}

var (
	bucketMachines = []byte("machines")
	bucketBoots    = []byte("boots")
	bucketLeases   = []byte("leases")
	bucketMeta     = []byte("meta")
	bucketHistory  = []byte("history")
	bucketRecent   = []byte("recent")
	bucketLedger   = []byte("ledger")
	bucketConsole  = []byte("console")
	bucketFacts    = []byte("facts")
)

var buckets = [][]byte{bucketMachines, bucketBoots, bucketLeases, bucketMeta, bucketHistory, bucketRecent, bucketLedger, bucketConsole, bucketFacts, bucketCredentials, bucketAudit}

// lockFile says which process has the lock, where that answers, and the lock's
// own inode: in a copy of the folder, the rest is not true.
const lockFile = "lock"

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
	path := filepath.Join(dir, file)
	db, err := openFile(path, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		lock.Close()
		if errors.Is(err, berrors.ErrTimeout) {
			return nil, fmt.Errorf("opening state %q: %w", path, state.ErrLocked)
		}
		return nil, fmt.Errorf("opening state %q: %w", path, err)
	}
	s := &Store{Now: time.Now, db: db, lock: lock, news: make(chan struct{}), keepAudit: state.MaxAudit, ended: map[ingot.Outcome]uint64{}}
	if err := guarded(s.load); err != nil {
		return nil, errors.Join(fmt.Errorf("reading state %q: %w", path, err), db.Close(), lock.Close())
	}
	s.log.start(s)
	return s, nil
}

var _ state.Store = (*Store)(nil)

func takeLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _ := Holder(dir)
		f.Close()
		return nil, fmt.Errorf("%w: process %s; stop it, or use another --store", state.ErrLocked, pid)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintln(f, os.Getpid()) // only for the words of that error
	}
	return f, nil
}

// Holder is who has the lock of the state in dir, or had it last: the process,
// and the socket at which it answers. That is empty as long as a server starts,
// and for a command that changes the store.
func Holder(dir string) (pid, socket string) {
	path := filepath.Join(dir, lockFile)
	text, _ := os.ReadFile(path) // nobody, when it cannot be read
	line := append(strings.Split(string(text), "\n"), "", "")
	if st, err := os.Stat(path); err == nil && line[2] == inode(st) {
		socket = line[1]
	}
	return line[0], socket
}

// inode tells a lock from its copy in another folder.
func inode(st os.FileInfo) string { return strconv.FormatUint(st.Sys().(*syscall.Stat_t).Ino, 10) }

// Answers writes down, for Holder, where the server of this state answers.
func (s *Store) Answers(socket string) error {
	st, err := s.lock.Stat()
	if err == nil {
		_, err = fmt.Fprintf(s.lock, "%s\n%s\n", socket, inode(st))
	}
	if err != nil {
		return fmt.Errorf("writing down the server's socket: %w", err)
	}
	return nil
}

// Close waits for what is being stored, closes the file and lets another
// server in.
func (s *Store) Close() error {
	s.log.stop(s)
	err := s.db.Close()
	s.lock.Close()
	return err
}

// view reads from the file.
func (s *Store) view(f func(*bbolt.Tx) error) error {
	s.swap.RLock()
	defer s.swap.RUnlock()
	return s.db.View(f)
}

// update writes to the file.
func (s *Store) update(f func(*bbolt.Tx) error) error {
	s.swap.RLock()
	defer s.swap.RUnlock()
	return s.db.Update(f)
}

// load reads what is kept in memory. Whatever cannot be read is an error: a
// server must not go on from half of what it knew.
func (s *Store) load() error {
	s.machines, s.boots, s.index = map[ingot.MachineID]fleet.Machine{}, map[ingot.BootID]fleet.Boot{}, newIndex()
	return s.db.Update(func(tx *bbolt.Tx) error { // nobody else has it yet
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		if k, _ := tx.Bucket(bucketLedger).Cursor().Last(); k != nil {
			s.seq = binary.BigEndian.Uint64(k)
			s.stored = s.seq
		}
		return firstOf(
			s.loadLedger(tx),
			each(tx, bucketMachines, func(m fleet.Machine) { s.setMachine(m) }),
			indexBoots(tx),
			s.loadLatest(tx),
			rekeyLeases(tx),
			s.loadAccess(tx),
			s.loadIdentity(tx),
		)
	})
}

// rekeyLeases moves leases that an older version kept by card under their
// address: one address has one lease, by construction.
func rekeyLeases(tx *bbolt.Tx) error {
	old := map[string]fleet.Lease{}
	b := tx.Bucket(bucketLeases)
	err := b.ForEach(func(k, v []byte) error {
		if len(k) == 4 || len(k) == 16 {
			return nil
		}
		var l fleet.Lease
		err := json.Unmarshal(v, &l)
		old[string(k)] = l
		return err
	})
	for k, l := range old {
		if err = errors.Join(err, b.Delete([]byte(k))); err == nil && l.Address.IsValid() {
			err = put(tx, bucketLeases, string(l.Address.AsSlice()), l)
		}
	}
	return err
}

func each[T any](tx *bbolt.Tx, bucket []byte, f func(T)) error {
	return tx.Bucket(bucket).ForEach(func(k, b []byte) error {
		var v T
		if err := json.Unmarshal(b, &v); err != nil {
			return fmt.Errorf("record %q of %s: %w", k, bucket, err)
		}
		f(v)
		return nil
	})
}

// Identity is the secret of this state, made with it: what a server is known
// by is derived from it. A restore brings that of the backup.
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

// Machines returns all machines, the longest known first.
func (s *Store) Machines() []fleet.Machine {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sortedMachines()
}

func (s *Store) sortedMachines() []fleet.Machine {
	// Machines are large: what is sorted is small, and each is copied once.
	type place struct {
		since time.Time
		id    ingot.MachineID
	}
	order := make([]place, 0, len(s.machines))
	for id, m := range s.machines {
		order = append(order, place{m.FirstSeen, id})
	}
	slices.SortFunc(order, func(a, b place) int {
		return cmp.Or(a.since.Compare(b.since), strings.Compare(string(a.id), string(b.id)))
	})
	list := make([]fleet.Machine, len(order))
	for i, p := range order {
		list[i] = s.machines[p.id]
	}
	return list
}

func longerKnown(a, b fleet.Machine) int {
	if c := a.FirstSeen.Compare(b.FirstSeen); c != 0 {
		return c
	}
	return strings.Compare(string(a.ID), string(b.ID))
}

// Machine returns one machine.
func (s *Store) Machine(id ingot.MachineID) (fleet.Machine, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m, ok := s.machines[id]
	return m, ok
}

// Find returns the machine that a sighting is of, see fleet.Identify.
func (s *Store) Find(sight fleet.Sighting) (fleet.Machine, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m, _, ok := s.find(sight)
	return m, ok
}

// AtAddress returns the machine that was last seen with an address.
func (s *Store) AtAddress(ip netip.Addr) (fleet.Machine, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m, ok := s.machines[s.index.address[ip]]
	return m, ok
}

// Boot returns one boot.
func (s *Store) Boot(id ingot.BootID) (fleet.Boot, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.boot(id)
}

// older sorts boots: those of one machine by their number, others by their start.
func older(a, b fleet.Boot) int {
	if a.Machine == b.Machine && a.Number != b.Number {
		return cmp.Compare(a.Number, b.Number)
	}
	if c := a.Started.Compare(b.Started); c != 0 {
		return c
	}
	return strings.Compare(string(a.ID), string(b.ID))
}

// Leases reads all leases from the file.
func (s *Store) Leases() ([]fleet.Lease, error) {
	var list []fleet.Lease
	err := s.view(func(tx *bbolt.Tx) error {
		return each(tx, bucketLeases, func(l fleet.Lease) { list = append(list, l) })
	})
	if err != nil {
		return nil, fmt.Errorf("reading leases: %w", err)
	}
	return list, nil
}
