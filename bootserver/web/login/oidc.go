package login

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"ingot/bootserver/access"
)

// CallbackPath is where the provider sends browsers back to.
const CallbackPath = "/login/oidc/callback"

// Provider logs operators in by an OpenID Connect provider: authorization code flow with PKCE (OpenID
// Connect Core 1.0, section 3.1; RFC 7636). What a login needs until the browser comes back is sealed
// in a cookie of that browser: strangers leave nothing on the server. All fields are required.
type Provider struct {
	Now func() time.Time
	Log *slog.Logger

	seal sealer
	busy atomic.Int32 // logins that ask the provider

	settings atomic.Pointer[OIDC] // nil: there is no provider

	asking  sync.Mutex  // held while the provider is asked, which may take seconds
	about   *OIDC       // what is below is about
	found   *discovered // nil: it was not asked yet
	failed  time.Time   // when asking it failed
	failure error
}

// OIDC is a provider and what its groups may do.
type OIDC struct {
	Issuer      string
	ClientID    string
	Secret      func() (string, error) // reads the client's secret; an empty one: a public client
	Scopes      []string               // besides openid
	GroupsClaim string
	Groups      map[string]access.Scope
	Origins     []string // https://NAME[:PORT] of this server, to which alone browsers are sent back
}

// Bounds of a login.
const (
	flowLife    = 10 * time.Minute // until the browser is back
	clockSkew   = 2 * time.Minute  // between this server and the provider
	askWithin   = 10 * time.Second
	findEvery   = time.Hour // the provider's addresses and keys are looked up again
	failedPause = 5 * time.Second
	maxAnswer   = 1 << 20
	maxAtOnce   = 8
)

// Refusal is why a login by the provider did not succeed, in a sentence for its operator.
type Refusal struct {
	Status int
	Note   string
	Err    error // for the log; nil: the sentence says all
}

// Error implements error.
func (r *Refusal) Error() string { return r.Note }

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }

func refuse(status int, err error, note string, args ...any) error {
	return &Refusal{status, fmt.Sprintf(note, args...), err}
}

// Set takes over the provider of a configuration; nil: there is none.
func (p *Provider) Set(o *OIDC) { p.settings.Store(o) }

// Host is the host of the provider, for people; empty: there is none.
func (p *Provider) Host() string {
	if o := p.current(); o != nil {
		return hostOf(o.Issuer)
	}
	return ""
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}

// current is the provider of the configuration; nil: there is none.
func (p *Provider) current() *OIDC { return p.settings.Load() }

// flow is one login, from the link on the login page until the browser is back.
type flow struct {
	State    string    `json:"s"`
	Nonce    string    `json:"n"`
	Verifier string    `json:"v"`
	Issuer   string    `json:"i"`
	Redirect string    `json:"r"`
	Next     string    `json:"p"`
	Began    time.Time `json:"t"`
}

// Start begins a login that goes on to a path of this server. It returns where to send the browser, and
// the cookie that it takes along. A browser that came by a name which is not of the configuration is
// sent to the first name of it, without a cookie, and begins there.
func (p *Provider) Start(r *http.Request, next string) (to string, c *http.Cookie, err error) {
	o := p.current()
	if o == nil {
		return "", nil, refuse(http.StatusNotFound, nil, "This server has no login provider.")
	}
	next = LocalPath(next)
	if len(next) > 1024 {
		next = "/" // a cookie is bounded
	}
	origin := "https://" + strings.ToLower(r.Host)
	if r.TLS == nil || !slices.Contains(o.Origins, origin) {
		return o.Origins[0] + "/login/oidc?" + url.Values{"next": {next}}.Encode(), nil, nil
	}
	d, err := p.discover(r.Context(), o)
	if err != nil {
		return "", nil, p.down(o, err)
	}
	f := flow{State: random(), Nonce: random(), Verifier: oauth2.GenerateVerifier(), Issuer: o.Issuer,
		Redirect: origin + CallbackPath, Next: next, Began: p.Now()}
	sealed, err := p.seal.lock(f)
	if err != nil {
		return "", nil, err
	}
	to = d.client(o, f.Redirect, "").AuthCodeURL(f.State, oidc.Nonce(f.Nonce), oauth2.S256ChallengeOption(f.Verifier))
	return to, flowCookie(sealed, flowLife), nil
}

// down is the refusal when the provider does not answer.
func (p *Provider) down(o *OIDC, err error) error {
	return refuse(http.StatusBadGateway, err, "%s cannot be reached right now. Tokens work as ever.", hostOf(o.Issuer))
}

// flowCookieName is that of the cookie of a login that is under way.
const flowCookieName = "__Host-ingot-oidc"

func flowCookie(value string, life time.Duration) *http.Cookie {
	return &http.Cookie{Name: flowCookieName, Value: value, Path: "/", Secure: true, HttpOnly: true,
		SameSite: http.SameSiteLaxMode, MaxAge: int(life / time.Second)}
}

// EndedFlow removes the cookie of a login that is under way.
func EndedFlow() *http.Cookie {
	c := flowCookie("", 0)
	c.MaxAge = -1
	return c
}

// identity is who the provider says that an operator is.
type identity struct {
	subject, name string
	groups        []string // those of the configuration
	until         time.Time
}

