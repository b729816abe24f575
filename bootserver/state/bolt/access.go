package bolt

import (
	"go.etcd.io/bbolt"
)

// carryAccess writes into a backup what must not go back in time with it: credentials, above
// all those that were revoked, and the audit log. What only the backup has stays, for a
// server that was set up anew. A backup without an identity gets that of this server.
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
		if err != nil || meta.Get(keyIdentity) != nil {
			return err
		}
		return meta.Put(keyIdentity, old.Bucket(bucketMeta).Get(keyIdentity))
	})
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
