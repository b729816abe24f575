package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/bbolt"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
)

// The ledger is in the file only, in two buckets that share their sequence numbers: the
// audit log has operators' actions and a bound of its own. Keys are sequence numbers. A
// value of the ledger is the machine, a line break, and the record, so that the Changes of
// a machine are found without parsing those of others; a value of the audit log is the
// record alone. Records of schema 1 are converted when they are read.

func seqKey(n uint64) []byte { return []byte(view.SeqKey(n)) }

// writeAction appends to the audit log, which has a bound.
func (s *Store) writeAction(b *bbolt.Bucket, e entry) error {
	b.FillPercent = 1 // keys only grow: a page that is full is never split
	if err := b.Put([]byte(e.key.Key), e.value); err != nil {
		return err
	}
	for s.audited++; s.audited > s.keepAudit; s.audited-- {
		oldest, _ := b.Cursor().First()
		if err := b.Delete(oldest); err != nil {
			return err
		}
	}
	return nil
}

// Append implements state.Observations.
func (s *Store) Append(list ...fleet.Change) error {
	return s.Update(func(tx state.Tx) error { tx.Record(list...); return nil })
}

// Changes implements state.Observations.
func (s *Store) Changes(q state.Query) (list []fleet.Change, last uint64, err error) {
	limit := q.Limit
	if limit <= 0 {
		limit = 1000
	}
	wanted := map[string]bool{}
	for _, id := range append(slices.Clone(q.Machines), q.Machine) {
		if id != "" {
			wanted[string(id)] = true
		}
	}
	bucket := bucketLedger
	if q.Audit {
		bucket = bucketAudit
		if err := s.applyAll(); err != nil { // its bound counts what is in the file
			return nil, 0, fmt.Errorf("reading the audit log: %w", err)
		}
	}
	newer, end := s.unapplied.changes() // before the file is read: nothing is missing then
	err = s.read(func(tx *bbolt.Tx) error {
		last = max(lastKey(tx.Bucket(bucketLedger)), lastKey(tx.Bucket(bucketAudit)), end)
		if newer = after(newer, max(lastKey(tx.Bucket(bucket)), q.After)); q.Audit {
			newer = nil
		}
		for k, v := range inOrder(tx.Bucket(bucket).Cursor(), newer, q) {
			change, is, err := decodeChange(v, q.Audit, wanted)
			if err != nil {
				return fmt.Errorf("record %x of %s: %w", k, bucket, err)
			}
			if is {
				list = append(list, change)
			}
			if len(list) >= limit {
				break
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("reading the ledger: %w", err)
	}
	if q.Newest {
		slices.Reverse(list)
	}
	return list, last, nil
}

// inOrder is the records that a query may want, those of the file and newer ones: from the first or, for
// Newest, from the last.
func inOrder(c *bbolt.Cursor, newer []entry, q state.Query) iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		if !q.Newest {
			for k, v := c.Seek(seqKey(q.After + 1)); k != nil; k, v = c.Next() {
				if !yield(k, v) {
					return
				}
			}
			for _, e := range newer {
				if !yield([]byte(e.key.Key), e.value) {
					return
				}
			}
			return
		}
		for _, e := range slices.Backward(newer) {
			if !yield([]byte(e.key.Key), e.value) {
				return
			}
		}
		for k, v := c.Last(); k != nil && binary.BigEndian.Uint64(k) > q.After; k, v = c.Prev() {
			if !yield(k, v) {
				return
			}
		}
	}
}

// decodeChange reads a value of the ledger or the audit log, unless it is of a machine that
// is not wanted; all are when none is named.
func decodeChange(v []byte, audit bool, wanted map[string]bool) (c fleet.Change, is bool, err error) {
	if audit {
		c, err = record.DecodeAction(v)
		return c, len(wanted) == 0 || wanted[string(c.Machine)], err
	}
	id, text, _ := bytes.Cut(v, []byte("\n"))
	if len(wanted) > 0 && !wanted[string(id)] {
		return c, false, nil
	}
	c, err = record.DecodeChange(text)
	return c, true, err
}

// Await implements state.Observations.
func (s *Store) Await(ctx context.Context, after uint64) {
	was, _ := s.LedgerName()
	for {
		s.mu.RLock()
		news, last, name := s.news, s.stored, s.ledger.Name
		s.mu.RUnlock()
		if last > after || name != was {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		}
	}
}

// wakeReaders ends the waiting of Await; mu is held.
func (s *Store) wakeReaders() {
	close(s.news)
	s.news = make(chan struct{})
}

// ledgerName distinguishes ledgers whose sequence numbers mean other Changes:
// a restore takes the numbers back.
type ledgerName struct {
	Name string `json:"name"`
	End  uint64 `json:"end"` // the last sequence number that came with the backup
}

var keyLedger = []byte("ledger") // in bucketMeta

// firstLedger is the name of one that was never restored.
const firstLedger = "0"

// LedgerName implements state.Observations.
func (s *Store) LedgerName() (name string, restored uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.ledger.Name, s.ledger.End
}

func (s *Store) loadLedger(tx *bbolt.Tx) error {
	s.ledger = ledgerName{Name: firstLedger}
	if text := tx.Bucket(bucketMeta).Get(keyLedger); text != nil {
		return json.Unmarshal(text, &s.ledger)
	}
	return nil
}

// renameLedger gives the ledger of a backup a name of its own.
func renameLedger(file string, now time.Time) error {
	db, err := openFile(file, options())
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		name := ledgerName{Name: strconv.FormatInt(now.UnixNano(), 36)}
		name.End = max(lastKey(tx.Bucket(bucketLedger)), lastKey(tx.Bucket(bucketAudit)))
		text, err := json.Marshal(name)
		if err != nil {
			return err
		}
		return tx.Bucket(bucketMeta).Put(keyLedger, text)
	})
	return firstOf(err, db.Close())
}

// Trim implements state.Observations.
func (s *Store) Trim(now time.Time, most int, age time.Duration) error {
	const part = 2000
	first, last, old := s.ledgerEnds(now.Add(-age))
	if first == 0 || (last-first < uint64(most) && !old) {
		return nil
	}
	if err := s.applyAll(); err != nil {
		return err
	}
	return s.write(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketLedger)
		c := b.Cursor()
		n := 0
		for k, v := c.First(); k != nil && n < part; k, v = c.Next() {
			if last-binary.BigEndian.Uint64(k) < uint64(most) && !before(v, now.Add(-age)) {
				break
			}
			if err := c.Delete(); err != nil {
				return err
			}
			n++
		}
		return nil
	})
}

// ledgerEnds returns the first and the last sequence number, and whether the
// first entry is from before a time.
func (s *Store) ledgerEnds(than time.Time) (first, last uint64, old bool) {
	newer, _ := s.unapplied.changes()
	_ = s.read(func(tx *bbolt.Tx) error { // nothing is trimmed from a file that is damaged
		k, v := tx.Bucket(bucketLedger).Cursor().First()
		if last = lastKey(tx.Bucket(bucketLedger)); len(newer) > 0 {
			last = max(last, seqOf(newer[len(newer)-1]))
			if k == nil {
				k, v = []byte(newer[0].key.Key), newer[0].value
			}
		}
		if k != nil {
			first, old = binary.BigEndian.Uint64(k), before(v, than)
		}
		return nil
	})
	return first, last, old
}

// before reports whether an entry is from before a time.
func before(v []byte, t time.Time) bool {
	var e struct{ At time.Time }
	_, text, _ := bytes.Cut(v, []byte("\n"))
	return json.Unmarshal(text, &e) == nil && e.At.Before(t)
}
