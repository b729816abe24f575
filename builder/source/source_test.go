package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestHostMirrors(t *testing.T) {
	for _, c := range []struct {
		name, file, text, named string
		want                    Mirrors
	}{
		{"deb822", "sources.list.d/debian.sources", "Types: deb deb-src\n# note\nURIs: http://m/debian/\n" +
			"Suites: bookworm bookworm-updates\nSigned-By: /k\n\nTypes: deb\nURIs: http://m/debian-security\n" +
			"Suites: bookworm-security\n", "",
			Mirrors{Debian: "http://m/debian", Security: "http://m/debian-security"}},
		{"one line", "sources.list", "# x\ndeb [signed-by=/k] http://n/debian bookworm main\n" +
			"deb http://n/debian-security bookworm-security main\n", "",
			Mirrors{Debian: "http://n/debian", Security: "http://n/debian-security"}},
		{"others are passed over", "sources.list", "deb http://x/nodesource nodistro main\ndeb http://n/debian trixie main\n",
			"", Mirrors{Debian: "http://n/debian", Security: ""}},
		{"a named one goes first", "sources.list", "deb http://n/debian trixie main\n",
			"http://mine/d/", Mirrors{Debian: "http://mine/d", Security: ""}},
		{"and its security archive", "sources.list", "deb http://n/debian-security trixie-security main\n",
			"http://mine/d http://mine/s/", Mirrors{Debian: "http://mine/d", Security: "http://mine/s"}},
		{"or none", "sources.list", "deb http://n/debian-security trixie-security main\n",
			"http://mine/d none", Mirrors{Debian: "http://mine/d", Security: ""}},
	} {
		etc := t.TempDir()
		path := filepath.Join(etc, c.file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(c.text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := HostMirrors(etc, c.named); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: HostMirrors = %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
	if _, err := HostMirrors(t.TempDir(), ""); !errors.Is(err, ErrNoMirror) || !strings.Contains(err.Error(), "--mirror") {
		t.Errorf("a host without sources = %v; want ErrNoMirror with the next step", err)
	}
}

func TestFirstErrorHidesHosts(t *testing.T) {
	text := "N: note\nThe following packages have unmet dependencies:\n" +
		" web : Depends: x (>= 2) but it is not installable\n       Conflicts: y\n" +
		"E: Failed to fetch http://secret.example/debian/pool/x  404\nE: second\n"
	want := "web : Depends: x (>= 2) but it is not installable; web : Conflicts: y; Failed to fetch /debian/pool/x  404"
	if got := firstError(text); got != want {
		t.Errorf("firstError = %q; want %q", got, want)
	}
}

func pkg(content string) Package {
	sum := sha256.Sum256([]byte(content))
	return Package{Name: "x", Version: "1", Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:]),
		Archive: "debian", Path: "pool/x_1+b1.deb"}
}

// TestFetch: what arrives is verified, retried when it is damaged, and kept.
func TestFetch(t *testing.T) {
	var asked atomic.Int32
	answers := []string{"damaged", "good"}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() != "/pool/x_1%2bb1.deb" {
			t.Errorf("asked for %s; want the plus escaped", r.URL.EscapedPath())
		}
		_, _ = w.Write([]byte(answers[min(int(asked.Add(1)), len(answers))-1]))
	}))
	defer srv.Close()
	c, p := Cache{t.TempDir()}, pkg("good")
	for range 2 {
		if err := c.Fetch(t.Context(), Mirrors{Debian: srv.URL}, []Package{p}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != 2 {
		t.Errorf("asked %d times; want once more after the damage, and never again", asked.Load())
	}
	if err := os.WriteFile(c.Path(p), []byte("evil"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(p); !errors.Is(err, ErrDigest) {
		t.Errorf("Verify of a changed file = %v; want ErrDigest", err)
	}
	if _, err := os.Stat(c.Path(p)); err == nil {
		t.Error("a damaged file stays in the cache")
	}
}

func TestFetchFails(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	c, p := Cache{t.TempDir()}, pkg("good")
	if err := c.Fetch(t.Context(), Mirrors{Debian: srv.URL}, []Package{p}, nil); !errors.Is(err, ErrNoPackage) {
		t.Errorf("a package that is gone = %v; want ErrNoPackage", err)
	}
	srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := c.Fetch(ctx, Mirrors{Debian: srv.URL}, []Package{p}, nil)
	if !errors.Is(err, ErrOffline) || strings.Contains(err.Error(), "http://") {
		t.Errorf("a mirror that is away = %v; want ErrOffline without its address", err)
	}
	if left, _ := filepath.Glob(filepath.Join(c.Dir, "*")); len(left) > 0 {
		t.Errorf("failed downloads leave %v", left)
	}
}

// TestEpoch lets dpkg-deb make the package that we read the time of.
func TestEpoch(t *testing.T) {
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		t.Skip("not a Debian host")
	}
	dir := t.TempDir()
	control := filepath.Join(dir, "p", "DEBIAN", "control")
	if err := os.MkdirAll(filepath.Dir(control), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(control, []byte("Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@x>\n"+
		"Description: x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("dpkg-deb", "--build", "--root-owner-group", filepath.Join(dir, "p"), filepath.Join(dir, "x.deb"))
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1234567890")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	b, err := os.ReadFile(filepath.Join(dir, "x.deb"))
	if err != nil {
		t.Fatal(err)
	}
	c, p := Cache{dir}, pkg(string(b))
	if err := os.WriteFile(c.Path(p), b, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := c.Epoch([]Package{p}); err != nil || got.Unix() != 1234567890 {
		t.Errorf("Epoch = %v, %v; want 1234567890", got.Unix(), err)
	}
	if err := os.WriteFile(c.Path(p), []byte("<html>not a package, but long enough to be read as one, is it not</html>"),
		0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Epoch([]Package{p}); err == nil {
		t.Error("a page of HTML has an epoch")
	}
}

// TestFetchStalls: a mirror that says nothing more does not hold a build for ever.
func TestFetchStalls(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "4")
		_, _ = w.Write([]byte("go"))
		w.(http.Flusher).Flush()
		<-release
	}))
	defer srv.Close()
	defer close(release)
	p := pkg("good")
	f := fetch{cache: Cache{t.TempDir()}, incoming: t.TempDir(), client: srv.Client(), stalled: 50 * time.Millisecond}
	err := f.one(t.Context(), srv.URL, p)
	if !errors.Is(err, ErrOffline) || !strings.Contains(err.Error(), "sent nothing for 50ms") {
		t.Errorf("a silent mirror = %v; want ErrOffline and for how long", err)
	}
	if left, _ := os.ReadDir(f.incoming); len(left) > 0 {
		t.Errorf("a download that stalled leaves %v", left)
	}
}

// TestFetchFromDisk: a mirror may be a folder, as apt knows it.
func TestFetchFromDisk(t *testing.T) {
	dir := t.TempDir()
	c, p := Cache{t.TempDir()}, pkg("good")
	if err := os.Mkdir(filepath.Join(dir, "pool"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, p.Path), []byte("good"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Fetch(t.Context(), Mirrors{Debian: "file://" + dir}, []Package{p}, nil); err != nil {
		t.Error(err)
	}
	p.Archive = "security"
	if err := c.Fetch(t.Context(), Mirrors{Debian: "file://" + dir},
		[]Package{{Name: "y", Version: "1", Size: 1, SHA256: p.SHA256, Archive: "security", Path: p.Path}},
		nil); !errors.Is(err, ErrNoMirror) {
		t.Errorf("a security package without that archive = %v; want ErrNoMirror", err)
	}
}

// TestRemoveDamaged: damaged files of the cache are found and removed.
func TestRemoveDamaged(t *testing.T) {
	c, good, bad, absent := Cache{t.TempDir()}, pkg("good"), pkg("evil"), pkg("away")
	for _, p := range []Package{good, bad} {
		if err := os.WriteFile(c.Path(p), []byte("good"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	damaged, err := c.RemoveDamaged(t.Context(), []Package{good, bad, absent})
	if err != nil || len(damaged) != 1 || damaged[0] != bad {
		t.Errorf("RemoveDamaged = %v, %v; want the damaged one", damaged, err)
	}
	if missing := c.Missing([]Package{good, bad, absent}); len(missing) != 2 {
		t.Errorf("Missing after RemoveDamaged = %v; want the damaged and the absent one", missing)
	}
}
