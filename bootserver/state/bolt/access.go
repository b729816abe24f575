package bolt

import (
	"go.etcd.io/bbolt"
)

// carryAccess writes into a backup what must not go back in time with it: who
// may ask, above all who may not any more, and the audit log. What the backup
// alone knows stays, for a server that was set up anew. A backup without an
// identity gets ours: a server never loses its own.
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
