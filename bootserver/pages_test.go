package bootserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/operator"
	"ingot/bootserver/state"
	"ingot/bootserver/web"
	"ingot/image"
)

// browser is a web browser: it keeps cookies, and follows no redirection by itself.
type browser struct {
	t      testing.TB
	name   string
	http   *http.Client
	base   string
	cookie *http.Cookie // of its session
}

// browser returns one without a session.
func (s *street) browser(name string) *browser {
	s.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.server.ca.PEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: access.ServerName, Time: s.now}}
	s.t.Cleanup(transport.CloseIdleConnections)
	return &browser{s.t, name, &http.Client{Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, s.tls, nil}
}

// loggedIn returns a browser with a session of a token of this scope.
func (s *street) loggedIn(name string, scope access.Scope) *browser {
	s.t.Helper()
	b := s.browser(name)
	b.login(s.token(strings.ReplaceAll(name, " ", "-"), scope))
	return b
}

func (b *browser) login(token string) {
	b.t.Helper()
	status, header, text := b.send("POST", "/login", url.Values{"token": {token}, "next": {"/pending"}}, nil)
	if status != http.StatusSeeOther || header.Get("Location") != "/pending" || b.cookie == nil {
		b.t.Fatalf("%s: login = %d to %q, cookie %v: %s", b.name, status, header.Get("Location"), b.cookie, text)
	}
}

// send sends a request as a page of the dashboard would, or with other headers.
func (b *browser) send(method, path string, form url.Values, headers map[string]string) (int, http.Header, string) {
	b.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.base+path, body)
	if err != nil {
		b.t.Fatal(err)
	}
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Origin", b.base)
	for k, v := range headers {
		r.Header.Del(k)
		if v != "" {
			r.Header.Set(k, v)
		}
	}
	if b.cookie != nil {
		r.AddCookie(b.cookie)
	}
	resp, err := b.http.Do(r)
	if err != nil {
		b.t.Fatalf("%s: %s %s: %v", b.name, method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range resp.Cookies() {
		if c.Name == "__Host-ingot" {
			b.cookie = c
		}
		if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || !strings.HasPrefix(c.Name, "__Host-") {
			b.t.Errorf("%s: the cookie is %v; want HttpOnly, Secure, SameSite and __Host-", b.name, c)
		}
		if c.Name == "__Host-ingot" && c.MaxAge < 0 {
			b.cookie = nil
		}
	}
	b.wantSecure(method+" "+path, resp)
	return resp.StatusCode, resp.Header, string(text)
}

// wantSecure checks the headers that every answer has.
func (b *browser) wantSecure(what string, resp *http.Response) {
	b.t.Helper()
	h := resp.Header
	csp := h.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'self'", "frame-ancestors 'none'", "form-action 'self'",
		"base-uri 'none'"} {
		if !strings.Contains(csp, want) || strings.Contains(csp, "unsafe") {
			b.t.Errorf("%s: %s: Content-Security-Policy %q; want %s", b.name, what, csp, want)
		}
	}
	if h.Get("X-Content-Type-Options") != "nosniff" || h.Get("X-Frame-Options") != "DENY" ||
		h.Get("Referrer-Policy") == "" {
		b.t.Errorf("%s: %s lacks a header: %v", b.name, what, h)
	}
}

func (b *browser) get(path string) (int, string) {
	b.t.Helper()
	status, _, text := b.send("GET", path, nil, nil)
	return status, text
}

// addressOf fills in what a route's path names.
func addressOf(r web.Route, boot ingot.BootID) string {
	return strings.NewReplacer("{ref}", machineID, "{boot}", string(boot), "{file}", "app.js", "{id}",
		"r1").Replace(r.Path)
}

// form is what the forms of the pages send, so that a request that got through would change something.
var form = url.Values{"machine": {machineID}, "name": {"node99"}, "image": {"lab:v1"}, "labels": {"a=b"}, "into": {"x"},
	"force": {"true"}, "to": {"all"}, "why": {"x"}, "volume": {"data"}, "disk": {"S1"}, "keep": {"1"},
	"scope": {"admin"}, "for": {"24h"}}

