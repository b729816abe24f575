package login

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"sync"
)

// sealer seals what a browser keeps for the server, by a key that a start of the server draws.
type sealer struct {
	once sync.Once
	aead cipher.AEAD
}

// aes256 is AES-256-GCM with a random nonce.
func (s *sealer) aes256() cipher.AEAD {
	s.once.Do(func() {
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails, see crypto/rand
		block, err := aes.NewCipher(key)
		if err == nil {
			s.aead, err = cipher.NewGCMWithRandomNonce(block)
		}
		if err != nil {
			panic(err) // the size of the key is right
		}
	})
	return s.aead
}

func (s *sealer) lock(v any) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.aes256().Seal(nil, nil, text, nil)), nil
}

func (s *sealer) open(sealed string, into any) error {
	text, err := base64.RawURLEncoding.DecodeString(sealed)
	if err == nil {
		text, err = s.aes256().Open(nil, nil, text, nil)
	}
	if err != nil {
		return errors.New("what the browser kept was sealed by another start of the server, or was changed")
	}
	return json.Unmarshal(text, into)
}

// random is what cannot be guessed.
func random() string { return rand.Text() }
