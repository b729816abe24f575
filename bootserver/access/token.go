package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Prefix is how every token begins, so that people and the scanners of code
// hosts recognise one where it should not be.
const Prefix = "ingot_"

// Credential is what is remembered of a token or client certificate: enough to
// recognise it, nothing to make one.
type Credential struct {
	ID      string    `json:"id"` // of a certificate its serial number; lower-case hex digits
	Name    string    `json:"name"`
	Kind    Kind      `json:"kind" enum:"token,certificate"`
	Scope   Scope     `json:"scope" enum:"read,operate,admin"`
	Hash    string    `json:"hash,omitempty"` // SHA-256 of a token's secret, in hex; of a certificate its fingerprint
	Created time.Time `json:"created"`
	By      string    `json:"by"` // who made it
	Expires time.Time `json:"expires"`
	Revoked time.Time `json:"revoked,omitzero"`
}

// Live reports whether a credential may still be used.
func (c Credential) Live(now time.Time) bool { return c.Revoked.IsZero() && now.Before(c.Expires) }

// Bounds of what is remembered and for how long.
const (
	MaxCredentials = 1000
	MaxLife        = 5 * 366 * 24 * time.Hour
	Remembered     = 90 * 24 * time.Hour // after its end
)

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// ErrCredential: what was asked for cannot be a credential.
var ErrCredential = errors.New("not a credential")

// NewCredential checks what a credential is to be. Its id and hash are still missing.
func NewCredential(name string, kind Kind, scope Scope, life time.Duration, by Who, now time.Time) (Credential, error) {
	if !nameRE.MatchString(name) {
		return Credential{}, fmt.Errorf("%w: name %q; use up to 64 letters, digits, dots, dashes", ErrCredential, name)
	}
	if scope.rank() < 0 {
		return Credential{}, fmt.Errorf("%w: %w: %q; choose read, operate or admin", ErrCredential, ErrScope, scope)
	}
	if life < time.Minute || life > MaxLife {
		return Credential{}, fmt.Errorf("%w: it cannot last %s; choose between 1m and %s", ErrCredential, life, MaxLife)
	}
	return Credential{Name: name, Kind: kind, Scope: scope, Created: now, By: by.String(),
		Expires: now.Add(life).Truncate(time.Second)}, nil
}

// Secret makes a credential's token of 28 random bytes that the caller drew:
// 8 for its id, 20 that only its owner knows. It is the only time that the
// token is seen.
func (c Credential) Secret(random [28]byte) (Credential, string) {
	c.ID = hex.EncodeToString(random[:8])
	secret := hex.EncodeToString(random[8:])
	c.Hash = hashOf(secret)
	return c, Prefix + c.ID + "_" + secret
}

func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

var tokenRE = regexp.MustCompile(`^` + Prefix + `([0-9a-f]{16})_([0-9a-f]{40})$`)

// split takes a token apart.
func split(token string) (id, secret string, ok bool) {
	m := tokenRE.FindStringSubmatch(token)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// Redact replaces every token in a text, for logs.
func Redact(text string) string {
	return anyTokenRE.ReplaceAllStringFunc(text, func(t string) string { return t[:min(len(t), len(Prefix)+4)] + "…" })
}

var anyTokenRE = regexp.MustCompile(Prefix + `[0-9A-Za-z_]{4,}`)

// matches compares a secret with the one that a credential was made of, in a
// time that tells nothing of where they differ.
func (c Credential) matches(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(hashOf(secret)), []byte(c.Hash)) == 1
}

// Bearer returns the token of an Authorization header (RFC 6750 section 2.1).
func bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	return strings.TrimSpace(token), ok && strings.EqualFold(scheme, "Bearer")
}
