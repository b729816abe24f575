package access

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var t0 = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		has, want Scope
		ok        bool
	}{
		{Read, Read, true}, {Read, Operate, false}, {Operate, Read, true}, {Operate, Admin, false}, {Admin, Operate,
			true},
		{"", Read, false}, {"root", Read, false}, {Admin, "", false}, {Admin, "root", false}, {"", "", false},
	} {
		if got := c.has.Covers(c.want); got != c.ok {
			t.Errorf("%q.Covers(%q) = %v; want %v", c.has, c.want, got, c.ok)
		}
	}
}

func TestNewCredential(t *testing.T) {
	c, err := NewCredential("ci", Token, Operate, time.Hour, Who{Kind: Local, Name: "root"}, t0)
	if err != nil || c.By != "local root" || !c.Live(t0) || c.Live(t0.Add(time.Hour)) {
		t.Errorf("NewCredential = %+v, %v", c, err)
	}
	for _, name := range []string{"", "-x", "a b", "\x1b[2J", "a/b", strings.Repeat("x", 65)} {
		if _, err := NewCredential(name, Token, Read, time.Hour, Who{}, t0); err == nil {
			t.Errorf("the name %q is taken; want an error", name)
		}
	}
	for _, life := range []time.Duration{-1, 0, time.Second, MaxLife + 1} {
		if _, err := NewCredential("ci", Token, Read, life, Who{}, t0); err == nil {
			t.Errorf("a life of %s is taken; want an error: every token ends", life)
		}
	}
	if _, err := NewCredential("ci", Token, "root", time.Hour, Who{}, t0); err == nil {
		t.Error("the scope root is taken; want an error")
	}
}

// TestSecret: the token has 160 bits that are only in it, and is recognised.
func TestSecret(t *testing.T) {
	random := [28]byte{}
	for i := range random {
		random[i] = byte(i)
	}
	c, token := Credential{Name: "ci"}.Secret(random)
	id, secret, ok := split(token)
	if !ok || id != c.ID || len(secret) != 40 || !c.matches(secret) || c.matches(secret[1:]) || c.matches("") ||
		(Credential{}).matches("") {
		t.Errorf("token %s of %+v", token, c)
	}
	if text, err := json.Marshal(c); err != nil || strings.Contains(string(text), secret) {
		t.Errorf("the record holds the secret (%v): %s", err, text)
	}
	if got := Redact("asking with " + token + "!"); strings.Contains(got, secret[:8]) ||
		!strings.Contains(got, Prefix) {
		t.Errorf("Redact = %s", got)
	}
}

func TestDiffer(t *testing.T) {
	type inner struct{ Name, Why string }
	type thing struct {
		State string
		Image inner
		List  []string `json:",omitempty"`
	}
	before := thing{"pending", inner{"a", "x"}, nil}
	after := thing{"approved", inner{"b", "x"}, []string{"1"}}
	from, to := Differ(before, after)
	if want := map[string]any{"State": "pending", "Image.Name": "a"}; !reflect.DeepEqual(from, want) {
		t.Errorf("from = %v; want %v", from, want)
	}
	if want := map[string]any{"State": "approved", "Image.Name": "b", "List": []any{"1"}}; !reflect.DeepEqual(to,
		want) {
		t.Errorf("to = %v; want %v", to, want)
	}
	if from, to := Differ(nil, inner{"a", ""}); len(from) != 0 || len(to) != 2 {
		t.Errorf("Differ(nil, …) = %v, %v", from, to)
	}
	long := thing{State: strings.Repeat("ü", 10_000), List: strings.Fields(strings.Repeat("disk ", 10_000))}
	if _, to := Differ(nil, long); len(to["State"].(string)) > 2*maxText || len(to["List"].(string)) > 2*maxText {
		t.Error("what machines say of themselves makes a change as long as they like")
	}
}

// TestHalfOfACA: a lost key or certificate is not made anew beside the other one; making both that was
// interrupted goes on.
func TestHalfOfACA(t *testing.T) {
	for _, lost := range []string{"ca.key", "ca.crt"} {
		dir := t.TempDir()
		if _, err := OpenCA(dir, time.Now); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(dir, lost)); err != nil {
			t.Fatal(err)
		}
		left, _ := os.ReadDir(dir)
		if _, err := OpenCA(dir, time.Now); err == nil || !strings.Contains(err.Error(), "restore it, or remove") {
			t.Errorf("without %s: %v; want what to do", lost, err)
		}
		if now, _ := os.ReadDir(dir); len(now) != len(left) || !HasCA(dir) {
			t.Errorf("without %s: %v became %v; HasCA %t", lost, left, now, HasCA(dir))
		}
	}
	dir := t.TempDir()
	ca, err := OpenCA(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	cert := filepath.Join(dir, "ca.crt")
	if err := os.Rename(cert, cert+newSuffix); err != nil { // the key is written, and it ends
		t.Fatal(err)
	}
	again, err := OpenCA(dir, time.Now)
	if err != nil || again.Fingerprint() != ca.Fingerprint() {
		t.Fatalf("made in two parts: %v", err)
	}
	if err := errors.Join(os.Rename(cert, cert+newSuffix), os.Remove(filepath.Join(dir, "ca.key"))); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(dir, time.Now); err != nil {
		t.Errorf("after a certificate without a key was written: %v", err)
	}
}

