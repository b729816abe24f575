package bootserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/config"
)

const (
	ownName      = "boot.example.org" // of the server
	clientID     = "ingot"            // at the provider
	clientSecret = "a secret/of:the client"
)

// visitor is a web browser with cookies of every host.
type visitor struct {
	t    testing.TB
	http *http.Client
}

// visitor returns one that finds the server by its name, and the provider on this host. It follows
// redirections.
func (s *street) visitor() *visitor {
	s.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.server.ca.PEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: access.ServerName, Time: s.now},
		DialContext: func(ctx context.Context, network, at string) (net.Conn, error) {
			if strings.HasPrefix(at, ownName) || strings.HasPrefix(at, "other.example.org") {
				at = strings.TrimPrefix(s.tls, "https://")
			}
			return (&net.Dialer{}).DialContext(ctx, network, at)
		}}
	s.t.Cleanup(transport.CloseIdleConnections)
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return &visitor{s.t, &http.Client{Transport: transport, Jar: jar}}
}

// do sends a request and returns where it led in the end.
func (v *visitor) do(method, address string, form url.Values) (status int, at *url.URL, text string) {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		v.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := v.http.Do(r)
	if err != nil {
		v.t.Fatalf("%s %s: %v", method, address, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return resp.StatusCode, resp.Request.URL, string(b)
}

// stays makes a visitor follow no redirections.
func (v *visitor) stays() *visitor {
	c := *v.http
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &visitor{v.t, &c}
}

// leads returns where an address leads to, without following.
func (v *visitor) leads(address string) (status int, to string) {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), http.MethodGet, address, nil)
	if err != nil {
		v.t.Fatal(err)
	}
	resp, err := v.stays().http.Do(r)
	if err != nil {
		v.t.Fatalf("GET %s: %v", address, err)
	}
	resp.Body.Close()
	return resp.StatusCode, resp.Header.Get("Location")
}

// origin is the server's address by its name.
func (s *street) origin() string {
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.tls, "https://"))
	return "https://" + net.JoinHostPort(ownName, port)
}

// provide makes a provider the one of the server's configuration.
func (s *street) provide(o *config.OIDC) {
	s.t.Helper()
	s.server.conf.Now, s.server.log = s.now, s.log
	c := config.API{Names: []string{ownName}, Listen: []string{strings.TrimPrefix(s.tls, "https://")}, OIDC: o}
	s.server.setNames(c)
	s.server.setProvider(c)
	s.server.conf.Settings.API = c
}

// hostile is a provider that can be told to answer anything.
type hostile struct {
	*httptest.Server
	t   *testing.T
	now func() time.Time

	mu        sync.Mutex
	key       *ecdsa.PrivateKey
	kid       string
	codes     map[string]url.Values // the requests of codes that were not used
	claims    map[string]any        // over those that are right; nil removes one
	info      map[string]any        // of the userinfo endpoint; nil: there is none
	sign      func(payload string) string
	params    url.Values     // over those of the way back
	discovery map[string]any // over what is right
	discover  int            // how often it was asked
}

func newHostile(t *testing.T, now func() time.Time) *hostile {
	t.Helper()
	h := &hostile{t: t, now: now, codes: map[string]url.Values{}}
	h.rotate("1")
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", h.describe)
	mux.HandleFunc("GET /keys", h.keys)
	mux.HandleFunc("GET /auth", h.authorize)
	mux.HandleFunc("POST /token", h.token)
	mux.HandleFunc("GET /me", func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.answer(w, h.info)
	})
	h.Server = httptest.NewServer(mux)
	t.Cleanup(h.Close)
	return h
}

// rotate makes the provider sign by a new key.
func (h *hostile) rotate(kid string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.key, h.kid = key, kid
}

// with changes what the provider does.
func (h *hostile) with(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f()
}

func (h *hostile) answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		h.t.Error(err)
	}
}

