package access

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// ErrPair is returned for a certificate and key that no server can present.
var ErrPair = errors.New("not a certificate of a server with its key")

// maxPEM bounds a file with certificates or a key in bytes.
const maxPEM = 1 << 20

// LoadPair reads a certificate that an operator has for this server, and its key, both PEM. The
// certificate comes first in its file, followed by those of its issuers. Both may be one file.
func LoadPair(certFile, keyFile string) (*tls.Certificate, error) {
	cert, err := readPEM(certFile)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate: %w", err)
	}
	key, err := readPEM(keyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	if !bytes.Contains(cert, []byte("-----BEGIN CERTIFICATE-----")) {
		return nil, fmt.Errorf("%w: %s holds no certificate in PEM form", ErrPair, certFile)
	}
	if bytes.Contains(key, []byte("ENCRYPTED")) { // PKCS #8 (RFC 5958), or a header of RFC 1421
		return nil, fmt.Errorf("%w: the key in %s has a passphrase; ingot cannot ask for it", ErrPair, keyFile)
	}
	if !bytes.Contains(key, []byte("PRIVATE KEY-----")) {
		return nil, fmt.Errorf("%w: %s holds no private key in PEM form", ErrPair, keyFile)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %s and %s: %s", ErrPair, certFile, keyFile, strings.TrimPrefix(err.Error(), "tls: "))
	}
	leaf := pair.Leaf
	if len(leaf.DNSNames)+len(leaf.IPAddresses) == 0 {
		return nil, fmt.Errorf("%w: the certificate in %s is for no host name (subjectAltName)", ErrPair, certFile)
	}
	if usage := leaf.ExtKeyUsage; len(usage) > 0 && !slices.Contains(usage, x509.ExtKeyUsageServerAuth) &&
		!slices.Contains(usage, x509.ExtKeyUsageAny) {
		return nil, fmt.Errorf("%w: the certificate in %s is not for servers (extended key usage)", ErrPair, certFile)
	}
	return &pair, nil
}

// readPEM reads a file of a bounded size. An error names the file.
func readPEM(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(text) > maxPEM {
		err = fmt.Errorf("%w: %s has more than %d bytes", ErrPair, file, maxPEM)
	}
	return text, err
}

// Doubt is something about a pair for which browsers refuse it, or may.
type Doubt struct {
	Text   string `json:"text"`
	Fix    string `json:"fix,omitempty"`
	Broken bool   `json:"broken"` // browsers refuse it, or it cannot be presented at all
}

// soon is how long before its end a certificate should have been renewed.
const soon = 14 * 24 * time.Hour

// ExaminePair loads a pair and says what is wrong with it for clients that call the server by some
// names. pair is nil if it cannot be presented.
func ExaminePair(certFile, keyFile string, names []string, now time.Time) (pair *tls.Certificate, list []Doubt) {
	pair, err := LoadPair(certFile, keyFile)
	if err != nil {
		fix := "correct api.certificate and api.key, or the files"
		if errors.Is(err, fs.ErrPermission) {
			fix = "let the server's user read both files; docs/ACCESS.md has a deploy hook for certbot"
		}
		return nil, []Doubt{{err.Error(), fix, true}}
	}
	add := func(broken bool, fix, text string, args ...any) {
		list = append(list, Doubt{fmt.Sprintf("the certificate in %s ", certFile) + fmt.Sprintf(text, args...), fix, broken})
	}
	leaf := pair.Leaf
	switch left := leaf.NotAfter.Sub(now); {
	case left <= 0:
		add(true, "renew it, for example: certbot renew; the server notices by itself", "expired on %s",
			leaf.NotAfter.Format(time.DateOnly))
	case now.Before(leaf.NotBefore):
		add(true, "check the clock: timedatectl", "is valid only from %s on", leaf.NotBefore.Format(time.DateTime))
	case left < min(soon, leaf.NotAfter.Sub(leaf.NotBefore)/6):
		add(false, "renew it, for example: certbot renew", "expires on %s", leaf.NotAfter.Format(time.DateOnly))
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip == nil && leaf.VerifyHostname(n) != nil {
			add(false, "order it for that name, too, or remove the name from api.names",
				"is not for %s (api.names): clients that ask for that name get the certificate of the server's own CA", n)
		}
	}
	if issuerMissing(pair) {
		add(false, "append the certificates of its issuers; certbot has both in fullchain.pem",
			"comes without that of its issuer %q, which this host does not know; browsers may not either",
			leaf.Issuer.CommonName)
	}
	if info, err := os.Stat(keyFile); err == nil && info.Mode().Perm()&0o007 != 0 {
		list = append(list, Doubt{Text: fmt.Sprintf("the key in %s can be read by every user of this host (mode %04o)",
			keyFile,
			info.Mode().Perm()), Fix: "chmod o= " + keyFile})
	}
	return pair, list
}

// issuerMissing reports whether a certificate is alone in its file and was issued by an authority that
// this host does not know: most likely, one between it and a root is missing.
func issuerMissing(pair *tls.Certificate) bool {
	leaf := pair.Leaf
	if len(pair.Certificate) > 1 || bytes.Equal(leaf.RawIssuer, leaf.RawSubject) {
		return false
	}
	_, err := leaf.Verify(x509.VerifyOptions{CurrentTime: leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)})
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	return unknown
}

// Present makes the listener of the API present a pair to clients that ask for one of its names by
// SNI (RFC 6066, section 3). All others get the certificate of this CA: those that pinned it ask for
// ServerName. nil: everybody does.
func (a *CA) Present(pair *tls.Certificate) { a.presented.Store(pair) }

// Presented is the pair of Present.
func (a *CA) Presented() *tls.Certificate { return a.presented.Load() }

// certificateFor chooses the certificate of a connection.
func (a *CA) certificateFor(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := hello.ServerName
	if pair := a.presented.Load(); pair != nil && name != "" && !strings.EqualFold(name, ServerName) &&
		pair.Leaf.VerifyHostname(name) == nil {
		return pair, nil
	}
	return a.server()
}
