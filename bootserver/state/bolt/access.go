package bolt

import (
	"go.etcd.io/bbolt"
)

// carryAccess writes into a backup what must not go back in time with it: credentials, above
// all those that were revoked, and the audit log. What only the backup has stays, for a
// server that was set up anew. A backup without an identity gets that of this server.
func carryAccess(from *bbolt.DB, to string) error {
	db, err := openFile(to, options())
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
