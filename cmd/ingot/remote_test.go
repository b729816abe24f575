package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
)

// TestRemote: a whole server is administered over TLS by curl, with a token
// and with a certificate, and scraped; what is not allowed is not.
func TestRemote(t *testing.T) {
	if testing.Short() {
		t.Skip("some seconds in network namespaces")
	}
	f := newField(t, 2<<20)
	f.write(settings + "api: {listen: [':7443'], metrics: '127.0.0.1:9469', names: [boot.example.org]}\n")
	f.serve()
	made, err := f.api().CreateCredential(f.ctx, api.CredentialRequest{Name: "ci", Scope: access.Read, For: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	key, request, err := access.NewRequest("alice")
	if err != nil {
		t.Fatal(err)
	}
	alice, err := f.api().CreateCredential(f.ctx, api.CredentialRequest{Name: "alice", Scope: access.Admin,
		For: time.Hour, Request: string(request)})
	if err != nil {
		t.Fatal(err)
	}
	pem, header := filepath.Join(f.dir, "alice.pem"), filepath.Join(f.dir, "header")
	for file, text := range map[string]string{pem: alice.Certificate + string(key), header: "Authorization: Bearer " +
		made.Token} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pinned := []string{"--cacert", filepath.Join(f.store, "keys", "ca.crt"), "--resolve",
		"boot.example.org:7443:10.99.0.1"}
	curl := func(url string, args ...string) string {
		args = append(append([]string{"-s", "-m", "20", "-o", "/dev/stderr", "-w", "%{http_code}"}, args...), url)
		out, err := f.lan.Command(f.ctx, "curl", args...).Output()
		if err != nil {
			return err.Error()
		}
		return string(out)
	}
	const base = "https://boot.example.org:7443"
	for _, c := range []struct {
		what, got, want string
	}{
		{"nothing", curl(base+"/v1/machines", pinned...), "401"},
		{"a token", curl(base+"/v1/machines", append(pinned, "-H", "@"+header)...), "200"},
		{"a token of scope read", curl(base+"/v1/reload", append(pinned, "-X", "POST", "-H", "@"+header)...), "403"},
		{"a certificate", curl(base+"/v1/audit", append(pinned, "--cert", pem)...), "200"},
		{"who did not pin the CA", curl(base+"/v1/version", pinned[2:]...), "exit status 60"},
		{"an address that was not configured", curl("https://10.99.0.1:7443/v1/version", append(pinned[:2:2], "-H",
			"@"+header)...), "exit status 60"},
		{"a page without a session", curl(base+"/", pinned...), "401"},
		{"the page that asks for a token", curl(base+"/login", pinned...), "200"},
		{"a page with a certificate", curl(base+"/", append(pinned, "--cert", pem)...), "200"},
		{"the dashboard on the boot network's port", curl("http://10.99.0.1/login"), "404"},
		{"the dashboard beside the metrics", curl("http://127.0.0.1:9469/login"), "404"},
		{"health", curl(base+"/healthz", pinned...), "200"},
		{"metrics in the clear", curl("http://127.0.0.1:9469/metrics"), "200"},
		{"readiness in the clear", curl("http://127.0.0.1:9469/readyz"), "200"},
		{"anything else in the clear", curl("http://127.0.0.1:9469/v1/machines", "-H", "@"+header), "404"},
		{"the API on the boot network's port", curl("http://10.99.0.1/v1/machines", "-H", "@"+header), "404"},
	} {
		if c.got != c.want {
			t.Errorf("%s gets %s; want %s", c.what, c.got, c.want)
		}
	}
	f.write(settings + "api: {listen: [':7444'], names: [other.example.org]}\n")
	r, err := f.api().Reload(f.ctx)
	if err != nil || !contains(r.Changed, []string{"api.names"}) || !contains(r.Restart, []string{"api.listen",
		"api.metrics"}) {
		t.Errorf("Reload = %+v, %v", r, err)
	}
	if got := curl(base+"/v1/machines", append(pinned, "-H", "@"+header)...); got != "exit status 60" {
		t.Errorf("the name that was taken out of the configuration: %s; want a certificate without it", got)
	}
	list, err := f.api().Audit(f.ctx, 0, true, 1)
	if err != nil || len(list) != 1 || list[0].Action != "server.reload" || list[0].Who.Kind != access.Local ||
		!strings.Contains(brieflyJSON(list[0].To["api.names"]), "other.example.org") {
		t.Errorf("the last change is %+v, %v; want the reload", list, err)
	}
	_ = f.server.Process.Signal(syscall.SIGTERM)
}