// Finish completes a login of which the browser is back. It returns the session to begin, its operator,
// and the path to go on to.
func (p *Provider) Finish(r *http.Request) (s access.Session, who access.Who, next string, err error) {
	o := p.current()
	if o == nil {
		return s, who, "", refuse(http.StatusNotFound, nil, "This server has no login provider.")
	}
	f, err := p.flowOf(r, o)
	if err != nil {
		return s, who, "", err
	}
	defer p.busy.Add(-1)
	if p.busy.Add(1) > maxAtOnce {
		return s, who, "", refuse(http.StatusServiceUnavailable, nil, "Too many logins are under way. Try again.")
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*askWithin)
	defer cancel()
	id, err := p.exchange(ctx, o, f, r.URL.Query().Get("code"))
	if err != nil {
		return s, who, "", err
	}
	s = access.Session{Kind: access.OIDC, Credential: o.Issuer + "#" + id.subject, Name: id.name, Groups: id.groups,
		Until: id.until}
	who, err = o.holder(s)
	if err != nil {
		return s, who, "", refuse(http.StatusForbidden, fmt.Errorf("%s of %s: %w", id.name, o.Issuer, err),
			"You are %s at %s, and none of your groups there may use this server. Ask its administrator.", id.name,
			hostOf(o.Issuer))
	}
	return s, who, f.Next, nil
}

// refusedRE is an error code of OAuth 2.0 (RFC 6749, section 4.1.2.1).
var refusedRE = regexp.MustCompile(`^[a-z_]{1,40}$`)

// flowOf returns the login that a browser which is back has begun. A link to the callback that somebody
// else made has not begun in this browser.
func (p *Provider) flowOf(r *http.Request, o *OIDC) (f flow, err error) {
	q := r.URL.Query()
	again := func(err error) error {
		return refuse(http.StatusBadRequest, err, "This login was not begun in this browser, or too long ago. Try again.")
	}
	c, err := r.Cookie(flowCookieName)
	if err != nil {
		return f, again(err)
	}
	if err := p.seal.open(c.Value, &f); err != nil {
		return f, again(err)
	}
	age := p.Now().Sub(f.Began)
	switch {
	case subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(f.State)) != 1:
		return f, again(errors.New("the state is not that of the browser's login"))
	case age < 0 || age > flowLife:
		return f, again(errors.New("it was begun too long ago"))
	case f.Issuer != o.Issuer || q.Has("iss") && q.Get("iss") != o.Issuer: // RFC 9207
		return f, again(errors.New("it was begun with another provider"))
	case f.Redirect != "https://"+strings.ToLower(r.Host)+CallbackPath:
		return f, again(errors.New("it was begun at another address of this server"))
	}
	if code := q.Get("error"); code != "" {
		if !refusedRE.MatchString(code) {
			code = "an error"
		}
		return f, refuse(http.StatusForbidden, fmt.Errorf("%q: %q", code, clip(q.Get("error_description"), 200)),
			"%s refused the login (%s).", hostOf(o.Issuer), code)
	}
	return f, nil
}

// exchange gets the tokens for a code, and verifies them.
func (p *Provider) exchange(ctx context.Context, o *OIDC, f flow, code string) (id identity, err error) {
	d, err := p.discover(ctx, o)
	if err != nil {
		return id, p.down(o, err)
	}
	secret, err := o.Secret()
	if err != nil {
		return id, refuse(http.StatusInternalServerError, err, "The server cannot read its secret for %s; its log says why.",
			hostOf(o.Issuer))
	}
	ctx = oidc.ClientContext(ctx, d.http)
	tokens, err := d.client(o, f.Redirect, secret).Exchange(ctx, code, oauth2.VerifierOption(f.Verifier))
	if answered, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		return id, refuse(http.StatusForbidden, fmt.Errorf("%s: %q", answered.Response.Status, clip(answered.ErrorCode, 40)),
			"%s did not accept this login any more. Try again.", hostOf(o.Issuer))
	}
	if err != nil {
		return id, p.down(o, err)
	}
	raw, _ := tokens.Extra("id_token").(string)
	claims, err := d.verify(ctx, o, raw, f.Nonce, p.Now())
	if err != nil {
		return id, err
	}
	if _, has := claims.lookup(o.GroupsClaim); !has {
		if err := claims.addUserInfo(ctx, d, tokens); err != nil {
			return id, p.down(o, err)
		}
	}
	return claims.identity(o)
}

// Holder returns the operator of a session that a login by the provider began.
func (p *Provider) Holder(s access.Session) (access.Who, error) { return p.current().holder(s) }

// holder returns the operator of a session: its groups have the scopes that the configuration gives
// them now.
func (o *OIDC) holder(s access.Session) (who access.Who, err error) {
	if o == nil || !strings.HasPrefix(s.Credential, o.Issuer+"#") {
		return who, fmt.Errorf("%w: its login provider is not that of the configuration", access.ErrWrong)
	}
	who = access.Who{Kind: access.OIDC, Name: s.Name, ID: s.Credential}
	for _, g := range s.Groups {
		if scope := o.Groups[g]; !who.Scope.Covers(scope) {
			who.Scope = scope
		}
	}
	if !who.Scope.Covers(access.Read) {
		return access.Who{}, errNoGroup
	}
	return who, nil
}

var errNoGroup = errors.New("none of the groups may use this server (api.oidc.groups)")

// clip cuts a text of the provider for the log.
func clip(text string, most int) string {
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
