package bootserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/operator"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
)

// OpenState opens the state of the store at root, or makes it. If a server has used the store, a
// state that is missing or empty is state.ErrLost instead: a server without it would take every
// machine for a new one, and give away addresses that are in use.
func OpenState(ctx context.Context, root string) (*bolt.Store, error) {
	dir := filepath.Join(root, state.Folder)
	used := access.HasCA(filepath.Join(root, "keys")) // a first start makes the state before the CA
	if how := bolt.Absent(dir); used && how != "" {
		return nil, fmt.Errorf("opening state %q: %w: it is %s, but a server has used this store (it has a CA in keys/)", dir,
			state.ErrLost, how)
	}
	return bolt.Open(ctx, dir)
}

// RestoredState says what RestoreState did.
type RestoredState struct {
	api.Restored
	Carried   bool             // see bolt.Restored
	Converted *bolt.Conversion // of the backup, if it had an older schema
}

// RestoreState puts a backup, or for nil an empty state, in the place of the state of the store at
// root. It is state.ErrLocked while a server uses the store. ctx says who did it, for the audit log.
func RestoreState(ctx context.Context, root string, backup io.Reader, now time.Time) (done RestoredState, err error) {
	st, kept, err := bolt.OpenRestored(ctx, filepath.Join(root, state.Folder), backup, now)
	if err != nil {
		return done, err
	}
	done.Carried, done.Converted = kept.Carried, st.Converted()
	done.Restored, err = operator.RecordRestore(ctx, st, kept.Machines, kept.Before, kept.Carried && kept.Same, now)
	return done, errors.Join(err, st.Close())
}