// TestEveryPageIsClosed: whatever the page or form, a request without a session, or with one that is
// wrong, has ended or has too small a scope, or that came from another site, sees nothing and changes
// nothing. The pages come from the dashboard's own table.
func TestEveryPageIsClosed(t *testing.T) {
	s := newStreet(t)
	v1 := s.put("v1")
	s.put("v2")
	s.fakes(3, v1)
	s.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all"})
	boot, _ := s.ask()
	strangers := []*browser{s.browser("nothing")}
	wrong := s.browser("a wrong cookie")
	wrong.cookie = &http.Cookie{Name: "__Host-ingot", Value: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}
	revoked := s.loggedIn("revoked", access.Admin)
	s.revoke("revoked")
	expired := s.loggedIn("expired", access.Admin)
	s.edit("expired", func(tx state.Tx, c access.Credential) { c.Expires = s.clock; tx.PutCredential(c) })
	forgotten := s.loggedIn("forgotten", access.Admin)
	s.edit("forgotten", func(tx state.Tx, c access.Credential) { tx.DropCredential(c.ID) })
	left := s.loggedIn("left", access.Admin)
	was := left.cookie
	if status, header, _ := left.send("POST", "/logout", url.Values{}, nil); status != 303 ||
		header.Get("Location") != "/login" || left.cookie != nil {
		t.Errorf("logout = %d to %q, cookie %v", status, header.Get("Location"), left.cookie)
	}
	left.cookie = was
	token := s.browser("a token as a cookie")
	token.cookie = &http.Cookie{Name: "__Host-ingot", Value: s.token("as-cookie", access.Admin)}
	strangers = append(strangers, wrong, revoked, expired, forgotten, left, token)
	small := map[access.Scope]*browser{access.Operate: s.loggedIn("small read", access.Read),
		access.Admin: s.loggedIn("small operate", access.Operate)}
	good := s.loggedIn("good", access.Admin)
	before := everything(t, s.state)
	checked := 0
	for _, r := range append(web.Routes(), web.Route{Method: "GET", Path: "/nothing", Scope: access.Read}) {
		if r.Scope == "" && len(r.Takes) == 0 {
			continue // public
		}
		checked++
		path, body := addressOf(r, boot), url.Values(nil)
		if r.Method == "POST" {
			body = form
		}
		for _, b := range strangers {
			cookie := b.cookie
			status, _, text := b.send(r.Method, path, body, nil)
			b.cookie = cookie
			if status != http.StatusUnauthorized || strings.Contains(text, "525400120001") && r.Method == "GET" &&
				!strings.Contains(text, `name="next"`) {
				t.Errorf("%s: %s %s = %d; want 401 and nothing of the fleet:\n%s", b.name, r.Method, path, status, text)
			}
		}
		if b := small[r.Scope]; b != nil {
			if status, _, text := b.send(r.Method, path, body, nil); status != http.StatusForbidden ||
				!strings.Contains(text, "has scope") {
				t.Errorf("%s: %s %s = %d; want 403", b.name, r.Method, path, status)
			}
		}
		if r.Method != "POST" {
			continue
		}
		for name, h := range map[string]map[string]string{
			"cross-site":        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
			"same-site":         {"Sec-Fetch-Site": "same-site", "Origin": "https://evil.example"},
			"another origin":    {"Sec-Fetch-Site": "", "Origin": "https://evil.example"},
			"an opaque origin":  {"Sec-Fetch-Site": "", "Origin": "null"},
			"another port":      {"Sec-Fetch-Site": "", "Origin": "https://127.0.0.1:1"},
			"a hidden origin":   {"Sec-Fetch-Site": "cross-site", "Origin": ""},
			"a forged address":  {"Sec-Fetch-Site": "cross-site", "Origin": good.base},
			"plain, not secure": {"Sec-Fetch-Site": "", "Origin": "http://evil.example"},
		} {
			if status, _, text := good.send(r.Method, path, body, h); status != http.StatusForbidden {
				t.Errorf("%s: %s %s = %d %s; want 403", name, r.Method, path, status, text)
			}
		}
	}
	if after := everything(t, s.state); after != before {
		t.Errorf("refused requests changed something:\n%s\n%s", before, after)
	}
	if checked < 35 {
		t.Errorf("%d pages and forms were checked; this test missed them", checked)
	}
}

// TestEveryPageIsOpen to a session of just the scope that it takes, and shows no form that it may not
// send. No page has an inline script or style, or names another host.
func TestEveryPageIsOpen(t *testing.T) {
	s := newStreet(t)
	v1 := s.put("v1")
	s.put("v2")
	s.fakes(3, v1)
	s.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all"})
	boot, _ := s.ask()
	approved := 0
	forms := map[access.Scope]int{}
	for _, scope := range access.Scopes {
		b := s.loggedIn("open "+string(scope), scope)
		for range 2 { // with a machine that waits, and with one that boots
			for _, r := range web.Routes() {
				if r.Method != "GET" || r.Path == "/live" {
					continue
				}
				path := addressOf(r, boot)
				status, _, text := b.send("GET", path, nil, map[string]string{"Accept-Encoding": "identity"})
				want := http.StatusOK
				switch {
				case r.Path == "/login":
					want = http.StatusSeeOther
				case r.Path == "/images/{ref}/sbom", strings.HasPrefix(r.Path, "/login/oidc"):
					want = http.StatusNotFound // there is no such image, and no login provider
				case r.Scope != "" && !scope.Covers(r.Scope):
					want = http.StatusForbidden
				}
				if status != want {
					t.Errorf("%s: GET %s = %d; want %d:\n%s", b.name, path, status, want, text)
				}
				forms[scope] += wantHarmless(t, b.name+": GET "+path, scope, text)
			}
			if approved++; approved == 1 {
				if _, err := s.api.Approve(t.Context(), machineID,
					api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
					t.Fatal(err)
				}
				s.haltAtCanary() // from now on it can be resumed
			}
		}
	}
	if forms[access.Read] != 0 || forms[access.Operate] < 5 || forms[access.Admin] <= forms[access.Operate] {
		t.Errorf("forms that change something, by scope: %v; want none for read, some for operate, more for admin", forms)
	}
}

