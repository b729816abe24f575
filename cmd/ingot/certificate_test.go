package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/internal/wire"
)

// TestConfigCheckReadsTheCertificate: a certificate that no browser takes is a mistake, with what to
// do; one that some may not take is a warning.
func TestConfigCheckReadsTheCertificate(t *testing.T) {
	now := time.Now()
	a := wire.NewAuthority(t, now)
	good, other := a.Issue(t, now, now.AddDate(0, 3, 0), "boot.example.org"), a.Issue(t, now, now.AddDate(0, 3, 0),
		"other")
	for _, c := range []struct {
		what string
		pair wire.Pair
		code int
		want string
	}{
		{"a good one", good, 0, "no mistakes"},
		{"another's key", wire.Pair{Certificate: good.Certificate, Key: other.Key}, 1,
			"private key does not match public key"},
		{"one that expired", a.Issue(t, now.AddDate(0, -3, 0), now.AddDate(0, 0, -1), "boot.example.org"), 1,
			"certbot renew"},
		{"one for another name", other, 0, "warning: the certificate in "},
	} {
		dir := t.TempDir()
		cert, key := c.pair.Write(t, dir)
		file := filepath.Join(dir, "ingot.yaml")
		text := "api: {names: [boot.example.org], certificate: " + cert + ", key: " + key + "}\n"
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		code, stdout, stderr := call(t, "", "--store", t.TempDir(), "config", "check", "--config", file)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("%s: config check = %d\n%s%s\nwant %d and %q", c.what, code, stdout, stderr, c.code, c.want)
		}
	}
}

// TestServedCertificate: a server that runs presents the operator's certificate to curl, which trusts
// its root alone; takes over another one by SIGHUP, and a renewed one by itself; refuses a reload with a
// wrong one; and goes on answering those that pinned its CA.
func TestServedCertificate(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	f := newField(t, 2<<20)
	now := time.Now()
	a := wire.NewAuthority(t, now)
	root := filepath.Join(f.dir, "root.pem")
	if err := os.WriteFile(root, a.Root, 0o644); err != nil {
		t.Fatal(err)
	}
	serves := func(cert, key string) {
		f.write(settings + "api: {listen: [':7443'], certificate: " + cert + ", key: " + key + "}\n")
	}
	cert, key := a.Issue(t, now, now.AddDate(0, 3, 0), "boot.example.org").Write(t, f.dir)
	serves(cert, key)
	f.serve()
	asks := func(ca, name string) bool {
		return f.lan.Command(f.ctx, "curl", "-sf", "-m", "5", "-o", "/dev/null", "--cacert", ca, "--resolve",
			name+":7443:10.99.0.1", "https://"+name+":7443/healthz").Run() == nil
	}
	own := filepath.Join(f.store, "keys", "ca.crt")
	if !asks(root, "boot.example.org") || asks(own, "boot.example.org") || !asks(own, "server.ingot.internal") ||
		asks(root, "server.ingot.internal") {
		t.Error("the operator's name does not get the operator's certificate, or the pinned one does")
	}
	serves(cert, root)
	if _, err := f.api().Reload(f.ctx); err == nil || !strings.Contains(err.Error(), "holds no private key") {
		t.Errorf("Reload with a wrong key = %v", err)
	}
	if !asks(root, "boot.example.org") {
		t.Error("a reload that was refused took the certificate away")
	}
	another := filepath.Join(f.dir, "another")
	if err := os.Mkdir(another, 0o755); err != nil {
		t.Fatal(err)
	}
	serves(a.Issue(t, now, now.AddDate(0, 3, 0), "boot2.example.org").Write(t, another))
	if err := f.server.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	f.until("the certificate of the new configuration", func() bool { return asks(root, "boot2.example.org") })
	a.Issue(t, now, now.AddDate(0, 4, 0), "boot3.example.org").Write(t, another)
	f.until("the renewed certificate", func() bool { return asks(root, "boot3.example.org") })
	_ = f.server.Process.Signal(syscall.SIGTERM)
}
