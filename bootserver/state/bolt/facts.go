package bolt

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.etcd.io/bbolt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state/view"
)

// The hardware that a machine reported at a boot is in the file only, under the id of the
// boot that reported it first: as long as nothing changes, later boots refer to that one
// (fleet.Boot.Facts). A record is kept as long as a boot of the machine refers to it.

// Facts implements state.Observations.
func (s *Store) Facts(b fleet.Boot) (f ingot.Facts, reported bool, err error) {
	var text []byte
	if err = s.applyAll(); err == nil { // those of boots that are removed are removed then
		text, err = s.facts(b.Facts)
	}
	if err == nil && text != nil {
		reported, err = true, json.Unmarshal(text, &f)
	}
	if err != nil {
		return f, false, fmt.Errorf("reading the facts of boot %s: %w", b.ID.Short(), err)
	}
	return f, reported, nil
}

// facts returns what was stored under a boot's id, or nil.
func (s *Store) facts(id ingot.BootID) (text []byte, err error) {
	if e, is := s.unapplied.get(view.Key{Table: view.Facts, Key: string(id)}); is {
		return e.value, nil
	}
	err = s.read(func(tx *bbolt.Tx) error {
		text = bytes.Clone(tx.Bucket(bucketFacts).Get([]byte(id)))
		return nil
	})
	return text, err
}

// removeFacts removes the facts of a boot that is removed, unless one of the boots that are
// left refers to them.
func removeFacts(tx *bbolt.Tx, gone fleet.Boot, left []ingot.BootID) error {
	if gone.Facts == "" {
		return nil
	}
	for _, id := range left { // the next one, as a rule
		if b, err := readBoot(tx, id); err != nil || b.Facts == gone.Facts {
			return nil // one that cannot be read may
		}
	}
	return tx.Bucket(bucketFacts).Delete([]byte(gone.Facts))
}
