package bolt

import (
	"bytes"

	"go.etcd.io/bbolt"
)

// carryAccess writes into a backup what must not go back in time with it: credentials, above
// all those that were revoked, and the audit log. What only the backup has stays, for a
// server that was set up anew. A backup without an identity gets that of this server. Webhooks are
// those of this server, if the backup is of the same installation: one that was removed since gets no
// events, and one that is there is not sent what it had.
func carryAccess(old *bbolt.Tx, to string) (err error) {
	db, err := openFile(to, options())
	if err != nil {
		return err
	}
	defer func() { err = firstOf(err, db.Close()) }() // also if the old file is damaged, and bbolt panics
	return db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketCredentials, bucketAudit} {
			if err := putAll(old, tx, name); err != nil {
				return err
			}
		}
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		identity := old.Bucket(bucketMeta).Get(keyIdentity)
		if meta.Get(keyIdentity) == nil {
			err = meta.Put(keyIdentity, identity)
		} else if !bytes.Equal(meta.Get(keyIdentity), identity) {
			return nil // of another installation: it has its own webhooks
		}
		return firstOf(err, carryWebhooks(old, tx))
	})
}

// carryWebhooks replaces the webhooks of a backup by those of the present state.
func carryWebhooks(old, tx *bbolt.Tx) error {
	for _, name := range [][]byte{bucketWebhooks, bucketProgress, bucketLetters} {
		if old.Bucket(name) == nil {
			continue // an older version had none
		}
		if tx.Bucket(name) != nil {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
		}
		if err := putAll(old, tx, name); err != nil {
			return err
		}
	}
	return nil
}

// putAll copies the records of a bucket over those that are in another file.
func putAll(from, to *bbolt.Tx, name []byte) error {
	b, err := to.CreateBucketIfNotExists(name)
	if err != nil {
		return err
	}
	b.FillPercent = 1
	return from.Bucket(name).ForEach(b.Put)
}
