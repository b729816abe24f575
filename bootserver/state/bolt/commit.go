package bolt

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
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
	txs  []*view.Tx
	done chan struct{}
	err  error // after done
}

// Update implements state.Decisions.
func (s *Store) Update(f func(tx state.Tx) error) error { return s.Begin(f)() }

// View implements state.Decisions.
func (s *Store) View(f func(r state.Reader)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	f(s.view.Begin(past{s}))
}

// Begin implements state.Decisions.
func (s *Store) Begin(f func(tx state.Tx) error) (wait func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log.closed {
		return func() error { return state.ErrClosed }
	}
	tx, err := s.view.Run(past{s}, f)
	if err != nil {
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

// ReplaceMachines implements state.Decisions. It needs no pieces: bbolt makes a transaction
// of any size visible by one page of the file.
func (s *Store) ReplaceMachines(c state.LargeChange) error {
	return s.Update(func(tx state.Tx) error {
		return tx.(*view.Tx).Replace(c)
	})
}

// join adds a change to the next batch, and returns what to wait for.
func (c *committer) join(tx *view.Tx) *batch {
	if len(tx.Steps()) == 0 {
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
	go c.run(s)
}

func (c *committer) run(s *Store) {
	defer close(c.ended)
	var next time.Time
	var due <-chan time.Time // when what is in the journal goes to the file
	for {
		select {
		case _, open := <-c.wake:
			if !open {
				s.commit()
				return
			}
			time.Sleep(time.Until(next))
			begin := time.Now()
			next = begin.Add(gather(s.commit()))
		case <-due:
			due = nil
			_ = s.applyAll() // if it fails, the next change fails
		}
		if due == nil && s.unapplied.size() > 0 {
			due = time.After(applyAfter)
		}
	}
}

// gather is the least time between the beginnings of two writes, the first of which
// had so many changes. A change that comes alone is written at once, and changes that
// come one after the other wait little. In a crowd, waiting spares the disk and the CPU
// most of the writes: one costs as much as several decisions, however little is in it.
func gather(changes int) time.Duration {
	return min(time.Duration(changes)*4*time.Millisecond, 20*time.Millisecond)
}

func (c *committer) stop(s *Store) {
	s.mu.Lock()
	closed := c.closed
	c.closed = true
	s.mu.Unlock()
	if closed {
		return
	}
	close(c.wake) // nothing joins any more
	<-c.ended
}

// commit writes the batch that has gathered, and returns how many changes it had. When
// that fails, memory goes back to what the disk holds: the batch is undone, and so is what
// was built on it.
func (s *Store) commit() (changes int) {
	s.mu.Lock()
	b := s.log.pending
	s.log.pending, s.log.writing = nil, b
	s.mu.Unlock()
	if b == nil {
		return 0
	}
	err := s.persist(b)
	s.mu.Lock()
	s.log.writing = nil
	if last := b.lastSeq(); err == nil && last > s.stored {
		s.stored = last
		s.wakeReaders()
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
				tx.RollBack()
			}
		}
	}
	s.mu.Unlock()
	for _, f := range failed {
		close(f.done)
	}
	return len(b.txs)
}

// lastSeq is the last Change in a batch, or 0.
func (b *batch) lastSeq() (last uint64) {
	for _, tx := range b.txs {
		last = max(last, tx.LastSeq())
	}
	return last
}

// entries are the last values of all records of a batch. It is not plain if it removes or moves a
// machine's past as well: then there are none, see writeBatch.
func (b *batch) entries() (list []entry, plain bool, err error) {
	var last puts
	for _, tx := range b.txs {
		for _, step := range tx.Steps() {
			if step.Puts == nil {
				return nil, false, nil
			}
			last.add(step.Puts)
		}
	}
	list, err = last.encode()
	return list, true, err
}

// puts is the last value of each record. No two transactions have the same Change.
type puts struct {
	values  map[view.Key]any
	changes []fleet.Change
}

func (p *puts) add(more map[view.Key]any) {
	if p.values == nil {
		p.values = make(map[view.Key]any, 2*len(more))
	}
	for k, v := range more {
		if c, is := v.(fleet.Change); is {
			p.changes = append(p.changes, c)
		} else {
			p.values[k] = v
		}
	}
}

// encode makes the sorted entries of all values.
func (p *puts) encode() ([]entry, error) {
	list := make([]entry, 0, len(p.values)+len(p.changes))
	add := func(k view.Key, v any) error {
		e, err := encode(k, v)
		list = append(list, e)
		return err
	}
	for k, v := range p.values {
		if err := add(k, v); err != nil {
			return nil, err
		}
	}
	for _, c := range p.changes {
		if err := add(view.ChangeKey(c), c); err != nil {
			return nil, err
		}
	}
	sortEntries(list)
	return list, nil
}

// writeBatch stores a batch that removes or moves machines' pasts. These steps divide it: what comes
// before is stored first.
func (s *Store) writeBatch(db *bbolt.Tx, b *batch) error {
	var last puts
	flush := func() error {
		list, err := last.encode()
		last = puts{}
		return firstOf(err, s.store(db, list))
	}
	for _, tx := range b.txs {
		for _, step := range tx.Steps() {
			if step.Puts != nil {
				last.add(step.Puts)
				continue
			}
			if err := firstOf(flush(), writePast(db, step)); err != nil {
				return err
			}
		}
	}
	return flush()
}

func put(b *bbolt.Bucket, key string, v any) error {
	text, err := record.Encode(v)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), text)
}

// writePast removes or moves boots of the past.
func writePast(db *bbolt.Tx, step view.Step) error {
	for _, m := range step.Moves {
		if err := firstOf(db.Bucket(bucketHistory).Delete(historyKey(m.Before)),
			put(db.Bucket(bucketBoots), string(m.After.ID), m.After),
			db.Bucket(bucketHistory).Put(historyKey(m.After), nil)); err != nil {
			return err
		}
	}
	if step.Forget == "" {
		return nil
	}
	for _, id := range historyOf(db, step.Forget) {
		if err := removeBoot(db, step.Forget, id, nil); err != nil {
			return err
		}
	}
	return nil
}

// historyOf lists the boots of a machine that are in the file, oldest first.
func historyOf(db *bbolt.Tx, m ingot.MachineID) (list []ingot.BootID) {
	prefix := append([]byte(m), 0)
	c := db.Bucket(bucketHistory).Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		list = append(list, state.IDOf(k))
	}
	return list
}
