package image

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"aead.dev/minisign"
	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// SecretKey signs; its public half verifies. The zero SecretKey signs nothing.
type SecretKey struct{ key minisign.PrivateKey }

// PublicKey verifies what the matching SecretKey signed.
type PublicKey struct{ key minisign.PublicKey }

// KeyPair is one key of ingot.
type KeyPair struct {
	Secret SecretKey
	Public PublicKey
}

// Keys are the two keys of DESIGN: Release signs image manifests, Server signs
// tickets. They are separate so that a release key can live on a build host.
type Keys struct {
	Release KeyPair
	Server  KeyPair
}

// Sign returns a minisign signature file over message, with comment as the
// trusted comment. The text is what `minisign -Vm FILE` reads from FILE.minisig.
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

// VerifySignature reports whether one of the keys signed the image.
func (im *Image) VerifySignature(keys ...PublicKey) error {
	if im.Signature == "" {
		return fmt.Errorf("%w: it is not signed", ErrSignature)
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

// ID is the key's number as minisign prints it, 16 hex digits.
func (p PublicKey) ID() string { return fmt.Sprintf("%016X", p.key.ID()) }

// Text returns the minisign public key file.
func (p PublicKey) Text() []byte {
	b, _ := p.key.MarshalText() // cannot fail: the key is a fixed-size array
	return append(b, '\n')
}

// ErrSignature: a signature is malformed, of another key, or of other bytes.
var ErrSignature = errors.New("bad signature")

// ParsePublicKey reads a minisign public key file.
func ParsePublicKey(text []byte) (PublicKey, error) {
	var k minisign.PublicKey
	if err := k.UnmarshalText(text); err != nil {
		return PublicKey{}, fmt.Errorf("parsing minisign public key: %w", err)
	}
	return PublicKey{k}, nil
}

// LoadOrCreateKeys reads release.key and server.key from dir and makes those
// that are missing, together with their .pub files. Secret keys are stored
// without a password, mode 0600, so that a server starts unattended.
func LoadOrCreateKeys(dir string) (Keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Keys{}, fmt.Errorf("making key folder: %w", err)
	}
	unlock, err := lockFile(filepath.Join(dir, ".lock"), unix.LOCK_EX)
	if err != nil {
		return Keys{}, err
	}
	defer unlock()
	var keys Keys
	if keys.Release, err = loadOrCreateKey(dir, "release"); err != nil {
		return Keys{}, err
	}
	keys.Server, err = loadOrCreateKey(dir, "server")
	return keys, err
}

func loadOrCreateKey(dir, name string) (KeyPair, error) {
	path := filepath.Join(dir, name+".key")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createKey(dir, name)
	}
	if err != nil {
		return KeyPair{}, fmt.Errorf("reading key %q: %w", name, err)
	}
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
		return KeyPair{}, fmt.Errorf("key file %s has mode %04o and others may read it; run: chmod 600 %s", path, st.Mode().Perm(), path)
	}
	var secret minisign.PrivateKey
	if err := secret.UnmarshalText(text); err != nil {
		return KeyPair{}, fmt.Errorf("parsing key file %s: %w", path, err)
	}
	public, ok := secret.Public().(minisign.PublicKey)
	if !ok {
		return KeyPair{}, fmt.Errorf("parsing key file %s: it holds no ed25519 key", path)
	}
	return KeyPair{SecretKey{secret}, PublicKey{public}}, nil
}

// createKey writes the public half first: a crash in between leaves no key
// whose public half is missing, and the next start makes both anew.
func createKey(dir, name string) (KeyPair, error) {
	public, secret, err := minisign.GenerateKey(rand.Reader)
	if err != nil {
		return KeyPair{}, fmt.Errorf("making key %q: %w", name, err)
	}
	text, err := secret.MarshalText()
	if err != nil {
		return KeyPair{}, fmt.Errorf("encoding key %q: %w", name, err)
	}
	pair := KeyPair{SecretKey{secret}, PublicKey{public}}
	if err := renameio.WriteFile(filepath.Join(dir, name+".pub"), pair.Public.Text(), 0o644); err != nil {
		return KeyPair{}, fmt.Errorf("writing public key %q: %w", name, err)
	}
	if err := renameio.WriteFile(filepath.Join(dir, name+".key"), text, 0o600); err != nil {
		return KeyPair{}, fmt.Errorf("writing key %q: %w", name, err)
	}
	return pair, nil
}
