package access

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/renameio/v2"
)

// ServerName is the name that every certificate of a server has besides its
// own. Clients that pinned the CA expect it: the CA is of this one server, so how its
// host is called today does not matter.
const ServerName = "server.ingot.internal"

// How long certificates live. The server's own is renewed when two thirds of
// its time are over.
const (
	caLife     = 20 * 366 * 24 * time.Hour
	serverLife = 90 * 24 * time.Hour
)

// CA is the certificate authority of one server (RFC 5280). It issues the
// server's certificate and those of clients, and nothing else.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	now  func() time.Time

	presented atomic.Pointer[tls.Certificate] // see Present

	mu    sync.Mutex
	names []string
	leaf  *tls.Certificate // the server's own; made when it is first wanted
}

// HasCA reports whether a folder of keys has an authority, or a part of it: only a server makes it.
func HasCA(dir string) bool {
	return exists(filepath.Join(dir, "ca.key")) || exists(filepath.Join(dir, "ca.crt"))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// OpenCA reads the authority in a folder of keys, or makes it: ca.key (mode
// 0600) and ca.crt, both PEM.
func OpenCA(dir string, now func() time.Time) (*CA, error) {
	keyFile, certFile := filepath.Join(dir, "ca.key"), filepath.Join(dir, "ca.crt")
	keyText, err := os.ReadFile(keyFile)
	switch {
	case err == nil && !exists(certFile) && exists(certFile+newSuffix): // makeCA was interrupted
		if err := os.Rename(certFile+newSuffix, certFile); err != nil {
			return nil, fmt.Errorf("making the server's CA: %w", err)
		}
	case errors.Is(err, fs.ErrNotExist) && exists(certFile):
		return nil, fmt.Errorf("reading the server's CA: %w; restore it, or remove %s: then a new one is made, and every "+
			"client must pin it anew", err, certFile)
	case errors.Is(err, fs.ErrNotExist):
		if err := makeCA(keyFile, certFile, now()); err != nil {
			return nil, fmt.Errorf("making the server's CA: %w", err)
		}
		keyText, err = os.ReadFile(keyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the server's CA: %w", err)
	}
	certText, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("reading the server's CA: %w; restore it, or remove %s: then a new one is made, and every "+
			"client must pin it anew", err, keyFile)
	}
	key, err := parseKey(keyText)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", keyFile, err)
	}
	cert, err := ParseCertificate(certText)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", certFile, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("%s is not the certificate of %s; restore both from the same backup", certFile, keyFile)
	}
	return &CA{cert: cert, key: key, now: now}, nil
}

// newSuffix is that of a certificate whose key may not be written yet.
const newSuffix = ".new"

// makeCA writes the certificate under another name until there is its key: a certificate without a
// key means that the key was lost.
func makeCA(keyFile, certFile string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		host = "ingot"
	}
	t := &x509.Certificate{SerialNumber: serial(),
		Subject:   pkix.Name{Organization: []string{"ingot"}, CommonName: "ingot CA of " + host},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLife), IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true,
		KeyUsage:       x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(keyFile), 0o700); err != nil {
		return err
	}
	if err := renameio.WriteFile(certFile+newSuffix, encode("CERTIFICATE", der), 0o644); err != nil {
		return err
	}
	if err := renameio.WriteFile(keyFile, encode("PRIVATE KEY", keyDER), 0o600); err != nil {
		return err
	}
	return os.Rename(certFile+newSuffix, certFile)
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it holds no PEM block")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("it holds a %T, not an ECDSA key", k)
	}
	return key, nil
}

// ParseCertificate reads the first certificate of a PEM text.
func ParseCertificate(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("it holds no certificate in PEM form")
	}
	return x509.ParseCertificate(block.Bytes)
}

// serial draws a serial number of 127 bits (RFC 5280 section 4.1.2.2).
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

// SerialOf is a certificate's serial number in hex.
func SerialOf(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// Fingerprint is the SHA-256 of a certificate's DER: "sha256:…", as people pin it.
func Fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// PEM is the authority's certificate.
func (a *CA) PEM() []byte { return encode("CERTIFICATE", a.cert.Raw) }

// Fingerprint is that of the authority's certificate.
func (a *CA) Fingerprint() string { return Fingerprint(a.cert.Raw) }

// SetNames says by which names and addresses the server is reached; a
// certificate with other ones is replaced at the next connection.
func (a *CA) SetNames(names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Equal(a.names, names) {
		a.names, a.leaf = slices.Clone(names), nil
	}
}

// TLS is the configuration of the API's listener. Clients may show a
// certificate; one that is not of this authority ends the connection.
func (a *CA) TLS() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool,
		Time: a.now, NextProtos: []string{"http/1.1"},
		GetCertificate: a.certificateFor}
}

// server returns the server's certificate, made anew when it has no third of
// its time left. The chain that is sent ends with the authority, so that a
// client can pin it at first sight.
func (a *CA) server() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if a.leaf != nil && now.Add(serverLife/3).Before(a.leaf.Leaf.NotAfter) {
		return a.leaf, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{SerialNumber: serial(),
		Subject:   pkix.Name{Organization: []string{"ingot"}, CommonName: ServerName},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(serverLife), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: []string{ServerName}}
	for _, n := range a.names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, fmt.Errorf("issuing the server's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a.leaf = &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key, Leaf: leaf}
	return a.leaf, nil
}

// Issue signs a client's certificate for the key of its request (PKCS #10 in
// PEM): the key never leaves the client. Of the request nothing but the key is
// taken over. It returns the record to keep and the certificate in PEM.
func (a *CA) Issue(c Credential, request []byte) (Credential, []byte, error) {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return c, nil, fmt.Errorf("%w: the request is not a certificate request in PEM form", ErrCredential)
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return c, nil, fmt.Errorf("%w: reading the certificate request: %w", ErrCredential, err)
	}
	t := &x509.Certificate{SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"ingot"},
		OrganizationalUnit: []string{"scope " + string(c.Scope)}, CommonName: c.Name},
		NotBefore: c.Created.Add(-time.Hour), NotAfter: c.Expires, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, r.PublicKey, a.key)
	if err != nil {
		return c, nil, fmt.Errorf("%w: %w", ErrCredential, err)
	}
	c.ID, c.Hash = t.SerialNumber.Text(16), Fingerprint(der)
	return c, encode("CERTIFICATE", der), nil
}

// scopeOf is the scope inside of a client's certificate; none covers nothing.
func scopeOf(c *x509.Certificate) Scope {
	for _, u := range c.Subject.OrganizationalUnit {
		if s, ok := strings.CutPrefix(u, "scope "); ok {
			return Scope(s)
		}
	}
	return ""
}

// NewRequest makes a key and the request of a certificate for it, both PEM.
func NewRequest(name string) (key, request []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader,
		&x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, k)
	if err != nil {
		return nil, nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return encode("PRIVATE KEY", keyDER), encode("CERTIFICATE REQUEST", der), nil
}

// PEM is a certificate as text.
func PEM(c *x509.Certificate) []byte { return encode("CERTIFICATE", c.Raw) }