// TestCA: it is made once, its key is for its owner alone, and openssl takes
// its certificates for what they are for, and for nothing else.
func TestCA(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	clock := func() time.Time { return now }
	ca, err := OpenCA(dir, clock)
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenCA(dir, clock)
	if err != nil || again.Fingerprint() != ca.Fingerprint() {
		t.Fatalf("opened again: %v, %s; want %s", err, again.Fingerprint(), ca.Fingerprint())
	}
	if info, err := os.Stat(filepath.Join(dir, "ca.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("ca.key: %v, %v; want mode 0600", info.Mode(), err)
	}
	ca.SetNames([]string{"boot.example.org", "10.0.0.1", "::1"})
	server, err := ca.server()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCredential("alice", Certificate, Operate, time.Hour, Who{Kind: Local, Name: "root"}, now)
	if err != nil {
		t.Fatal(err)
	}
	_, request, err := NewRequest("somebody else")
	if err != nil {
		t.Fatal(err)
	}
	c, client, err := ca.Issue(c, request)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ParseCertificate(client)
	if err != nil || cert.Subject.CommonName != "alice" || scopeOf(cert) != Operate || SerialOf(cert) != c.ID ||
		Fingerprint(cert.Raw) != c.Hash || cert.IsCA {
		t.Errorf("the client's certificate is of %s, scope %q, %v", cert.Subject, scopeOf(cert), err)
	}
	serverFile, clientFile := filepath.Join(dir, "server.pem"), filepath.Join(dir, "client.pem")
	for file, text := range map[string][]byte{serverFile: encode("CERTIFICATE", server.Certificate[0]),
		clientFile: client} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, v := range []struct {
		purpose, file string
		more          []string
		ok            bool
	}{
		{"sslserver", serverFile, []string{"-verify_hostname", ServerName}, true},
		{"sslserver", serverFile, []string{"-verify_hostname", "boot.example.org"}, true},
		{"sslserver", serverFile, []string{"-verify_ip", "10.0.0.1"}, true},
		{"sslserver", serverFile, []string{"-verify_hostname", "other.example.org"}, false},
		{"sslclient", serverFile, nil, false},
		{"sslclient", clientFile, nil, true},
		{"sslserver", clientFile, nil, false},
	} {
		args := append([]string{"verify", "-x509_strict", "-CAfile", filepath.Join(dir, "ca.crt"), "-purpose",
			v.purpose}, v.more...)
		out, err := exec.Command("openssl", append(args, v.file)...).CombinedOutput()
		if (err == nil) != v.ok {
			t.Errorf("openssl %v %s: %v\n%s\nwant it to hold: %v", args, filepath.Base(v.file), err, out, v.ok)
		}
	}
}

// TestRenewal: the server's certificate is a new one before the old one ends,
// and when the server is called differently; its issuer stays.
func TestRenewal(t *testing.T) {
	now := t0
	ca, err := OpenCA(t.TempDir(), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) string {
		now = t0.Add(d)
		c, err := ca.server()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: pool(ca), CurrentTime: now,
			DNSName: ServerName}); err != nil {
			t.Errorf("after %s: %v", d, err)
		}
		return Fingerprint(c.Certificate[0])
	}
	first := at(0)
	if at(serverLife/2) != first {
		t.Error("the certificate changed in the first half of its life")
	}
	if second := at(serverLife * 3 / 4); second == first {
		t.Error("the certificate did not change in the last third of its life")
	}
	before := at(serverLife)
	ca.SetNames([]string{"other"})
	if at(serverLife) == before {
		t.Error("another name, the same certificate")
	}
}

func pool(ca *CA) *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.cert)
	return p
}

// TestBadRequests: only a key that its owner has is certified.
func TestBadRequests(t *testing.T) {
	ca, err := OpenCA(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	_, request, err := NewRequest("a")
	if err != nil {
		t.Fatal(err)
	}
	spoilt := []byte(strings.Replace(string(request), "M", "N", 1))
	for name, text := range map[string][]byte{"nothing": nil, "a certificate": ca.PEM(), "a spoilt request": spoilt,
		"no PEM": []byte("x")} {
		if _, cert, err := ca.Issue(Credential{Name: "a", Scope: Admin, Expires: time.Now().Add(time.Hour)},
			text); err == nil {
			t.Errorf("%s is certified:\n%s", name, cert)
		}
	}
}

// TestForeignKey: a key and a certificate of two authorities are not mixed.
func TestForeignKey(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for _, dir := range []string{a, b} {
		if _, err := OpenCA(dir, time.Now); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(b, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(a, "ca.crt"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenCA(a, time.Now); err == nil || !strings.Contains(err.Error(), "same backup") {
		t.Errorf("OpenCA with another's certificate = %v; want an error", err)
	}
}
