package login

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// signatures are the algorithms that an ID token may be signed by: asymmetric ones alone. Neither "none"
// nor a MAC by the client's secret is among them (RFC 8725, section 3.1).
var signatures = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256,
	oidc.PS384,
	oidc.PS512, oidc.EdDSA}

// discovered is a provider as it describes itself.
type discovered struct {
	*oidc.Provider
	verifier *oidc.IDTokenVerifier
	http     *http.Client
	at       time.Time
	style    oauth2.AuthStyle
	logout   string // where one logs out of the provider; empty: it does not say
}

// discover asks the provider how it is reached (OpenID Connect Discovery 1.0). Its keys are fetched when
// a token is signed by an unknown one, and all of it is looked up again now and then. An answer from
// before is used as long as there is no newer one.
func (p *Provider) discover(ctx context.Context, o *OIDC) (*discovered, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	now := p.Now()
	if p.about != o {
		p.about, p.found, p.failed = o, nil, time.Time{}
	}
	switch {
	case p.found != nil && now.Sub(p.found.at).Abs() < findEvery:
		return p.found, nil
	case !p.failed.IsZero() && now.Sub(p.failed).Abs() < failedPause:
		if p.found != nil {
			return p.found, nil
		}
		return nil, p.failure
	}
	found, err := ask(ctx, o, now)
	if err != nil {
		p.failed, p.failure = now, err
		if p.found == nil {
			return nil, err
		}
		p.Log.Warn("asking the login provider again; what it said before is used", "provider", o.Issuer, "err", err)
		return p.found, nil
	}
	p.found, p.failed = found, time.Time{}
	return found, nil
}

// Check asks a provider how it is reached, and returns what is wrong with its answer.
func Check(ctx context.Context, o *OIDC, now time.Time) error {
	_, err := ask(ctx, o, now)
	return err
}

// ask asks a provider how it is reached.
func ask(ctx context.Context, o *OIDC, now time.Time) (*discovered, error) {
	d := &discovered{at: now, http: newClient()}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askWithin) // others wait for the answer as well
	defer cancel()
	ctx = oidc.ClientContext(ctx, d.http)
	var err error
	if d.Provider, err = oidc.NewProvider(ctx, o.Issuer); err != nil {
		return nil, fmt.Errorf("asking the login provider: %w", err)
	}
	var more struct {
		Methods []string `json:"token_endpoint_auth_methods_supported"`
		JWKS    string   `json:"jwks_uri"`
		Logout  string   `json:"end_session_endpoint"`
	}
	if err := d.Claims(&more); err != nil {
		return nil, fmt.Errorf("asking the login provider: %w", err)
	}
	for what, address := range map[string]string{"authorization_endpoint": d.Endpoint().AuthURL,
		"token_endpoint": d.Endpoint().TokenURL, "jwks_uri": more.JWKS} {
		if !sameScheme(o.Issuer, address) {
			return nil, fmt.Errorf("asking the login provider: its %s is %q; want an address as secure as %s", what, address,
				o.Issuer)
		}
	}
	if sameScheme(o.Issuer, more.Logout) {
		d.logout = more.Logout
	}
	d.style = oauth2.AuthStyleInHeader // the default of OpenID Connect
	if len(more.Methods) > 0 && !slices.Contains(more.Methods, "client_secret_basic") {
		d.style = oauth2.AuthStyleInParams
	}
	d.verifier = d.VerifierContext(ctx, &oidc.Config{ClientID: o.ClientID, SupportedSigningAlgs: signatures,
		SkipExpiryCheck: true}) // times are compared in verify, with some tolerance
	return d, nil
}

// sameScheme reports whether an address is as secure as that of the issuer.
func sameScheme(issuer, address string) bool {
	a, err := url.Parse(issuer)
	b, bad := url.Parse(address)
	return err == nil && bad == nil && b.Host != "" && (b.Scheme == "https" || b.Scheme == "http" && a.Scheme == "http")
}

// LogoutAddress is where a browser logs out of the provider itself (OpenID Connect RP-Initiated Logout
// 1.0); empty if it did not say so.
func (p *Provider) LogoutAddress() string {
	o := p.current()
	if o == nil || !p.asking.TryLock() { // it is being asked: the link is not worth waiting for
		return ""
	}
	defer p.asking.Unlock()
	if p.about != o || p.found == nil || p.found.logout == "" {
		return ""
	}
	u, err := url.Parse(p.found.logout)
	if err != nil {
		return ""
	}
	q := u.Query()
	q.Set("client_id", o.ClientID)
	u.RawQuery = q.Encode()
	return u.String()
}

// client is this server as a client of the provider.
func (d *discovered) client(o *OIDC, redirect, secret string) *oauth2.Config {
	e := d.Endpoint()
	e.AuthStyle = d.style
	if secret == "" {
		e.AuthStyle = oauth2.AuthStyleInParams // a public client
	}
	return &oauth2.Config{ClientID: o.ClientID, ClientSecret: secret, Endpoint: e, RedirectURL: redirect,
		Scopes: append([]string{oidc.ScopeOpenID}, o.Scopes...)}
}

// newClient returns a client for the provider: it waits for a bounded time, reads bounded answers, and
// follows no redirections, which could lead a secret elsewhere.
func newClient() *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxResponseHeaderBytes = 64 << 10
	return &http.Client{Transport: bounded{t}, Timeout: askWithin,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// bounded bounds the bodies of answers.
type bounded struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.Transport.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}
