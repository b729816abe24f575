package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"ingot"
	"ingot/internal/owned"
)

// NamedKey is a release key whose images a store accepts: its own, or one that its operator added
// to keys/trusted, such as that of a build host.
type NamedKey struct {
	Name string    `json:"name"` // "own", or the name that it was trusted under
	ID   string    `json:"id"`   // as minisign prints it
	Key  PublicKey `json:"-"`
}

// OwnKey is the name of the store's own release key.
const OwnKey = "own"

var keyNameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// ErrKeyName: the name is invalid, or another key has it.
var ErrKeyName = errors.New("invalid name for a key")

// TrustedKeys reads the release keys in a store's key folder: its own first, then those that it
// replaced, unless they leaked, then the other trusted keys by name.
func TrustedKeys(dir string) ([]NamedKey, error) {
	k, err := ReadKeyring(dir)
	return k.Trusted, err
}

func trustedKeys(dir string, old []OldKey) ([]NamedKey, error) {
	var keys []NamedKey
	own, err := readPublicKey(filepath.Join(dir, "release.pub"))
	if err == nil {
		keys = append(keys, NamedKey{OwnKey, own.ID(), own})
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, o := range old {
		if o.Use != ingot.KeyRelease || o.Leaked || o.Distrusted || o.ID == own.ID() {
			continue
		}
		k, err := ParsePublicKey([]byte(o.Text))
		if err != nil {
			return nil, err
		}
		keys = append(keys, NamedKey{o.Name(), o.ID, k})
	}
	entries, err := os.ReadDir(filepath.Join(dir, "trusted"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the trusted keys: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".pub")
		if !ok || !keyNameRE.MatchString(name) {
			continue
		}
		k, err := readPublicKey(filepath.Join(dir, "trusted", e.Name()))
		if err != nil {
			return nil, err
		}
		keys = append(keys, NamedKey{name, k.ID(), k})
	}
	return keys, nil
}

// Public returns the keys without their names.
func Public(keys []NamedKey) []PublicKey {
	list := make([]PublicKey, len(keys))
	for i, k := range keys {
		list[i] = k.Key
	}
	return list
}

func readPublicKey(path string) (PublicKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return PublicKey{}, fmt.Errorf("reading a public key: %w", err)
	}
	k, err := ParsePublicKey(b)
	if err != nil {
		return k, fmt.Errorf("reading %q: %w", path, err)
	}
	return k, nil
}

// Trust stores a release key under a name. Storing the same key again changes nothing; another key
// under the same name is ErrKeyName.
func Trust(dir, name string, key PublicKey) error {
	if !keyNameRE.MatchString(name) || name == OwnKey || strings.HasPrefix(name, oldPrefix) {
		return fmt.Errorf("%w: %q (want letters, digits, dots and dashes; %q and names that begin with %q are reserved "+
			"for the store's own keys)", ErrKeyName, name, OwnKey, oldPrefix)
	}
	keys, err := TrustedKeys(dir)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Name == name && !k.Key.key.Equal(key.key) {
			return fmt.Errorf("%w: %q is already the name of key %s", ErrKeyName, name, k.ID)
		}
	}
	if err := owned.MkdirAll(filepath.Join(dir, "trusted"), 0o700); err != nil {
		return fmt.Errorf("storing a trusted key: %w", err)
	}
	if err := owned.WriteFile(filepath.Join(dir, "trusted", name+".pub"), key.Text(), 0o644); err != nil {
		return fmt.Errorf("storing a trusted key: %w", err)
	}
	return syncDir(filepath.Join(dir, "trusted"))
}

// Distrust removes a trusted key, or withdraws one of the store's own that was replaced, see
// OldKey.Name. Images that are already in the store stay.
func Distrust(dir, name string) error {
	if strings.HasPrefix(name, oldPrefix) {
		return withdraw(dir, name)
	}
	keys, err := TrustedKeys(dir)
	if err != nil {
		return err
	}
	if name == OwnKey || !slices.ContainsFunc(keys, func(k NamedKey) bool { return k.Name == name }) {
		return fmt.Errorf("%w: %q is not among the trusted keys", ErrKeyName, name)
	}
	if err := os.Remove(filepath.Join(dir, "trusted", name+".pub")); err != nil {
		return fmt.Errorf("removing a trusted key: %w", err)
	}
	return syncDir(filepath.Join(dir, "trusted"))
}
