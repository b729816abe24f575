package bootserver

import (
	"bufio"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"ingot/bootserver/access"
	"ingot/bootserver/config"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
	"ingot/internal/wire"
)

// fileOf writes a file and returns its path.
func fileOf(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// realProvider is npm's oidc-provider, in a process of its own.
type realProvider struct {
	t      *testing.T
	file   string // of its settings
	issuer string
	stop   func()
	conf   map[string]any
}

// startProvider starts one that sends browsers back to an origin.
func startProvider(t *testing.T, origin string, inToken bool) *realProvider {
	t.Helper()
	wire.Need(t, "node")
	dir, err := filepath.Abs("../tools/oidc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules/oidc-provider")); err != nil {
		wire.Cannot(t, "oidc-provider is not installed; run scripts/setup test")
	}
	p := &realProvider{t: t, conf: map[string]any{"client": map[string]any{"client_id": clientID,
		"client_secret": clientSecret,
		"redirect_uris": []string{origin + "/login/oidc/callback"}, "grant_types": []string{"authorization_code"},
		"response_types": []string{"code"}}, "inToken": inToken, "idToken": 3600, "accounts": map[string]any{}}}
	p.file = fileOf(t, "{}")
	p.account("alice", "ops")
	cmd := exec.CommandContext(t.Context(), "node", filepath.Join(dir, "provider.js"), p.file)
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stop = func() { _ = in.Close(); _ = cmd.Process.Kill(); _ = cmd.Wait() } // however it ends
	t.Cleanup(p.stop)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if p.issuer = lines.Text(); strings.HasPrefix(p.issuer, "http://") {
			go func() { // it must be able to write
				for lines.Scan() {
				}
			}()
			return p
		}
	}
	t.Fatalf("oidc-provider ended with its start, after %q", p.issuer)
	return nil
}

