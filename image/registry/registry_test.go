package registry_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	oci "github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/crypto/bcrypt"

	"ingot"
	"ingot/image"
	"ingot/image/imagetest"
	"ingot/image/registry"
)

// debian starts Debian's docker-registry (2.8: no referrers API) on the
// loopback and returns its host and port. config is added to its configuration.
func debian(t *testing.T, config string) string {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("docker-registry is not installed; run scripts/setup test")
		}
		t.Skip("docker-registry is not installed")
	}
	dir := t.TempDir()
	text := "version: 0.1\nlog: {level: info, formatter: text}\nhttp:\n  addr: 127.0.0.1:0\n"
	storage := "storage:\n  filesystem: {rootdirectory: " + filepath.Join(dir, "data") + "}\n"
	for _, part := range strings.SplitAfter(config, "\n") {
		switch {
		case strings.HasPrefix(part, "  tls"):
			text += part
		case strings.HasPrefix(part, "  maintenance"):
			storage += part
		default:
			storage += part
		}
	}
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte(text+storage), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", file)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
	scan := bufio.NewScanner(stderr)
	var seen strings.Builder
	for scan.Scan() {
		seen.WriteString(scan.Text() + "\n")
		if m := regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`).FindStringSubmatch(scan.Text()); m != nil {
			go func() { _, _ = io.Copy(io.Discard, stderr) }() // until it ends
			return m[1]
		}
	}
	t.Fatalf("docker-registry did not start:\n%s", seen.String())
	return ""
}

// world is a store with one image, its keys, and another store that trusts it.
type world struct {
	from, to *image.Store
	im       image.Image
	keys     image.Keys
	root     []byte
}

func newWorld(t *testing.T, size int, arch ingot.Arch) world {
	t.Helper()
	w := world{root: make([]byte, size)}
	if _, err := rand.Read(w.root); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.keys, err = image.LoadOrCreateKeys(filepath.Join(t.TempDir(), "keys")); err != nil {
		t.Fatal(err)
	}
	for _, s := range []**image.Store{&w.from, &w.to} {
		if *s, err = image.Open(t.Context(), t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	name := ingot.ImageName{Profile: "lab", Version: "v1"}
	o := imagetest.New(imagetest.Spec{Name: name, Root: w.root, Sign: &w.keys.Release, Arch: arch})
	sbom := o.Refer(o.Image, "application/vnd.cyclonedx+json", []byte("{}"))
	o.Refer(sbom, ingot.ArtifactSignature, []byte("of the SBOM"))
	trusted := image.ReceiveOptions{Trusted: []image.PublicKey{w.keys.Release.Public}}
	if w.im, err = w.from.Receive(t.Context(), o, o.Image, trusted); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w world) push(ctx context.Context, ref string, o registry.Options) (registry.Pushed, error) {
	r, err := registry.Open(ctx, ref, o)
	if err != nil {
		return registry.Pushed{}, err
	}
	return r.Push(ctx, w.from, w.im, nil)
}

func (w world) pull(ctx context.Context, ref string, o registry.Options) (image.Image, error) {
	r, err := registry.Open(ctx, ref, o)
	if err != nil {
		return image.Image{}, err
	}
	d, err := r.Resolve(ctx)
	if err != nil {
		return image.Image{}, err
	}
	return w.to.Receive(ctx, r, d, image.ReceiveOptions{Trusted: []image.PublicKey{w.keys.Release.Public}})
}

// none reports an image that should not be there.
func (w world) none(t *testing.T) {
	t.Helper()
	if list, err := w.to.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("List = %d images, %v; want none", len(list), err)
	}
	if left, _ := filepath.Glob(filepath.Join(w.to.Root(), "images/blobs/sha256/.*")); len(left) != 0 {
		t.Errorf("temporary files are left: %v", left)
	}
}

var plain = registry.Options{PlainHTTP: true}

// TestPushAndPull goes through both kinds of registry: one with the referrers
// API and one without it.
func TestPushAndPull(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(t *testing.T) string{
		"debian": func(t *testing.T) string { return debian(t, "") },
		"with referrers API": func(t *testing.T) string {
			s := httptest.NewServer(oci.New(oci.WithReferrersSupport(true), oci.Logger(log.New(io.Discard, "", 0))))
			t.Cleanup(s.Close)
			return s.Listener.Addr().String()
		},
	} {
		t.Run(name, func(t *testing.T) {
			host := start(t)
			w := newWorld(t, 3<<20, ingot.ARM64) // an arm64 image goes through an amd64 server
			p, err := w.push(t.Context(), host+"/images/lab", plain)
			if err != nil {
				t.Fatal(err)
			}
			if p.Tag != "v1" || p.Sent < 3<<20 || p.Referrers != 3 {
				t.Errorf("push = %+v; want tag v1, all sent, 3 referrers", p)
			}
			if p, err = w.push(t.Context(), host+"/images/lab:stable", plain); err != nil || p.Sent != 0 || p.Present < 3<<20 {
				t.Errorf("pushing again = %+v, %v; want nothing sent", p, err)
			}
			for _, ref := range []string{":stable", ":v1", "@" + w.im.Digest.String()} {
				got, err := w.pull(t.Context(), host+"/images/lab"+ref, plain)
				if err != nil {
					t.Fatal(err)
				}
				if got.Digest != w.im.Digest || got.Manifest.Arch != ingot.ARM64 {
					t.Errorf("pulled %s for %s; want %s", got.Digest, got.Manifest.Arch, w.im.Digest)
				}
				if list, err := w.to.ReferrerTree(got); err != nil || len(list) != 3 {
					t.Errorf("%d referrers came along (%v); want 3", len(list), err)
				}
				if err := w.to.Verify(t.Context(), got, w.keys.Release.Public); err != nil {
					t.Error(err)
				}
			}
			if skopeo, err := exec.LookPath("skopeo"); err == nil {
				ref := "docker://" + host + "/images/lab:v1"
				out, err := exec.Command(skopeo, "inspect", "--raw", "--tls-verify=false", ref).Output()
				if err != nil || !bytes.Equal(out, w.im.OCI) {
					t.Errorf("skopeo reads %q, %v; want our manifest", out, err)
				}
			}
		})
	}
}

func TestUntrusted(t *testing.T) {
	t.Parallel()
	host := debian(t, "")
	w := newWorld(t, 1000, ingot.AMD64)
	if _, err := w.push(t.Context(), host+"/lab", plain); err != nil {
		t.Fatal(err)
	}
	stranger, err := image.LoadOrCreateKeys(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	key := w.keys.Release.Public.ID()
	w.keys = stranger
	_, err = w.pull(t.Context(), host+"/lab:v1", plain)
	if !errors.Is(err, image.ErrUntrusted) || !strings.Contains(err.Error(), key) {
		t.Errorf("pulling without the key: %v; want ErrUntrusted, naming key %s", err, key)
	}
	w.none(t)
}

// htpasswd is the configuration of a registry that requires a password.
func htpasswd(t *testing.T) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "htpasswd")
	if err := os.WriteFile(file, []byte("ada:"+string(hash)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return "auth:\n  htpasswd: {realm: test, path: " + file + "}\n"
}

func credentials(t *testing.T, host, password string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.json")
	basic := base64.StdEncoding.EncodeToString([]byte("ada:" + password))
	b, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"auth": basic}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	host := debian(t, htpasswd(t))
	w := newWorld(t, 1000, ingot.AMD64)
	missing := filepath.Join(t.TempDir(), "missing.json")
	for _, c := range []struct {
		files []string
		want  error
	}{
		{nil, registry.ErrCredentials}, {[]string{missing}, registry.ErrCredentials},
		{[]string{credentials(t, host, "wrong")}, registry.ErrRefused},
		{[]string{missing, credentials(t, host, "secret")}, nil},
	} {
		o := registry.Options{PlainHTTP: true, Credentials: c.files}
		if _, err := w.push(t.Context(), host+"/lab", o); !errors.Is(err, c.want) {
			t.Errorf("pushing with %v: %v; want %v", c.files, err, c.want)
		}
		if _, err := w.pull(t.Context(), host+"/lab:v1", o); !errors.Is(err, c.want) {
			t.Errorf("pulling with %v: %v; want %v", c.files, err, c.want)
		}
	}
	unreadable := registry.Options{PlainHTTP: true, Credentials: []string{"/dev/null/x"}}
	if _, err := w.pull(t.Context(), host+"/lab:v1", unreadable); err == nil {
		t.Error("a credentials file that cannot be read is ignored")
	}
}

// TestCredentialHelper gets the password from a program, as docker does.
func TestCredentialHelper(t *testing.T) {
	host := debian(t, htpasswd(t))
	dir := t.TempDir()
	helper := `#!/bin/sh
read host
printf '{"ServerURL": "%s", "Username": "ada", "Secret": "secret"}' "$host"
`
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-ingottest"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	file := filepath.Join(dir, "config.json")
	if err := os.WriteFile(file, []byte(`{"credHelpers":{"`+host+`":"ingottest"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, 1000, ingot.AMD64)
	o := registry.Options{PlainHTTP: true, Credentials: []string{file}}
	if _, err := w.push(t.Context(), host+"/lab", o); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	host := debian(t, "")
	w := newWorld(t, 1000, ingot.AMD64)
	if _, err := w.push(t.Context(), host+"/lab", plain); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]error{
		host + "/lab:v9":   registry.ErrMissing,
		host + "/other:v1": registry.ErrMissing,
		host + "/lab@sha256:" + strings.Repeat("0", 64): registry.ErrMissing,
		host + "/lab":                registry.ErrReference,
		"http://" + host + "/lab:v1": registry.ErrReference,
		host + "/La b:v1":            registry.ErrReference,
		"127.0.0.1:1/lab:v1":         registry.ErrUnreachable,
	} {
		if _, err := w.pull(t.Context(), ref, plain); !errors.Is(err, want) {
			t.Errorf("pulling %s: %v; want %v", ref, err, want)
		}
	}
	if _, err := w.pull(t.Context(), host+"/lab:v1", registry.Options{}); !errors.Is(err, registry.ErrPlainHTTP) {
		t.Errorf("HTTPS to a plain registry: %v; want ErrPlainHTTP", err)
	}
	_, err := registry.Open(t.Context(), host+"/lab:v1", registry.Options{CA: []byte("none")})
	if !errors.Is(err, registry.ErrCA) {
		t.Errorf("a CA file without certificates: %v; want ErrCA", err)
	}
	w.none(t)
	// The version is taken by another image; a tag moves.
	other := newWorld(t, 1000, ingot.AMD64)
	if _, err := other.push(t.Context(), host+"/lab", plain); !errors.Is(err, registry.ErrTaken) {
		t.Errorf("pushing another v1: %v; want ErrTaken", err)
	}
	for _, x := range []world{w, other} {
		if _, err := x.push(t.Context(), host+"/lab:stable", plain); err != nil {
			t.Errorf("moving a tag: %v", err)
		}
	}
}

