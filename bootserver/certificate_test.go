package bootserver

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/config"
	"ingot/internal/wire"
)

// presentedTo returns the certificate that a client gets which asks for a name.
func (s *street) presentedTo(name string) *x509.Certificate {
	s.t.Helper()
	c, err := tls.Dial("tcp", strings.TrimPrefix(s.tls, "https://"), &tls.Config{ServerName: name,
		InsecureSkipVerify: true}) // the test looks at it
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

// TestOperatorsCertificate: browsers get the operator's certificate, also with a client certificate of
// the server's CA, and ingot goes on pinning that CA. Renewed files are taken over without a reload, in
// whatever order they come; what cannot be used is logged and changes nothing.
func TestOperatorsCertificate(t *testing.T) {
	s := newStreet(t)
	var said bytes.Buffer
	s.said.into(&said)
	s.server.conf.Now = s.now
	a := wire.NewAuthority(t, s.clock)
	dir := t.TempDir()
	first := a.Issue(t, s.clock, s.clock.AddDate(0, 3, 0), "boot.example.org")
	cert, key := first.Write(t, dir)
	s.server.setCertificate(config.API{Certificate: cert, Key: key})
	leafOf := func(p wire.Pair) *x509.Certificate {
		c, err := access.ParseCertificate(p.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	wants := func(when string, p wire.Pair) {
		t.Helper()
		if got := s.presentedTo("boot.example.org"); !got.Equal(leafOf(p)) {
			t.Errorf("%s, browsers get the certificate of %s until %s", when, got.Issuer, got.NotAfter)
		}
	}
	wants("at the start", first)

	// A browser trusts the root alone.
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(a.Root)
	browser := s.caller("a browser", "", s.certificate("alice", access.Admin))
	conf := browser.http.Transport.(*http.Transport).TLSClientConfig
	conf.RootCAs, conf.ServerName = roots, "boot.example.org"
	if status, _, text := browser.ask(t, "GET", "/v1/tokens", ""); status != http.StatusOK {
		t.Errorf("a browser with a client certificate gets %d %s", status, text)
	}
	pinned, err := api.Connect(api.Target{Server: s.tls, CA: string(s.server.ca.PEM()), Token: s.token("ci", access.Read)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pinned.Version(t.Context()); err != nil {
		t.Errorf("a client that pinned the CA: %v", err)
	}
	if _, fingerprint, err := api.Look(t.Context(), s.tls); err != nil || fingerprint != s.server.ca.Fingerprint() {
		t.Errorf("Look = %s, %v; want the server's CA", fingerprint, err)
	}

	later := a.Issue(t, s.clock, s.clock.AddDate(0, 4, 0), "boot.example.org")
	write := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("fullchain.pem", append(later.Certificate, later.Issuer...))
	s.server.followCertificate()
	wants("with half of a renewal", first)
	if strings.Contains(said.String(), "cannot be used") {
		t.Error("half of a renewal is logged at once")
	}
	write("privkey.pem", later.Key)
	s.server.followCertificate()
	wants("after a renewal", later)
	write("privkey.pem", []byte("garbage"))
	for range 3 {
		s.server.followCertificate()
	}
	wants("with a broken key", later)
	if n := strings.Count(said.String(), "cannot be used"); n != 1 {
		t.Errorf("a broken key is logged %d times; want once", n)
	}
	// As certbot does it: a link to the newest file.
	newest := a.Issue(t, s.clock, s.clock.AddDate(0, 5, 0), "boot.example.org")
	fresh, freshKey := newest.Write(t, t.TempDir())
	for from, to := range map[string]string{fresh: cert, freshKey: key} {
		if err := os.Remove(to); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(from, to); err != nil {
			t.Fatal(err)
		}
	}
	s.server.followCertificate()
	wants("after links to newer files", newest)

	s.clock = s.clock.AddDate(0, 6, 0)
	s.server.followCertificate()
	wants("after its end", newest)
	if !strings.Contains(said.String(), "expired on") {
		t.Error("an expired certificate is not logged")
	}
	s.server.setCertificate(config.API{})
	if got := s.presentedTo("boot.example.org"); got.Subject.CommonName != access.ServerName {
		t.Errorf("without a certificate in the configuration, browsers get that of %s", got.Subject)
	}
}

// TestCertificateAtAStart: one that cannot be used does not keep a server from starting, and a reload
// that brings one is refused.
func TestCertificateAtAStart(t *testing.T) {
	s := newStreet(t)
	var said bytes.Buffer
	s.said.into(&said)
	s.server.conf.Now = s.now
	s.server.setCertificate(config.API{Certificate: "/nonexistent/cert", Key: "/nonexistent/key"})
	if got := s.presentedTo("boot.example.org"); got.Subject.CommonName != access.ServerName {
		t.Errorf("browsers get the certificate of %s", got.Subject)
	}
	if !strings.Contains(said.String(), "/nonexistent/cert") {
		t.Errorf("the log has %s; want the file", said.String())
	}
	if err := s.server.checkCertificate(config.API{}, config.API{Certificate: "/nonexistent/cert",
		Key: "/k"}); err == nil {
		t.Error("a reload takes a certificate that is not there")
	}
	a := wire.NewAuthority(t, s.clock)
	cert, key := a.Issue(t, s.clock, s.clock.Add(time.Hour), "boot.example.org").Write(t, t.TempDir())
	if err := s.server.checkCertificate(config.API{}, config.API{Certificate: cert, Key: key}); err != nil {
		t.Errorf("checkCertificate = %v", err)
	}
}