func (h *hostile) describe(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.discover++
	d := map[string]any{"issuer": h.URL, "authorization_endpoint": h.URL + "/auth", "token_endpoint": h.URL + "/token",
		"jwks_uri": h.URL + "/keys", "id_token_signing_alg_values_supported": []string{"none", "HS256", "ES256"}}
	if h.info != nil {
		d["userinfo_endpoint"] = h.URL + "/me"
	}
	maps.Copy(d, h.discovery)
	h.answer(w, d)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (h *hostile) keys(w http.ResponseWriter, _ *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	point, err := h.key.PublicKey.Bytes()
	if err != nil {
		h.t.Error(err)
	}
	h.answer(w, map[string]any{"keys": []any{map[string]any{"kty": "EC", "crv": "P-256", "kid": h.kid, "use": "sig",
		"alg": "ES256", "x": b64(point[1:33]), "y": b64(point[33:])}}})
}

// authorize sends the browser back at once, with a code.
func (h *hostile) authorize(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	q := r.URL.Query()
	code := rand.Text()
	h.codes[code] = q
	back := url.Values{"code": {code}, "state": {q.Get("state")}}
	maps.Copy(back, h.params)
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

// token exchanges a code once, for the client that knows the secret and the verifier.
func (h *hostile) token(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	id, pass, _ := r.BasicAuth()
	pass, _ = url.QueryUnescape(pass)
	code := r.FormValue("code")
	q, known := h.codes[code]
	delete(h.codes, code)
	challenge := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	if !known || id != clientID || pass != clientSecret || r.FormValue("redirect_uri") != q.Get("redirect_uri") ||
		b64(challenge[:]) != q.Get("code_challenge") || q.Get("code_challenge_method") != "S256" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
		return
	}
	now := h.now()
	c := map[string]any{"iss": h.URL, "aud": clientID, "sub": "248289761001", "nonce": q.Get("nonce"), "iat": now.Unix(),
		"exp": now.Add(time.Hour).Unix(), "groups": []string{"ops"}, "preferred_username": "alice"}
	for name, v := range h.claims {
		if in, is := v.(time.Duration); is {
			v = now.Add(in).Unix()
		}
		if c[name] = v; v == nil {
			delete(c, name)
		}
	}
	payload, err := json.Marshal(c)
	if err != nil {
		h.t.Error(err)
	}
	sign := h.sign
	if sign == nil {
		sign = es256(h.key, h.kid)
	}
	h.answer(w, map[string]any{"access_token": "a", "token_type": "Bearer", "expires_in": 60,
		"id_token": sign(b64(payload))})
}

// es256 signs by a key as it should be (RFC 7518, section 3.4).
func es256(key *ecdsa.PrivateKey, kid string) func(payload string) string {
	return func(payload string) string {
		text := b64([]byte(`{"alg":"ES256","kid":"`+kid+`"}`)) + "." + payload
		sum := sha256.Sum256([]byte(text))
		r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			panic(err)
		}
		return text + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	}
}

// mac signs by a secret that is none of a signature.
func mac(key []byte) func(payload string) string {
	return func(payload string) string {
		text := b64([]byte(`{"alg":"HS256","kid":"1"}`)) + "." + payload
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text))
		return text + "." + b64(m.Sum(nil))
	}
}

// unsigned makes a token of the algorithm none.
func unsigned(payload string) string { return b64([]byte(`{"alg":"none"}`)) + "." + payload + "." }

// newLogin returns a server with a hostile provider.
func newLogin(t *testing.T) (*street, *hostile) {
	t.Helper()
	s := newStreet(t)
	h := newHostile(t, s.now)
	s.provide(&config.OIDC{Issuer: h.URL, ClientID: clientID, ClientSecretFile: fileOf(t, clientSecret+"\n"),
		Groups: map[string]string{"ops": "admin", "oncall": "operate", "all": "read"}})
	return s, h
}