// account makes somebody a member of groups.
func (p *realProvider) account(name string, groups ...string) {
	p.t.Helper()
	p.conf["accounts"].(map[string]any)[name] = map[string]any{"groups": groups, "preferred_username": name,
		"email": name + "@example.org", "email_verified": true}
	text, err := json.Marshal(p.conf)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(p.file, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

var submitRE = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)

// logs somebody in at the provider: its page asks for a name, and another one whether this server may
// know it. It returns where the browser is in the end.
func (v *visitor) logsIn(start, name string) (status int, at *url.URL, text string) {
	v.t.Helper()
	status, at, text = v.do("GET", start, nil)
	for range 4 {
		form := url.Values{"prompt": {"consent"}}
		if strings.Contains(text, `value="login"`) {
			form = url.Values{"prompt": {"login"}, "login": {name}, "password": {"x"}}
		}
		action := submitRE.FindStringSubmatch(text)
		if !strings.Contains(at.Path, "/interaction/") || action == nil {
			return status, at, text
		}
		to, err := at.Parse(action[1])
		if err != nil {
			v.t.Fatal(err)
		}
		status, at, text = v.do("POST", to.String(), form)
	}
	return status, at, text
}

// TestRealProvider: operators log in by oidc-provider, and what they do is in the audit log under their
// names. Their groups at the provider say what they may do, anew with each login. Without the provider,
// tokens work as ever.
func TestRealProvider(t *testing.T) {
	for _, inToken := range []bool{true, false} {
		s := newStreet(t)
		s.clock = time.Now()
		p := startProvider(t, s.origin(), inToken)
		conf := &config.OIDC{Issuer: p.issuer, ClientID: clientID, ClientSecretFile: fileOf(t, clientSecret),
			Scopes: []string{"profile", "email", "groups"}, Groups: map[string]string{"ops": "admin", "all": "read"}}
		s.provide(conf)
		p.account("bob")
		p.account("carol", "all", "knitting")
		start := s.origin() + "/login/oidc?next=/pending"
		alice := s.visitor()
		if _, _, text := alice.do("GET", s.origin()+"/", nil); !strings.Contains(text,
			"Log in with "+strings.TrimPrefix(p.issuer,
				"http://")) {
			t.Errorf("the login page does not offer the provider:\n%s", text)
		}
		status, at, text := alice.logsIn(start, "alice")
		if status != 200 || at.Path != "/pending" {
			t.Fatalf("alice is at %s: %d\n%s", at, status, text)
		}
		if status, _, text := alice.do("POST", s.origin()+"/settings/tokens", url.Values{"name": {"made"}, "scope": {"read"},
			"for": {"1h"}}); status != 200 {
			t.Errorf("alice, of the group ops, makes a token: %d\n%s", status, text)
		}
		list, _, err := s.state.Changes(state.Query{Audit: true, Newest: true, Limit: 1})
		if err != nil || len(list) != 1 || list[0].Code != fleet.ActionTokenCreate ||
			list[0].Actor.Kind != string(access.OIDC) ||
			list[0].Actor.Name != "alice@example.org" || list[0].Actor.ID != p.issuer+"#alice" {
			t.Errorf("the audit log ends with %+v, %v", list, err)
		}
		if status, _, text := s.visitor().logsIn(start, "bob"); status != 403 || !strings.Contains(text,
			"You are bob@example.org at") {
			t.Errorf("bob, of no group: %d\n%s", status, text)
		}
		carol := s.visitor()
		if status, _, _ := carol.logsIn(start, "carol"); status != 200 {
			t.Errorf("carol, who may read: %d", status)
		}
		if status, _, _ := carol.do("POST", s.origin()+"/settings/reload", nil); status != 403 {
			t.Errorf("carol, who may read, reloads: %d", status)
		}

		// Logged out, alice is known to the provider still, and so is what has become of her groups.
		status, at, text = alice.do("POST", s.origin()+"/logout", nil)
		if status != 200 || at.Path != "/login" || !strings.Contains(text, p.issuer+"/session/end?client_id="+clientID) {
			t.Errorf("logout: %d at %s\n%s", status, at, text)
		}
		if status, _, _ := alice.do("GET", s.origin()+"/", nil); status != 401 {
			t.Errorf("after logging out: %d", status)
		}
		p.account("alice", "knitting")
		if status, _, text := alice.logsIn(start, "alice"); status != 403 || !strings.Contains(text, "none of your groups") {
			t.Errorf("alice without her group: %d\n%s", status, text)
		}

		p.stop()
		if status, _, _ := carol.do("GET", s.origin()+"/", nil); status != 200 {
			t.Errorf("a session without the provider: %d", status)
		}
		again := *conf
		s.provide(nil)
		s.provide(&again) // as at a start: it knows nothing of the provider
		status, _, text = s.visitor().do("GET", start, nil)
		if status != 502 || !strings.Contains(text, "cannot be reached right now. Tokens work as ever.") {
			t.Errorf("without the provider: %d\n%s", status, text)
		}
		if status, at, _ := s.visitor().do("POST", s.origin()+"/login", url.Values{"token": {s.token("ci", access.Read)},
			"next": {"/events"}}); status != 200 || at.Path != "/events" {
			t.Errorf("a token without the provider: %d at %s", status, at)
		}
	}
}

// TestBrowserLogsInByProvider: a real browser takes the way to the provider and back, with the cookies
// and the content policy that it enforces, and logs out.
func TestBrowserLogsInByProvider(t *testing.T) {
	s := newStreet(t)
	s.clock = time.Now()
	p := startProvider(t, s.tls, true)
	s.server.conf.Now, s.server.log = s.now, s.log
	s.server.setProvider(config.API{Names: []string{"127.0.0.1"}, Listen: []string{strings.TrimPrefix(s.tls, "https://")},
		OIDC: &config.OIDC{Issuer: p.issuer, ClientID: clientID, ClientSecretFile: fileOf(t, clientSecret),
			Scopes: []string{"email", "groups"}, Groups: map[string]string{"ops": "read"}}})
	b := newTab(t, s.tls)
	b.do("open", chromedp.Navigate(s.tls+"/login?next=/pending"), visible(`a[href^="/login/oidc"]`))
	b.calm()
	b.do("log in", click(`a[href^="/login/oidc"]`), visible("input[name=login]"), enter("input[name=login]", "alice"),
		enter("input[name=password]", "x"), click("button[type=submit]"),
		chromedp.WaitReady(chromedp.CSS("input[value=consent]")), click("button[type=submit]"), visible("#open"))
	if at := eval[string](b, "location.href"); at != s.tls+"/pending" {
		t.Errorf("the browser is at %s; want the page that it asked for", at)
	}
	b.mu.Lock()
	b.faults = nil // what the provider's own pages ask for
	b.mu.Unlock()
	b.do("reload", chromedp.Navigate(s.tls+"/"), visible("#open"))
	b.do("log out", click("form[action='/logout'] button"), visible(`a[href*="/session/end"]`))
	if status := eval[string](b, "document.body.innerText"); !strings.Contains(status, "Logged out here.") {
		t.Errorf("after logging out the page is\n%s", status)
	}
	b.calm()
}
