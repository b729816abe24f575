package bolt

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
)

// What a machine told of its hardware at a boot is in the file only, under the
// id of the boot that told it first: as long as nothing changes, the boots
// after it name that one (fleet.Boot.Facts). A record is kept as long as a boot
// of the machine names it.

// factsBack is how many boots are looked back at for the same facts: some end
// before they tell any.
const factsBack = 8

// KeepFacts keeps what was told at a boot, and returns the boot with where that
// is found.
func (tx *Tx) KeepFacts(b fleet.Boot, f ingot.Facts) (fleet.Boot, error) {
	text, err := json.Marshal(f)
	if err != nil {
		return b, err
	}
	before, known := b, true
	for range factsBack {
		if before, known = tx.s.boot(before.Before); !known || before.Facts != "" {
			break
		}
	}
	if known && before.Facts != "" {
		err := tx.s.view(func(db *bbolt.Tx) error {
			if bytes.Equal(db.Bucket(bucketFacts).Get([]byte(before.Facts)), text) {
				b.Facts = before.Facts
			}
			return nil
		})
		if b.Facts != "" || err != nil {
			return b, err
		}
	}
	b.Facts = b.ID
	tx.write(bucketFacts, string(b.ID), text)
	return b, nil
}

// Facts returns what a machine told of its hardware at a boot, and whether it
// told any.
func (s *Store) Facts(b fleet.Boot) (f ingot.Facts, told bool, err error) {
	err = s.view(func(tx *bbolt.Tx) error {
		text := tx.Bucket(bucketFacts).Get([]byte(b.Facts))
		if text == nil {
			return nil
		}
		told = true
		return json.Unmarshal(text, &f)
	})
	if err != nil {
		return f, false, fmt.Errorf("reading the facts of boot %s: %w", b.ID.Short(), err)
	}
	return f, told, nil
}

// forgetFacts drops the facts of a boot that is forgotten, unless one of the
// boots that are left names them.
func forgetFacts(tx *bbolt.Tx, gone fleet.Boot, left []ingot.BootID) error {
	if gone.Facts == "" {
		return nil
	}
	for _, id := range left { // the next one, as a rule
		b, err := readBoot(tx, id)
		if err != nil {
			return err
		}
		if b.Facts == gone.Facts {
			return nil
		}
	}
	return tx.Bucket(bucketFacts).Delete([]byte(gone.Facts))
}