func TestReadOnlyRegistry(t *testing.T) {
	t.Parallel()
	host := debian(t, "  maintenance: {readonly: {enabled: true}}\n")
	w := newWorld(t, 1000, ingot.AMD64)
	if _, err := w.push(t.Context(), host+"/lab", plain); !errors.Is(err, registry.ErrForbidden) {
		t.Errorf("pushing to a registry that only reads: %v; want ErrForbidden", err)
	}
}

// TestTLS talks to a registry with a certificate by an authority of its own.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certificate(t, dir)
	host := debian(t, fmt.Sprintf("  tls: {certificate: %s/cert.pem, key: %s/key.pem}\n", dir, dir))
	w := newWorld(t, 1000, ingot.AMD64)
	if _, err := w.push(t.Context(), host+"/lab", registry.Options{}); !errors.Is(err, registry.ErrAuthority) {
		t.Errorf("an unknown authority: %v; want ErrAuthority", err)
	}
	o := registry.Options{CA: ca}
	if _, err := w.push(t.Context(), host+"/lab", o); err != nil {
		t.Error(err)
	}
	if _, err := w.pull(t.Context(), host+"/lab:v1", o); err != nil {
		t.Error(err)
	}
}

func certificate(t *testing.T, dir string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "registry"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	private := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})
	for name, b := range map[string][]byte{"cert.pem": text, "key.pem": private} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return text
}

