package bolt

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/bbolt"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
)

// Restored says what OpenRestored did with the state from before.
type Restored struct {
	Before string // where it is kept; empty if there was none
	// Carried is whether its credentials, its audit log and its leases were taken over: otherwise
	// tokens that were revoked since the backup are valid again.
	Carried bool
	// Same is whether it was of the same installation, and Machines are its machines, if it was carried over.
	Same     bool
	Machines []fleet.Machine
}

// OpenRestored puts a backup in the place of the state in dir, which no server uses, and opens it. A
// nil backup makes an empty state. The state from before may be missing, damaged or of a newer
// program; it is kept, as by Store.Restore. Files get the owner of the folder.
func OpenRestored(ctx context.Context, dir string, backup io.Reader, now time.Time) (s *Store, done Restored,
	err error) {
	if err := makeFolder(dir); err != nil {
		return nil, done, fmt.Errorf("restoring the state: %w", err)
	}
	lock, err := takeLock(dir)
	if err != nil {
		return nil, done, err
	}
	defer func() {
		if err != nil && s == nil {
			lock.Close()
		}
	}()
	sweep(dir)
	path := filepath.Join(dir, file)
	incoming := path + incomingSuffix
	defer os.Remove(incoming)
	if backup != nil {
		if err := receive(incoming, backup); err != nil {
			return nil, done, err
		}
		finish(dir)
		if err = carryOver(path, incoming, now, &done); err != nil {
			return nil, done, fmt.Errorf("restoring the state: %w", err)
		}
	}
	if done.Before, err = putAside(path, now); err != nil {
		return nil, done, fmt.Errorf("restoring the state: %w", err)
	}
	if backup != nil {
		if err := os.Rename(incoming, path); err != nil {
			return nil, done, fmt.Errorf("restoring the state: %w", err)
		}
	}
	if err := syncDir(dir); err != nil {
		return nil, done, fmt.Errorf("restoring the state: %w", err)
	}
	if s, err = openLocked(dir, lock); err != nil {
		return nil, done, err
	}
	if err := giveToOwner(dir, path, filepath.Join(dir, lockFile)); err != nil {
		return nil, done, errors.Join(fmt.Errorf("restoring the state: %w", err), s.Close())
	}
	removeKept(path, done.Before)
	return s, done, ctx.Err()
}

// carryOver puts into a backup what Store.Restore keeps of the state from before: credentials, the
// audit log, and leases that are still valid. A state that cannot be read is not carried over.
func carryOver(path, incoming string, now time.Time, done *Restored) (err error) {
	var machines []fleet.Machine
	var was, is []byte // identities
	leases := map[string]fleet.Lease{}
	readable := Absent(filepath.Dir(path)) == "" && readFile(path, func(tx *bbolt.Tx) error {
		if schema, err := schemaOf(tx); err != nil || schema != record.Schema {
			return errors.Join(state.ErrSchema, err)
		}
		if err := walk(tx, nil); err != nil {
			return err
		}
		was = bytes.Clone(tx.Bucket(bucketMeta).Get(keyIdentity))
		return firstOf(each(tx, bucketLeases, record.DecodeLease, func(l fleet.Lease) {
			if l.Expires.After(now) {
				leases[string(l.Address.AsSlice())] = l
			}
		}), each(tx, bucketMachines, record.DecodeMachine, func(m fleet.Machine) { machines = append(machines, m) }))
	}) == nil
	if readable {
		err = readFile(path, func(tx *bbolt.Tx) error { return carryAccess(tx, incoming) })
	}
	if err := firstOf(err, renameLedger(incoming, now)); err != nil || !readable {
		return err
	}
	db, err := openFile(incoming, options())
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		is = bytes.Clone(tx.Bucket(bucketMeta).Get(keyIdentity))
		for k, l := range leases {
			if err := put(tx.Bucket(bucketLeases), k, l); err != nil {
				return err
			}
		}
		return nil
	})
	done.Carried = CheckJournal(filepath.Dir(path)) == nil
	done.Same, done.Machines = bytes.Equal(was, is), machines
	return firstOf(err, db.Close())
}

// finish applies the journal of the state in dir, which no server uses: its file is complete then. It
// leaves both as they are if they cannot be used together.
func finish(dir string) {
	if Absent(dir) != "" || !HasJournal(dir) {
		return
	}
	db, err := openKnown(filepath.Join(dir, file))
	if err != nil {
		return
	}
	s := &Store{db: db, keepAudit: state.MaxAudit}
	_ = guarded(s.recover)
	_ = db.Close() // what was committed is on the disk
}

// putAside gives the state from before another name, unless there is none worth keeping, and so its
// journal, if that could not be applied. The journal leaves first: with another file it would be refused.
func putAside(path string, now time.Time) (kept string, err error) {
	dir := filepath.Dir(path)
	how := Absent(dir)
	if how == "" {
		if kept, err = keep(path, now); err != nil {
			return "", err
		}
	}
	if HasJournal(dir) {
		to := cmp.Or(kept, path+beforeSuffix(now)) + journalSuffix
		if err := firstOf(os.Rename(filepath.Join(dir, journalFile), to), syncDir(dir)); err != nil {
			return "", err
		}
	}
	if how == "missing" {
		return "", nil
	}
	return kept, os.Remove(path)
}

// makeFolder makes the folder of a state for the owner of the store.
func makeFolder(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return giveToOwner(filepath.Dir(dir), dir)
}

// giveToOwner gives files to the owner of a folder: root restores the state of a server that runs
// as another user.
func giveToOwner(dir string, paths ...string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	st, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner := st.Sys().(*syscall.Stat_t)
	for _, p := range paths {
		if err := os.Lchown(p, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return nil
}
