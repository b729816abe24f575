package bolt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"

	"ingot/bootserver/state"
)

// recover applies the journal that a server left which died, and removes it.
func (s *Store) recover() error {
	dir := filepath.Dir(s.db.Path())
	var mark journalMark
	err := s.db.View(func(tx *bbolt.Tx) (err error) {
		mark, err = markOf(tx)
		return err
	})
	if err != nil {
		return err
	}
	list, err := readJournal(dir, mark)
	if err != nil {
		return err
	}
	if len(list) > 0 || mark.Open {
		if err := s.replay(list, mark); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(dir, journalFile)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// replay stores the records of a journal, all in one transaction.
func (s *Store) replay(list []journalRecord, mark journalMark) error {
	var u unapplied
	for _, r := range list {
		entries, err := readEntries(r.content)
		if err != nil {
			return fmt.Errorf("%w: record %d: %w", state.ErrJournal, r.number, err)
		}
		u.add(entries, len(r.content))
		mark.Applied = r.number
	}
	mark.Open = false
	return s.db.Update(func(tx *bbolt.Tx) error {
		s.audited = tx.Bucket(bucketAudit).Stats().KeyN
		return firstOf(s.store(tx, u.all()), putMark(tx, mark))
	})
}

// closeMark says in a file that it needs no journal: a backup of a running server has all that was
// acknowledged before it. Its sessions of browsers end, as with a restore.
func closeMark(path string) error {
	db, err := openKnown(path)
	if err != nil {
		return err
	}
	err = guarded(func() error {
		return db.Update(func(tx *bbolt.Tx) error {
			if tx.Bucket(bucketSessions) != nil {
				if err := tx.DeleteBucket(bucketSessions); err != nil {
					return err
				}
			}
			mark, err := markOf(tx)
			if err != nil || !mark.Open {
				return err
			}
			return putMark(tx, journalMark{})
		})
	})
	return errors.Join(err, db.Close())
}

// CheckJournal reads the journal in dir, if there is one, and returns what is wrong with it.
func CheckJournal(dir string) error {
	var mark journalMark
	err := readFile(filepath.Join(dir, file), func(tx *bbolt.Tx) (err error) {
		mark, err = markOf(tx)
		return err
	})
	if err != nil {
		return err
	}
	list, err := readJournal(dir, mark)
	for _, r := range list {
		if _, unreadable := readEntries(r.content); unreadable != nil && err == nil {
			err = fmt.Errorf("%w: record %d: %w", state.ErrJournal, r.number, unreadable)
		}
	}
	return err
}
