package access

import (
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/internal/wire"
)

// TestLoadPair: each way in which two files are no certificate of a server with its key is named.
func TestLoadPair(t *testing.T) {
	a := wire.NewAuthority(t, t0)
	p, other := a.Issue(t, t0, t0.AddDate(0, 3, 0), "boot.example.org"), a.Issue(t, t0, t0.AddDate(0, 3, 0), "other")
	unnamed := a.Issue(t, t0, t0.AddDate(0, 3, 0))
	client := a.IssueAs(t, &x509.Certificate{SerialNumber: big.NewInt(9), DNSNames: []string{"a"}, NotBefore: t0,
		NotAfter: t0.AddDate(0, 3, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	locked := "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"
	for name, c := range map[string]struct{ cert, key, want string }{
		"good":               {string(p.Certificate) + string(p.Issuer), string(p.Key), ""},
		"in one file":        {string(p.Key) + string(p.Certificate), string(p.Certificate) + string(p.Key), ""},
		"another key":        {string(p.Certificate), string(other.Key), "private key does not match public key"},
		"in the wrong order": {string(p.Issuer) + string(p.Certificate), string(p.Key), "private key does not match"},
		"no certificate":     {"hello", string(p.Key), "holds no certificate in PEM form"},
		"the key twice":      {string(p.Key), string(p.Key), "holds no certificate in PEM form"},
		"no key":             {string(p.Certificate), string(p.Certificate), "holds no private key in PEM form"},
		"half a file":        {string(p.Certificate), string(p.Key[:len(p.Key)/2]), "failed to find"},
		"a key with a lock":  {string(p.Certificate), locked, "has a passphrase"},
		"no host name":       {string(unnamed.Certificate), string(unnamed.Key), "is for no host name"},
		"that of a client":   {string(client.Certificate), string(client.Key), "is not for servers"},
		"much too long":      {strings.Repeat("x", maxPEM+1), string(p.Key), "more than"},
		"empty":              {"", "", "holds no certificate"},
		"the key is no key": {string(p.Certificate), "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n",
			"private key"},
		"damaged certificate": {strings.Replace(string(p.Certificate), "MII", "MIX", 1), string(p.Key), "reading"},
	} {
		dir := t.TempDir()
		cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
		for file, text := range map[string]string{cert: c.cert, key: c.key} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := LoadPair(cert, key)
		if c.want == "reading" && err != nil {
			continue // whatever x509 calls it
		}
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), dir)) {
			t.Errorf("%s: LoadPair = %v; want %q and the file", name, err, c.want)
		}
	}
	dir := t.TempDir()
	cert, key := p.Write(t, dir)
	for _, gone := range []string{key, cert} {
		if err := os.Remove(gone); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPair(cert, key); err == nil || !strings.Contains(err.Error(), gone) {
			t.Errorf("without %s: %v", gone, err)
		}
	}
}

// TestExaminePair: what browsers would refuse, or may, is said with what to do.
func TestExaminePair(t *testing.T) {
	a := wire.NewAuthority(t, t0)
	month := 30 * 24 * time.Hour
	p := a.Issue(t, t0, t0.Add(3*month), "boot.example.org", "*.lab.example.org")
	cert, key := p.Write(t, t.TempDir())
	alone, aloneKey := (wire.Pair{Certificate: p.Certificate, Key: p.Key}).Write(t, t.TempDir())
	open, openKey := p.Write(t, t.TempDir())
	if err := os.Chmod(openKey, 0o644); err != nil {
		t.Fatal(err)
	}
	good := []string{"BOOT.example.org", "x.lab.example.org", "10.0.0.1"}
	for _, c := range []struct {
		what, cert, key string
		names           []string
		at              time.Duration
		broken          bool
		want            string // of the only doubt; empty: none
	}{
		{"good", cert, key, good, month, false, ""},
		{"before its time", cert, key, good, -time.Hour, true, "is valid only from"},
		{"at its end", cert, key, good, 3 * month, true, "expired on"},
		{"near its end", cert, key, good, 3*month - 13*24*time.Hour, false, "expires on"},
		{"a name that it is not for", cert, key, append(good, "other.example.org"), month, false,
			"is not for other.example.org"},
		{"a name below the wildcard's", cert, key, []string{"a.b.lab.example.org"}, month, false, "is not for a.b"},
		{"without its issuer", alone, aloneKey, good, month, false, "comes without that of its issuer \"Test Issuer\""},
		{"a key that all can read", open, openKey, good, month, false, "can be read by every user"},
		{"no file", cert + "x", key, good, month, true, "no such file"},
	} {
		pair, list := ExaminePair(c.cert, c.key, c.names, t0.Add(c.at))
		if (pair == nil) != (c.what == "no file") {
			t.Errorf("%s: pair %v", c.what, pair)
		}
		switch {
		case c.want == "" && len(list) == 0:
		case c.want == "" || len(list) != 1 || list[0].Broken != c.broken || !strings.Contains(list[0].Text, c.want) ||
			list[0].Fix == "":
			t.Errorf("%s: %+v; want %q", c.what, list, c.want)
		}
	}
}

// TestCertificateFor: clients that ask for a name of the operator's certificate get it, all others
// that of the server's CA, above all those that pinned it.
func TestCertificateFor(t *testing.T) {
	ca, err := OpenCA(t.TempDir(), func() time.Time { return t0 })
	if err != nil {
		t.Fatal(err)
	}
	a := wire.NewAuthority(t, t0)
	// An operator's certificate that claims the pinned name gets nothing by it.
	pair, err := LoadPair(a.Issue(t, t0, t0.AddDate(0, 3, 0), "boot.example.org", ServerName, "*.lab.example.org",
		"10.0.0.1").Write(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	for _, presented := range []*tls.Certificate{nil, pair} {
		ca.Present(presented)
		for name, theirs := range map[string]bool{
			"boot.example.org": true, "Boot.Example.org": true, "x.lab.example.org": true, "10.0.0.1": true,
			ServerName: false, strings.ToUpper(ServerName): false, "": false, "other.example.org": false,
			"localhost": false, "x.y.lab.example.org": false,
		} {
			c, err := ca.certificateFor(&tls.ClientHelloInfo{ServerName: name})
			if err != nil || (c == pair) != (theirs && presented != nil) {
				t.Errorf("SNI %q: the operator's %v, %v; want %v", name, c == pair, err, theirs && presented != nil)
			}
		}
	}
}
