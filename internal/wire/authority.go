package wire

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority issues certificates of servers as a public one does: by an authority between the root and
// them.
type Authority struct {
	Root   []byte // PEM, what browsers trust
	issuer *x509.Certificate
	key    *ecdsa.PrivateKey
	chain  []byte // PEM of the issuer
}

// NewAuthority makes one whose certificates may be valid at any time in the ten years around now.
func NewAuthority(t testing.TB, now time.Time) *Authority {
	t.Helper()
	a := &Authority{}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test Root"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: now.AddDate(-5, 0, 0), NotAfter: now.AddDate(5, 0, 0),
		KeyUsage: x509.KeyUsageCertSign}
	rootKey, der := sign(t, root, root, nil)
	a.Root = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	a.issuer = &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "Test Issuer"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: root.NotBefore, NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageCertSign}
	a.key, der = sign(t, a.issuer, root, rootKey)
	a.chain = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

// sign makes a certificate for a new key; by nil, that key signs it.
func sign(t testing.TB, c, issuer *x509.Certificate, by *ecdsa.PrivateKey) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// Pair is a certificate with its issuer's, and its key, as a file of each has them.
type Pair struct{ Certificate, Issuer, Key []byte }

// Issue makes a certificate for names and addresses.
func (a *Authority) Issue(t testing.TB, from, until time.Time, names ...string) Pair {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "server"},
		NotBefore: from, NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	return a.IssueAs(t, c)
}

// IssueAs makes a certificate of a template.
func (a *Authority) IssueAs(t testing.TB, c *x509.Certificate) Pair {
	t.Helper()
	key, der := sign(t, c, a.issuer, a.key)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), a.chain,
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}
}

// Write puts a pair into two files of a folder, as certbot names them.
func (p Pair) Write(t testing.TB, dir string) (certificate, key string) {
	t.Helper()
	certificate, key = filepath.Join(dir, "fullchain.pem"), filepath.Join(dir, "privkey.pem")
	if err := os.WriteFile(certificate, append(p.Certificate, p.Issuer...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, p.Key, 0o600); err != nil {
		t.Fatal(err)
	}
	return certificate, key
}