// TestProviderThatLies: whatever is wrong with what the provider says, nobody is logged in, and the page
// says so in a sentence.
func TestProviderThatLies(t *testing.T) {
	s, h := newLogin(t)
	if status, at, text := s.visitor().do("GET", s.origin()+"/login/oidc?next=/pending", nil); status != 200 ||
		at.String() != s.origin()+"/pending" {
		t.Fatalf("a login in order ends at %s with %d\n%s", at, status, text)
	}
	public, err := x509.MarshalPKIXPublicKey(&h.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		lie    func()
		status int
		want   string
	}{
		"another issuer":         {func() { h.claims["iss"] = "https://evil.example.org" }, 403, "could not be verified"},
		"another audience":       {func() { h.claims["aud"] = "shop" }, 403, "could not be verified"},
		"a second audience":      {func() { h.claims["aud"] = []string{clientID, "shop"} }, 403, "could not be verified"},
		"another party":          {func() { h.claims["azp"] = "shop" }, 403, "could not be verified"},
		"another nonce":          {func() { h.claims["nonce"] = "x" }, 403, "could not be verified"},
		"no nonce":               {func() { h.claims["nonce"] = nil }, 403, "could not be verified"},
		"no subject":             {func() { h.claims["sub"] = nil }, 403, "could not be verified"},
		"a subject with markup":  {func() { h.claims["sub"] = "<b>\n" }, 403, "could not be verified"},
		"a very long subject":    {func() { h.claims["sub"] = strings.Repeat("a", 256) }, 403, "could not be verified"},
		"no signature":           {func() { h.sign = unsigned }, 403, "could not be verified"},
		"a MAC by the secret":    {func() { h.sign = mac([]byte(clientSecret)) }, 403, "could not be verified"},
		"a MAC by the key":       {func() { h.sign = mac(public) }, 403, "could not be verified"},
		"a key of somebody else": {func() { h.sign = es256(other, "1") }, 403, "could not be verified"},
		"no ID token":            {func() { h.sign = func(string) string { return "" } }, 403, "could not be verified"},
		"a token of before":      {func() { h.claims["exp"] = -3 * time.Minute }, 403, "The clocks of this server and"},
		"no end":                 {func() { h.claims["exp"] = nil }, 403, "The clocks"},
		"a token of tomorrow":    {func() { h.claims["iat"] = 3 * time.Minute }, 403, "The clocks of this server and"},
		"not to be used yet":     {func() { h.claims["nbf"] = 3 * time.Minute }, 403, "The clocks of this server and"},
		"a group of others": {func() { h.claims["groups"] = []string{"shop"} }, 403,
			"none of your groups there may use"},
		"no groups": {func() { h.claims["groups"] = nil }, 403, "You are alice at"},
		"groups that are odd": {func() { h.claims["groups"] = []any{1, nil, map[string]any{"ops": 1}} }, 403,
			"none of your groups"},
		"another state":  {func() { h.params = url.Values{"state": {"x"}} }, 400, "was not begun in this browser"},
		"no state":       {func() { h.params = url.Values{"state": {""}} }, 400, "was not begun in this browser"},
		"iss of another": {func() { h.params = url.Values{"iss": {"https://evil.example.org"}} }, 400, "not begun"},
		"a made-up code": {func() { h.params = url.Values{"code": {"x"}} }, 403, "did not accept this login"},
		"a refusal": {func() { h.params = url.Values{"error": {"access_denied"}} }, 403,
			"refused the login (access_denied)"},
		"a refusal with markup": {func() { h.params = url.Values{"error": {"<script>"}} }, 403,
			"refused the login (an error)"},
	} {
		h.with(func() {
			h.claims, h.params, h.sign = map[string]any{}, nil, nil
			c.lie()
		})
		v := s.visitor()
		status, at, text := v.do("GET", s.origin()+"/login/oidc", nil)
		if status != c.status || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d at %s\n%s\nwant %d and %q", name, status, at.Path, text, c.status, c.want)
		}
		if status, _, _ := v.do("GET", s.origin()+"/", nil); status != 401 {
			t.Errorf("%s: the browser is in: %d", name, status)
		}
	}
	if list := s.state.Sessions(); len(list) != 1 {
		t.Errorf("%d sessions; want that of the login in order", len(list))
	}
}

