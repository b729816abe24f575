package bolt

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
)

// Changes are durable as soon as they are in the journal, and are applied to the file later, many in
// one transaction: a record that changes several times is written once, and pages are written and
// synced seldom. What a machine forgets or gives to another one, and what is too large, is applied at
// once, after all that was unapplied.

// applyAfter is the longest time that a change is in the journal only, in a server that runs.
const applyAfter = 5 * time.Second

// unapplied is what is in the journal, and not yet in the file. Readers of the file look here first:
// a change leaves only after it is in the file.
type unapplied struct {
	mu     sync.RWMutex
	last   map[view.Key]entry // but for Changes
	ledger []entry            // in their order
	audit  []entry
	bytes  int
}

func (u *unapplied) add(list []entry, bytes int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil {
		u.last = map[view.Key]entry{}
	}
	u.bytes += bytes
	for _, e := range list {
		switch e.key.Table {
		case view.Ledger:
			u.ledger = append(u.ledger, e)
		case view.Audit:
			u.audit = append(u.audit, e)
		default:
			u.last[e.key] = e
		}
	}
}

func (u *unapplied) clear() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last, u.ledger, u.audit, u.bytes = nil, nil, nil, 0
}

// size is how many bytes of the journal are not in the file.
func (u *unapplied) size() int {
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.bytes
}

func (u *unapplied) all() []entry {
	u.mu.RLock()
	defer u.mu.RUnlock()
	list := make([]entry, 0, len(u.last)+len(u.ledger)+len(u.audit))
	for _, e := range u.last {
		list = append(list, e)
	}
	return append(append(list, u.audit...), u.ledger...)
}

func (u *unapplied) get(k view.Key) (entry, bool) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	e, is := u.last[k]
	return e, is
}

// changes returns the entries of the ledger, and the last sequence number there is.
func (u *unapplied) changes() (list []entry, last uint64) {
	u.mu.RLock()
	defer u.mu.RUnlock()
	for _, l := range [][]entry{u.ledger, u.audit} {
		if n := len(l); n > 0 {
			last = max(last, seqOf(l[n-1]))
		}
	}
	return u.ledger, last
}

// after returns the entries with a higher sequence number.
func after(list []entry, seq uint64) []entry {
	i, _ := slices.BinarySearchFunc(list, seq+1, func(e entry, n uint64) int { return cmp.Compare(seqOf(e), n) })
	return list[i:]
}

func seqOf(e entry) uint64 { return binary.BigEndian.Uint64([]byte(e.key.Key)) }

// persist makes a batch durable: in the journal, or in the file if it does not belong there.
func (s *Store) persist(b *batch) error {
	s.disk.Lock()
	defer s.disk.Unlock()
	list, plain, err := b.entries()
	if err != nil {
		return err
	}
	if plain && !s.unsure {
		if done, err := s.journalize(list); done || err != nil {
			return err
		}
	}
	return s.apply(true, func(tx *bbolt.Tx) error {
		if plain {
			return s.store(tx, list)
		}
		return s.writeBatch(tx, b)
	})
}

// journalize writes entries to the journal. It reports false if there is none, or no room.
func (s *Store) journalize(list []entry) (done bool, err error) {
	content := s.content[:0]
	for _, e := range list {
		content = appendEntry(content, e)
	}
	s.content = content
	if int64(len(content)) > s.room/4 || s.journal == nil && s.beginJournal() != nil {
		return false, nil // a disk that has no room for a journal may have it for the change
	}
	fits, err := s.journal.fit(len(content), s.room)
	if err == nil && !fits {
		if err := s.apply(true, nil); err != nil {
			return false, err
		}
		fits, err = s.journal.fit(len(content), s.room)
	}
	if err != nil || !fits {
		return false, nil
	}
	if err := s.journal.append(content); err != nil {
		s.unsure = true // it may be on the disk: the file has to say that it does not count
		return false, err
	}
	s.unapplied.add(list, len(content))
	return true, nil
}

// apply puts what is unapplied into the file, and then what f writes, and says whether the file stays
// open; disk is held.
func (s *Store) apply(open bool, f func(*bbolt.Tx) error) error {
	list, audited := s.unapplied.all(), s.audited
	err := s.write(func(tx *bbolt.Tx) error {
		if err := s.store(tx, list); err != nil {
			return err
		}
		if f != nil {
			if err := f(tx); err != nil {
				return err
			}
		}
		if s.journal == nil {
			return nil
		}
		return putMark(tx, journalMark{ID: s.journal.id, Applied: s.journal.last, Open: open})
	})
	if s.unsure = err != nil; err != nil { // until it works, nothing more goes to the journal
		s.audited = audited
		return err
	}
	s.unapplied.clear()
	if s.journal != nil {
		s.journal.next = 0
	}
	return nil
}

// applyAll applies what is unapplied.
func (s *Store) applyAll() error {
	if s.unapplied.size() == 0 {
		return nil
	}
	s.disk.Lock()
	defer s.disk.Unlock()
	if s.unapplied.size() == 0 {
		return nil
	}
	return s.apply(true, nil)
}

// beginJournal makes a journal; disk is held.
func (s *Store) beginJournal() error {
	j, err := createJournal(filepath.Dir(s.db.Path()))
	if err != nil {
		return err
	}
	err = s.write(func(tx *bbolt.Tx) error { return putMark(tx, journalMark{ID: j.id, Open: true}) })
	if err != nil {
		return errors.Join(err, j.remove())
	}
	s.journal = j
	return nil
}

// endJournal applies what is unapplied and removes the journal; disk is held. A file that is not open
// any more can be used by programs that know nothing of journals.
func (s *Store) endJournal() error {
	if s.journal == nil {
		return nil
	}
	if err := s.apply(false, nil); err != nil {
		return fmt.Errorf("applying the journal: %w", err)
	}
	j := s.journal
	s.journal = nil
	return j.remove()
}

// keyJournal is the file's journalMark, in bucketMeta.
var keyJournal = []byte("journal")

// schemaOpen is the schema of a file that was not closed: the journal belongs to it. Programs of
// record.Schema without journals refuse it.
const schemaOpen = record.Schema + 1

func putMark(tx *bbolt.Tx, m journalMark) error {
	meta := tx.Bucket(bucketMeta)
	schema := record.Schema
	if m.Open {
		schema = schemaOpen
	}
	text, err := json.Marshal(markRecord{hex.EncodeToString(m.ID[:]), m.Applied})
	return firstOf(err, meta.Put(keyJournal, text), meta.Put(keySchema, strconv.AppendInt(nil, int64(schema), 10)))
}

type markRecord struct {
	ID      string `json:"id"`
	Applied uint64 `json:"applied"`
}

// markOf returns the mark of a file; the zero mark is of one that never had a journal.
func markOf(tx *bbolt.Tx) (m journalMark, err error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return m, nil
	}
	m.Open = string(meta.Get(keySchema)) == strconv.Itoa(schemaOpen)
	text := meta.Get(keyJournal)
	if text == nil {
		return m, nil
	}
	var r markRecord
	if err = json.Unmarshal(text, &r); err == nil {
		_, err = hex.Decode(m.ID[:], []byte(r.ID))
	}
	if m.Applied = r.Applied; err != nil {
		err = fmt.Errorf("%w: its journal is %q", state.ErrDamaged, text)
	}
	return m, err
}
