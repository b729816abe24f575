package image

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"aead.dev/minisign"
	"golang.org/x/sys/unix"

	"ingot/internal/owned"
)

// SecretKey is an Ed25519 key that signs. The zero SecretKey signs nothing.
type SecretKey struct{ key minisign.PrivateKey }

// PublicKey verifies what the matching SecretKey signed.
type PublicKey struct{ key minisign.PublicKey }

// KeyPair is a secret key and its public half.
type KeyPair struct {
	Secret SecretKey
	Public PublicKey
}

// Keys are the keys of an installation: Release signs image manifests, Server signs tickets. They
// are separate so that the release key can be kept on a build host.
type Keys struct {
	Release KeyPair
	Server  KeyPair
}

// Sign returns a minisign signature of message with the given trusted comment. The text is what
// `minisign -Vm FILE` reads from FILE.minisig.
func (s SecretKey) Sign(message []byte, comment string) string {
	return string(minisign.SignWithComments(s.key, message, comment, "ingot signature"))
}

// Verify reports whether signature is a valid minisign signature of message.
func (p PublicKey) Verify(message []byte, signature string) error {
	if !minisign.Verify(p.key, message, []byte(signature)) {
		return fmt.Errorf("%w: not made by key %X", ErrSignature, p.key.ID())
	}
	return nil
}

// VerifySignature returns ErrSignature unless one of the keys signed the image.
func (im *Image) VerifySignature(keys ...PublicKey) error {
	if im.Signature == "" {
		return fmt.Errorf("%w: the image is not signed", ErrSignature)
	}
	return verifyWith(keys, im.OCI, im.Signature)
}

// verifyWith accepts a signature that one of the keys made.
func verifyWith(keys []PublicKey, message []byte, signature string) error {
	for _, k := range keys {
		if k.Verify(message, signature) == nil {
			return nil
		}
	}
	var s minisign.Signature
	if err := s.UnmarshalText([]byte(signature)); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return fmt.Errorf("%w: it says key %016X", ErrSignature, s.KeyID)
}

// SignedBy returns the number of the key that the signature of the image names, in 16 hex digits; it may be
// anybody's. Empty: the image has no signature that can be read.
func (im *Image) SignedBy() string {
	var s minisign.Signature
	if s.UnmarshalText([]byte(im.Signature)) != nil {
		return ""
	}
	return fmt.Sprintf("%016X", s.KeyID)
}

// ID returns the key's number as minisign prints it, in 16 hex digits.
func (p PublicKey) ID() string { return fmt.Sprintf("%016X", p.key.ID()) }

// Text returns the minisign public key file.
func (p PublicKey) Text() []byte {
	b, _ := p.key.MarshalText() // cannot fail: the key is a fixed-size array
	return append(b, '\n')
}

// ErrSignature: a signature is missing, malformed, made by another key, or of other content.
var ErrSignature = errors.New("bad signature")

// ParsePublicKey reads a minisign public key file.
func ParsePublicKey(text []byte) (PublicKey, error) {
	var k minisign.PublicKey
	if err := k.UnmarshalText(text); err != nil {
		return PublicKey{}, fmt.Errorf("parsing minisign public key: %w", err)
	}
	return PublicKey{k}, nil
}

// LoadOrCreateKeys reads release.key and server.key from dir and creates those that are missing,
// together with their .pub files. A key of which only the .pub file is there is ErrNoSecretKey. Secret
// keys are stored without a password, with mode 0600, so that a server starts unattended.
func LoadOrCreateKeys(dir string) (keys Keys, err error) {
	err = withKeys(dir, func() error {
		if keys.Release, err = loadOrCreateKey(dir, "release"); err != nil {
			return err
		}
		keys.Server, err = loadOrCreateKey(dir, "server")
		return err
	})
	if err != nil {
		return Keys{}, err
	}
	return keys, nil
}

// withKeys calls f while no other process writes keys.
func withKeys(dir string, f func() error) error {
	if err := owned.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("creating the key folder: %w", err)
	}
	unlock, err := lockFile(filepath.Join(dir, ".lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	return f()
}

func loadOrCreateKey(dir, name string) (KeyPair, error) {
	pair, err := loadKey(filepath.Join(dir, name+".key"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Stat(filepath.Join(dir, name+".pub")); err == nil {
			return KeyPair{}, fmt.Errorf("%w: %s.key is gone, %s.pub is there", ErrNoSecretKey, name, name)
		}
		return createKey(dir, name)
	}
	if err != nil {
		return KeyPair{}, err
	}
	return pair, mendPublic(dir, name, pair.Public)
}

// loadKey reads the file of a secret key.
func loadKey(path string) (KeyPair, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return KeyPair{}, fmt.Errorf("reading a secret key: %w", err)
	}
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
		return KeyPair{}, fmt.Errorf("key file %s can be read by other users (mode %04o); run: chmod 600 %s",
			path, st.Mode().Perm(), path)
	}
	var secret minisign.PrivateKey
	if err := secret.UnmarshalText(text); err != nil {
		return KeyPair{}, fmt.Errorf("parsing key file %s: %w", path, err)
	}
	public, ok := secret.Public().(minisign.PublicKey)
	if !ok {
		return KeyPair{}, fmt.Errorf("parsing key file %s: it does not contain an Ed25519 key", path)
	}
	return KeyPair{SecretKey{secret}, PublicKey{public}}, nil
}

// mendPublic writes the public half of a key if its file is missing or has the key that this one
// replaced: a rotation was interrupted.
func mendPublic(dir, name string, p PublicKey) error {
	path := filepath.Join(dir, name+".pub")
	b, err := os.ReadFile(path)
	if err == nil && bytes.Equal(b, p.Text()) {
		return nil
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return fmt.Errorf("reading public key %q: %w", name, err)
	default:
		list, err := readOld(dir)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(list, func(o OldKey) bool { return string(o.Use) == name && o.Text == string(b) }) {
			return nil
		}
	}
	return writeKeyFile(path, p.Text(), 0o644)
}

// createKey writes the public half last: after a crash in between, the next start writes it. A public
// half alone is that of a key which is elsewhere or lost, and is not replaced.
func createKey(dir, name string) (KeyPair, error) {
	public, secret, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		return KeyPair{}, fmt.Errorf("creating key %q: %w", name, err)
	}
	text, err := secret.MarshalText()
	if err != nil {
		return KeyPair{}, fmt.Errorf("encoding key %q: %w", name, err)
	}
	pair := KeyPair{SecretKey{secret}, PublicKey{public}}
	if err := owned.WriteFile(filepath.Join(dir, name+".key"), text, 0o600); err != nil {
		return KeyPair{}, fmt.Errorf("writing key %q: %w", name, err)
	}
	if err := owned.WriteFile(filepath.Join(dir, name+".pub"), pair.Public.Text(), 0o644); err != nil {
		return KeyPair{}, fmt.Errorf("writing public key %q: %w", name, err)
	}
	return pair, nil
}
