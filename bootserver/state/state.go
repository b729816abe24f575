// Package state remembers machines, boots and leases in one bbolt file. Every
// change is on disk before Update returns, in one transaction: after kill -9
// the file holds all that was acknowledged and nothing of what was not.
//
// All records are also kept in memory, as values; readers get copies of them.
package state

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"ingot"
	"ingot/bootserver/fleet"
)

// ErrLocked: another server uses this state.
var ErrLocked = errors.New("another server uses this store")

// Bounds of what strangers can make grow.
const (
	BootsPerMachine = 100
	MaxPending      = 4096
)

// State is the memory of one server.
type State struct {
	db       *bbolt.DB
	lock     *os.File
	mu       sync.RWMutex
	machines map[ingot.MachineID]fleet.Machine
	boots    map[ingot.BootID]fleet.Boot
	leases   map[string]fleet.Lease // by MAC
}

var (
	bucketMachines = []byte("machines")
	bucketBoots    = []byte("boots")
	bucketLeases   = []byte("leases")
	bucketMeta     = []byte("meta")
)

// Folder is where the state lies, below the store's root.
const Folder = "state"

// Open opens the state in dir, making it when it is missing, and takes its
// lock. A second server gets ErrLocked with the process id of the first.
func Open(_ context.Context, dir string) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening state: %w", err)
	}
	lock, err := takeLock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "ingot.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		lock.Close()
		if errors.Is(err, berrors.ErrTimeout) {
			return nil, fmt.Errorf("opening state %q: %w", path, ErrLocked)
		}
		return nil, fmt.Errorf("opening state %q: %w", path, err)
	}
	s := &State{db: db, lock: lock, machines: map[ingot.MachineID]fleet.Machine{}, boots: map[ingot.BootID]fleet.Boot{}, leases: map[string]fleet.Lease{}}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading state %q: %w", path, err), s.Close())
	}
	return s, nil
}

func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(path)
		f.Close()
		return nil, fmt.Errorf("%w: process %s; stop it, or use another --store", ErrLocked, strings.TrimSpace(string(pid)))
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintln(f, os.Getpid()) // only for the words of that error
	}
	return f, nil
}

// Close closes the file and lets another server in.
func (s *State) Close() error {
	err := s.db.Close()
	s.lock.Close()
	return err
}

func (s *State) load() error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMachines, bucketBoots, bucketLeases, bucketMeta} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return errors.Join(
			each(tx, bucketMachines, func(m fleet.Machine) { s.machines[m.ID] = m }),
			each(tx, bucketBoots, func(b fleet.Boot) { s.boots[b.ID] = b }),
			each(tx, bucketLeases, func(l fleet.Lease) { s.leases[l.MAC] = l }),
		)
	})
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

// Secret returns the secret bytes of that name, made of random at first use.
func (s *State) Secret(name string, random func([]byte)) ([]byte, error) {
	var secret []byte
	err := s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketMeta)
		if v := b.Get([]byte(name)); v != nil {
			secret = bytes.Clone(v)
			return nil
		}
		secret = make([]byte, 32)
		random(secret)
		return b.Put([]byte(name), secret)
	})
	if err != nil {
		return nil, fmt.Errorf("keeping the secret %q: %w", name, err)
	}
	return secret, nil
}

// Machines returns all machines, the longest known first.
func (s *State) Machines() []fleet.Machine {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sortedMachines()
}

