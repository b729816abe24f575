package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"time"
)

// The limits of a session. A page that is shown in a browser, with its stream of changes open, is in
// use; a hidden one closes its stream.
const (
	SessionIdle = 12 * time.Hour
	SessionLife = 7 * 24 * time.Hour
)

// Bounds of what is remembered of sessions.
const (
	MaxSessions     = 4096
	MaxSessionsEach = 64 // of one credential
)

// Session is what is remembered of a browser that logged in: enough to recognise the secret in its
// cookie, nothing to make it. It is good as long as what it was begun with is.
type Session struct {
	ID         string    `json:"id"` // SHA-256 of the secret, in hex
	Kind       Kind      `json:"kind"`
	Credential string    `json:"credential"`       // id of the token; of OIDC, issuer and subject
	Name       string    `json:"name,omitempty"`   // of OIDC
	Groups     []string  `json:"groups,omitempty"` // of OIDC
	Began      time.Time `json:"began"`
	Used       time.Time `json:"used"`  // some minutes ago, or earlier; exact values are in memory
	Until      time.Time `json:"until"` // it ends then at the latest
}

// Over reports whether a session has reached one of its limits.
func (s Session) Over(now time.Time) bool {
	return !now.Before(s.Until) || now.Sub(s.Used) >= SessionIdle
}

// NewSecret draws the secret of a session, for its cookie, and returns the session's id with it.
func NewSecret() (secret, id string) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	secret = base64.RawURLEncoding.EncodeToString(random[:])
	return secret, SessionID(secret)
}

// SessionID is the id of the session with a secret.
func SessionID(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}