// TestProviderClaims: how groups, names and ends of what a provider says become sessions.
func TestProviderClaims(t *testing.T) {
	s, h := newLogin(t)
	for _, c := range []struct {
		what   string
		claims map[string]any
		scope  access.Scope
		name   string
		life   time.Duration
	}{
		{"as it is", nil, access.Admin, "alice", time.Hour + 2*time.Minute},
		{"the largest of several", map[string]any{"groups": []string{"all", "oncall"}}, access.Operate, "alice",
			time.Hour + 2*time.Minute},
		{"the largest of several, first", map[string]any{"groups": []string{"oncall", "shop", "all"}}, access.Operate,
			"alice", time.Hour + 2*time.Minute},
		{"one group as a text", map[string]any{"groups": "all"}, access.Read, "alice", time.Hour + 2*time.Minute},
		{"a verified address", map[string]any{"email": "alice@example.org", "email_verified": true}, access.Admin,
			"alice@example.org", time.Hour + 2*time.Minute},
		{"an address that nobody verified", map[string]any{"email": "root@example.org", "email_verified": false},
			access.Admin, "alice", time.Hour + 2*time.Minute},
		{"a name that would do harm", map[string]any{"preferred_username": "a\x1b[2J\n\u202eb c" + strings.Repeat("x", 99)},
			access.Admin, "", time.Hour + 2*time.Minute},
		{"no name", map[string]any{"preferred_username": nil}, access.Admin, "248289761001", time.Hour + 2*time.Minute},
		{"a longer life than a session's", map[string]any{"exp": 30 * 24 * time.Hour}, access.Admin, "alice",
			access.SessionLife},
		{"within the tolerance", map[string]any{"exp": -time.Minute}, access.Admin, "alice",
			time.Minute},
	} {
		h.with(func() { h.claims = c.claims })
		before := len(s.state.Sessions())
		status, _, text := s.visitor().do("GET", s.origin()+"/login/oidc", nil)
		list := s.state.Sessions()
		if status != 200 || len(list) != before+1 {
			t.Fatalf("%s: %d\n%s", c.what, status, text)
		}
		for _, one := range list {
			if who, err := s.server.provider.Holder(one); one.Began.Equal(s.clock) && (err != nil || who.Scope != c.scope ||
				c.name != "" && who.Name != c.name || one.Until.Sub(s.clock) != c.life ||
				strings.ContainsAny(who.Name, "\x1b\n\u202e ") || len([]rune(who.Name)) > 64) {
				t.Errorf("%s: %+v until %s, %v; want scope %s, name %q, for %s", c.what, who, one.Until.Sub(s.clock), err, c.scope,
					c.name, c.life)
			}
		}
		s.clock = s.clock.Add(time.Second)
	}
}

// TestProviderInfo: groups that only the userinfo endpoint has are asked for there, and count if the
// answer is about the same operator.
func TestProviderInfo(t *testing.T) {
	s, h := newLogin(t)
	h.with(func() {
		h.claims = map[string]any{"groups": nil}
		h.info = map[string]any{"sub": "248289761001", "groups": []string{"all"}, "iss": "x", "aud": "x"}
	})
	if status, _, text := s.visitor().do("GET", s.origin()+"/login/oidc", nil); status != 200 {
		t.Errorf("groups at the userinfo endpoint: %d\n%s", status, text)
	}
	h.with(func() { h.info["sub"] = "somebody" })
	if status, _, _ := s.visitor().do("GET", s.origin()+"/login/oidc", nil); status != 502 {
		t.Errorf("userinfo of somebody else: %d; want it refused", status)
	}
}

// TestKeysOfTheProvider: a new key is fetched when a token is signed by it.
func TestKeysOfTheProvider(t *testing.T) {
	s, h := newLogin(t)
	for _, kid := range []string{"1", "2", "3"} {
		h.rotate(kid)
		if status, _, text := s.visitor().do("GET", s.origin()+"/login/oidc", nil); status != 200 {
			t.Errorf("signed by the key %s: %d\n%s", kid, status, text)
		}
	}
	if h.discover != 1 {
		t.Errorf("the provider was asked %d times how it is reached; want once", h.discover)
	}
	s.clock = s.clock.Add(2 * time.Hour)
	if status, _, _ := s.visitor().do("GET", s.origin()+"/login/oidc", nil); status != 200 || h.discover != 2 {
		t.Errorf("two hours later: %d, and it was asked %d times", status, h.discover)
	}
}