func (s *State) sortedMachines() []fleet.Machine {
	list := make([]fleet.Machine, 0, len(s.machines))
	for _, m := range s.machines {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b fleet.Machine) int {
		if c := a.FirstSeen.Compare(b.FirstSeen); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return list
}

// Boot returns one boot.
func (s *State) Boot(id ingot.BootID) (fleet.Boot, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.boots[id]
	return b, ok
}

// Boots returns the boots of one machine, or of all for an empty id, oldest first.
func (s *State) Boots(machine ingot.MachineID) []fleet.Boot {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sortedBoots(machine)
}

func (s *State) sortedBoots(machine ingot.MachineID) []fleet.Boot {
	var list []fleet.Boot
	for _, b := range s.boots {
		if machine == "" || b.Machine == machine {
			list = append(list, b)
		}
	}
	slices.SortFunc(list, func(a, b fleet.Boot) int {
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return list
}

// Leases returns all leases by MAC address.
func (s *State) Leases() map[string]fleet.Lease {
	s.mu.RLock()
	defer s.mu.RUnlock()
	m := make(map[string]fleet.Lease, len(s.leases))
	for k, v := range s.leases {
		m[k] = v
	}
	return m
}

// Tx is one change. What is put is seen by later gets of the same Tx, and by
// others once Update returned.
type Tx struct {
	s        *State
	machines map[ingot.MachineID]fleet.Machine
	boots    map[ingot.BootID]fleet.Boot
	leases   map[string]fleet.Lease
	gone     []ingot.BootID
	freed    []string
}

// Update runs f and stores what it put, all or nothing. Changes are one after
// another; f must not call State's methods.
func (s *State) Update(f func(tx *Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx := &Tx{s: s, machines: map[ingot.MachineID]fleet.Machine{}, boots: map[ingot.BootID]fleet.Boot{}, leases: map[string]fleet.Lease{}}
	if err := f(tx); err != nil {
		return err
	}
	tx.trim()
	if tx.empty() {
		return nil
	}
	if err := s.db.Update(tx.write); err != nil {
		return fmt.Errorf("storing state: %w", err)
	}
	tx.apply()
	return nil
}

func (tx *Tx) empty() bool {
	return len(tx.machines)+len(tx.boots)+len(tx.leases)+len(tx.gone)+len(tx.freed) == 0
}

// trim forgets the oldest boots of machines that got a new one.
func (tx *Tx) trim() {
	for _, b := range tx.boots {
		if _, known := tx.s.boots[b.ID]; known {
			continue
		}
		if old := tx.s.sortedBoots(b.Machine); len(old) >= BootsPerMachine {
			for _, o := range old[:len(old)-BootsPerMachine+1] {
				tx.gone = append(tx.gone, o.ID)
			}
		}
	}
}

func (tx *Tx) write(db *bbolt.Tx) error {
	for k, v := range tx.machines {
		if err := put(db, bucketMachines, string(k), v); err != nil {
			return err
		}
	}
	for k, v := range tx.boots {
		if err := put(db, bucketBoots, string(k), v); err != nil {
			return err
		}
	}
	for k, v := range tx.leases {
		if err := put(db, bucketLeases, k, v); err != nil {
			return err
		}
	}
	for _, k := range tx.gone {
		if err := db.Bucket(bucketBoots).Delete([]byte(k)); err != nil {
			return err
		}
	}
	for _, k := range tx.freed {
		if err := db.Bucket(bucketLeases).Delete([]byte(k)); err != nil {
			return err
		}
	}
	return nil
}

func put(db *bbolt.Tx, bucket []byte, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return db.Bucket(bucket).Put([]byte(key), b)
}

func (tx *Tx) apply() {
	for k, v := range tx.machines {
		tx.s.machines[k] = v
	}
	for k, v := range tx.boots {
		tx.s.boots[k] = v
	}
	for _, k := range tx.freed {
		delete(tx.s.leases, k)
	}
	for k, v := range tx.leases {
		tx.s.leases[k] = v
	}
	for _, k := range tx.gone {
		delete(tx.s.boots, k)
	}
}

// Machines returns all machines as the change sees them.
func (tx *Tx) Machines() []fleet.Machine {
	list := tx.s.sortedMachines()
	for i := range list {
		if m, ok := tx.machines[list[i].ID]; ok {
			list[i] = m
		}
	}
	for id, m := range tx.machines {
		if _, ok := tx.s.machines[id]; !ok {
			list = append(list, m)
		}
	}
	return list
}

// Machine returns one machine.
func (tx *Tx) Machine(id ingot.MachineID) (fleet.Machine, bool) {
	if m, ok := tx.machines[id]; ok {
		return m, true
	}
	m, ok := tx.s.machines[id]
	return m, ok
}

// Boot returns one boot.
func (tx *Tx) Boot(id ingot.BootID) (fleet.Boot, bool) {
	if b, ok := tx.boots[id]; ok {
		return b, true
	}
	b, ok := tx.s.boots[id]
	return b, ok
}

// OpenBoots returns the boots that have not ended.
func (tx *Tx) OpenBoots() []fleet.Boot {
	var list []fleet.Boot
	for _, b := range tx.s.boots {
		if b.Open() {
			list = append(list, b)
		}
	}
	return list
}

// Leases returns all leases by MAC address; it must not be changed.
func (tx *Tx) Leases() map[string]fleet.Lease { return tx.s.leases }

// PutMachine stores a machine.
func (tx *Tx) PutMachine(m fleet.Machine) { tx.machines[m.ID] = m }

// PutBoot stores a boot.
func (tx *Tx) PutBoot(b fleet.Boot) { tx.boots[b.ID] = b }

// PutLease stores a lease and forgets another card's lease of that address.
func (tx *Tx) PutLease(l fleet.Lease) {
	for mac, old := range tx.s.leases {
		if old.Address == l.Address && mac != l.MAC {
			tx.freed = append(tx.freed, mac)
		}
	}
	tx.leases[l.MAC] = l
}

// DropLease forgets a lease.
func (tx *Tx) DropLease(mac string) { tx.freed = append(tx.freed, mac) }
