package source

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The user of the registry under test, and the bcrypt hash of its password.
const (
	registryUser     = "robot"
	registryPassword = "secret"
)

// realRegistry starts Debian's docker-registry on loopback and returns its
// host:port and the folder it stores in. users is an htpasswd file's content;
// empty: everybody may do everything.
func realRegistry(t *testing.T, users string) (host, storage string) {
	t.Helper()
	needTool(t, "docker-registry")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host = l.Addr().String()
	l.Close()
	tmp := t.TempDir()
	storage = filepath.Join(tmp, "storage")
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: "+
		"{enabled: true}}\nhttp: {addr: %q}\n", storage, host)
	if users != "" {
		if err := os.WriteFile(filepath.Join(tmp, "htpasswd"), []byte(users), 0o644); err != nil {
			t.Fatal(err)
		}
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s/htpasswd}}\n", tmp)
	}
	if err := os.WriteFile(filepath.Join(tmp, "config.yml"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("docker-registry", "serve", filepath.Join(tmp, "config.yml"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 200 {
		if resp, err := http.Get("http://" + host + "/v2/"); err == nil {
			resp.Body.Close()
			return host, storage
		}
		time.Sleep(20 * time.Millisecond) // it does not report when it is ready
	}
	t.Fatal("docker-registry does not answer")
	return "", ""
}

func inRegistry(ref string) Origin { return Origin{Kind: KindOCI, Ref: ref, Arch: "amd64"} }

func reference(t *testing.T, s string) name.Reference {
	t.Helper()
	r, err := name.ParseReference(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// login writes a docker config with credentials for a registry and returns its name.
func login(t *testing.T, host, user, password string) string {
	t.Helper()
	dir := t.TempDir()
	text := fmt.Sprintf(`{"auths": {%q: {"username": %q, "password": %q}}}`, host, user, password)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "config.json")
}

// TestRegistryWithCredentials: a real registry refuses requests without credentials and with wrong
// passwords, and serves who is in the usual credentials file.
func TestRegistryWithCredentials(t *testing.T) {
	// htpasswd -nbB robot secret
	host, _ := realRegistry(t, "robot:$2a$05$GcmdJppAtbl1sVxGe9Aveu41F8FvQ5HnJxzJjLgaoHos2Q4GFvZs6\n")
	ref := host + "/x/nasty:1"
	im := nastyImage(t)
	if err := remote.Write(reference(t, ref), im,
		remote.WithAuth(&authn.Basic{Username: registryUser, Password: registryPassword})); err != nil {
		t.Fatal(err)
	}
	trees := newTrees(t)
	if _, err := trees.Pin(t.Context(), inRegistry(ref)); !errors.Is(err, ErrRefused) ||
		!strings.Contains(err.Error(), "docker login "+host) {
		t.Errorf("without credentials: %v; want ErrRefused and how to log in", err)
	}
	missing := filepath.Join(t.TempDir(), "missing.json")
	trees.Credentials = []string{missing, login(t, host, registryUser, "wrong")}
	if _, err := trees.Pin(t.Context(), inRegistry(ref)); !errors.Is(err, ErrRefused) {
		t.Errorf("with a wrong password: %v; want ErrRefused", err)
	}
	trees.Credentials = []string{missing, login(t, host, registryUser, registryPassword)}
	out := filepath.Join(t.TempDir(), "out")
	got, pin, err := get(t.Context(), trees, inRegistry(ref), out)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := mustGet(t, local(KindOCI, layoutOf(t, map[string]v1.Image{"one": im})))
	if digest(t, got) != digest(t, want) {
		t.Error("the registry's image is not the one of the layout")
	}
	if d, err := im.Digest(); err != nil || string(pin.Digest) != d.String() {
		t.Errorf("pinned as %s; want the manifest's %s (%v)", pin.Digest, d, err)
	}
	// What is cached needs neither registry nor credentials.
	trees.Offline = true
	if trees.Missing(pin) {
		t.Error("a fetched image is missing")
	}
	if err := trees.Unpack(t.Context(), pin, out); err != nil {
		t.Errorf("unpacking offline: %v", err)
	}
	if _, err := trees.Pin(t.Context(), inRegistry(host+"/x/other:1")); !errors.Is(err, ErrOffline) ||
		!strings.Contains(err.Error(), "--offline") {
		t.Errorf("pinning offline: %v; want ErrOffline", err)
	}
	trees.Offline = false
	if _, err := trees.Pin(t.Context(), inRegistry(host+"/x/other:1")); !errors.Is(err, ErrNoImage) ||
		!strings.Contains(err.Error(), "x/other:1") {
		t.Errorf("an image that is not there: %v; want ErrNoImage", err)
	}
}

// TestRegistryIndex: of an image for several architectures ours is taken, by
// its own digest; and a layer that the registry has lost is one clear error.
func TestRegistryIndex(t *testing.T) {
	host, storage := realRegistry(t, "")
	amd, arm := imageOf(t, "amd64", tarOf(t, member{name: "amd"})), imageOf(t, "arm64", tarOf(t, member{name: "arm"}))
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux",
			Architecture: "arm64", Variant: "v8"}}},
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	ref := reference(t, host+"/x:multi")
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	for arch, im := range map[string]v1.Image{"amd64": amd, "arm64": arm} {
		o := inRegistry(ref.String())
		o.Arch = arch
		pin, err := newTrees(t).Pin(t.Context(), o)
		if d, _ := im.Digest(); err != nil || string(pin.Digest) != d.String() {
			t.Errorf("for %s: %s, %v; want %s", arch, pin.Digest, err, d)
		}
	}
	riscv := inRegistry(ref.String())
	riscv.Arch = "riscv64"
	if _, err := newTrees(t).Pin(t.Context(), riscv); !errors.Is(err, ErrArch) ||
		!strings.Contains(err.Error(), "has linux/arm64/v8, linux/amd64; the profile wants linux/riscv64") {
		t.Errorf("for riscv64: %v; want ErrArch and what there is", err)
	}
	// The tag moves on, the pin stays.
	trees, o := newTrees(t), inRegistry(ref.String())
	pin, err := trees.Pin(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, imageOf(t, "amd64", tarOf(t, member{name: "newer"}))); err != nil {
		t.Fatal(err)
	}
	if err := trees.Fetch(t.Context(), o, pin, nil); err != nil {
		t.Errorf("fetching what was pinned before the tag moved: %v", err)
	}
	layers, err := amd.Layers()
	if err != nil {
		t.Fatal(err)
	}
	lost, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(storage, "docker/registry/v2/blobs/sha256", lost.Hex[:2], lost.Hex, "data")
	for _, c := range []struct {
		what string
		do   func(string) error
	}{{"corrupt", flip}, {"missing", os.Remove}} {
		trees := newTrees(t)
		if err := c.do(data); err != nil {
			t.Fatal(err)
		}
		err := trees.Fetch(t.Context(), o, pin, nil)
		if err == nil || !strings.Contains(err.Error(), "layer 1 of 1 of "+o.Ref) || strings.Contains(err.Error(), "\n") {
			t.Errorf("a layer that is %s: %v; want the layer's number", c.what, err)
		}
		if !trees.Missing(pin) {
			t.Errorf("a layer that is %s counts as fetched", c.what)
		}
	}
}

// TestRegistryThatIsNone: nobody answers, or not as a registry does.
func TestRegistryThatIsNone(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter,
		_ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	host := strings.TrimPrefix(srv.URL, "http://")
	if _, err := newTrees(t).Pin(t.Context(), inRegistry(host+"/x:1")); !errors.Is(err, ErrNoRegistry) ||
		!strings.Contains(err.Error(), "503") {
		t.Errorf("a registry that is ill: %v; want ErrNoRegistry", err)
	}
	srv.Close()
	if _, err := newTrees(t).Pin(t.Context(), inRegistry(host+"/x:1")); !errors.Is(err, ErrNoRegistry) ||
		!strings.Contains(err.Error(), "check its name and the network") {
		t.Errorf("nobody there: %v; want ErrNoRegistry", err)
	}
	if _, err := newTrees(t).Pin(t.Context(), inRegistry("UPPER CASE")); !errors.Is(err, ErrNoImage) ||
		!strings.Contains(err.Error(), "leading ./") {
		t.Errorf("no reference: %v; want ErrNoImage", err)
	}
}

// TestRepositoryCredentials: podman's auth.json may have credentials for one repository, which
// count before those of the registry (containers-auth.json(5)).
func TestRepositoryCredentials(t *testing.T) {
	host, _ := realRegistry(t, "robot:$2a$05$GcmdJppAtbl1sVxGe9Aveu41F8FvQ5HnJxzJjLgaoHos2Q4GFvZs6\n")
	ref := host + "/x/one:1"
	basic := &authn.Basic{Username: registryUser, Password: registryPassword}
	if err := remote.Write(reference(t, ref), nastyImage(t), remote.WithAuth(basic)); err != nil {
		t.Fatal(err)
	}
	trees := newTrees(t)
	trees.Credentials = []string{
		login(t, host, registryUser, "wrong"), login(t, host+"/x/one", registryUser, registryPassword),
	}
	if _, err := trees.Pin(t.Context(), inRegistry(ref)); err != nil {
		t.Errorf("with credentials of the repository: %v", err)
	}
}

// TestRateLimit: a registry that answers 429, as Docker Hub does, is asked again and then reported.
func TestRateLimit(t *testing.T) {
	var requests atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/" {
			requests.Add(1)
			w.WriteHeader(http.StatusTooManyRequests)
		}
	}))
	defer srv.Close()
	_, err := newTrees(t).Pin(t.Context(), inRegistry(strings.TrimPrefix(srv.URL, "http://")+"/x:1"))
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "log in, or try again later") {
		t.Errorf("a registry that limits requests: %v; want ErrRefused and what to do", err)
	}
	if n := requests.Load(); n < 2 || n > 10 {
		t.Errorf("the registry was asked %d times; want a few attempts", n)
	}
}