// bad is a proxy before a registry that spoils what passes.
func bad(t *testing.T, host string, spoil func(w http.ResponseWriter, r *http.Request, pass http.Handler)) string {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { spoil(w, r, proxy) }))
	s.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// TestFlippedByte: what is not what its digest says is refused, and the next
// pull fetches that part alone.
func TestFlippedByte(t *testing.T) {
	t.Parallel()
	host := debian(t, "")
	w := newWorld(t, 3<<20, ingot.AMD64)
	if _, err := w.push(t.Context(), host+"/lab", plain); err != nil {
		t.Fatal(err)
	}
	root := w.im.Manifest.Root.Digest.String()
	wrong := bad(t, host, func(rw http.ResponseWriter, r *http.Request, pass http.Handler) {
		if !strings.HasSuffix(r.URL.Path, root) {
			pass.ServeHTTP(rw, r)
			return
		}
		rec := httptest.NewRecorder()
		pass.ServeHTTP(rec, r)
		b := rec.Body.Bytes()
		b[1<<20] ^= 1
		rw.Header().Set("Content-Length", strconv.Itoa(len(b)))
		_, _ = rw.Write(b) // the client may be gone
	})
	_, err := w.pull(t.Context(), wrong+"/lab:v1", plain)
	if !errors.Is(err, image.ErrContent) || !strings.Contains(err.Error(), "root") {
		t.Errorf("pulling a flipped byte: %v; want ErrContent, naming the root", err)
	}
	w.none(t)
	// The first pull stopped at once: which other parts were complete is chance.
	complete := map[string]bool{}
	m := w.im.Manifest
	for _, part := range []ingot.Digest{m.Root.Digest, m.Kernel.Digest, m.Initramfs.Digest} {
		_, err := os.Stat(w.to.Blob(part))
		complete[part.String()] = err == nil
	}
	if complete[root] {
		t.Error("the flipped root is kept")
	}
	var again sync.Map
	counted := bad(t, host, func(rw http.ResponseWriter, r *http.Request, pass http.Handler) {
		if _, digest, ok := strings.Cut(r.URL.Path, "/blobs/"); ok {
			again.Store(digest, true)
		}
		pass.ServeHTTP(rw, r)
	})
	if _, err := w.pull(t.Context(), counted+"/lab:v1", plain); err != nil {
		t.Fatal(err)
	}
	for part, here := range complete {
		if _, fetched := again.Load(part); fetched == here {
			t.Errorf("%s: here before the second pull: %t, fetched by it: %t", part, here, fetched)
		}
	}
}

