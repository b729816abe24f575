package builder

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

func someLock(p *profiles.Profile) *Lock {
	return &Lock{Format: lockFormat, Request: RequestOf(p), Kernel: buildertest.Package("linux-image-6.12", "1"), Stub: buildertest.Package(stubPackage, "257"),
		Packages: []source.Package{buildertest.Package("bash", "5.2"), buildertest.Package("curl", "8.1")}}
}

func lockProfile() *profiles.Profile {
	return &profiles.Profile{Name: "x", Arch: "amd64", Base: profiles.Base{Suite: "trixie", Components: []string{"main"}},
		Packages: []string{"curl", "bash"}, Kernel: profiles.Kernel{Package: "linux-image-amd64"}}
}

func TestLockIsKept(t *testing.T) {
	p, path := lockProfile(), filepath.Join(t.TempDir(), "deep", "x.lock")
	want := someLock(p)
	if l, err := ReadLock(path); l != nil || err != nil {
		t.Errorf("ReadLock of nothing = %v, %v; want nil, nil", l, err)
	}
	if err := want.write(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadLock(path)
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

func TestLockModes(t *testing.T) {
	p, path := lockProfile(), filepath.Join(t.TempDir(), "x.lock")
	o := PlanOptions{Lock: path, Mode: LockExact, Offline: true, CacheDir: t.TempDir()}
	if _, _, err := o.lock(t.Context(), p); !errors.Is(err, ErrNoLock) {
		t.Errorf("--locked without a lock: %v", err)
	}
	if err := someLock(p).write(path); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []LockMode{LockExact, LockUse} {
		o.Mode = mode
		l, locked, err := o.lock(t.Context(), p)
		if err != nil || len(l.Packages) != 2 || locked.Written {
			t.Errorf("mode %d with a lock that fits: %v, %+v", mode, err, locked)
		}
	}
	p.Packages = append(p.Packages, "vim")
	p.Kernel.Package = "linux-image-cloud-amd64"
	o.Mode = LockExact
	_, _, err := o.lock(t.Context(), p)
	if !errors.Is(err, ErrLockStale) || !strings.Contains(err.Error(), "+vim") || !strings.Contains(err.Error(), "linux-image-cloud-amd64 instead of linux-image-amd64") {
		t.Errorf("--locked with a lock of another request: %v", err)
	}
	for _, mode := range []LockMode{LockUse, LockUpdate} { // both would ask apt, which has no lists here
		o.Mode = mode
		if _, _, err := o.lock(t.Context(), p); !errors.Is(err, source.ErrOffline) {
			t.Errorf("mode %d offline: %v", mode, err)
		}
	}
}

func TestLockIsRead(t *testing.T) {
	p, path := lockProfile(), filepath.Join(t.TempDir(), "x.lock")
	text, err := someLock(p).Text()
	if err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string]string{
		"torn":         string(text[:len(text)/2]),
		"format":       strings.Replace(string(text), `"format": 2`, `"format": 9`, 1),
		"unknown key":  strings.Replace(string(text), `"format"`, `"colour": 1, "format"`, 1),
		"sha256":       strings.Replace(string(text), "abab", "zz", 1),
		"path":         strings.Replace(string(text), "pool/main/x/", "pool/../../etc/", 1),
		"another host": strings.Replace(string(text), "pool/main/x/", "http://host/pool/", 1),
		"archive":      strings.Replace(string(text), `"archive":"debian"`, `"archive":"mine"`, 1),
	} {
		if err := os.WriteFile(path, []byte(broken), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadLock(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: ReadLock = %v; want an error that names the file", name, err)
		}
	}
}

func TestChanges(t *testing.T) {
	got := Changes([]source.Package{buildertest.Package("a", "1"), buildertest.Package("b", "1"), buildertest.Package("c", "1")},
		[]source.Package{buildertest.Package("b", "2"), buildertest.Package("c", "1"), buildertest.Package("d", "1")})
	want := []Change{{"a", "1", ""}, {"b", "1", "2"}, {"d", "", "1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Changes (-want +got):\n%s", diff)
	}
}
