package web

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/http"
	"sync"
	"time"

	"ingot/bootserver/access"
)

// The limits of a session. A page that is shown in a browser, with its stream of changes open, is in
// use; a hidden one closes its stream.
const (
	idleLimit     = 12 * time.Hour
	absoluteLimit = 7 * 24 * time.Hour
	maxSessions   = 4096
	maxEach       = 64 // of one token
)

// cookieName is that of the session's cookie: with the prefix __Host-, a browser takes it over TLS
// alone, and sends it to no other host (RFC 6265bis, section 4.1.3.2).
const cookieName = "__Host-ingot"

// errSessionOver: the session ended, or never was.
var errSessionOver = errors.New("the session has ended")

// sessions are what browsers log in to, by the hash of the secret in their cookie. They are in memory
// alone: a restart of the server ends them. Each belongs to a token and is good as long as that is.
type sessions struct {
	mu   sync.Mutex
	list map[[sha256.Size]byte]*session
}

// session is one login.
type session struct {
	credential  string // id of the token
	began, used time.Time
}

// over reports whether a session has reached one of its limits.
func (e *session) over(now time.Time) bool {
	return now.Sub(e.used) >= idleLimit || now.Sub(e.began) >= absoluteLimit
}

// begin makes a session of a token, and returns the secret for the cookie.
func (l *sessions) begin(credential string, now time.Time) (secret string) {
	var random [32]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	secret = base64.RawURLEncoding.EncodeToString(random[:])
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.list == nil {
		l.list = map[[sha256.Size]byte]*session{}
	}
	l.makeRoom(credential, now)
	l.list[sha256.Sum256([]byte(secret))] = &session{credential, now, now}
	return secret
}

// makeRoom removes sessions that are over, and the one that was used longest ago where there are too
// many. l.mu is held.
func (l *sessions) makeRoom(credential string, now time.Time) {
	var oldest, oldestOwn [sha256.Size]byte
	var at, atOwn time.Time
	own := 0
	for key, e := range l.list {
		if e.over(now) {
			delete(l.list, key)
			continue
		}
		if at.IsZero() || e.used.Before(at) {
			oldest, at = key, e.used
		}
		if e.credential == credential {
			own++
			if atOwn.IsZero() || e.used.Before(atOwn) {
				oldestOwn, atOwn = key, e.used
			}
		}
	}
	switch {
	case own >= maxEach:
		delete(l.list, oldestOwn)
	case len(l.list) >= maxSessions:
		delete(l.list, oldest)
	}
}

// use returns the token of a session, which is in use now.
func (l *sessions) use(secret string, now time.Time) (credential string, ok bool) {
	key := sha256.Sum256([]byte(secret))
	l.mu.Lock()
	defer l.mu.Unlock()
	e, known := l.list[key]
	if !known {
		return "", false
	}
	if e.over(now) {
		delete(l.list, key)
		return "", false
	}
	e.used = now
	return e.credential, true
}

// end ends a session.
func (l *sessions) end(secret string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.list, sha256.Sum256([]byte(secret)))
}

// resume returns the operator of a session. A session whose token was revoked or has expired is over.
func (s *Server) resume(r *http.Request, secret string) (access.Who, error) {
	id, ok := s.sessions.use(secret, s.now())
	if !ok {
		return access.Who{}, errSessionOver
	}
	who, err := s.keeper.Holder(r, id)
	if err != nil {
		s.sessions.end(secret)
		return access.Who{}, errors.Join(errSessionOver, err)
	}
	return who, nil
}

// cookie is that of a session.
func cookie(secret string) *http.Cookie {
	return &http.Cookie{Name: cookieName, Value: secret, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteLaxMode, MaxAge: int(absoluteLimit / time.Second)}
}

// endedCookie removes the cookie of a session.
func endedCookie() *http.Cookie {
	c := cookie("")
	c.MaxAge = -1
	return c
}
