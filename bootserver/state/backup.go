package state

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"ingot/bootserver/fleet"
)

// ErrDamaged: the state file is not whole.
var ErrDamaged = errors.New("the state file is damaged")

// file is the state's file in its folder.
const file = "ingot.db"

// openFile opens a state file. What bbolt panics about is an error here: a page
// that a lost write left behind.
func openFile(path string, o *bbolt.Options) (db *bbolt.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return bbolt.Open(path, 0o600, o)
}

// Check reads the whole file and returns what is wrong with it. Changes go on
// meanwhile.
func (s *State) Check() error {
	s.swap.RLock()
	defer s.swap.RUnlock()
	return check(s.db)
}

func check(db *bbolt.DB) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return db.View(func(tx *bbolt.Tx) error {
		var errs []error
		for e := range tx.Check() {
			if len(errs) < 5 {
				errs = append(errs, e)
			}
		}
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		return nil
	})
}

// Backup writes the file as it is at this moment; changes go on meanwhile.
func (s *State) Backup(w io.Writer) error {
	return s.view(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(w)
		return err
	})
}

// Restore puts a backup in the place of the state, after it was read from end
// to end. It returns where the state from before is kept. Nobody waits for
// more than the exchange itself.
func (s *State) Restore(r io.Reader, now time.Time) (kept string, err error) {
	path := s.db.Path()
	incoming := path + ".incoming"
	defer os.Remove(incoming)
	if err := receive(incoming, r); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log.closed {
		return "", errClosed
	}
	for s.log.pending != nil || s.log.writing != nil { // what was begun is for the file from before
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
		s.mu.Lock()
	}
	s.swap.Lock()
	defer s.swap.Unlock()
	if err := carryAccess(s.db, incoming); err != nil {
		return "", fmt.Errorf("restoring the state: %w", err)
	}
	kept = fmt.Sprintf("%s.before-%s", path, now.UTC().Format("20060102T150405Z"))
	if err := errors.Join(s.db.Close(), os.Link(path, kept), os.Rename(incoming, path), syncDir(filepath.Dir(path))); err != nil {
		err = fmt.Errorf("restoring the state: %w", err)
		return kept, errors.Join(err, s.reopen(path))
	}
	return kept, s.reopen(path)
}

func (s *State) reopen(path string) error {
	db, err := openFile(path, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return fmt.Errorf("opening the state: %w", err)
	}
	s.db = db
	return s.load()
}

// receive writes a backup to a file and checks it.
func receive(path string, r io.Reader) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("receiving the backup: %w", err)
	}
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("receiving the backup: %w", err)
	}
	return CheckFile(path)
}

// CheckFile reads a backup from end to end and returns what is wrong with it.
func CheckFile(path string) error {
	db, err := openFile(path, &bbolt.Options{Timeout: 2 * time.Second, ReadOnly: true})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer db.Close()
	if err := check(db); err != nil {
		return err
	}
	return db.View(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMachines, bucketBoots, bucketLeases, bucketMeta} {
			if tx.Bucket(name) == nil {
				return fmt.Errorf("%w: it holds no %s; is it a backup of ingot?", ErrDamaged, name)
			}
		}
		return firstOf(each(tx, bucketMachines, func(fleet.Machine) {}), each(tx, bucketBoots, func(fleet.Boot) {}), each(tx, bucketLeases, func(fleet.Lease) {}))
	})
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
