package lock

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/builder/buildertest"
	"ingot/builder/source"
	"ingot/profiles"
)

func someLock(p *profiles.Profile) *File {
	return &File{Format: format, Request: RequestOf(p), Kernel: buildertest.Package("linux-image-6.12", "1"),
		Stub:     buildertest.Package(StubPackage, "257"),
		Packages: []source.Package{buildertest.Package("bash", "5.2"), buildertest.Package("curl", "8.1")}}
}

func lockProfile() *profiles.Profile {
	return &profiles.Profile{Name: "x", Arch: "amd64", Base: profiles.Base{Suite: "trixie", Components: []string{"main"}},
		Packages: []string{"curl", "bash"}, Kernel: profiles.Kernel{Package: "linux-image-amd64"}}
}

func TestWrite(t *testing.T) {
	p, path := lockProfile(), filepath.Join(t.TempDir(), "deep", "x.lock")
	want := someLock(p)
	if l, err := Read(path); l != nil || err != nil {
		t.Errorf("Read of nothing = %v, %v; want nil, nil", l, err)
	}
	if err := want.write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the lock changed on the way (-want +got):\n%s", diff)
	}
	text, err := got.Text()
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n != 10 {
		t.Errorf("the lock has %d lines; want one for each package:\n%s", n, text)
	}
	if strings.Contains(string(text), "://") {
		t.Error("the lock names a host")
	}
}

func TestModes(t *testing.T) {
	p, path := lockProfile(), filepath.Join(t.TempDir(), "x.lock")
	env, o := &source.Env{Offline: true, CacheDir: t.TempDir()}, Options{Path: path, Mode: Exact}
	if _, _, err := Resolve(t.Context(), env, p, o); !errors.Is(err, ErrMissing) {
		t.Errorf("--locked without a lock: %v", err)
	}
	if err := someLock(p).write(path); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []Mode{Exact, Use} {
		o.Mode = mode
		l, locked, err := Resolve(t.Context(), env, p, o)
		if err != nil || len(l.Packages) != 2 || locked.Written {
			t.Errorf("mode %d with a lock that fits: %v, %+v", mode, err, locked)
		}
	}
	p.Packages = append(p.Packages, "vim")
	p.Kernel.Package = "linux-image-cloud-amd64"
	o.Mode = Exact
	_, _, err := Resolve(t.Context(), env, p, o)
	if !errors.Is(err, ErrStale) || !strings.Contains(err.Error(), "+vim") ||
		!strings.Contains(err.Error(), "linux-image-cloud-amd64 instead of linux-image-amd64") {
		t.Errorf("--locked with a lock of another request: %v", err)
	}
	for _, mode := range []Mode{Use, Update} { // both would ask apt, which has no lists here
		o.Mode = mode
		if _, _, err := Resolve(t.Context(), env, p, o); !errors.Is(err, source.ErrOffline) {
			t.Errorf("mode %d offline: %v", mode, err)
		}
	}
}

func TestRead(t *testing.T) {
	p, path := lockProfile(), filepath.Join(t.TempDir(), "x.lock")
	text, err := someLock(p).Text()
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]string{
		"torn":         string(text[:len(text)/2]),
		"format":       strings.Replace(string(text), `"format": 3`, `"format": 9`, 1),
		"unknown key":  strings.Replace(string(text), `"format"`, `"colour": 1, "format"`, 1),
		"sha256":       strings.Replace(string(text), "abab", "zz", 1),
		"path":         strings.Replace(string(text), "pool/main/x/", "pool/../../etc/", 1),
		"another host": strings.Replace(string(text), "pool/main/x/", "http://host/pool/", 1),
		"archive":      strings.Replace(string(text), `"archive":"debian"`, `"archive":"mine"`, 1),
	} {
		if err := os.WriteFile(path, []byte(broken), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: Read = %v; want an error that names the file", name, err)
		}
	}
}

func TestPackageChanges(t *testing.T) {
	got := PackageChanges([]source.Package{buildertest.Package("a", "1"),
		buildertest.Package("b", "1"), buildertest.Package("c", "1")},
		[]source.Package{buildertest.Package("b", "2"), buildertest.Package("c", "1"), buildertest.Package("d", "1")})
	want := []Change{{"a", "1", ""}, {"b", "1", "2"}, {"d", "", "1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("PackageChanges (-want +got):\n%s", diff)
	}
}
