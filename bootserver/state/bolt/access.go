package bolt

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"ingot/bootserver/access"
)

var (
	bucketCredentials = []byte("credentials")
	bucketAudit       = []byte("audit")
)

// Credential returns the record of a token or client certificate.
func (s *Store) Credential(id string) (access.Credential, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	c, ok := s.credentials[id]
	return c, ok
}

// Credentials returns all of them, the oldest first.
func (s *Store) Credentials() []access.Credential {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sortedCredentials()
}

func (s *Store) sortedCredentials() []access.Credential {
	list := make([]access.Credential, 0, len(s.credentials))
	for _, c := range s.credentials {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b access.Credential) int {
		if d := a.Created.Compare(b.Created); d != 0 {
			return d
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// Credentials returns all tokens and client certificates, the oldest first.
func (tx *Tx) Credentials() []access.Credential { return tx.s.sortedCredentials() }

// PutCredential stores a token's or certificate's record.
func (tx *Tx) PutCredential(c access.Credential) {
	tx.replaceCredential(c.ID, &c)
}

// DropCredential forgets one.
func (tx *Tx) DropCredential(id string) { tx.replaceCredential(id, nil) }

func (tx *Tx) replaceCredential(id string, c *access.Credential) {
	old, had := tx.s.credentials[id]
	tx.undo = append(tx.undo, func() {
		delete(tx.s.credentials, id)
		if had {
			tx.s.credentials[id] = old
		}
	})
	if c == nil {
		delete(tx.s.credentials, id)
		tx.write(bucketCredentials, id, nil)
		return
	}
	tx.s.credentials[id] = *c
	tx.write(bucketCredentials, id, *c)
}

// Audit adds a change to the audit log, in the transaction that makes it: one
// is never on disk without the other.
func (tx *Tx) Audit(c access.Change) {
	last := tx.s.audited
	tx.undo = append(tx.undo, func() { tx.s.audited = last })
	tx.s.audited++
	c.Seq = tx.s.audited
	tx.write(bucketAudit, string(seqKey(c.Seq)), c)
	if c.Seq > tx.s.keepAudit {
		tx.write(bucketAudit, string(seqKey(c.Seq-tx.s.keepAudit)), nil)
	}
}

// Audit returns up to limit changes, oldest first: those after a sequence
// number, or for last the latest ones.
func (s *Store) Audit(after uint64, last bool, limit int) ([]access.Change, error) {
	list := []access.Change{}
	err := s.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketAudit).Cursor()
		k, v := c.Seek(seqKey(after + 1))
		step := c.Next
		if last {
			step = c.Prev
			k, v = c.Last()
		}
		for ; k != nil && len(list) < limit; k, v = step() {
			var a access.Change
			if err := json.Unmarshal(v, &a); err != nil {
				return fmt.Errorf("change %x: %w", k, err)
			}
			if last && a.Seq <= after {
				break
			}
			list = append(list, a)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	if last {
		slices.Reverse(list)
	}
	return list, nil
}

// carryAccess writes into a backup what must not go back in time with it: who
// may ask, above all who may not any more, and the audit log. What the backup
// alone knows stays, for a server that was set up anew. A backup without an
// identity gets ours: a server never loses its own.
func carryAccess(from *bbolt.DB, to string) error {
	db, err := openFile(to, &bbolt.Options{Timeout: 2 * time.Second, FreelistType: bbolt.FreelistMapType})
	if err != nil {
		return err
	}
	err = from.View(func(old *bbolt.Tx) error {
		return db.Update(func(tx *bbolt.Tx) error {
			for _, name := range [][]byte{bucketCredentials, bucketAudit} {
				b, err := tx.CreateBucketIfNotExists(name)
				if err != nil {
					return err
				}
				b.FillPercent = 1
				if err := old.Bucket(name).ForEach(b.Put); err != nil {
					return err
				}
			}
			meta, err := tx.CreateBucketIfNotExists(bucketMeta)
			if err != nil || meta.Get(keyIdentity) != nil {
				return err
			}
			return meta.Put(keyIdentity, old.Bucket(bucketMeta).Get(keyIdentity))
		})
	})
	return firstOf(err, db.Close())
}

// loadAccess reads what is kept in memory of credentials and the audit log.
func (s *Store) loadAccess(tx *bbolt.Tx) error {
	s.credentials, s.audited = map[string]access.Credential{}, 0
	if k, _ := tx.Bucket(bucketAudit).Cursor().Last(); len(k) == 8 {
		s.audited = binary.BigEndian.Uint64(k)
	}
	return each(tx, bucketCredentials, func(c access.Credential) { s.credentials[c.ID] = c })
}
