package image

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"aead.dev/minisign"

	"ingot"
	"ingot/internal/owned"
)

// ErrNoSecretKey: the store does not have the private half of the key.
var ErrNoSecretKey = errors.New("the store does not have the private half of the key")

// Rotation says how a key is replaced.
type Rotation struct {
	Use    ingot.KeyUse
	Now    time.Time
	Leaked bool // others have the private half
	// Keep keeps the private half of a server key, for images that hold it and cannot follow.
	Keep bool
	// Images are those that a release key which leaked has signed and that are accepted further on.
	Images []ingot.Digest
}

// Rotate replaces a key of a store by a new one, which the old one signs, and returns both. The secret
// key file is replaced last and by one rename: before that the old key is in use, with all that was
// written meanwhile of no effect, and afterwards the new one. A rotation that was interrupted can be
// repeated.
func Rotate(dir string, r Rotation) (old OldKey, fresh PublicKey, err error) {
	err = withKeys(dir, func() error {
		old, fresh, err = rotate(dir, r)
		return err
	})
	if err != nil {
		return OldKey{}, PublicKey{}, fmt.Errorf("replacing the %s key: %w", r.Use, err)
	}
	return old, fresh, nil
}

func rotate(dir string, r Rotation) (old OldKey, fresh PublicKey, err error) {
	secret := filepath.Join(dir, string(r.Use)+".key")
	current, err := loadKey(secret)
	if errors.Is(err, fs.ErrNotExist) {
		return old, fresh, ErrNoSecretKey
	}
	if err != nil {
		return old, fresh, err
	}
	if err := mendPublic(dir, string(r.Use), current.Public); err != nil {
		return old, fresh, err
	}
	list, err := readOld(dir)
	if err != nil {
		return old, fresh, err
	}
	public, private, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		return old, fresh, fmt.Errorf("creating a key: %w", err)
	}
	text, err := private.MarshalText()
	if err != nil {
		return old, fresh, fmt.Errorf("encoding a key: %w", err)
	}
	fresh = PublicKey{public}
	old = OldKey{Use: r.Use, ID: current.Public.ID(), Text: string(current.Public.Text()), Replaced: r.Now,
		Leaked: r.Leaked, Kept: r.Use == ingot.KeyServer && r.Keep, Successor: succeed(current, r.Use, fresh)}
	if r.Leaked && r.Use == ingot.KeyRelease {
		old.Images = r.Images
	}
	list = slices.DeleteFunc(list, func(o OldKey) bool { return o.Use == old.Use && o.Text == old.Text }) // interrupted
	// 1. what is kept of the old key
	if old.Kept {
		kept, err := os.ReadFile(secret)
		if err == nil {
			err = writeKeyFile(keptFile(dir, old.ID), kept, 0o600)
		}
		if err != nil {
			return old, fresh, fmt.Errorf("keeping the old key: %w", err)
		}
	}
	// 2. the statement of the old key
	if err := writeOld(dir, append(list, old)); err != nil {
		return old, fresh, err
	}
	// 3. the new key; from here on it is in use
	if err := writeKeyFile(secret, text, 0o600); err != nil {
		return old, fresh, fmt.Errorf("writing the new key: %w", err)
	}
	// 4. its public half, which the next start also mends
	return old, fresh, writeKeyFile(filepath.Join(dir, string(r.Use)+".pub"), fresh.Text(), 0o644)
}

// succeed returns the statement by which a key makes another one its successor.
func succeed(by KeyPair, use ingot.KeyUse, next PublicKey) ingot.Successor {
	key := string(next.Text())
	return ingot.Successor{Key: key, Signature: by.Secret.Sign(ingot.SuccessorText(use, key),
		"successor of "+string(use)+" key "+by.Public.ID())}
}

func writeOld(dir string, list []OldKey) error {
	b, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the replaced keys: %w", err)
	}
	if err := writeKeyFile(filepath.Join(dir, oldFile), append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the replaced keys: %w", err)
	}
	return nil
}

// writeKeyFile replaces a file by one rename. An administrator who rotates a key does not take it away
// from the server's user.
func writeKeyFile(path string, content []byte, mode fs.FileMode) error {
	if err := owned.WriteFile(path, content, mode); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// withdraw marks a replaced key as distrusted, and removes what is kept of it.
func withdraw(dir, name string) error {
	return withKeys(dir, func() error {
		list, err := readOld(dir)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(o OldKey) bool { return o.Name() == name && !o.Distrusted })
		if i < 0 {
			return fmt.Errorf("%w: %q is not among the replaced keys", ErrKeyName, name)
		}
		list[i].Distrusted = true
		if err := writeOld(dir, list); err != nil {
			return err
		}
		if err := os.Remove(keptFile(dir, list[i].ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing an old key: %w", err)
		}
		return syncDir(dir)
	})
}