// TestLocalHTTPS: a registry on this host that offers HTTPS is not asked by HTTP, also if its
// certificate is not known.
func TestLocalHTTPS(t *testing.T) {
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	defer srv.Close()
	ref := strings.TrimPrefix(srv.URL, "https://") + "/x:1"
	_, err := newTrees(t).Pin(t.Context(), inRegistry(ref))
	if !errors.Is(err, ErrNoRegistry) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a registry with an unknown certificate: %v; want ErrNoRegistry, naming the certificate", err)
	}
}

func TestFullReference(t *testing.T) {
	for ref, want := range map[string]string{
		"debian":                     "docker.io/library/debian:latest",
		"debian:13":                  "docker.io/library/debian:13",
		"grafana/loki:3":             "docker.io/grafana/loki:3",
		"docker.io/debian:13":        "docker.io/library/debian:13",
		"index.docker.io/debian":     "docker.io/library/debian:latest",
		"registry.example/a/b":       "registry.example/a/b:latest",
		"registry.example:5000/a:1":  "registry.example:5000/a:1",
		"localhost/a":                "localhost/a:latest",
		"registry.example/a@sha256:": "registry.example/a@sha256:",
	} {
		if got := fullReference(ref); got != want {
			t.Errorf("fullReference(%q) = %q; want %q", ref, got, want)
		}
		if strings.HasSuffix(ref, "sha256:") {
			continue
		}
		theirs, err := name.ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		if full := strings.Replace(theirs.Name(), "index.docker.io", "docker.io", 1); full != want && ref != "localhost/a" {
			t.Errorf("go-containerregistry reads %q as %q; want %q", ref, full, want)
		}
	}
}
