package memory

import (
	"encoding/binary"
	"fmt"
	"slices"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
)

// large is a large change in the store. An engine with a bound cannot store one in a single
// transaction: its pieces are staged, one record makes them visible, and they are moved to
// their places afterwards. Each of these steps is within the bound.
//
// Open drops one that is not visible, and finishes one that is.
type large struct {
	pieces  []piece
	visible bool   // the record that makes it visible is stored
	after   uint64 // kept with it: the last Change before those of the pieces
	moved   int    // pieces that are in their places
}

// piece is what one step stores.
type piece struct {
	records []staged
	bytes   int
}

// staged is a record. Changes are numbered from 1 on, in order.
type staged struct {
	key  view.Key
	text []byte
}

// ReplaceMachines implements state.Decisions.
func (s *Store) ReplaceMachines(c state.LargeChange) error {
	list, err := divide(c)
	if err != nil {
		return err
	}
	l := &large{}
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.data
	for _, p := range list {
		if err := s.step(func() error { d.stage(l, p); return nil }); err != nil {
			return err
		}
		s.mu.Unlock() // others go on meanwhile
		s.mu.Lock()
	}
	// From here on the lock is held: where others can read between the steps, they have to
	// look at the pieces, too.
	if err := s.step(func() error { return s.show(l, d, c) }); err != nil {
		d.unstage(l)
		return err
	}
	for l.moved < len(l.pieces) {
		if err := s.step(func() error { return d.move(l) }); err != nil {
			return err
		}
	}
	return s.step(func() error { d.unstage(l); return nil })
}

// divide encodes what a large change writes, in pieces.
func divide(c state.LargeChange) (list []piece, err error) {
	add := func(k view.Key, v any) error {
		text, err := record.Encode(v)
		if err != nil {
			return err
		}
		if len(text) > state.MaxBytes {
			return fmt.Errorf("%w: one of its records has %d bytes", state.ErrTooLarge, len(text))
		}
		n := len(list)
		if n == 0 || len(list[n-1].records) == state.MaxRecords || list[n-1].bytes+len(text) > state.MaxBytes {
			list = append(list, piece{})
			n++
		}
		p := &list[n-1]
		p.records, p.bytes = append(p.records, staged{k, text}), p.bytes+len(text)
		return nil
	}
	for _, r := range c.Machines {
		if err := add(view.Key{Table: view.Machines, Key: string(r.After.ID)}, r.After); err != nil {
			return nil, err
		}
	}
	for i, change := range c.Changes {
		change.Seq = uint64(i) + 1
		if err := add(ledgerKey(change), change); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func ledgerKey(c fleet.Change) view.Key {
	if c.Audit() {
		return view.Key{Table: view.Audit, Key: view.SeqKey(c.Seq)}
	}
	return view.Key{Table: view.Ledger, Key: view.SeqKey(c.Seq)}
}

// step is one transaction of a large change: one commit in five is aborted, and done again.
// The store's lock is held.
func (s *Store) step(f func() error) error {
	for {
		s.commits++
		switch {
		case s.closed:
			return state.ErrClosed
		case s.dies != nil && s.dies():
			s.close()
			return state.ErrClosed
		case s.commits%5 != 0:
			return f()
		}
	}
}

// show makes a large change visible, if the machines are as it expects.
func (s *Store) show(l *large, d *data, c state.LargeChange) error {
	if s.data != d {
		return fmt.Errorf("%w: a backup was restored", state.ErrChanged)
	}
	after := s.view.Seq
	tx, err := s.view.Run(past{s}, func(tx state.Tx) error { return tx.(*view.Tx).Replace(c) })
	if err != nil {
		return err
	}
	l.visible, l.after = true, after
	for _, step := range tx.Steps() {
		for k := range step.Puts {
			s.touch(k)
		}
	}
	for _, r := range c.Machines {
		s.touchMachine(r.After.ID)
	}
	close(s.news)
	s.news = make(chan struct{})
	return nil
}

// stage stores a piece.
func (d *data) stage(l *large, p piece) {
	if len(l.pieces) == 0 {
		d.staged = append(d.staged, l)
	}
	l.pieces = append(l.pieces, p)
}

// move moves a piece to its place.
func (d *data) move(l *large) error {
	for _, r := range l.pieces[l.moved].records {
		if r.key.Table == view.Ledger || r.key.Table == view.Audit {
			c, err := record.DecodeChange(r.text)
			if err != nil {
				return err
			}
			c.Seq = l.after + binary.BigEndian.Uint64([]byte(r.key.Key))
			r = staged{ledgerKey(c), encoded(c)}
		}
		d.put(r.key, r.text)
	}
	l.moved++
	return nil
}

// unstage removes a large change that is in its place, or never became visible.
func (d *data) unstage(l *large) {
	d.staged = slices.DeleteFunc(d.staged, func(o *large) bool { return o == l })
}

// finish finishes what the store was closed in the middle of.
func (d *data) finish() error {
	for _, l := range slices.Clone(d.staged) {
		for l.visible && l.moved < len(l.pieces) {
			if err := d.move(l); err != nil {
				return err
			}
		}
		d.unstage(l)
	}
	return nil
}
