// Package login says who a browser's operator is: by the session in its cookie, by its client
// certificate, or by the administrator's socket. It begins and ends sessions.
//
// A session is bound to what it was begun with, which is looked at with each request. A client
// certificate needs no session: its key is proven with each connection.
package login

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"ingot/bootserver/access"
)

// CookieName is that of the session's cookie: with the prefix __Host-, a browser takes it over TLS
// alone, and sends it to no other host (RFC 6265bis, section 4.1.3.2).
const CookieName = "__Host-ingot"

// ErrOver means that the session of a request has ended, or never was.
var ErrOver = errors.New("the session has ended")

// Store keeps sessions.
type Store interface {
	// Begin stores a session and returns the secret for its cookie.
	Begin(s access.Session) (secret string, err error)
	// Use returns the session with a secret, which is in use now.
	Use(secret string) (access.Session, bool)
	// End ends the session with a secret.
	End(secret string) error
}

// Logins says who the operators of browsers are. All fields are required.
type Logins struct {
	Store    Store
	Keeper   *access.Keeper
	Provider *Provider // may have no provider set
	Log      *slog.Logger
}

// Identify returns the operator of a request.
func (l *Logins) Identify(r *http.Request) (access.Who, error) {
	if c, err := r.Cookie(CookieName); err == nil {
		return l.resume(r, c.Value)
	}
	return l.Keeper.Who(r)
}

// resume returns the operator of a session. A session whose token was revoked or has expired is over.
func (l *Logins) resume(r *http.Request, secret string) (access.Who, error) {
	s, ok := l.Store.Use(secret)
	if !ok {
		return access.Who{}, ErrOver
	}
	var who access.Who
	var err error
	if s.Kind == access.OIDC {
		if who, err = l.Provider.Holder(s); err == nil {
			who, err = l.Keeper.Admit(r, who)
		}
	} else {
		who, err = l.Keeper.Holder(r, s.Credential)
	}
	if err == nil {
		return who, nil
	}
	if !errors.Is(err, access.ErrPlain) {
		if err := l.Store.End(secret); err != nil {
			l.Log.Error("ending a session of the dashboard", "err", err)
		}
	}
	return access.Who{}, errors.Join(ErrOver, err)
}

// ByToken exchanges a token for a session, of which it returns the cookie. The token is verified as one
// that comes with a request to the API, wrong ones as slowly.
func (l *Logins) ByToken(r *http.Request, token string) (*http.Cookie, error) {
	asked := r.Clone(r.Context())
	asked.Header = http.Header{"Authorization": {"Bearer " + strings.TrimSpace(token)}}
	who, err := l.Keeper.Who(asked)
	if err != nil {
		return nil, err
	}
	if who.Kind != access.Token {
		return nil, nil // the local administrator needs no session
	}
	return l.begin(r, access.Session{Kind: access.Token, Credential: who.ID}, who)
}

// ByProvider completes a login by the provider. It returns the cookie of the session and the path to go
// on to. What a wrong answer brings is answered as slowly as a wrong token.
func (l *Logins) ByProvider(r *http.Request) (c *http.Cookie, next string, err error) {
	s, who, next, err := l.Provider.Finish(r)
	if refused, is := errors.AsType[*Refusal](err); is && refused.Status == http.StatusForbidden {
		err = l.Keeper.Refused(r, err)
	}
	if err != nil {
		return nil, "", err
	}
	if who, err = l.Keeper.Admit(r, who); err != nil {
		return nil, "", err
	}
	c, err = l.begin(r, s, who)
	return c, next, err
}

// begin begins a session of an operator, and returns its cookie. The one that the browser had ends.
func (l *Logins) begin(r *http.Request, s access.Session, who access.Who) (*http.Cookie, error) {
	if c, err := r.Cookie(CookieName); err == nil {
		if err := l.Store.End(c.Value); err != nil {
			return nil, err
		}
	}
	secret, err := l.Store.Begin(s)
	if err != nil {
		return nil, err
	}
	l.Log.Info("logged in to the dashboard", "by", who.String(), "from", who.From)
	return cookie(secret), nil
}

// Logout ends the session of a request. It returns what removes its cookie, and what kind of a session
// it was.
func (l *Logins) Logout(r *http.Request) (c *http.Cookie, kind access.Kind, err error) {
	if c, err = r.Cookie(CookieName); err != nil {
		return Ended(), "", nil //nolint:nilerr // there is no session to end
	}
	if s, ok := l.Store.Use(c.Value); ok {
		kind = s.Kind
	}
	return Ended(), kind, l.Store.End(c.Value)
}

// cookie is that of a session.
func cookie(secret string) *http.Cookie {
	return &http.Cookie{Name: CookieName, Value: secret, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteLaxMode, MaxAge: int(access.SessionLife / time.Second)}
}

// Ended removes the cookie of a session.
func Ended() *http.Cookie {
	c := cookie("")
	c.MaxAge = -1
	return c
}

// Note is what to say to a browser whose request was refused; nothing to one that sent nothing.
func Note(err error) string {
	refused, is := errors.AsType[*Refusal](err)
	switch {
	case is:
		return refused.Note
	case errors.Is(err, access.ErrNobody):
		return ""
	case errors.Is(err, access.ErrRevoked):
		return "The token or certificate was revoked."
	case errors.Is(err, access.ErrExpired):
		return "The token or certificate has expired."
	case errors.Is(err, ErrOver):
		return "The session has ended."
	case errors.Is(err, access.ErrTooManyWrong):
		return "Too many wrong tokens came from this address. Wait a few seconds."
	case errors.Is(err, access.ErrPlain):
		return "A token travels over TLS only. Open this page with https."
	case errors.Is(err, access.ErrWrong):
		return "This server knows no such token."
	}
	return "The server cannot log you in right now; its log says why."
}

// LocalPath returns a path of this host to go on to, whatever a link says.
func LocalPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") ||
		strings.ContainsAny(next, "\\") {
		return "/"
	}
	clean := url.URL{Path: path.Clean(u.Path), RawQuery: u.RawQuery}
	return clean.String()
}
