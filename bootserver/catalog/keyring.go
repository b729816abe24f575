package catalog

import (
	"os"
	"path/filepath"
	"time"

	"ingot/image"
)

// keyring is the keys that a store accepts. They are read again whenever one of their files or folders
// is another one or was written to: a key that is no longer trusted must count at once, and machines ask
// thousands of times.
type keyring struct {
	image.Keyring
	text string              // differs when something else is accepted
	of   map[string]identity // files and folders that were read; nil: they must be read
}

// read brings the keys up to date. dir is the key folder of the store.
func (k *keyring) read(dir string) error {
	if k.of != nil && k.unchanged() {
		return nil
	}
	k.of = nil
	of := map[string]identity{}
	trusted := filepath.Join(dir, "trusted")
	// The folder itself changes with the list of replaced keys and their private halves.
	paths := []string{dir, trusted, filepath.Join(dir, "release.pub"), filepath.Join(dir, "server.pub"),
		filepath.Join(dir, "old.json")}
	entries, _ := os.ReadDir(trusted) // ReadKeyring says what is wrong
	for _, e := range entries {
		paths = append(paths, filepath.Join(trusted, e.Name()))
	}
	now, old := time.Now(), true
	for _, path := range paths {
		is := identityOf(path)
		of[path] = is
		old = old && now.Sub(time.Unix(is.ctime.Unix())) >= clockTick // else another write may have the same time
	}
	ring, err := image.ReadKeyring(dir)
	if err != nil {
		return err
	}
	if k.Keyring, k.text = ring, ring.Text(); old {
		k.of = of
	}
	return nil
}

func (k *keyring) unchanged() bool {
	for path, was := range k.of {
		if identityOf(path) != was {
			return false
		}
	}
	return true
}

// identityOf returns the identity of what is at a path, itself and not where it leads; the zero identity
// if it is missing. A link is never the same again.
func identityOf(path string) identity {
	st, err := os.Lstat(path)
	if err != nil {
		return identity{}
	}
	is := identityIn(st)
	if st.Mode()&os.ModeSymlink != 0 {
		is.size = -1 - time.Now().UnixNano()
	}
	return is
}
