package bolt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/bootserver/state/record"
)

// keySchema is the version of the file's records, a decimal number, in bucketMeta. A file
// without one is of schema 1, or new.
var keySchema = []byte("schema")

// The program before schema 2 looks at no schema. It refuses a file in which the record of a
// machine cannot be decoded, and quotes its key: so there is one, which says why.
var (
	keyNewer   = []byte(fmt.Sprintf("~ this state has schema %d and needs a newer version of ingot", record.Schema))
	valueNewer = []byte("not a machine")
)

// keptOld is the name of a file as it was before its schema was raised.
func keptOld(path string) string { return fmt.Sprintf("%s.before-schema-%d", path, record.Schema) }

// Conversion says that a file of an older schema was converted when it was opened.
type Conversion struct {
	File string // the state
	From int    // its schema before
	Kept string // the file that holds it as it was before; empty if none was kept
}

// String implements fmt.Stringer.
func (c Conversion) String() string {
	return fmt.Sprintf("the state %s was converted from schema %d to schema %d, which older versions of ingot refuse; "+
		"the file from before is %s", c.File, c.From, record.Schema, c.Kept)
}

// Converted returns what Open converted; nil if the file had the schema of this program, or was new.
func (s *Store) Converted() *Conversion { return s.converted }

// CopyOlder copies the state in dir to the folder to, if it has an older schema and no server uses it, for
// callers that only read: Open would convert it.
func CopyOlder(dir, to string) (copied bool, err error) {
	path := filepath.Join(dir, file)
	err = readFile(path, func(tx *bbolt.Tx) error {
		schema, err := schemaOf(tx)
		if err != nil || schema >= record.Schema {
			return err
		}
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		copied = true
		return tx.CopyFile(filepath.Join(to, file), 0o600)
	})
	return copied && err == nil, err
}

// migrate brings a file to the schema of this program, in one transaction, and makes what
// is missing in a new one. keep copies a file of an older schema before. A file of a newer
// schema is state.ErrSchema, and is left as it is. It returns nil for a file that needed no conversion.
func migrate(db *bbolt.DB, keep bool) (*Conversion, error) {
	var schema int
	var empty bool
	err := db.View(func(tx *bbolt.Tx) (err error) {
		empty = tx.Bucket(bucketMeta) == nil
		schema, err = schemaOf(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	var done *Conversion
	if schema < record.Schema && !empty {
		done = &Conversion{File: db.Path(), From: schema}
	}
	if keep && done != nil {
		done.Kept = keptOld(db.Path())
		if err := copyFile(db, done.Kept); err != nil {
			return nil, fmt.Errorf("keeping the state of schema %d before it is converted: %w", schema, err)
		}
	}
	return done, db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		if schema < record.Schema {
			if err := migrate1(tx); err != nil {
				return fmt.Errorf("converting the state of schema %d: %w", schema, err)
			}
		}
		return firstOf(tx.Bucket(bucketMachines).Put(keyNewer, valueNewer),
			tx.Bucket(bucketMeta).Put(keySchema, strconv.AppendInt(nil, record.Schema, 10)))
	})
}

// schemaOf returns the schema of a file, or state.ErrSchema.
func schemaOf(tx *bbolt.Tx) (int, error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return 1, nil
	}
	text := meta.Get(keySchema)
	if text == nil {
		return 1, nil
	}
	schema, err := strconv.Atoi(string(text))
	if err != nil || schema < 1 {
		return 0, fmt.Errorf("%w: its schema is %q", state.ErrDamaged, text)
	}
	if schema == schemaOpen {
		return record.Schema, nil
	}
	if schema > record.Schema {
		return 0, fmt.Errorf("%w: it has schema %d, and this version knows schemas up to %d; use a version of ingot that "+
			"knows schema %d, or restore a backup of this version",
			state.ErrSchema, schema, record.Schema, schema)
	}
	return schema, nil
}

// copyFile writes a consistent copy of a file.
func copyFile(db *bbolt.DB, to string) error {
	partial := to + ".partial"
	f, err := os.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(partial) // unless it was renamed
	err = db.View(func(tx *bbolt.Tx) error {
		_, err := tx.WriteTo(io.Writer(f))
		return err
	})
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(partial, to)
}

// migrate1 converts a file of schema 1, in which records were fleet's values. Records of
// machines, boots, leases and credentials have kept their names since; the very first
// files had no indexes. The ledger and the audit log are converted when they are read
// (record.DecodeChange, record.DecodeAction). Their numbers were counted apart: the next
// Change is above both (Store.load).
func migrate1(tx *bbolt.Tx) error { return firstOf(indexBoots(tx), rekeyLeases(tx)) }

// indexBoots makes the indexes of a file that had none, and numbers its boots.
func indexBoots(tx *bbolt.Tx) error {
	history, recent := tx.Bucket(bucketHistory), tx.Bucket(bucketRecent)
	if k, _ := history.Cursor().First(); k != nil {
		return nil
	}
	var boots []fleet.Boot
	if err := each(tx, bucketBoots, record.DecodeBoot, func(b fleet.Boot) { boots = append(boots, b) }); err != nil {
		return err
	}
	slices.SortFunc(boots, func(a, b fleet.Boot) int { return slices.Compare(recentKey(a), recentKey(b)) })
	count := map[ingot.MachineID]int{}
	for _, b := range boots {
		count[b.Machine]++
		b.Number = count[b.Machine]
		if err := firstOf(put(tx.Bucket(bucketBoots), string(b.ID), b), history.Put(historyKey(b), nil),
			recent.Put(recentKey(b), nil)); err != nil {
			return err
		}
	}
	return nil
}

// rekeyLeases moves leases that were kept by card under their address: one
// address has one lease, by construction.
func rekeyLeases(tx *bbolt.Tx) error {
	old := map[string]fleet.Lease{}
	b := tx.Bucket(bucketLeases)
	err := b.ForEach(func(k, v []byte) error {
		if len(k) == 4 || len(k) == 16 {
			return nil
		}
		var l fleet.Lease
		err := json.Unmarshal(v, &l)
		old[string(k)] = l
		return err
	})
	for k, l := range old {
		if err = errors.Join(err, b.Delete([]byte(k))); err == nil && l.Address.IsValid() {
			err = put(b, string(l.Address.AsSlice()), l)
		}
	}
	return err
}
