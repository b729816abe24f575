package bolt

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// committer writes changes in batches: while one batch is on its way to the
// disk, the next one gathers. Its fields are guarded by Store.mu.
type committer struct {
	pending *batch // gathers
	writing *batch // is being written
	closed  bool
	wake    chan struct{}
	ended   chan struct{}
}

// batch is changes that reach the disk together, or not at all.
type batch struct {
	txs  []*Tx
	done chan struct{}
	err  error // after done
}

// Update runs f and stores what it put, all or nothing. It returns when that
// is on disk. Functions run one after another; f must not call the store's methods.
//
// An f that puts nothing may have seen what is still on its way: Update waits
// for that as well, so that nothing is ever answered that a crash takes back.
func (s *Store) Update(f func(tx state.Tx) error) error { return s.Begin(f)() }

// Begin is the first half of Update: it has run f when it returns, and changes
// reach the disk in the order in which they were begun. wait is the other half.
func (s *Store) Begin(f func(tx state.Tx) error) (wait func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log.closed {
		return func() error { return state.ErrClosed }
	}
	tx := &Tx{s: s}
	if err := f(tx); err != nil {
		tx.rollBack()
		return func() error { return err }
	}
	b := s.log.join(tx)
	if b == nil {
		return func() error { return nil }
	}
	return func() error {
		<-b.done
		return b.err
	}
}

// join adds a change to the next batch, and returns what to wait for.
func (c *committer) join(tx *Tx) *batch {
	if len(tx.writes) == 0 {
		if c.pending != nil {
			return c.pending
		}
		return c.writing
	}
	if c.pending == nil {
		c.pending = &batch{done: make(chan struct{})}
	}
	c.pending.txs = append(c.pending.txs, tx)
	select {
	case c.wake <- struct{}{}:
	default: // awake already
	}
	return c.pending
}

func (c *committer) start(s *Store) {
	c.wake, c.ended = make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(c.ended)
		var last time.Time
		for range c.wake {
			time.Sleep(time.Until(last.Add(gather)))
			last = time.Now()
			s.commit()
		}
		s.commit()
	}()
}

// gather is the least time between the beginnings of two writes. A change that
// comes alone is written at once; in a crowd, a few milliseconds of waiting
// spare the disk and the CPU most of the writes.
const gather = 4 * time.Millisecond

func (c *committer) stop(s *Store) {
	s.mu.Lock()
	closed := c.closed
	c.closed = true
	s.mu.Unlock()
	if closed {
		return
	}
	close(c.wake) // nobody joins any more
	<-c.ended
}

// commit writes the batch that has gathered. When that fails, memory goes back
// to what the disk holds: the batch is undone, and so is what was built on it.
func (s *Store) commit() {
	s.mu.Lock()
	b := s.log.pending
	s.log.pending, s.log.writing = nil, b
	s.mu.Unlock()
	if b == nil {
		return
	}
	err := s.update(b.write)
	s.mu.Lock()
	s.log.writing = nil
	if noted := b.noted(); err == nil && noted > s.stored {
		s.stored = noted
		s.tell()
	}
	failed := []*batch{b}
	if err != nil {
		b.err = fmt.Errorf("storing state: %w", err)
		if next := s.log.pending; next != nil {
			next.err, s.log.pending = b.err, nil
			failed = append(failed, next)
		}
		for _, f := range slices.Backward(failed) {
			for _, tx := range slices.Backward(f.txs) {
				tx.rollBack()
			}
		}
	}
	s.mu.Unlock()
	for _, f := range failed {
		close(f.done)
	}
}

// write puts the last value of each record.
func (b *batch) write(db *bbolt.Tx) error {
	last := b.txs[0].writes
	if len(b.txs) > 1 {
		last = map[record]any{}
		for _, tx := range b.txs {
			for r, v := range tx.writes {
				last[r] = v
			}
		}
	}
	// In order: appending to the end of a bucket is cheap, and pieces of a
	// console follow each other.
	for _, r := range slices.SortedFunc(maps.Keys(last), record.compare) {
		if err := r.write(db, last[r]); err != nil {
			return err
		}
	}
	return nil
}

// write stores one value; nil deletes.
func (r record) write(db *bbolt.Tx, v any) error {
	switch v := v.(type) {
	case nil:
		if r.bucket == string(bucketBoots) {
			b, err := readBoot(db, ingot.BootID(r.key))
			if err != nil {
				return nil //nolint:nilerr // it is gone already
			}
			return firstOf(forgetFacts(db, b, nil), deleteBoot(db, b)) // with all of its machine
		}
		return db.Bucket([]byte(r.bucket)).Delete([]byte(r.key))
	case []byte:
		return db.Bucket([]byte(r.bucket)).Put([]byte(r.key), v)
	case fleet.Boot:
		return writeBoot(db, v)
	case fleet.Entry:
		return writeEntry(db, r.key, v)
	case piece:
		return writePiece(db, v)
	}
	return put(db, []byte(r.bucket), r.key, v)
}

// noted is the last entry of the ledger in a batch, or 0.
func (b *batch) noted() (last uint64) {
	for _, tx := range b.txs {
		for _, v := range tx.writes {
			if e, ok := v.(fleet.Entry); ok {
				last = max(last, e.Seq)
			}
		}
	}
	return last
}