// limited lets so many bytes through and then breaks the connection.
type limited struct {
	http.ResponseWriter
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		_, _ = l.ResponseWriter.Write(p[:l.left]) // breaks in any case
		l.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	l.left -= len(p)
	return l.ResponseWriter.Write(p)
}

// TestBrokenConnections: a pull goes on where it stopped, and gives up when
// the registry stays away, with one clear error and no image.
func TestBrokenConnections(t *testing.T) {
	t.Parallel()
	host := debian(t, "")
	w := newWorld(t, 3<<20, ingot.AMD64)
	if _, err := w.push(t.Context(), host+"/lab", plain); err != nil {
		t.Fatal(err)
	}
	root := w.im.Manifest.Root.Digest.String()
	var ranges atomic.Int64
	var gone atomic.Bool
	breaking := bad(t, host, func(rw http.ResponseWriter, r *http.Request, pass http.Handler) {
		if gone.Load() {
			panic(http.ErrAbortHandler)
		}
		if strings.HasSuffix(r.URL.Path, root) {
			if r.Header.Get("Range") != "" {
				ranges.Add(1)
			}
			rw = &limited{rw, 1 << 20}
		}
		pass.ServeHTTP(rw, r)
	})
	o := registry.Options{PlainHTTP: true}
	registry.SetPauses(&o, time.Millisecond, 5*time.Second)
	got, err := w.pull(t.Context(), breaking+"/lab:v1", o)
	if err != nil || got.Digest != w.im.Digest {
		t.Fatalf("pulling over breaking connections: %v", err)
	}
	if ranges.Load() < 2 {
		t.Errorf("the pull asked for %d ranges; want that it went on where it stopped", ranges.Load())
	}
	gone.Store(true)
	w.to, _ = image.Open(t.Context(), t.TempDir())
	if _, err := w.pull(t.Context(), breaking+"/lab:v1", o); !errors.Is(err, registry.ErrUnreachable) {
		t.Errorf("pulling from a registry that is gone: %v; want ErrUnreachable", err)
	}
	w.none(t)
}