var (
	actionRE = regexp.MustCompile(`<form[^>]*method="post"[^>]*action="([^"]*)"|` +
		`<form[^>]*action="([^"]*)"[^>]*method="post"`)
	inlineRE = regexp.MustCompile(`(?i)<script(>|[^>]* src="[^/])|\son[a-z]+=|\sstyle=|<style|javascript:|` +
		`(src|href|action)="(https?:)?//`)
)

// wantHarmless checks a page, and counts its forms that change something; each of them must be one that
// the scope may send.
func wantHarmless(t *testing.T, what string, scope access.Scope, text string) (forms int) {
	t.Helper()
	if !strings.HasPrefix(text, "<!doctype") {
		return 0
	}
	if found := inlineRE.FindString(text); found != "" {
		t.Errorf("%s has %q", what, found)
	}
	for _, m := range actionRE.FindAllStringSubmatch(text, -1) {
		action := m[1] + m[2]
		if action == "/logout" || action == "/login" {
			continue
		}
		forms++
		i := slices.IndexFunc(web.Routes(), func(r web.Route) bool {
			pattern := "^" + regexp.MustCompile(`\\\{[a-z]+\\\}`).ReplaceAllString(regexp.QuoteMeta(r.Path), "[^/]+") + "$"
			return r.Method == "POST" && regexp.MustCompile(pattern).MatchString(action)
		})
		if i < 0 || !scope.Covers(web.Routes()[i].Scope) {
			t.Errorf("%s: scope %s sees a form to %s, which it may not send", what, scope, action)
		}
	}
	return forms
}

// TestPagesHaveTheScopesOfTheAPI: each page and form but the public ones stands for routes of the API.
func TestPagesHaveTheScopesOfTheAPI(t *testing.T) {
	scopes := map[string]access.Scope{}
	for _, r := range api.Routes() {
		scopes[r.Method+" "+r.Path] = r.Scope
	}
	var public []string
	for _, r := range web.Routes() {
		if len(r.Takes) == 0 {
			public = append(public, r.Method+" "+r.Path)
		}
		for _, takes := range r.Takes {
			if !r.Scope.Covers(scopes[takes]) {
				t.Errorf("%s %s has scope %q, and stands for %s of scope %q", r.Method, r.Path, r.Scope, takes, scopes[takes])
			}
		}
	}
	const want = "GET /login, POST /login, GET /login/oidc, GET /login/oidc/callback, GET /static/{file}"
	if got := strings.Join(public, ", "); got != want {
		t.Errorf("public are %s; want the ways to log in and the files that they need: %s", got, want)
	}
}

// TestCookiesAreNotForTheAPI: a session opens pages alone.
func TestCookiesAreNotForTheAPI(t *testing.T) {
	s := newStreet(t)
	b := s.loggedIn("admin", access.Admin)
	if status, _ := b.get("/"); status != 200 {
		t.Fatalf("GET / = %d", status)
	}
	for _, r := range api.Routes() {
		if r.Scope == "" {
			continue
		}
		req, err := http.NewRequestWithContext(t.Context(), r.Method, b.base+pathOf(r), strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.AddCookie(b.cookie)
		resp, err := b.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s %s with a cookie = %d; want 401", r.Method, r.Path, resp.StatusCode)
		}
	}
}

