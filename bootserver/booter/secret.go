package booter

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
)

// The server's part of the secret of a boot, see ingot.BootSecret. The private half is derived from the
// installation's secret and the boot, and the machine's half returns in the token, so that any server
// of the installation can verify a message: after a restart, with an older state, or beside others.

// token is what the server must know to verify the messages of a boot.
type token struct {
	Boot ingot.BootID `json:"boot"`
	Half ingot.Half   `json:"half"`
	// for when the state does not know the boot any more; nil in tokens of older servers
	Passport *fleet.Passport `json:"passport,omitempty"`
}

// privateHalf returns the server's private half of a boot.
func (b *Booter) privateHalf(id ingot.BootID) (*ecdh.PrivateKey, error) {
	seed, err := hkdf.Key(sha256.New, b.state.Identity(), nil, "ingot boot half 1 "+string(id), 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the half of boot %s: %w", id.Short(), err)
	}
	return ecdh.X25519().NewPrivateKey(seed)
}

// secret returns the secret of a boot with a machine's half, and the server's half.
func (b *Booter) secret(id ingot.BootID, machine ingot.Half) (ingot.BootSecret, ingot.Half, error) {
	own, err := b.privateHalf(id)
	if err != nil {
		return nil, nil, err
	}
	server := ingot.Half(own.PublicKey().Bytes())
	s, err := ingot.NewBootSecret(own, id, machine, server)
	return s, server, err
}

// sealer encrypts tokens: AES-256-GCM with random nonces, by a key that only servers of this
// installation can make.
func (b *Booter) sealer() (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, b.state.Identity(), nil, "ingot token 1", 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of tokens: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("deriving the key of tokens: %w", err)
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal makes the text of a token.
func (b *Booter) seal(t token) (string, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("writing the token of boot %s: %w", t.Boot.Short(), err)
	}
	aead, err := b.sealer()
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(aead.Seal(nil, nil, text, nil)), nil
}

// errToken: the token is not by a server of this installation.
var errToken = errors.New("its token is not by this installation")

// open reads the text of a token.
func (b *Booter) open(text string) (t token, err error) {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return t, errToken
	}
	aead, err := b.sealer()
	if err != nil {
		return t, err
	}
	plain, err := aead.Open(nil, nil, sealed, nil)
	if err != nil || json.Unmarshal(plain, &t) != nil {
		return token{}, errToken
	}
	return t, nil
}

// Sender implements httpboot.Booter.
func (b *Booter) Sender(id ingot.BootID, m ingot.Message, proof, text string) (httpboot.Sender, error) {
	s := &sender{b: b, boot: id, part: m.Part(), proof: fleet.Proof{Part: m.Part()}}
	if proof == "" {
		return s, nil
	}
	p, err := ingot.ParseProof(proof)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", httpboot.ErrUnproven, err)
	}
	t, err := b.open(text)
	if err == nil && t.Boot != id {
		err = errToken
	}
	if err != nil {
		return nil, fmt.Errorf("%w: message for boot %s: %w", httpboot.ErrUnproven, id.Short(), err)
	}
	if s.secret, _, err = b.secret(id, t.Half); err != nil {
		return nil, err
	}
	if m.Counter = p.Counter; !s.secret.Proves(m, p.MAC) {
		return nil, fmt.Errorf("%w: boot %s: %w", httpboot.ErrUnproven, id.Short(), fleet.ErrUnproven)
	}
	s.proof, s.passport = fleet.Proof{Half: t.Half, Part: s.part, Counter: p.Counter}, t.Passport
	return s, nil
}

// sender records one message of a machine.
type sender struct {
	b      *Booter
	boot   ingot.BootID
	part   string
	secret ingot.BootSecret // nil: the message proved nothing
	proof  fleet.Proof
	// from the token of a message that proved something; nil without one
	passport *fleet.Passport
	newest   uint64 // the largest counter of the part
}

// Prove implements httpboot.Sender.
func (s *sender) Prove(status int, body []byte) string {
	if s.secret == nil {
		return ""
	}
	return s.secret.ProveAnswer(s.part, ingot.Answer{Status: status, Counter: s.proof.Counter, Newest: s.newest,
		Body: body}).String()
}