// TestGoesAwayInTheMiddle: a registry that dies while the root travels, in
// either direction, and one that only stops talking.
func TestGoesAwayInTheMiddle(t *testing.T) {
	t.Parallel()
	host := debian(t, "")
	w := newWorld(t, 3<<20, ingot.AMD64)
	var dead atomic.Bool
	root := w.im.Manifest.Root.Digest.String()
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	var hang atomic.Bool
	dying := bad(t, host, func(rw http.ResponseWriter, r *http.Request, pass http.Handler) {
		isRoot := strings.HasSuffix(r.URL.Path, root) && r.Method == http.MethodGet ||
			r.Method == http.MethodPut && r.ContentLength > 1<<20
		switch {
		case dead.Load():
			panic(http.ErrAbortHandler)
		case isRoot && hang.Load():
			select {
			case <-end:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		case isRoot:
			dead.Store(true)
			if r.Method == http.MethodPut {
				_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
				panic(http.ErrAbortHandler)
			}
			rw = &limited{rw, 1 << 20}
		}
		pass.ServeHTTP(rw, r)
	})
	o := registry.Options{PlainHTTP: true}
	var pauses atomic.Int64
	o.Retry = func(error, time.Duration) { pauses.Add(1) }
	registry.SetPauses(&o, time.Millisecond, 300*time.Millisecond)
	if _, err := w.push(t.Context(), dying+"/lab", o); !errors.Is(err, registry.ErrUnreachable) {
		t.Errorf("pushing to a registry that dies: %v; want ErrUnreachable", err)
	}
	dead.Store(false)
	if _, err := w.pull(t.Context(), host+"/lab:v1", o); !errors.Is(err, registry.ErrMissing) {
		t.Errorf("after a push that failed the tag is there: %v; want ErrMissing", err)
	}
	if _, err := w.push(t.Context(), host+"/lab", o); err != nil {
		t.Fatal(err)
	}
	if _, err := w.pull(t.Context(), dying+"/lab:v1", o); !errors.Is(err, registry.ErrUnreachable) {
		t.Errorf("pulling from a registry that dies: %v; want ErrUnreachable", err)
	}
	if pauses.Load() == 0 {
		t.Error("Retry was not called; want it before each pause")
	}
	w.none(t)
	dead.Store(false)
	hang.Store(true)
	_, err := w.pull(t.Context(), dying+"/lab:v1", o)
	if !errors.Is(err, registry.ErrUnreachable) || !strings.Contains(err.Error(), "no data received") {
		t.Errorf("pulling from a registry that says nothing: %v; want ErrUnreachable", err)
	}
	w.none(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := w.pull(ctx, dying+"/lab:v1", registry.Options{PlainHTTP: true}); err == nil || ctx.Err() == nil {
		t.Errorf("an interrupted pull: %v", err)
	}
	w.none(t)
}
