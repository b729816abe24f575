package bolt

import (
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

// Facts implements state.Observations.
func (s *Store) Facts(b fleet.Boot) (f ingot.Facts, reported bool, err error) {
	err = s.read(func(tx *bbolt.Tx) error {
		text := tx.Bucket(bucketFacts).Get([]byte(b.Facts))
		if text == nil {
			return nil
		}
		reported = true
		return json.Unmarshal(text, &f)
	})
	if err != nil {
		return f, false, fmt.Errorf("reading the facts of boot %s: %w", b.ID.Short(), err)
	}
	return f, reported, nil
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
