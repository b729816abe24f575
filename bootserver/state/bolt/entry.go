package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state/record"
	"ingot/bootserver/state/view"
)

// entry is a record as the state's file holds it. Its key is that of the view: a piece of a console
// gets its own when it is stored.
type entry struct {
	key   view.Key
	table int    // its place in tables
	value []byte // nil: the record is removed
	boot  *bootPlace
}

// bootPlace is where a boot is in the indexes.
type bootPlace struct {
	machine         ingot.MachineID
	history, recent []byte // keys
}

func placeOf(b fleet.Boot) *bootPlace { return &bootPlace{b.Machine, historyKey(b), recentKey(b)} }

// tables are the tables of entries, in the order in which they are stored: what removes old boots
// needs to know the latest of their machine, and removes their consoles and facts. A table's place here
// is its number in journals.
var tables = []view.Table{view.Machines, view.Facts, view.Consoles, view.Boots, view.Leases, view.Credentials,
	view.Removals, view.Audit, view.Ledger, view.Rollouts, view.Members, view.Sessions, view.Webhooks, view.Progress,
	view.Letters, view.Desired}

// encode makes the entry of a value of a transaction; nil removes the record.
func encode(k view.Key, v any) (e entry, err error) {
	e.key, e.table = k, slices.Index(tables, k.Table)
	switch v := v.(type) {
	case nil:
		return e, nil
	case []byte:
		e.value = v
	case view.Piece:
		e.value = []byte(v.Text)
	default:
		e.value, err = record.Encode(v)
		if b, is := v.(fleet.Boot); is {
			e.boot = placeOf(b)
		}
		if c, is := v.(fleet.Change); is && k.Table == view.Ledger {
			e.value = slices.Concat([]byte(c.Machine), []byte{'\n'}, e.value)
		}
	}
	if e.value == nil {
		e.value = []byte{}
	}
	if err != nil {
		err = fmt.Errorf("record %q of %s: %w", k.Key, k.Table, err)
	}
	return e, err
}

// appendEntry adds an entry to the content of a journal's record: the number of its table, its key and
// its value.
func appendEntry(b []byte, e entry) []byte {
	b = append(b, byte(e.table))
	return appendPart(appendPart(b, []byte(e.key.Key)), e.value)
}

var errEntry = errors.New("it has an entry that cannot be read")

// readEntries reads the content of a journal's record.
func readEntries(b []byte) (list []entry, err error) {
	for len(b) > 0 {
		var e entry
		var key []byte
		n, ok := int(b[0]), true
		if key, b, ok = cutPart(b[1:]); !ok || n >= len(tables) {
			return nil, errEntry
		}
		e.key, e.table = view.Key{Table: tables[n], Key: string(key)}, n
		if e.value, b, ok = cutPart(b); !ok {
			return nil, errEntry
		}
		if e.key.Table == view.Boots && e.value != nil {
			boot, err := record.DecodeBoot(e.value)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", errEntry, err)
			}
			e.boot = placeOf(boot)
		}
		list = append(list, e)
	}
	return list, nil
}

// appendPart adds a key or value: its length plus one, or 0 for nil, and its bytes.
func appendPart(b, part []byte) []byte {
	if part == nil {
		return append(b, 0)
	}
	return append(binary.AppendUvarint(b, uint64(len(part))+1), part...)
}

// cutPart takes off what appendPart added.
func cutPart(b []byte) (part, rest []byte, ok bool) {
	n, size := binary.Uvarint(b)
	switch {
	case size <= 0 || n > uint64(len(b)-size)+1:
		return nil, nil, false
	case n == 0:
		return nil, b[size:], true
	}
	end := size + int(n) - 1
	return b[size:end], b[end:], true
}

// store puts entries into the file: the last value of each record.
func (s *Store) store(tx *bbolt.Tx, list []entry) error {
	sortEntries(list)
	begun := map[ingot.MachineID]int{}
	for _, e := range list {
		if err := s.storeOne(tx, e, begun); err != nil {
			return fmt.Errorf("record %q of %s: %w", e.key.Key, e.key.Table, err)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(begun)) {
		if err := trimBoots(tx, id, begun[id]); err != nil {
			return err
		}
	}
	return nil
}

// sortEntries sorts entries by table, and by key: appending to the end of a bucket is cheap, and pieces
// of a console follow each other.
func sortEntries(list []entry) {
	slices.SortFunc(list, func(a, b entry) int {
		switch {
		case a.table != b.table:
			return a.table - b.table
		case a.boot != nil && b.boot != nil:
			return bytes.Compare(a.boot.history, b.boot.history)
		}
		return strings.Compare(a.key.Key, b.key.Key)
	})
}

// storeOne stores one entry. begun counts new boots of machines.
func (s *Store) storeOne(tx *bbolt.Tx, e entry, begun map[ingot.MachineID]int) error {
	b := tx.Bucket([]byte(e.key.Table))
	switch {
	case e.value == nil:
		return b.Delete([]byte(e.key.Key))
	case e.key.Table == view.Consoles:
		return writePiece(tx, view.BootOf(e.key), e.value)
	case e.boot != nil:
		isNew, err := writeBoot(tx, e)
		if isNew {
			begun[e.boot.machine]++
		}
		return err
	case e.key.Table == view.Audit:
		return s.writeAction(b, e)
	case e.key.Table == view.Ledger:
		b.FillPercent = 1 // keys only grow: a page that is full is never split
	}
	return b.Put([]byte(e.key.Key), e.value)
}
