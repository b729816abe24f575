package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/state"
)

// The console of a boot is in the file only, in pieces as they came: the
// beginning and the end of it are kept, what is between them is dropped when
// it is too much. Keys are the boot's id and the number of the piece.

// writePiece stores a piece, and drops others in the middle when it is one too
// many. Numbers in keys of the view only order what waits; pieces are numbered here.
func writePiece(tx *bbolt.Tx, id ingot.BootID, text []byte) error {
	b := tx.Bucket(bucketConsole)
	prefix := []byte(id)
	total, last := len(text), uint32(0)
	type at struct {
		key  []byte
		size int
	}
	var pieces []at
	c := b.Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		pieces = append(pieces, at{bytes.Clone(k), len(v)})
		total += len(v)
		last = binary.BigEndian.Uint32(k[len(prefix):])
	}
	head := 0
	for _, old := range pieces {
		if head += old.size; head <= state.ConsoleHead || total <= state.MaxConsole {
			continue
		}
		if err := b.Delete(old.key); err != nil {
			return err
		}
		total -= old.size
	}
	return b.Put(binary.BigEndian.AppendUint32(prefix, last+1), text)
}

func removeConsole(tx *bbolt.Tx, id ingot.BootID) error {
	b := tx.Bucket(bucketConsole)
	var keys [][]byte
	c := b.Cursor()
	for k, _ := c.Seek([]byte(id)); bytes.HasPrefix(k, []byte(id)); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return nil
}

// Console returns what is kept of the console of a boot.
func (s *Store) Console(id ingot.BootID) (string, error) {
	var text strings.Builder
	if err := s.applyAll(); err != nil { // pieces are numbered as they are stored
		return "", fmt.Errorf("reading a console: %w", err)
	}
	err := s.read(func(tx *bbolt.Tx) error {
		last := uint32(0)
		c := tx.Bucket(bucketConsole).Cursor()
		for k, v := c.Seek([]byte(id)); bytes.HasPrefix(k, []byte(id)); k, v = c.Next() {
			n := binary.BigEndian.Uint32(k[len(id):])
			if n != last+1 {
				text.WriteString("[… some of it was not kept …]\n")
			}
			last = n
			text.Write(v)
		}
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("reading a console: %w", err)
	}
	return text.String(), nil
}
