package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/bbolt"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// The ledger is in the file only. Its keys are sequence numbers; a value is
// the machine, a line break, and the entry, so that the entries of a machine
// are found without parsing those of others.

func seqKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// Note appends to the ledger. A change that is taken back takes no numbers.
func (tx *Tx) Note(list ...fleet.Entry) {
	last := tx.s.seq
	tx.undo = append(tx.undo, func() { tx.s.seq = last })
	for _, e := range list {
		tx.s.seq++
		e.Seq = tx.s.seq
		tx.write(bucketLedger, string(seqKey(e.Seq)), e)
	}
}

func writeEntry(tx *bbolt.Tx, key string, e fleet.Entry) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	b := tx.Bucket(bucketLedger)
	b.FillPercent = 1 // keys only grow: a page that is full is never split
	return b.Put([]byte(key), append([]byte(string(e.Machine)+"\n"), text...))
}

// Ledger returns entries in their order, and the last sequence number there is.
func (s *Store) Ledger(q state.Query) (list []fleet.Entry, last uint64, err error) {
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
	err = s.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketLedger).Cursor()
		k, v := c.Last()
		if k == nil {
			return nil
		}
		last = binary.BigEndian.Uint64(k)
		step := c.Prev
		if !q.Newest {
			step = c.Next
			k, v = c.Seek(seqKey(q.After + 1))
		}
		for ; k != nil && len(list) < limit && binary.BigEndian.Uint64(k) > q.After; k, v = step() {
			id, text, _ := bytes.Cut(v, []byte("\n"))
			if len(wanted) > 0 && !wanted[string(id)] {
				continue
			}
			var e fleet.Entry
			if err := json.Unmarshal(text, &e); err != nil {
				return fmt.Errorf("record %x of the ledger: %w", k, err)
			}
			list = append(list, e)
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("reading the ledger: %w", err)
	}
	if q.Newest {
		for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
			list[i], list[j] = list[j], list[i]
		}
	}
	return list, last, nil
}

// Await returns when the ledger has entries after a sequence number, or is
// another one than it was, or ctx ends.
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

// tell wakes who waits for entries; mu is held.
func (s *Store) tell() {
	close(s.news)
	s.news = make(chan struct{})
}

// ledgerName tells ledgers apart whose sequence numbers mean other entries:
// a restore takes the numbers back.
type ledgerName struct {
	Name string `json:"name"`
	End  uint64 `json:"end"` // the last sequence number that came with the backup
}

var keyLedger = []byte("ledger") // in bucketMeta

// firstLedger is the name of one that was never restored.
const firstLedger = "0"

// LedgerName is what this ledger is called, and the last sequence number that a
// backup brought: what came since is after it.
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
	db, err := openFile(file, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		name := ledgerName{Name: strconv.FormatInt(now.UnixNano(), 36)}
		if b := tx.Bucket(bucketLedger); b != nil {
			if k, _ := b.Cursor().Last(); k != nil {
				name.End = binary.BigEndian.Uint64(k)
			}
		}
		return put(tx, bucketMeta, string(keyLedger), name)
	})
	return firstOf(err, db.Close())
}

// Trim forgets the oldest entries of the ledger: those over the bound of their
// number, and those that are older than the bound of their age. It does a
// part of the work at each call.
func (s *Store) Trim(now time.Time, most int, age time.Duration) error {
	const part = 2000
	first, last, old := s.ledgerEnds(now.Add(-age))
	if first == 0 || (last-first < uint64(most) && !old) {
		return nil
	}
	return s.update(func(tx *bbolt.Tx) error {
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
	_ = s.view(func(tx *bbolt.Tx) error { // it reads what is mapped; there is nothing to go wrong
		c := tx.Bucket(bucketLedger).Cursor()
		k, v := c.First()
		if k == nil {
			return nil
		}
		first, old = binary.BigEndian.Uint64(k), before(v, than)
		k, _ = c.Last()
		last = binary.BigEndian.Uint64(k)
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
