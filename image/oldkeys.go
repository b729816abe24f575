package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ingot"
)

// OldKey is a key of a store that another one replaced, see Rotate.
type OldKey struct {
	Use  ingot.KeyUse `json:"use"`
	ID   string       `json:"id"`   // as minisign prints it
	Text string       `json:"text"` // minisign public key file
	// Successor is the key that replaced it, signed by it.
	Successor ingot.Successor `json:"successor"`
	Replaced  time.Time       `json:"replaced"`
	// Leaked: others have the private half. Of a release key, only Images are accepted.
	Leaked bool           `json:"leaked,omitempty"`
	Images []ingot.Digest `json:"images,omitempty"`
	// Distrusted: an operator withdrew it. Nothing that it signed is accepted.
	Distrusted bool `json:"distrusted,omitempty"`
	// Kept: the store still has the private half. It is a server key, and images from before
	// ingot.FeatureSuccessors hold it.
	Kept bool `json:"-"`
}

// Digest is the digest of the public key file, which the plan of an image has.
func (o OldKey) Digest() ingot.Digest { return ingot.DigestOf([]byte(o.Text)) }

// Name is the name of the key for Distrust.
func (o OldKey) Name() string { return oldPrefix + o.ID }

// oldPrefix begins the names of replaced keys. No other key is trusted under such a name.
const oldPrefix = "old-"

// oldFile in the key folder lists the replaced keys in their order.
const oldFile = "old.json"

// keptFile is the path of the private half of a replaced server key.
func keptFile(dir, id string) string { return filepath.Join(dir, "server-"+id+".key") }

// OldKeys reads the replaced keys in a store's key folder, the oldest first.
func OldKeys(dir string) ([]OldKey, error) {
	list, err := readOld(dir)
	if err != nil || list == nil {
		return nil, err
	}
	for _, use := range []ingot.KeyUse{ingot.KeyServer, ingot.KeyRelease} {
		b, err := os.ReadFile(filepath.Join(dir, string(use)+".pub"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading a public key: %w", err)
		}
		list = slices.DeleteFunc(list, func(o OldKey) bool { return o.Use == use && o.Text == string(b) })
	}
	return list, nil
}

// readOld is like OldKeys, with what an interrupted rotation left: an entry whose key is in use.
func readOld(dir string) ([]OldKey, error) {
	b, err := os.ReadFile(filepath.Join(dir, oldFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the replaced keys: %w", err)
	}
	var list []OldKey
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("reading %q: %w", filepath.Join(dir, oldFile), err)
	}
	for i, o := range list {
		if _, err := ParsePublicKey([]byte(o.Text)); err != nil {
			return nil, fmt.Errorf("reading %q: key %s: %w", filepath.Join(dir, oldFile), o.ID, err)
		}
		_, err := os.Stat(keptFile(dir, o.ID))
		list[i].Kept = o.Use == ingot.KeyServer && err == nil
	}
	return list, nil
}

// successors returns the statements that lead to a key in use, the oldest first. Those of an
// interrupted rotation lead elsewhere.
func successors(old []OldKey, use ingot.KeyUse, current PublicKey) (list []ingot.Successor) {
	want := string(current.Text())
	for _, o := range slices.Backward(old) {
		if o.Use == use && o.Successor.Key == want {
			list, want = append(list, o.Successor), o.Text
		}
	}
	slices.Reverse(list)
	return list[max(0, len(list)-ingot.MaxSuccessors):]
}

// Keyring is what a store accepts: release keys, and those that were replaced.
type Keyring struct {
	Trusted []NamedKey
	Old     []OldKey
}

// ReadKeyring reads the public part of a key folder.
func ReadKeyring(dir string) (k Keyring, err error) {
	if k.Old, err = OldKeys(dir); err != nil {
		return k, err
	}
	k.Trusted, err = trustedKeys(dir, k.Old)
	return k, err
}

// Text returns a text that differs when something else is accepted.
func (k Keyring) Text() string {
	var b strings.Builder
	for _, t := range k.Trusted {
		b.Write(t.Key.Text())
	}
	for _, o := range k.Old {
		fmt.Fprintln(&b, o.Use, o.ID, o.Leaked, o.Distrusted, o.Kept, o.Images)
	}
	return b.String()
}

// For returns the keys that may have signed a stored image: the trusted ones, and those that leaked
// after they had signed it.
func (k Keyring) For(im ingot.Digest) []PublicKey {
	keys := Public(k.Trusted)
	for _, o := range k.Old {
		if o.Use == ingot.KeyRelease && o.Leaked && !o.Distrusted && slices.Contains(o.Images, im) {
			if key, err := ParsePublicKey([]byte(o.Text)); err == nil {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// ErrReplacedKey: machines that boot the image accept only tickets of server keys that were replaced
// and that this store no longer uses.
var ErrReplacedKey = errors.New("its server key was replaced, and it cannot follow")

// Follows returns ErrReplacedKey unless machines that boot an image accept a ticket of this store: the
// image holds the server key in use, one that was replaced and that it can follow or whose private
// half is kept, or one that the store does not know. held is the digest of the key that it holds.
func (k Keyring) Follows(im Image, held ingot.Digest) error {
	for i, o := range k.after(ingot.KeyServer, held) {
		follows := im.Manifest.Has(ingot.FeatureSuccessors)
		if o.Distrusted || i == 0 && !follows && !o.Kept {
			return fmt.Errorf("%w: it holds server key %s, or one from before it; build it again", ErrReplacedKey, o.ID)
		}
		if !follows {
			break
		}
	}
	return nil
}

// after returns the keys that were replaced in turn, beginning with the one of a digest; none if that
// one was not replaced.
func (k Keyring) after(use ingot.KeyUse, held ingot.Digest) (list []OldKey) {
	for _, o := range k.Old {
		if o.Use == use && o.Digest() == held {
			list, held = append(list, o), ingot.DigestOf([]byte(o.Successor.Key))
		}
	}
	return list
}

// Replaced reports whether a server key was replaced; key is the digest of its public half.
func (k Keyring) Replaced(key ingot.Digest) bool { return len(k.after(ingot.KeyServer, key)) > 0 }

// Accepts reports whether machines that boot an image accept what a key signed: the initramfs holds
// it, or can follow to it from an older one. That is why a leaked key concerns the image. held and key
// are digests of public keys.
func (k Keyring) Accepts(im Image, use ingot.KeyUse, held, key ingot.Digest) bool {
	if held == key || !im.Manifest.Has(ingot.FeatureSuccessors) {
		return held == key
	}
	for _, o := range k.after(use, held) {
		if ingot.DigestOf([]byte(o.Successor.Key)) == key {
			return true
		}
	}
	return false
}

// HeldKeys returns the digests of the public keys that the initramfs of an image holds, as its plan
// says. It is empty for an image whose plan does not say so.
func (s *Store) HeldKeys(im ingot.Digest) (map[ingot.KeyUse]ingot.Digest, error) {
	blobs, err := s.Blobs(im)
	if err != nil {
		return nil, err
	}
	for _, d := range blobs {
		if d.MediaType != ingot.MediaTypePlan {
			continue
		}
		b, err := s.readBlob(ingot.Digest(d.Digest))
		if err != nil {
			return nil, err
		}
		var plan struct {
			Keys map[ingot.KeyUse]ingot.Digest `json:"keys"`
		}
		if json.Unmarshal(b, &plan) != nil {
			return nil, nil
		}
		return plan.Keys, nil
	}
	return nil, nil
}
