package notify

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/google/renameio/v2"

	"ingot/bootserver/fleet/webhook"
)

// KeyFile is the name of the key that seals the secrets of webhooks, in the folder of keys. The state,
// and so a backup of it, has the sealed secrets only.
const KeyFile = "webhook.key"

// ErrKey means that secrets cannot be opened: the key is missing, or another one.
var ErrKey = errors.New("the secret cannot be opened")

// keeper seals and opens secrets.
type keeper struct {
	folder string
	mu     sync.Mutex
}

// seal encrypts a secret for a webhook. It makes the key if there is none.
func (k *keeper) seal(id string, secret []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, err := k.read()
	if errors.Is(err, fs.ErrNotExist) {
		key, err = k.make()
	}
	if err != nil {
		return nil, fmt.Errorf("sealing the secret of a webhook: %w", err)
	}
	box, err := boxOf(key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, box.NonceSize())
	_, _ = rand.Read(nonce) // never fails, see crypto/rand
	return box.Seal(nonce, nonce, secret, []byte(id)), nil
}

// open decrypts the secret of a webhook.
func (k *keeper) open(id string, sealed []byte) ([]byte, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, err := k.read()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	box, err := boxOf(key)
	if err != nil {
		return nil, err
	}
	n := box.NonceSize()
	if len(sealed) < n {
		return nil, fmt.Errorf("%w: it is damaged", ErrKey)
	}
	secret, err := box.Open(nil, sealed[:n], sealed[n:], []byte(id))
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not the key that sealed it", ErrKey, k.path())
	}
	return secret, nil
}

func (k *keeper) path() string { return filepath.Join(k.folder, KeyFile) }

const keySize = 32

func (k *keeper) read() ([]byte, error) {
	text, err := os.ReadFile(k.path())
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("%s: want %d bytes in hexadecimal", k.path(), keySize)
	}
	return key, nil
}

func (k *keeper) make() ([]byte, error) {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails, see crypto/rand
	return key, renameio.WriteFile(k.path(), []byte(hex.EncodeToString(key)+"\n"), 0o600)
}

// boxOf returns what encrypts with a key of the file.
func boxOf(key []byte) (cipher.AEAD, error) {
	derived, err := hkdf.Key(sha256.New, key, nil, "secrets of webhooks", keySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Seal encrypts the secret of a webhook, for its record.
func (n *Notifier) Seal(id string, secret []byte) ([]byte, error) { return n.keys.seal(id, secret) }

// keysOf returns the keys by which a webhook's requests are signed now.
func (n *Notifier) keysOf(w webhook.Webhook) ([][]byte, error) {
	key, err := n.keys.open(w.ID, w.Secret)
	if err != nil {
		return nil, err
	}
	keys := [][]byte{key}
	for _, f := range w.FormerAt(n.Now()) {
		if former, err := n.keys.open(w.ID, f.Secret); err == nil { // without it, the present one is enough
			keys = append(keys, former)
		}
	}
	return keys, nil
}

// CheckSecret returns why the secret of a webhook cannot be opened.
func (n *Notifier) CheckSecret(w webhook.Webhook) error {
	_, err := n.keys.open(w.ID, w.Secret)
	return err
}
