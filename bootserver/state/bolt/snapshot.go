package bolt

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.etcd.io/bbolt"

	"ingot/bootserver/state"
)

// Names of what is on its way beside the file. A start removes what a kill left.
const (
	snapshotPrefix = "." + file + ".snapshot-"
	incomingSuffix = ".incoming"
	rawSuffix      = ".raw"
)

// Backup writes the file as it is at this moment, followed by a checksum (state.SealWriter). Changes
// go on meanwhile, and so does a restore, however slowly w takes it: what is written is a copy beside
// the file. An error in which nothing was written has state.ErrBackups in it, or is one of making
// that copy, such as syscall.ENOSPC.
func (s *Store) Backup(w io.Writer) error {
	defer s.backups.Add(-1)
	if s.backups.Add(1) > state.MaxBackups {
		return state.ErrBackups
	}
	f, err := s.snapshot()
	if err != nil {
		return err
	}
	defer f.Close()
	sealed := state.NewSealWriter(w)
	_, err = io.Copy(sealed, f)
	if err := firstOf(err, sealed.Seal()); err != nil {
		return fmt.Errorf("sending the backup: %w", err)
	}
	return nil
}

// snapshot copies the file to one without a name, which is gone when it is
// closed. A reader keeps bbolt's memory map from growing, and blocks all
// writers then: copying takes as long as the disk does, and not as a slow client.
func (s *Store) snapshot() (f *os.File, err error) {
	s.copying.Lock()
	defer s.copying.Unlock()
	if err := s.applyAll(); err != nil {
		return nil, fmt.Errorf("copying the state for a backup: %w", err)
	}
	err = s.read(func(tx *bbolt.Tx) error {
		dir := filepath.Dir(tx.DB().Path())
		if f, err = os.CreateTemp(dir, snapshotPrefix); err != nil {
			return fmt.Errorf("copying the state for a backup: %w", err)
		}
		_, copied := tx.WriteTo(f)
		_, marked := f.WriteAt([]byte(state.SealMark), state.SealMarkAt)
		_, rewound := f.Seek(0, io.SeekStart)
		if err := errors.Join(os.Remove(f.Name()), copied, marked, rewound); err != nil {
			return errors.Join(fmt.Errorf("copying the state for a backup, %d bytes in %s: %w", tx.Size(), dir, err), f.Close())
		}
		return nil
	})
	return f, err
}

// sweep removes what backups and restores left in dir that a kill ended. What
// cannot be removed only takes room.
func sweep(dir string) {
	list, _ := os.ReadDir(dir)
	for _, e := range list {
		if n := e.Name(); strings.HasPrefix(n, snapshotPrefix) || n == file+incomingSuffix ||
			n == file+incomingSuffix+rawSuffix {
			_ = os.Remove(filepath.Join(dir, n))
		}
	}
}