// TestSessionsEnd by their limits. One that is used goes on, until the absolute limit.
func TestSessionsEnd(t *testing.T) {
	s := newStreet(t)
	b := s.browser("admin")
	made, err := s.api.CreateCredential(t.Context(), api.CredentialRequest{Name: "long", Scope: access.Admin,
		For: 1000 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	b.login(made.Token)
	for day := range 6 {
		s.clock = s.clock.Add(11 * time.Hour)
		if status, _ := b.get("/"); status != 200 {
			t.Fatalf("day %d: GET / = %d; want a session that is used to go on", day, status)
		}
	}
	cookie := b.cookie
	s.clock = s.clock.Add(12 * time.Hour)
	if status, text := b.get("/pending?a=b"); status != 401 || !strings.Contains(text, "The session has ended") ||
		!strings.Contains(text, `value="/pending?a=b"`) {
		t.Errorf("a session that was idle for 12 h: %d\n%s", status, text)
	}
	b.cookie = cookie
	if status, _ := b.get("/"); status != 401 {
		t.Errorf("the session came back: %d", status)
	}
	b.login(made.Token)
	for range 20 {
		s.clock = s.clock.Add(10 * time.Hour)
		if status, _ := b.get("/"); status != 200 {
			if since := s.clock.Sub(made.Created); since < 7*24*time.Hour {
				t.Errorf("the session ended after %s", since)
			}
			return
		}
	}
	t.Error("a session that is used lasts for ever; want a limit of 7 days")
}

// TestLoginIsSlowToGuess: wrong tokens are refused as over the API, and a link cannot lead elsewhere.
func TestLoginIsSlowToGuess(t *testing.T) {
	s := newStreet(t)
	b := s.browser("a stranger")
	good := s.token("good", access.Read)
	for _, token := range []string{"", "hunter2", good[:len(good)-1] + flip(good[len(good)-1]), good + "0"} {
		status, _, text := b.send("POST", "/login", url.Values{"token": {token}}, nil)
		if status != 401 || b.cookie != nil || !strings.Contains(text, "knows no such token") {
			t.Errorf("login with %q = %d, cookie %v:\n%s", token, status, b.cookie, text)
		}
	}
	s.revoke("good")
	if status, _, text := b.send("POST", "/login", url.Values{"token": {good}}, nil); status != 401 ||
		!strings.Contains(text, "revoked") {
		t.Errorf("login with a revoked token = %d:\n%s", status, text)
	}
	for next, want := range map[string]string{"/events?kind=end": "/events?kind=end", "": "/", "https://evil.example": "/",
		"//evil.example": "/", `/\evil.example`: "/", "/..//evil.example": "/evil.example", "javascript:alert(1)": "/"} {
		c := s.browser("somebody")
		status, header, _ := c.send("POST", "/login",
			url.Values{"token": {s.token("next-"+hexOf(next), access.Read)}, "next": {next}}, nil)
		if got := header.Get("Location"); status != 303 || got != want {
			t.Errorf("next=%q leads to %q; want %q", next, got, want)
		}
	}
}

// hexOf names a text by a digest.
func hexOf(s string) string { return ingot.DigestOf([]byte(s)).Short() }

// TestMachinesSayText: what machines say of themselves stays text on every page: no markup, no escape
// sequence, no character that turns the order of others around.
func TestMachinesSayText(t *testing.T) {
	s := newStreet(t)
	s.put("v1")
	boot, _ := s.ask()
	if _, err := s.api.Approve(t.Context(), machineID, api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	s.get(s.BootURL(s.base, boot, "script"))
	const evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202eesrever\u2066\"'`&{{.}}"
	status, body := s.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce, Facts: ingot.Facts{Serial: "S" + evil,
		Vendor: evil, Product: evil, BIOS: evil, CPU: evil, Kernel: evil, RAM: 1 << 30,
		Disks: []ingot.Disk{{Name: evil, Serial: evil, Model: evil, Holds: evil}},
		NICs:  []ingot.NIC{{Name: evil, MAC: "52:54:00:12:00:01", Driver: evil, Boot: true}}}})
	if status != 200 {
		t.Fatalf("ticket = %d %s", status, body)
	}
	if err := s.Console(boot, "[    1.500000] "+evil+"\n"+evil+"\n"); err != nil {
		t.Fatal(err)
	}
	if err := s.Event(boot, ingot.Event{Stage: ingot.StageRoot, Error: evil, Detail: evil}); err != nil {
		t.Fatal(err)
	}
	err := s.state.Update(func(tx state.Tx) error { // what an older version may have stored
		m, _ := tx.Machine(machineID)
		m.Labels = map[string]string{"rack": evil, evil: "x"}
		tx.StoreMachine(m)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b := s.loggedIn("admin", access.Admin)
	said := 0
	for _, r := range web.Routes() {
		if r.Method != "GET" || r.Path == "/live" || r.Path == "/static/{file}" {
			continue
		}
		path := addressOf(r, boot)
		_, _, text := b.send("GET", path, nil, map[string]string{"Accept-Encoding": "identity"})
		said += strings.Count(text, "&lt;script&gt;")
		if strings.Contains(text, "<script>") || strings.Contains(text, "<img") || strings.ContainsAny(text,
			"\x1b\u202e\u2066") {
			t.Errorf("GET %s: what a machine said is no text:\n%s", path, text)
		}
	}
	if said < 5 {
		t.Errorf("the pages show what the machine said %d times; the test missed it", said)
	}
}

// TestFormsAct: what a form says is done, by the operator of the session, as over the API.
func TestFormsAct(t *testing.T) {
	s := newStreet(t)
	s.put("v1")
	s.put("v2")
	s.ask()
	b := s.loggedIn("ops", access.Operate)
	send := func(path string, form url.Values, want int) string {
		t.Helper()
		status, header, text := b.send("POST", path, form, map[string]string{"Accept-Encoding": "identity"})
		if status != want {
			t.Fatalf("POST %s = %d; want %d:\n%s", path, status, want, text)
		}
		return header.Get("Location") + text
	}
	at := "/machines/" + machineID
	to := send("/pending", url.Values{"machine": {machineID}, "names": {"node[07]"}, "image": {"lab:v1"},
		"labels": {"rack=r1, role=worker"}}, 303)
	m := s.machine(machineID)
	if to != "/pending?did=approve" || m.State != api.Approved || m.Name != "node07" || m.Assignment.Name != "lab:v1" ||
		m.Labels["rack"] != "r1" || m.Labels["role"] != "worker" {
		t.Fatalf("approved to %q: %+v", to, m)
	}
	if _, text := b.get(to); !strings.Contains(text, "Approved. A machine that waits") {
		t.Errorf("the page does not say what was done:\n%s", text)
	}
	send(at+"/assign", url.Values{"image": {"lab:v2"}, "why": {"because"}}, 303)
	send(at+"/label", url.Values{"labels": {"role-"}}, 303)
	send(at+"/rename", url.Values{"name": {"node08"}}, 303)
	m = s.machine(machineID)
	if m.Assignment.Name != "lab:v2" || m.Assignment.Why != "because" || m.Labels["role"] != "" || m.Name != "node08" {
		t.Errorf("changed to %+v", m)
	}
	if text := send(at+"/assign", url.Values{"image": {"lab:v9"}}, 404); !strings.Contains(text, "ingot image ls") {
		t.Errorf("an image that is not there:\n%s", text)
	}
	if text := send(at+"/label", url.Values{"labels": {"<b>"}}, 400); strings.Contains(text, "<b>&") ||
		!strings.Contains(text, "is not a label") {
		t.Errorf("a wrong label:\n%s", text)
	}
	send("/pending", url.Values{}, 400)
	send("/pending", url.Values{"machine": {machineID}, "names": {"a,b"}}, 400)
	audit, err := s.api.Audit(t.Context(), 0, true, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range audit {
		if strings.HasPrefix(e.Action, "machine.") && (e.Who.Kind != access.Token || e.Who.Name != "ops" ||
			e.Who.From == "") {
			t.Errorf("the audit log has %+v; want the token of the session", e)
		}
	}
	admin := s.loggedIn("admin", access.Admin)
	_, _, text := admin.send("POST", "/settings/tokens", url.Values{"name": {"made"}, "scope": {"read"}, "for": {"24h"}},
		map[string]string{"Accept-Encoding": "gzip"})
	token := regexp.MustCompile(`ingot_[0-9a-f]{16}_[0-9a-f]{40}`).FindString(text)
	if token == "" {
		t.Fatalf("the token is not shown, or it is compressed:\n%s", text)
	}
	if _, text := admin.get("/settings"); strings.Contains(text, token) {
		t.Error("the token is shown twice")
	}
	s.browser("made").login(token)
}

// stream opens the stream of a page; next returns the name and data of its next event.
func (b *browser) stream(query url.Values, last string) (next func() (event, id, data string)) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute) // a change that never comes fails the test
	b.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "GET", b.base+"/live?"+query.Encode(), nil)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	r.AddCookie(b.cookie)
	resp, err := b.http.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		b.t.Fatalf("%s: stream = %d %v", b.name, resp.StatusCode, resp.Header)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	return func() (event, id, data string) {
		b.t.Helper()
		for lines.Scan() {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch {
			case name == "event":
				event = value
			case name == "id":
				id = value
			case name == "data":
				data = value
			case lines.Text() == "" && event != "":
				return event, id, data
			}
		}
		return "closed", "", ""
	}
}

var cursorRE = regexp.MustCompile(`data-view="([^"]*)" data-order="([^"]*)" data-cursor="([^"]*)"`)

// open opens a page, and returns what its stream is asked with.
func (b *browser) open(path string) url.Values {
	b.t.Helper()
	_, _, text := b.send("GET", path, nil, map[string]string{"Accept-Encoding": "identity"})
	found := cursorRE.FindStringSubmatch(text)
	if found == nil || found[1] != path {
		b.t.Fatalf("GET %s names no stream:\n%s", path, text)
	}
	return url.Values{"of": {found[1]}, "order": {found[2]}, "cursor": {found[3]}}
}

// TestPagesAreLive: an open page gets the parts that changed, as they are in the page; it goes on where
// it was, and reloads where it cannot.
func TestPagesAreLive(t *testing.T) {
	s := newStreet(t)
	s.put("v1")
	s.ask()
	b := s.loggedIn("ops", access.Operate)
	next := b.stream(b.open("/pending"), "")
	if _, err := s.api.Approve(t.Context(), machineID, api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	if event, _, _ := next(); event != "reload" { // a row of the table is gone
		t.Errorf("after the machine was approved, the page gets %q; want reload", event)
	}
	query := b.open("/machines/" + machineID)
	next = b.stream(query, "")
	if _, err := s.api.Label(t.Context(), machineID, api.LabelRequest{Set: map[string]string{"rack": "r7"}}); err != nil {
		t.Fatal(err)
	}
	var last string
	for seen := false; !seen; { // there may be changes of the approval before
		event, id, data := next()
		var parts [][2]string
		if err := json.Unmarshal([]byte(data), &parts); event != "parts" || err != nil {
			t.Fatalf("after a label, the page gets %s, %v: %s", event, err, data)
		}
		last = id
		_, _, text := b.send("GET", "/machines/"+machineID, nil, map[string]string{"Accept-Encoding": "identity"})
		for _, p := range parts {
			seen = seen || strings.Contains(p[1], "rack=r7")
		}
		for _, p := range parts {
			if seen && !strings.Contains(text, p[1]) || !strings.Contains(p[1], `id="`+p[0]+`"`) {
				t.Errorf("part %s is not in the page as it was sent:\n%s", p[0], p[1])
			}
		}
	}
	if _, err := s.api.Rename(t.Context(), machineID, "node02"); err != nil { // while the browser is away
		t.Fatal(err)
	}
	if event, _, data := b.stream(query, last)(); event != "parts" || !strings.Contains(data, "node02") {
		t.Errorf("a browser that was away gets %s %s; want what it missed", event, data)
	}
	for _, cursor := range []string{"x", "MS5uby4x", strings.Repeat("A", 3000)} {
		if event, _, _ := b.stream(query, cursor)(); event != "reload" {
			t.Errorf("a browser with the cursor %.20q gets %s; want reload", cursor, event)
		}
	}
	for _, of := range []string{"/nothing", "/login", "/live", "/static/app.js", "/settings/tokens"} {
		if status, _ := b.get("/live?" + url.Values{"of": {of}}.Encode()); status != 404 {
			t.Errorf("a stream of %s = %d; want 404", of, status)
		}
	}
}

// TestRevokedTokenEndsStreams: within seconds, without another request of the browser.
func TestRevokedTokenEndsStreams(t *testing.T) {
	s := newStreet(t)
	s.ask()
	b := s.loggedIn("ops", access.Operate)
	next := b.stream(b.open("/"), "")
	s.revoke("ops")
	b.streamEnds(next)
}

// streamEnds reads a stream until it says that it ends, and looks whether the browser is logged out.
func (b *browser) streamEnds(next func() (event, id, data string)) {
	b.t.Helper()
	for range 20 {
		switch event, _, _ := next(); event {
		case "end":
			if event, _, _ := next(); event != "closed" {
				b.t.Errorf("after the end comes %q", event)
			}
			if status, _ := b.get("/"); status != 401 {
				b.t.Errorf("GET / = %d; want 401", status)
			}
			return
		case "closed":
			b.t.Fatal("the stream was closed without an end")
		}
	}
	b.t.Error("the stream goes on")
}

// TestSessionsAreEnded: an administrator sees which browsers are logged in, and logs them out by the page or the API.
// Open pages close, nothing of a secret is shown, and others go on.
func TestSessionsAreEnded(t *testing.T) {
	s := newStreet(t)
	s.ask()
	admin, wall := s.loggedIn("boss", access.Admin), s.loggedIn("wall", access.Read)
	wallToo := s.browser("wall, too")
	wallToo.login(s.token("other", access.Read))
	list, err := s.api.Sessions(t.Context())
	if err != nil || len(list) != 3 || list[0].Kind != access.Token || len(list[0].ID) != 12 {
		t.Fatalf("sessions are %+v, %v; want three", list, err)
	}
	next := wall.stream(wall.open("/"), "")
	page := admin.plain("/settings")
	for _, one := range list {
		wants(t, "the page", page, one.Name, "/settings/sessions/"+one.ID+"/end")
		if one.Name == "wall" {
			if status, header, text := admin.send("POST", "/settings/sessions/"+one.ID+"/end", nil, nil); status != 303 ||
				header.Get("Location") != "/settings?did=session" {
				t.Fatalf("ending a session = %d to %s: %s", status, header.Get("Location"), text)
			}
		}
	}
	wall.streamEnds(next)
	wants(t, "the page of who may read", wallToo.plain("/settings"), "-/settings/sessions/")
	if status, _, _ := wallToo.send("POST", "/settings/sessions/"+list[0].ID+"/end", nil, nil); status != 403 {
		t.Errorf("who may only read ends a session: %d", status)
	}
	if ended, err := s.api.EndSessions(t.Context(), "other"); err != nil || len(ended) != 1 || ended[0].Name != "other" {
		t.Errorf("ending all of a token = %+v, %v", ended, err)
	}
	if status, _ := wallToo.get("/"); status != 401 {
		t.Errorf("GET / after the end = %d; want 401", status)
	}
	if status, _ := admin.get("/"); status != 200 {
		t.Errorf("GET / of another session = %d; want 200", status)
	}
	var p api.Problem
	if _, err := s.api.EndSessions(t.Context(), "other"); !errors.As(err, &p) || p.Code != api.CodeSessionNotFound {
		t.Errorf("ending what is over = %v; want %s", err, api.CodeSessionNotFound)
	}
	entries, err := s.api.Audit(t.Context(), 0, true, 10)
	if n := len(entries); err != nil || n < 2 || entries[n-1].Action != string(fleet.ActionSessionEnd) ||
		entries[n-1].Name != "other" {
		t.Errorf("the audit log has %+v, %v", entries, err)
	}
}

// TestFleetPageIsSmall: the page of 1,000 machines is at most 200 KB, also while a rollout moves a tenth of
// them, and that of 10,000 has a row for each group. BENCHMARKS.md has the times that it prints.
func TestFleetPageIsSmall(t *testing.T) {
	s := newStreet(t)
	im := s.put("v1")
	ref := fleet.ImageRef{Image: im.Digest, Name: im.Name.String()}
	s.put("v2")
	b := s.loggedIn("ops", access.Read)
	fastest := func() (text string, took time.Duration) {
		took = time.Hour
		for range 3 {
			began := time.Now()
			text = b.plain("/")
			took = min(took, time.Since(began))
		}
		return text, took
	}
	none, known := 0, 0
	for _, n := range []int{1000, 10_000} {
		s.running(ref, known, n)
		known = n
		text, took := fastest()
		t.Logf("%d machines: %d bytes, %s", n, len(text), took)
		if got := strings.Count(text, `id="c-m-`); n <= 1000 && (len(text) > 200_000 || got != n) {
			t.Errorf("the page of %d machines has %d bytes and %d machines; want at most 200,000, and all", n, len(text), got)
		}
		if got := strings.Count(text, `<tr id="r-`); n > 2000 && got != n/40 {
			t.Errorf("the page of %d machines has %d groups; want %d", n, got, n/40)
		}
		r := s.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all", Policy: api.RolloutPolicy{Canary: &none}})
		for range 2 * n / 1000 { // a tenth of them, in parts
			s.server.rollouts.Tick(t.Context())
		}
		text, took = fastest()
		moved := strings.Count(text, "moved by rollout "+r.ID)
		t.Logf("%d machines, a rollout moves %d: %d bytes, %s", n, s.rollout(r.ID).Count["moving"], len(text), took)
		if n <= 1000 && (len(text) > 200_000 || moved != n/10) || !strings.Contains(text, "Open rollout "+r.ID) {
			t.Errorf("while a rollout moves them, the page of %d machines has %d bytes and marks %d; want at most 200,000 and "+
				"%d", n, len(text), moved, n/10)
		}
		if _, err := s.api.ChangeRollout(t.Context(), r.ID, "abort", ""); err != nil {
			t.Fatal(err)
		}
		s.server.rollouts.Tick(t.Context())
	}
}

// running stores machines by their numbers, 40 to a rack, that run an image.
func (s *street) running(ref fleet.ImageRef, from, to int) {
	s.t.Helper()
	inParts(s.t, s.state, to-from, func(tx state.Tx, i int) {
		i += from
		mac := fmt.Sprintf("5254%08x", i)
		m := fleet.Machine{ID: ingot.MachineID("m-" + mac), Name: fmt.Sprintf("node%05d", i), State: fleet.Approved,
			MACs: []string{mac}, FirstSeen: s.clock.Add(-time.Hour), LastSeen: s.clock, LastHealthy: ref,
			Labels: map[string]string{"rack": fmt.Sprintf("r%02d", i/40)}, Boot: ingot.BootID(fmt.Sprintf("%032x", i+1))}
		m.Assignment.ImageRef = ref
		tx.StoreMachine(m)
		tx.StoreBoot(fleet.Boot{ID: m.Boot, Machine: m.ID, Number: 1, Image: ref, Started: s.clock.Add(-time.Hour),
			Ended: s.clock.Add(-59 * time.Minute), Outcome: ingot.OutcomeHealthy})
	})
}

// bom attaches an SBOM with these components to an image.
func (s *street) bom(im image.Image, components ...string) string {
	s.t.Helper()
	text := `{"bomFormat":"CycloneDX","components":[` + strings.Join(components, ",") +
		`,{"type":"data","name":"lab-files","version":"v1","properties":[{"name":"ingot:size","value":"1048576"}]}]}`
	if _, err := s.images.AddReferrer(s.t.Context(), im.Digest, image.Attachment{Type: ingot.ArtifactSBOM,
		Media: ingot.ArtifactSBOM, Content: strings.NewReader(text)}); err != nil {
		s.t.Fatal(err)
	}
	return text
}

// packaged is a component of an SBOM: a package with one file of a size.
func packaged(name, version string, size int64) string {
	return fmt.Sprintf(`{"type":"library","name":%q,"version":%q,"purl":"pkg:deb/debian/%s@%s",`+
		`"components":[{"type":"file","name":"/x"}],"properties":[{"name":"ingot:size","value":"%d"}]}`, name, version, name,
		version, size)
}

// TestImagesAreCompared by the packages of their SBOMs, over the API and on the page.
func TestImagesAreCompared(t *testing.T) {
	s := newStreet(t)
	s.bom(s.put("v1"), packaged("zlib", "1", 5<<20), packaged("bash", "5.1", 7<<20), packaged("gone", "1", 1<<20))
	text := s.bom(s.put("v2"), packaged("zlib", "1", 5<<20), packaged("bash", "5.2", 9<<20),
		packaged("added", "1", 3<<20))
	s.put("v3") // of a program that made none
	list, err := s.api.ImagePackages(t.Context(), "lab:v1")
	if err != nil || fmt.Sprint(list) != "[{bash 5.1 1 7340032} {gone 1 1 1048576} {zlib 1 1 5242880}]" {
		t.Errorf("ImagePackages = %v, %v", list, err)
	}
	c, err := s.api.ImageContents(t.Context(), "lab:v1")
	if err != nil || !c.Measured || !c.SBOM || c.Other != 1<<20 || len(c.Packages) != 3 || len(c.Signatures) != 1 ||
		!c.Signatures[0].Trusted || c.Signatures[0].Of != "image" || len(c.Signatures[0].By) != 16 {
		t.Errorf("ImageContents = %+v, %v; want three packages with sizes, and a signature that is trusted", c, err)
	}
	if list, err := s.api.ImagePackages(t.Context(), "lab:v3"); err != nil || len(list) != 0 {
		t.Errorf("ImagePackages without an SBOM = %v, %v; want none", list, err)
	}
	if got, err := s.api.SBOM(t.Context(), "lab:v2"); err != nil || string(got) != text {
		t.Errorf("SBOM = %s, %v; want it as it is", got, err)
	}
	var p api.Problem
	if _, err := s.api.SBOM(t.Context(), "lab:v3"); !errors.As(err, &p) || p.Code != api.CodeNoSBOM {
		t.Errorf("SBOM of an image without one = %v; want %s", err, api.CodeNoSBOM)
	}
	b := s.loggedIn("reader", access.Read)
	plain := map[string]string{"Accept-Encoding": "identity"}
	get := func(path string) string { // a browser shows a line's end as a space
		_, _, page := b.send("GET", path, nil, plain)
		return strings.ReplaceAll(page, "\n", " ")
	}
	page := get("/images?from=lab:v1&to=lab:v2")
	for _, want := range []string{`data-d="removed"`, `data-d="added"`, `data-d="changed"`, "5.1", "5.2",
		"3\u00a0packages of 4 differ", "ingot image diff lab:v1 lab:v2", "bash, 9.0\u00a0MiB</title>",
		"18.0\u00a0MiB unpacked",
		"Unpacked size: &#43;4.0\u00a0MiB. added grew most, by 3.0\u00a0MiB.", "release key <code>" + c.Signatures[0].By} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
	page = get("/images?to=lab:v3")
	if !strings.Contains(page, "Sizes by package are not known: its SBOM has no sizes") ||
		strings.Contains(page, `class="chart tree`) {
		t.Errorf("the page of an image without sizes does not say so:\n%s", page)
	}
	if status, text := b.get("/images/lab:v2/sbom"); status != 200 || !strings.Contains(text, "CycloneDX") {
		t.Errorf("GET sbom = %d %s", status, text)
	}
}

// TestRootsAreMeasuredOnce, one at a time, when the SBOM of an image has no sizes; never one that no trusted key
// signed. What failed is tried again after a minute.
func TestRootsAreMeasuredOnce(t *testing.T) {
	s := newStreet(t)
	im := s.put("v1")
	s.put("v2")
	var mu sync.Mutex
	asked, now, most, fail := map[string]int{}, 0, 0, true
	s.server.measurer = operator.NewMeasurer(func(_ context.Context, im image.Image) (image.Contents, error) {
		mu.Lock()
		now++
		most = max(most, now)
		asked[im.Name.String()]++
		failing := fail
		mu.Unlock()
		time.Sleep(20 * time.Millisecond) // so that two would meet
		mu.Lock()
		defer mu.Unlock()
		now--
		if failing {
			return image.Contents{}, errors.New("a block is damaged")
		}
		return image.Contents{Packages: []image.PackageSize{{Name: "bash", Version: "5", Files: 3, Bytes: 2 << 20}},
			Other: 7}, nil
	})
	editor := s.server.editor()
	ask := func(ref string) (api.Contents, error) { return editor.ImageContents(t.Context(), ref) }
	for range 2 {
		if c, err := ask("lab:v1"); err != nil || c.Measured || !strings.Contains(c.Problem, "a block is damaged") {
			t.Errorf("contents = %+v, %v; want the problem", c, err)
		}
	}
	if asked["lab:v1"] != 1 {
		t.Errorf("a root that cannot be read was read %d times within a minute", asked["lab:v1"])
	}
	s.clock = s.clock.Add(2 * time.Minute)
	fail = false
	var crowd sync.WaitGroup
	for i := range 20 {
		crowd.Go(func() {
			c, err := ask(fmt.Sprint("lab:v", i%2+1))
			if err != nil || !c.Measured || c.Other != 7 || fmt.Sprint(c.Packages) != "[{bash 5 3 2097152}]" {
				t.Errorf("contents = %+v, %v", c, err)
			}
		})
	}
	crowd.Wait()
	if asked["lab:v1"] != 2 || asked["lab:v2"] != 1 || most != 1 {
		t.Errorf("roots were read %v times, %d at once; want each once more, one at a time", asked, most)
	}
	if err := os.Remove(filepath.Join(s.images.Root(), "keys", "release.pub")); err != nil {
		t.Fatal(err)
	}
	s.server.measurer = operator.NewMeasurer(func(context.Context, image.Image) (image.Contents, error) {
		t.Error("the root of an image was read that no trusted key signed")
		return image.Contents{}, nil
	})
	editor = s.server.editor()
	if c, err := ask(string(im.Digest)); err != nil || c.Measured ||
		!strings.Contains(c.Problem, "not signed by a trusted") || len(c.Signatures) != 1 || c.Signatures[0].Trusted {
		t.Errorf("contents of an image that is not trusted = %+v, %v", c, err)
	}
}