// TestProviderDescribesItself: a provider that calls itself something else, or leads to addresses that
// others on the way can read, is not used.
func TestProviderDescribesItself(t *testing.T) {
	for name, lie := range map[string]map[string]any{
		"another issuer":      {"issuer": "https://evil.example.org"},
		"an odd address":      {"token_endpoint": "javascript:alert(1)"},
		"no address for keys": {"jwks_uri": ""},
		"an endless answer":   {"x": strings.Repeat("x", 2<<20)},
	} {
		s, h := newLogin(t)
		h.discovery = lie
		status, at, text := s.visitor().do("GET", s.origin()+"/login/oidc?next=/events", nil)
		if status != 502 || !strings.Contains(text, "cannot be reached right now. Tokens work as ever.") ||
			!strings.Contains(text, `value="/events"`) {
			t.Errorf("%s: %d at %s\n%s", name, status, at, text)
		}
	}
}

// TestLoginIsOfOneBrowser: what one browser began, another one cannot end: neither with a link that an
// attacker made with a code of his own (login CSRF), nor with one that he saw. A code works once.
func TestLoginIsOfOneBrowser(t *testing.T) {
	s, _ := newLogin(t)
	attacker, victim := s.visitor(), s.visitor()
	_, to := attacker.leads(s.origin() + "/login/oidc")
	_, back := attacker.leads(to) // with a code of the attacker
	if status, _, text := victim.do("GET", back, nil); status != 400 || !strings.Contains(text,
		"not begun in this browser") {
		t.Errorf("a link of somebody else: %d\n%s", status, text)
	}
	_, own := victim.leads(s.origin() + "/login/oidc") // the victim is about to log in
	if status, _, _ := victim.do("GET", back, nil); status != 400 {
		t.Errorf("a link of somebody else while a login is under way: %d", status)
	}
	if status, _, _ := victim.do("GET", own, nil); status != 400 {
		t.Errorf("the own login after another one's link: %d; want it to begin anew", status)
	}
	if status, _, _ := victim.do("GET", s.origin()+"/", nil); status != 401 {
		t.Errorf("the victim is logged in as the attacker: %d", status)
	}

	// A link with its cookie, twice: the cookie is taken by the first answer, the code by the provider.
	_, to = victim.leads(s.origin() + "/login/oidc?next=/events")
	_, back = victim.leads(to)
	u, _ := url.Parse(s.origin())
	kept := victim.http.Jar.Cookies(u)
	if status, at, _ := victim.do("GET", back, nil); status != 200 || at.Path != "/events" {
		t.Errorf("the login of the victim: %d at %s", status, at)
	}
	thief := s.visitor()
	if status, _, _ := thief.do("GET", back, nil); status != 400 {
		t.Errorf("a link that was used: %d", status)
	}
	for _, c := range kept {
		c.Path, c.Secure = "/", true
	}
	thief.http.Jar.SetCookies(u, kept)
	if status, _, text := thief.do("GET", back, nil); status != 403 || !strings.Contains(text,
		"did not accept this login") {
		t.Errorf("a link that was used, with its cookie: %d\n%s", status, text)
	}
	if status, _, _ := thief.do("GET", s.origin()+"/", nil); status != 401 {
		t.Errorf("the thief is in: %d", status)
	}

	late := s.visitor()
	_, to = late.leads(s.origin() + "/login/oidc")
	_, back = late.leads(to)
	s.clock = s.clock.Add(11 * time.Minute)
	if status, _, _ := late.do("GET", back, nil); status != 400 {
		t.Errorf("a login that took 11 min: %d", status)
	}
}

