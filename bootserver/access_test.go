package bootserver

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/state"
)

// caller is somebody who asks over the network.
type caller struct {
	name  string
	http  *http.Client
	base  string
	token string
}

func (c caller) ask(t *testing.T, method, path, body string) (int, http.Header, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatalf("%s: %s %s: %v", c.name, method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, text
}

// street is a house that is reached over TLS and, for those who should not,
// over plain HTTP.
type street struct {
	*house
	tls, plain string // base URLs
}

func newStreet(t testing.TB) *street {
	t.Helper()
	s := &street{house: newHouse(t)}
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	secure, plain := listen(), listen()
	s.tls, s.plain = "https://"+secure.Addr().String(), "http://"+plain.Addr().String()
	s.server.setNames(s.server.conf.Settings.API)
	s.serve(tls.NewListener(secure, s.server.ca.TLS()), &http.Server{ErrorLog: log.New(io.Discard, "", 0)})
	s.serve(plain, &http.Server{})
	return s
}

// caller returns somebody with a token, a certificate (PEM of it and its key),
// or neither.
func (s *street) caller(name, token, certificate string) caller {
	s.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.server.ca.PEM())
	conf := &tls.Config{RootCAs: pool, ServerName: access.ServerName, Time: s.now}
	if certificate != "" {
		pair, err := tls.X509KeyPair([]byte(certificate), []byte(certificate))
		if err != nil {
			s.t.Fatal(err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	transport := &http.Transport{TLSClientConfig: conf}
	s.t.Cleanup(transport.CloseIdleConnections)
	return caller{name, &http.Client{Transport: transport}, s.tls, token}
}

// token makes one that lives an hour.
func (s *street) token(name string, scope access.Scope) string {
	s.t.Helper()
	made, err := s.api.CreateCredential(s.t.Context(), api.CredentialRequest{Name: name, Scope: scope, For: time.Hour})
	if err != nil {
		s.t.Fatal(err)
	}
	return made.Token
}

// certificate makes one that lives an hour, with its key.
func (s *street) certificate(name string, scope access.Scope) string {
	s.t.Helper()
	key, request, err := access.NewRequest(name)
	if err != nil {
		s.t.Fatal(err)
	}
	made, err := s.api.CreateCredential(s.t.Context(),
		api.CredentialRequest{Name: name, Scope: scope, For: time.Hour, Request: string(request)})
	if err != nil {
		s.t.Fatal(err)
	}
	return made.Certificate + string(key)
}

func (s *street) revoke(name string) {
	s.t.Helper()
	if _, err := s.api.RevokeCredential(s.t.Context(), name); err != nil {
		s.t.Fatal(err)
	}
}

// pathOf fills in what a route's path names.
func pathOf(r api.Route) string { return strings.ReplaceAll(r.Path, "{ref}", "nobody") }

// TestEveryRouteIsClosed: whatever the route, who has no credential, or a
// wrong, ended or too small one, gets a problem and changes nothing. The routes
// come from the server's own table.
func TestEveryRouteIsClosed(t *testing.T) {
	s := newStreet(t)
	s.ask() // a machine that could be changed
	small := map[access.Scope]caller{access.Read: s.caller("nothing", "", "")}
	smallCert := map[access.Scope]caller{}
	for i, scope := range access.Scopes[:2] {
		above := access.Scopes[i+1]
		small[above] = s.caller("a token of scope "+string(scope), s.token("small-"+string(scope), scope), "")
		smallCert[above] = s.caller("a certificate of scope "+string(scope), "",
			s.certificate("small-cert-"+string(scope), scope))
	}
	good := s.token("good", access.Admin)
	revoked, revokedCert := s.token("revoked", access.Admin), s.certificate("revoked-cert", access.Admin)
	s.revoke("revoked")
	s.revoke("revoked-cert")
	expired, unrecorded := s.token("expired", access.Admin), s.certificate("unrecorded", access.Admin)
	s.edit("expired", func(tx state.Tx, c access.Credential) { c.Expires = s.clock; tx.PutCredential(c) })
	s.edit("unrecorded", func(tx state.Tx, c access.Credential) { tx.DropCredential(c.ID) })
	inTheClear := s.caller("a good token over plain HTTP", good, "")
	inTheClear.base = s.plain
	strangers := []caller{
		s.caller("nothing", "", ""),
		s.caller("an empty token", " ", ""),
		s.caller("no token of ours", "hunter2", ""),
		s.caller("a token with another secret", good[:len(good)-1]+flip(good[len(good)-1]), ""),
		s.caller("a token with another id", strings.Replace(good, good[6:7], flip(good[6]), 1), ""),
		s.caller("a token's id alone", good[:len(access.Prefix)+16], ""),
		s.caller("a token with something after it", good+"0", ""),
		s.caller("a token's hash", access.Prefix+good[6:22]+"_"+s.hash("good")[:40], ""),
		s.caller("a revoked token", revoked, ""),
		s.caller("an expired token", expired, ""),
		s.caller("a revoked certificate", "", revokedCert),
		s.caller("a certificate that was forgotten", "", unrecorded),
		s.caller("a wrong token and a good certificate", "hunter2", s.certificate("beside", access.Admin)),
		inTheClear,
	}
	before := everything(t, s.state)
	public := 0
	for _, r := range append(api.Routes(), api.Route{Method: "GET", Path: "/v1/nothing", Scope: access.Read}) {
		if r.Scope == "" {
			public++
			continue
		}
		for _, c := range strangers {
			status, header, text := c.ask(t, r.Method, pathOf(r), "{}")
			wantProblem(t, c.name+": "+r.Method+" "+r.Path, status, header, text, http.StatusUnauthorized)
			if header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: %s %s: 401 without WWW-Authenticate (RFC 9110 section 15.5.2)", c.name, r.Method, r.Path)
			}
		}
		for _, c := range []caller{small[r.Scope], smallCert[r.Scope]} {
			if c.http == nil || c.token == "" && c.name == "nothing" {
				continue // nothing is smaller than read but nothing at all
			}
			status, header, text := c.ask(t, r.Method, pathOf(r), "{}")
			wantProblem(t, c.name+": "+r.Method+" "+r.Path, status, header, text, http.StatusForbidden)
		}
	}
	if after := everything(t, s.state); after != before {
		t.Errorf("refused requests changed something:\n%s\n%s", before, after)
	}
	if public != 2 {
		t.Errorf("%d routes are open to everybody; want /healthz and /readyz alone", public)
	}
}

// TestEveryRouteIsOpen to who has just the scope that it takes, by token, by
// certificate, and to the local administrator.
func TestEveryRouteIsOpen(t *testing.T) {
	s := newStreet(t)
	for _, scope := range access.Scopes {
		for _, c := range []caller{
			s.caller("a token of scope "+string(scope), s.token("t-"+string(scope), scope), ""),
			s.caller("a certificate of scope "+string(scope), "", s.certificate("c-"+string(scope), scope)),
		} {
			for _, r := range api.Routes() {
				status, header, text := c.ask(t, r.Method, pathOf(r), "{}")
				refused := status == http.StatusUnauthorized || status == http.StatusForbidden
				if refused == scope.Covers(r.Scope) && r.Scope != "" || status >= 500 || refused && r.Scope == "" {
					t.Errorf("%s: %s %s = %d %s", c.name, r.Method, r.Path, status, text)
				}
				if status >= 400 {
					wantProblem(t, c.name+": "+r.Method+" "+r.Path, status, header, text, status)
				}
			}
		}
	}
}

// TestScopeOfACertificateIsInIt: a record that says more than the certificate
// does not make it more.
func TestScopeOfACertificateIsInIt(t *testing.T) {
	s := newStreet(t)
	c := s.caller("a certificate", "", s.certificate("grows", access.Read))
	s.edit("grows", func(tx state.Tx, c access.Credential) { c.Scope = access.Admin; tx.PutCredential(c) })
	if status, _, text := c.ask(t, "GET", "/v1/tokens", ""); status != http.StatusForbidden {
		t.Errorf("GET /v1/tokens = %d %s; want 403", status, text)
	}
}

// TestTheTLSOfOthers: a client certificate of another CA, or past its time,
// ends the connection; a client that pinned another CA does not speak to us.
func TestTheTLSOfOthers(t *testing.T) {
	s := newStreet(t)
	other, err := access.OpenCA(t.TempDir(), s.now)
	if err != nil {
		t.Fatal(err)
	}
	key, request, err := access.NewRequest("mallory")
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, err := other.Issue(access.Credential{Name: "mallory", Scope: access.Admin, Created: s.clock,
		Expires: s.clock.Add(time.Hour)}, request)
	if err != nil {
		t.Fatal(err)
	}
	late := s.caller("late", "", s.certificate("late", access.Admin))
	s.clock = s.clock.Add(2 * time.Hour)
	for name, c := range map[string]caller{"a certificate of another CA": s.caller("foreign", "",
		string(foreign)+string(key)), "a certificate past its time": late} {
		resp, err := c.http.Get(s.tls + "/v1/version")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusUnauthorized { // a client may not even send what the server would not take
				t.Errorf("%s: %s; want the connection to end, or 401", name, resp.Status)
			}
		}
	}
	pinned, err := api.Connect(api.Target{Server: s.tls, CA: string(other.PEM()), Token: access.Prefix + "0"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pinned.Version(t.Context()); !errors.Is(err, api.ErrStranger) {
		t.Errorf("a client that pinned another CA: %v; want ErrStranger", err)
	}
	for _, server := range []string{s.plain, "ftp://x", "https://", "10.0.0.1:7443"} {
		if _, err := api.Connect(api.Target{Server: server, CA: string(other.PEM()),
			Token: "secret"}); !errors.Is(err, api.ErrTarget) {
			t.Errorf("Connect(%q) = %v; want ErrTarget: no token goes there", server, err)
		}
	}
}

// TestWhatIsTakenIsBounded: a body that is too large is refused by every route
// that takes one.
func TestWhatIsTakenIsBounded(t *testing.T) {
	s := newStreet(t)
	c := s.caller("an administrator", s.token("t", access.Admin), "")
	large := `{"name":"` + strings.Repeat("x", 17<<20) + `"}`
	n := 0
	for _, path := range withBody(t) {
		n++
		status, header, text := c.ask(t, "POST", strings.ReplaceAll(path, "{ref}", "nobody"), large)
		wantProblem(t, "POST "+path, status, header, text, http.StatusRequestEntityTooLarge)
		limit := "less than 64 KiB"
		if path == "/v1/import" || strings.HasPrefix(path, "/v1/fleet") {
			limit = "less than 16 MiB"
		}
		if !strings.Contains(string(text), limit) {
			t.Errorf("POST %s = %s; want the limit: %q", path, text, limit)
		}
	}
	if n < 4 {
		t.Errorf("%d routes take a body; this test missed them", n)
	}
	for body, want := range map[string]int{"{": 400, "": 400, `{"image":"lab:v1","forse":true}`: 422,
		`{"image":1}`: 422, "[]": 422} {
		status, header, text := c.ask(t, "POST", "/v1/machines/nobody/assign", body)
		wantProblem(t, fmt.Sprintf("POST %q", body), status, header, text, want)
	}
	for _, q := range []string{"limit=0", "limit=-1", "limit=999999", "limit=x", "afterr=1",
		"after=" + strings.Repeat("x", 300)} {
		status, header, text := c.ask(t, "GET", "/v1/machines?"+q, "")
		wantProblem(t, q, status, header, text, http.StatusUnprocessableEntity)
	}
	status, header, text := c.ask(t, "DELETE", "/v1/machines", "")
	wantProblem(t, "DELETE", status, header, text, http.StatusMethodNotAllowed)
	if !strings.Contains(header.Get("Allow"), "GET") {
		t.Errorf("405 with Allow %q (RFC 9110 section 15.5.6)", header.Get("Allow"))
	}
}

// withBody lists the paths that are posted something to, from the document.
func withBody(t *testing.T) (paths []string) {
	t.Helper()
	text, err := api.OpenAPI("test")
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Paths map[string]map[string]struct{ RequestBody json.RawMessage }
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	for path, methods := range doc.Paths {
		if methods["post"].RequestBody != nil {
			paths = append(paths, path)
		}
	}
	return paths
}

// TestSecretsAreSeenOnce: a token is in the answer that makes it, and then
// nowhere: not in lists, the audit log, the log, the state.
func TestSecretsAreSeenOnce(t *testing.T) {
	s := newStreet(t)
	token := s.token("once", access.Admin)
	secret := token[strings.LastIndex(token, "_")+1:]
	if _, err := s.api.CreateCredential(t.Context(),
		api.CredentialRequest{Name: "once", Scope: access.Read, For: time.Hour}); err == nil {
		t.Error("the same name again; want a conflict, or nobody knows which one is revoked")
	}
	s.revoke("once")
	c := s.caller("an administrator", s.token("other", access.Admin), "")
	for _, path := range []string{"/v1/tokens", "/v1/audit", "/metrics"} {
		status, _, text := c.ask(t, "GET", path, "")
		if status != 200 || bytes.Contains(text, []byte(secret)) || bytes.Contains(text, []byte(s.hash("once"))) {
			t.Errorf("GET %s = %d, and holds a token's secret or its hash:\n%s", path, status, text)
		}
	}
	var file bytes.Buffer
	if err := s.state.Backup(&file); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(file.Bytes(), []byte(secret)) || !bytes.Contains(file.Bytes(), []byte(s.hash("once"))) {
		t.Error("the state file holds a token's secret, or does not hold its hash")
	}
}

// TestAudit: each change has one line with who and from what to what; what
// failed has none.
func TestAudit(t *testing.T) {
	s := newStreet(t)
	s.put("v1")
	s.ask()
	if _, err := s.api.Approve(t.Context(), machineID, api.ApproveRequest{Name: "node01"}); err != nil {
		t.Fatal(err)
	}
	c := s.caller("ci", s.token("ci", access.Operate), "")
	if status, _, text := c.ask(t, "POST", "/v1/machines/node01/assign",
		`{"image":"lab:v1","why":"first"}`); status != 200 {
		t.Fatalf("assign = %d %s", status, text)
	}
	if status, _, _ := c.ask(t, "POST", "/v1/machines/node01/assign", `{"image":"lab:v9"}`); status != 404 {
		t.Errorf("assigning what is not there = %d; want 404", status)
	}
	list, err := s.api.Audit(t.Context(), 0, false, 100)
	if err != nil || len(list) != 3 {
		t.Fatalf("Audit = %d changes, %v; want 3", len(list), err)
	}
	approve, token, assign := list[0], list[1], list[2]
	if approve.Action != "machine.approve" || approve.Who.Kind != access.Local || *approve.Who.UID != os.Getuid() ||
		approve.Who.PID != os.Getpid() ||
		approve.From["state"] != "pending" || approve.To["state"] != "approved" || approve.To["name"] != "node01" {
		t.Errorf("the first change is %+v", approve)
	}
	if token.Action != "token.create" || token.Name != "ci" || token.To["scope"] != "operate" ||
		token.To["hash"] != nil {
		t.Errorf("the second change is %+v", token)
	}
	if assign.Action != "machine.assign" || assign.Who.Kind != access.Token || assign.Who.Name != "ci" ||
		assign.Who.From == "" || assign.On != machineID ||
		assign.To["assignment.name"] != "lab:v1" || assign.From["assignment.name"] != nil ||
		assign.Seq <= token.Seq || token.Seq <= approve.Seq {
		t.Errorf("the third change is %+v", assign)
	}
	if more, err := s.api.Audit(t.Context(), token.Seq, false, 100); err != nil || len(more) != 1 ||
		more[0].Seq != assign.Seq {
		t.Errorf("Audit(after the second) = %+v, %v", more, err)
	}
	if last, err := s.api.Audit(t.Context(), 0, true, 2); err != nil || len(last) != 2 || last[0].Seq != token.Seq {
		t.Errorf("the last 2 = %+v, %v; want 2 and 3", last, err)
	}
}

// TestRestoreTakesNothingBack: a token that was revoked after a backup stays
// revoked when that is restored, one that was made since stays, and the audit
// log goes on.
func TestRestoreTakesNothingBack(t *testing.T) {
	s := newStreet(t)
	admin := s.caller("an administrator", s.token("admin", access.Admin), "")
	bad := s.caller("revoked", s.token("bad", access.Admin), "")
	var backup bytes.Buffer
	if _, err := s.api.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	s.revoke("bad")
	since := s.caller("made since", s.token("since", access.Read), "")
	before, err := s.api.Audit(t.Context(), 0, false, 100)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, text := bad.ask(t, "POST", "/v1/restore", "x"); status != http.StatusUnauthorized {
		t.Errorf("restoring with a revoked token = %d %s", status, text)
	}
	if status, _, text := admin.ask(t, "POST", "/v1/restore", backup.String()); status != 200 {
		t.Fatalf("restore = %d %s", status, text)
	}
	if status, _, _ := bad.ask(t, "GET", "/v1/version", ""); status != http.StatusUnauthorized {
		t.Errorf("after the restore, the token that was revoked before it gets %d; want 401", status)
	}
	if status, _, _ := since.ask(t, "GET", "/v1/version", ""); status != 200 {
		t.Errorf("after the restore, the token that was made before it gets %d; want 200", status)
	}
	after, err := s.api.Audit(t.Context(), 0, false, 100)
	if err != nil || len(after) != len(before)+1 || after[len(after)-1].Action != "server.restore" ||
		after[0].Seq != 1 {
		t.Errorf("the audit log has %d changes (%v), had %d; want one more, the restore", len(after), err, len(before))
	}
	if status, _, text := admin.ask(t, "POST", "/v1/restore", "no state file"); status != http.StatusBadRequest {
		t.Errorf("restoring nonsense = %d %s; want 400", status, text)
	}
}

// edit changes the record of a credential behind the server's back.
func (s *street) edit(name string, f func(state.Tx, access.Credential)) {
	s.t.Helper()
	err := s.state.Update(func(tx state.Tx) error {
		for _, c := range tx.CredentialsNamed(name) {
			f(tx, c)
			return nil
		}
		return fmt.Errorf("there is no credential %q", name)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *street) hash(name string) string {
	for _, c := range s.state.Credentials() {
		if c.Name == name {
			return c.Hash
		}
	}
	s.t.Fatalf("there is no credential %q", name)
	return ""
}

// flip is another hex digit.
func flip(c byte) string {
	if c == '0' {
		return "1"
	}
	return "0"
}

func wantProblem(t *testing.T, what string, status int, header http.Header, text []byte, want int) {
	t.Helper()
	var p api.Problem
	if err := json.Unmarshal(text, &p); err != nil || status != want ||
		header.Get("Content-Type") != "application/problem+json" ||
		p.Status != status || p.Type == "" || p.Title == "" || p.Detail == "" {
		t.Errorf("%s = %d %s %s (%v); want a whole problem with status %d", what, status, header.Get("Content-Type"),
			text, err, want)
	}
}
