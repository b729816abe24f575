package doctor

import (
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/config"
	"ingot/internal/wire"
)

// TestCertificateFindings: doctor compares the files with what the running server presents.
func TestCertificateFindings(t *testing.T) {
	now := time.Now()
	a := wire.NewAuthority(t, now)
	cert, key := a.Issue(t, now, now.AddDate(0, 3, 0), "*.example.org").Write(t, t.TempDir())
	pair, err := access.LoadPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := access.OpenCA(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = tls.Server(c, ca.TLS()).Handshake() // the client judges it
			_ = c.Close()
		}
	}()
	api := config.API{Listen: []string{l.Addr().String()}, Certificate: cert, Key: key}
	wants := func(what string, list []Finding, state, text string) {
		t.Helper()
		if len(list) != 1 || list[0].State != state || !strings.Contains(list[0].Text, text) {
			t.Errorf("%s: %+v; want one %s with %q", what, list, state, text)
		}
	}
	if list := examineCertificate(t.Context(), config.API{}, true, now); len(list) != 0 {
		t.Errorf("without a certificate: %+v", list)
	}
	wants("a server that does not present it", examineCertificate(t.Context(), api, true, now), Error, "presents another")
	ca.Present(pair)
	wants("a server that does", examineCertificate(t.Context(), api, true, now), OK, "presented for *.example.org")
	wants("in three months", examineCertificate(t.Context(), api, true, now.AddDate(0, 4, 0)), Error, "expired on")
	api.Key = cert
	wants("a wrong key", examineCertificate(t.Context(), api, true, now), Error, "holds no private key")
}
