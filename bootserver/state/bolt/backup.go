package bolt

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
)

// file is the state's file in its folder.
const file = "ingot.db"

// guarded turns what bbolt panics about, and what the kernel faults on behind
// the end of a file that was cut off, into an error.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", state.ErrDamaged, r)
		}
	}()
	return f()
}

func openFile(path string, o *bbolt.Options) (db *bbolt.DB, err error) {
	err = guarded(func() (err error) {
		db, err = bbolt.Open(path, 0o600, o)
		return err
	})
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) && !errors.Is(err, berrors.ErrTimeout) && !errors.Is(err, state.ErrDamaged) {
		err = fmt.Errorf("%w: %w", state.ErrDamaged, err)
	}
	return db, err
}

// Verify reads every record of the file and returns what is wrong with it.
// Changes go on meanwhile.
func (s *Store) Verify() error {
	if err := s.applyAll(); err != nil {
		return err
	}
	return guarded(func() error { return s.read(func(tx *bbolt.Tx) error { return walk(tx, nil) }) })
}

// walk reads every record, and hands it to put, when that is not nil.
func walk(from *bbolt.Tx, put func(bucket, key, value []byte) error) error {
	if _, err := schemaOf(from); err != nil {
		return err
	}
	for _, name := range [][]byte{bucketMachines, bucketBoots, bucketLeases, bucketMeta} {
		if from.Bucket(name) == nil {
			return fmt.Errorf("%w: it has no %s", state.ErrDamaged, name)
		}
	}
	err := firstOf(
		each(from, bucketMachines, record.DecodeMachine, func(fleet.Machine) {}),
		each(from, bucketBoots, record.DecodeBoot, func(fleet.Boot) {}),
		each(from, bucketLeases, record.DecodeLease, func(fleet.Lease) {}),
	)
	if err != nil {
		return err
	}
	for _, name := range buckets {
		source := from.Bucket(name)
		if source == nil {
			continue // an older version had none
		}
		var last []byte
		err := source.ForEach(func(k, v []byte) error {
			if last != nil && bytes.Compare(last, k) >= 0 {
				return fmt.Errorf("%w: %s is not in order", state.ErrDamaged, name)
			}
			last = k
			if put == nil {
				return nil
			}
			return put(name, k, v)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Restore puts a backup in the place of the state, after it was read from end
// to end. It returns where the state from before is kept. Nobody waits for
// more than the exchange itself. While another one is restored it is state.ErrRestoring.
func (s *Store) Restore(r io.Reader, now time.Time) (kept string, err error) {
	if !s.restoring.TryLock() {
		return "", state.ErrRestoring
	}
	defer s.restoring.Unlock()
	path := s.db.Path()
	incoming := path + incomingSuffix
	defer os.Remove(incoming)
	if err := receive(incoming, r); err != nil {
		return "", err
	}
	s.copying.Lock() // before mu, which must not wait for a copy
	defer s.copying.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log.closed {
		return "", state.ErrClosed
	}
	for s.log.pending != nil || s.log.writing != nil { // what was begun is for the file from before
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
		s.mu.Lock()
	}
	s.disk.Lock()
	defer s.disk.Unlock()
	// The journal ends before there is another file: one of them without the other cannot be opened.
	if err := firstOf(guarded(s.endJournal), syncDir(filepath.Dir(path))); err != nil {
		return "", fmt.Errorf("restoring the state: %w", err)
	}
	s.swap.Lock()
	defer s.swap.Unlock()
	defer s.wakeReaders() // Await returns: this is another ledger now
	if err := guarded(func() error {
		return s.db.View(func(tx *bbolt.Tx) error { return carryAccess(tx, incoming) })
	}); errors.Is(err, state.ErrDamaged) {
		return "", fmt.Errorf("taking credentials over from the present state: %w; stop the server, and restore then", err)
	} else if err != nil {
		return "", fmt.Errorf("restoring the state: %w", err)
	}
	if err := renameLedger(incoming, now); err != nil {
		return "", fmt.Errorf("restoring the state: %w", err)
	}
	if kept, err = keep(path, now); err != nil {
		return "", fmt.Errorf("restoring the state: %w", err)
	}
	if err := errors.Join(s.db.Close(), os.Rename(incoming, path), syncDir(filepath.Dir(path))); err != nil {
		err = fmt.Errorf("restoring the state: %w", err)
		return kept, errors.Join(err, s.reopen(path))
	}
	removeKept(path, kept)
	return kept, s.reopen(path)
}

// removeKept removes the states from before earlier restores, but for the newest ones, of which kept
// is one. They contain tokens of their time. What cannot be removed only takes room.
func removeKept(path, kept string) {
	stem := len(path) + len(".before-20060102T150405Z")
	list, _ := filepath.Glob(path + ".before-[0-9]*")
	list = slices.DeleteFunc(list, func(name string) bool {
		return name == kept || strings.HasSuffix(name, journalSuffix)
	})
	slices.SortFunc(list, func(a, b string) int { // of one second, -10 is after -9
		return cmp.Or(strings.Compare(a[:min(len(a), stem)], b[:min(len(b), stem)]), len(a)-len(b),
			strings.Compare(a, b))
	})
	for _, name := range list[:max(0, len(list)-(state.KeptRestores-1))] {
		_ = os.Remove(name)
		_ = os.Remove(name + journalSuffix)
	}
}

// journalSuffix is added to the name of a kept state by a journal that could not be applied to it.
const journalSuffix = ".journal"

func beforeSuffix(now time.Time) string { return ".before-" + now.UTC().Format("20060102T150405Z") }

// keep gives the file from before a name of its own: clocks jump, and there may
// be one of the same second.
func keep(path string, now time.Time) (name string, err error) {
	stem := path + beforeSuffix(now)
	name = stem
	for n := 2; ; n++ {
		if err = os.Link(path, name); !errors.Is(err, fs.ErrExist) {
			return name, err
		}
		name = fmt.Sprintf("%s-%d", stem, n)
	}
}

func (s *Store) reopen(path string) error {
	db, err := openFile(path, options())
	if err != nil {
		return fmt.Errorf("opening the state: %w", err)
	}
	s.db = db
	return guarded(s.load)
}

// receive writes a backup to a file, and copies it record by record: what is
// put in the place of the state is a file that we wrote, from end to end.
func receive(path string, r io.Reader) error {
	raw := path + rawSuffix
	defer os.Remove(raw)
	f, err := os.OpenFile(raw, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("receiving the backup: %w", err)
	}
	_, err = io.Copy(f, r)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("receiving the backup: %w", err)
	}
	_ = os.Remove(path) // of an attempt before
	to, err := openFile(path, options())
	if err != nil {
		return fmt.Errorf("copying the backup: %w", err)
	}
	c := copier{to: to}
	err = readFile(raw, func(tx *bbolt.Tx) error { return walk(tx, c.put) })
	if err = errors.Join(err, c.flush()); err == nil {
		err = guarded(func() error { _, err := migrate(to, false); return err })
	}
	return errors.Join(err, to.Close())
}

// copier puts records into a file, some thousands at a time: memory does not
// grow with the file.
type copier struct {
	to   *bbolt.DB
	list [][3][]byte // bucket, key, value
}

func (c *copier) put(bucket, key, value []byte) error {
	if bytes.Equal(bucket, bucketSessions) {
		return nil // browsers log in anew: some may have logged out since
	}
	c.list = append(c.list, [3][]byte{bucket, bytes.Clone(key), bytes.Clone(value)})
	if len(c.list) < 5000 {
		return nil
	}
	return c.flush()
}

func (c *copier) flush() error {
	defer func() { c.list = nil }()
	return c.to.Update(func(tx *bbolt.Tx) error {
		for _, r := range c.list {
			b, err := tx.CreateBucketIfNotExists(r[0])
			if err != nil {
				return err
			}
			b.FillPercent = 1 // keys come in order
			if err := b.Put(r[1], r[2]); err != nil {
				return err
			}
		}
		return nil
	})
}

// CheckFile reads a backup from end to end and returns what is wrong with it.
func CheckFile(path string) error {
	return readFile(path, func(tx *bbolt.Tx) error { return walk(tx, nil) })
}

func readFile(path string, f func(*bbolt.Tx) error) error {
	size, _, err := checkSeal(path)
	if err == nil && size == 0 { // bbolt would write to it
		err = fmt.Errorf("%w: it is empty", state.ErrDamaged)
	}
	if err != nil {
		return err
	}
	return guarded(func() error {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second, ReadOnly: true})
		var errno syscall.Errno
		switch {
		case errors.As(err, &errno):
			return err
		case err != nil:
			return fmt.Errorf("%w: %w", state.ErrDamaged, err)
		}
		defer func() { _ = db.Close() }() // it is only read
		return db.View(func(tx *bbolt.Tx) error {
			if st, err := os.Stat(path); err != nil || st.Size() < tx.Size() {
				return fmt.Errorf("%w: it was cut off", state.ErrDamaged)
			}
			return f(tx)
		})
	})
}

// checkSeal compares a file with its checksum, if it has one, and returns the sizes with and without it.
func checkSeal(path string) (size, content int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	content, err = state.CheckSeal(f, st.Size())
	return st.Size(), content, err
}

// unseal removes the checksum, and the mark of it, from a backup that an operator copied to where the
// state is: the file changes from now on.
func unseal(path string) (err error) {
	size, content, err := checkSeal(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || size == content {
		return err
	}
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	plain := path + incomingSuffix
	defer os.Remove(plain) // unless it was renamed
	to, err := os.OpenFile(plain, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, copied := io.CopyN(to, from, content)
	_, marked := to.WriteAt(make([]byte, len(state.SealMark)), state.SealMarkAt)
	if err := errors.Join(copied, marked, to.Sync(), to.Close()); err != nil {
		return err
	}
	if err := closeMark(plain); err != nil {
		return err
	}
	return os.Rename(plain, path)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
