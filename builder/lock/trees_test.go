package lock

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/builder/buildertest"
	"ingot/builder/source"
	"ingot/profiles"
)

// lockOf locks a profile without asking apt.
func lockOf(t *testing.T, p *profiles.Profile, env *source.Env, path string) *File {
	t.Helper()
	l := someLock(p)
	l.Packages = nil
	var err error
	if l.Trees, err = pinTrees(t.Context(), env, p, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.write(path); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestTreesAreLocked: what is on this host is looked at each time, what is in
// a registry is not requested again.
func TestTreesAreLocked(t *testing.T) {
	dir, load := buildertest.TreesProfile(t)
	env := &source.Env{Offline: true, CacheDir: t.TempDir()}
	o := Options{Path: filepath.Join(dir, "profile.lock")}
	p := load()
	want := lockOf(t, p, env, o.Path)
	if len(want.Trees) != 3 || want.Trees[0].Created != buildertest.MadeAt.Unix() ||
		want.Trees[1].Created != buildertest.MadeAt.Unix() || want.Trees[2].Created != 0 {
		t.Errorf("pinned %+v; want image and tarball with their times, the folder without", want.Trees)
	}
	for _, mode := range []Mode{Exact, Use} {
		o.Mode = mode
		if l, locked, err := Resolve(t.Context(), env, p, o); err != nil || locked.Written || l.Trees[2] != want.Trees[2] {
			t.Errorf("mode %d with a lock that fits: %v, %+v", mode, err, locked)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "www/css/a.css"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	o.Mode = Exact
	if _, _, err := Resolve(t.Context(), env, p, o); !errors.Is(err, ErrStale) ||
		!strings.Contains(err.Error(), "dir ./www") {
		t.Errorf("--locked and a folder that has changed: %v; want ErrStale with its name", err)
	}
	o.Mode = Use
	l, locked, err := Resolve(t.Context(), env, p, o)
	if err != nil || !locked.Written || len(locked.Changes) != 1 ||
		locked.Changes[0].Package != "dir ./www" || l.Trees[2] == want.Trees[2] {
		t.Errorf("a folder that has changed: %v, %+v; want it pinned again, and reported", err, locked)
	}
	if again, err := Read(o.Path); err != nil || again.Trees[2] != l.Trees[2] {
		t.Errorf("the lock that was written: %v", err)
	}
	// A registry is not contacted when the lock has a pin.
	p.Layers = append(p.Layers, profiles.Layer{OCI: "127.0.0.1:1/x:1"})
	far := *l
	far.Request, far.Trees = RequestOf(p), append(l.Trees,
		source.Pin{Kind: "oci", From: "127.0.0.1:1/x:1", Digest: l.Trees[0].Digest})
	if err := far.write(o.Path); err != nil {
		t.Fatal(err)
	}
	if got, _, err := Resolve(t.Context(), env, p, o); err != nil || got.Trees[3] != far.Trees[3] {
		t.Errorf("a locked image of a registry: %v", err)
	}
	for name, broken := range map[string]string{"kind": `"kind":"zip"`, "digest": `"digest":"sha256:12"`} {
		text, err := os.ReadFile(o.Path)
		if err != nil {
			t.Fatal(err)
		}
		old := map[string]string{"kind": `"kind":"dir"`, "digest": `"digest":"` + string(l.Trees[2].Digest) + `"`}[name]
		path := filepath.Join(t.TempDir(), "x.lock")
		if err := os.WriteFile(path, bytes.Replace(text, []byte(old), []byte(broken), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("a lock with a broken %s: %v", name, err)
		}
	}
}