// TestWhereLoginsLead: neither a link nor the name by which a browser came decides where a code or the
// browser goes.
func TestWhereLoginsLead(t *testing.T) {
	s, h := newLogin(t)
	v := s.visitor()
	for _, next := range []string{"https://evil.example.org/", "//evil.example.org", "/\\evil.example.org", "javascript:x",
		"https:evil.example.org", "/%2e%2e//evil.example.org", "\t//evil.example.org", "/" + strings.Repeat("x", 5000)} {
		if _, at, _ := v.do("GET", s.origin()+"/login/oidc?next="+url.QueryEscape(next), nil); at.Host !=
			strings.TrimPrefix(s.origin(), "https://") {
			t.Errorf("next=%.40q leads to %s", next, at)
		}
	}
	_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.tls, "https://"))
	for _, host := range []string{"evil.example.org", "evil.example.org:" + port, ownName, ownName + ":1",
		"other.example.org:" + port, "127.0.0.1:" + port, ownName + ":" + port + "@evil.example.org"} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.origin()+"/login/oidc?next=/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		resp, err := s.visitor().stays().http.Do(r)
		if err != nil {
			continue // the client refuses to send it
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusBadRequest { // the server's HTTP does
			continue
		}
		if to := resp.Header.Get("Location"); to != s.origin()+"/login/oidc?next=%2Fevents" || len(resp.Cookies()) != 0 {
			t.Errorf("by the name %q it leads to %s, with %d cookies; want the name of the configuration", host, to,
				len(resp.Cookies()))
		}
	}
	_, to := v.leads(s.origin() + "/login/oidc")
	u, err := url.Parse(to)
	if err != nil || !strings.HasPrefix(to, h.URL+"/auth?") || u.Query().Get("redirect_uri") !=
		s.origin()+"/login/oidc/callback" || u.Query().Get("client_secret") != "" {
		t.Errorf("the provider is asked by %s", to)
	}
	// Over plain HTTP there is no login, by whatever headers.
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.plain+"/login/oidc", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = strings.TrimPrefix(s.origin(), "https://")
	r.Header.Set("X-Forwarded-Proto", "https")
	resp, err := v.stays().http.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if to := resp.Header.Get("Location"); !strings.HasPrefix(to, s.origin()+"/login/oidc?") {
		t.Errorf("over plain HTTP it leads to %s", to)
	}
}

// TestProviderSessionsEnd: with their group in the configuration, with the provider in it, with the ID
// token; and logging out ends one alone.
func TestProviderSessionsEnd(t *testing.T) {
	s, _ := newLogin(t)
	in := func() *visitor {
		t.Helper()
		v := s.visitor()
		if status, _, text := v.do("GET", s.origin()+"/login/oidc", nil); status != 200 {
			t.Fatalf("login: %d\n%s", status, text)
		}
		return v
	}
	wants := func(v *visitor, want int, path, when string) {
		t.Helper()
		if status, _, _ := v.do("GET", s.origin()+path, nil); status != want {
			t.Errorf("%s: GET %s = %d; want %d", when, path, status, want)
		}
	}
	a, b := in(), in()
	if status, at, text := a.do("POST", s.origin()+"/logout", nil); status != 200 || at.Path != "/login" {
		t.Errorf("logout: %d at %s\n%s", status, at, text)
	}
	wants(a, 401, "/", "after logging out")
	wants(b, 200, "/", "after another one logged out")
	conf := *s.server.conf.Settings.API.OIDC
	conf.Groups = map[string]string{"ops": "read"}
	s.provide(&conf)
	if status, _, _ := b.do("POST", s.origin()+"/settings/reload", nil); status != 403 {
		t.Errorf("a group that may only read now reloads: %d", status)
	}
	wants(b, 200, "/", "with a group that may only read")
	conf2 := conf
	conf2.Groups = map[string]string{"oncall": "operate"}
	s.provide(&conf2)
	wants(b, 401, "/", "without its group")
	s.provide(&conf)
	c := in()
	s.provide(nil)
	wants(c, 401, "/", "without a provider")
	s.provide(&conf)
	d := in()
	s.clock = s.clock.Add(time.Hour + 3*time.Minute)
	wants(d, 401, "/", "after the end of the ID token")
}
