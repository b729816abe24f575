package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/builder/buildertest"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/profiles"
)

func digestTree(t *testing.T, tr *tree.Tree) [32]byte {
	t.Helper()
	d, err := tr.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// treesProfile writes a profile with a container image as its base and a
// folder and a tarball over it.
func treesProfile(t *testing.T) (dir string, load func() *profiles.Profile) {
	t.Helper()
	dir = t.TempDir()
	buildertest.Layout(t, filepath.Join(dir, "image"), buildertest.SystemdTree(t))
	over := tree.New()
	if err := errors.Join(over.PutFile("etc/from-tar", 0o600, []byte("tar")), over.Put(tree.Entry{Path: "etc/owned", Kind: tree.File, Mode: 0o644, UID: 7, Open: tree.Bytes(nil)})); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "over.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(over.WriteTar(t.Context(), f, buildertest.MadeAt), f.Close(), os.MkdirAll(filepath.Join(dir, "www/css"), 0o755),
		os.WriteFile(filepath.Join(dir, "www/css/a.css"), []byte("css"), 0o644), os.Chmod(filepath.Join(dir, "www"), 0o700)); err != nil {
		t.Fatal(err)
	}
	text := "name: web\nextends: lab\nbase: {oci: ./image}\nlayers:\n  - {tar: ./over.tar}\n  - {dir: ./www, into: /srv/www}\n"
	if err := os.WriteFile(filepath.Join(dir, "profile.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, func() *profiles.Profile {
		t.Helper()
		p, err := profiles.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
}

// lockOf locks a profile without asking apt.
func lockOf(t *testing.T, p *profiles.Profile, o *PlanOptions) *Lock {
	t.Helper()
	l := someLock(p)
	l.Packages = nil
	var err error
	if l.Trees, err = o.pinTrees(t.Context(), p, nil); err != nil {
		t.Fatal(err)
	}
	if err := l.write(o.Lock); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestTreesAreLocked: what is on this host is looked at each time, what is in
// a registry is not asked for again.
func TestTreesAreLocked(t *testing.T) {
	dir, load := treesProfile(t)
	o := &PlanOptions{Lock: filepath.Join(dir, "profile.lock"), Offline: true, CacheDir: t.TempDir()}
	p := load()
	want := lockOf(t, p, o)
	if len(want.Trees) != 3 || want.Trees[0].Created != buildertest.MadeAt.Unix() || want.Trees[1].Created != buildertest.MadeAt.Unix() || want.Trees[2].Created != 0 {
		t.Errorf("pinned %+v; want image and tarball with their times, the folder without", want.Trees)
	}
	for _, mode := range []LockMode{LockExact, LockUse} {
		o.Mode = mode
		if l, locked, err := o.lock(t.Context(), p); err != nil || locked.Written || l.Trees[2] != want.Trees[2] {
			t.Errorf("mode %d with a lock that fits: %v, %+v", mode, err, locked)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "www/css/a.css"), []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	o.Mode = LockExact
	if _, _, err := o.lock(t.Context(), p); !errors.Is(err, ErrLockStale) || !strings.Contains(err.Error(), "dir ./www") {
		t.Errorf("--locked and a folder that has changed: %v; want ErrLockStale with its name", err)
	}
	o.Mode = LockUse
	l, locked, err := o.lock(t.Context(), p)
	if err != nil || !locked.Written || len(locked.Changes) != 1 || locked.Changes[0].Package != "dir ./www" || l.Trees[2] == want.Trees[2] {
		t.Errorf("a folder that has changed: %v, %+v; want it pinned anew, and told", err, locked)
	}
	if again, err := ReadLock(o.Lock); err != nil || again.Trees[2] != l.Trees[2] {
		t.Errorf("the lock that was written: %v", err)
	}
	// A registry that nobody answers for is not asked when the lock has a pin.
	p.Layers = append(p.Layers, profiles.Layer{OCI: "127.0.0.1:1/x:1"})
	far := *l
	far.Request, far.Trees = RequestOf(p), append(l.Trees, source.Pin{Kind: "oci", From: "127.0.0.1:1/x:1", Digest: l.Trees[0].Digest})
	if err := far.write(o.Lock); err != nil {
		t.Fatal(err)
	}
	if got, _, err := o.lock(t.Context(), p); err != nil || got.Trees[3] != far.Trees[3] {
		t.Errorf("a locked image of a registry: %v", err)
	}
	for name, broken := range map[string]string{"kind": `"kind":"zip"`, "digest": `"digest":"sha256:12"`} {
		text, err := os.ReadFile(o.Lock)
		if err != nil {
			t.Fatal(err)
		}
		old := map[string]string{"kind": `"kind":"dir"`, "digest": `"digest":"` + string(l.Trees[2].Digest) + `"`}[name]
		path := filepath.Join(t.TempDir(), "x.lock")
		if err := os.WriteFile(path, bytes.Replace(text, []byte(old), []byte(broken), 1), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadLock(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("a lock with a broken %s: %v", name, err)
		}
	}
}

// treesBuild is a build of the profile's trees alone.
func treesBuild(t *testing.T, p *profiles.Profile, cache string) (*build, *bytes.Buffer) {
	t.Helper()
	o := &PlanOptions{CacheDir: cache}
	pins, err := o.pinTrees(t.Context(), p, nil)
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	return prepare(&Plan{Profile: p, Trees: pins}, BuildOptions{CacheDir: cache, Log: slog.New(slog.NewTextHandler(&said, nil))}), &said
}

// TestRootOfTrees: image, tarball and folder become one root, the same one
// from a cold cache, a warm one, and one that has rotted.
func TestRootOfTrees(t *testing.T) {
	dir, load := treesProfile(t)
	if p := load(); len(p.Packages) > 0 || p.Kernel.Suite != "trixie" || p.Kernel.Package != "linux-image-cloud-amd64" {
		t.Errorf("the base replaces the suite of lab: packages %v, kernel %+v; want none, and lab's kernel of trixie", p.Packages, p.Kernel)
	}
	cache := t.TempDir()
	root := func(ctx context.Context, cache string) (*tree.Tree, string) {
		t.Helper()
		b, said := treesBuild(t, load(), cache)
		if newest, err := b.fetchTrees(ctx); err != nil || newest != buildertest.MadeAt.Unix() {
			t.Fatalf("fetchTrees = %d, %v; want the image's time", newest, err)
		}
		tr, err := b.rootTree(ctx, func() {})
		if err != nil {
			t.Fatal(err)
		}
		return tr, said.String()
	}
	first, _ := root(t.Context(), cache)
	for p, want := range map[string]string{"etc/from-tar": "tar", "srv/www/css/a.css": "css", "usr/lib/systemd/systemd": "ELF"} {
		if got := read(t, first, p); got != want {
			t.Errorf("/%s = %q; want %q", p, got, want)
		}
	}
	for _, p := range []string{".dockerenv", "usr/lib/modules/4.19"} {
		if first.Get(p) != nil {
			t.Errorf("/%s of the container is in the root", p)
		}
	}
	if e := first.Get("etc/owned"); e.UID != 7 {
		t.Errorf("/etc/owned has uid %d; want the tarball's 7", e.UID)
	}
	if e := first.Get("srv/www"); e.Mode != 0o755 || e.UID != 0 {
		t.Errorf("/srv/www = %+v; want a folder like any other", e)
	}
	want := digestTree(t, first)
	if warm, _ := root(t.Context(), cache); digestTree(t, warm) != want {
		t.Error("a warm cache gives another root")
	}
	if cold, _ := root(t.Context(), t.TempDir()); digestTree(t, cold) != want {
		t.Error("another cold cache gives another root")
	}
	if err := os.RemoveAll(filepath.Join(cache, "layers")); err != nil {
		t.Fatal(err)
	}
	b, said := treesBuild(t, load(), cache)
	if _, err := b.fetchTrees(t.Context()); err != nil {
		t.Fatal(err)
	}
	blobs, err := filepath.Glob(filepath.Join(cache, "blobs", "*"))
	if err != nil || len(blobs) < 5 {
		t.Fatalf("%d blobs (%v); want manifest, config, layer, tarball and folder", len(blobs), err)
	}
	for _, p := range blobs {
		if err := os.WriteFile(p, []byte("rot"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	again, err := b.rootTree(t.Context(), func() {})
	if err != nil {
		t.Fatalf("a rotten cache: %v; want it repaired", err)
	}
	if digestTree(t, again) != want || !strings.Contains(said.String(), "damaged") {
		t.Errorf("a rotten cache: same root %v, said %q; want the same, said aloud", digestTree(t, again) == want, said)
	}
	_ = dir
}

// TestLostTrees: a plan that was read from an image needs the cache, or says
// what is lost.
func TestLostTrees(t *testing.T) {
	_, load := treesProfile(t)
	cache := t.TempDir()
	b, _ := treesBuild(t, load(), cache)
	if _, err := b.fetchTrees(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := b.plan.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	var plan Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		t.Fatal(err)
	}
	kept := prepare(&plan, BuildOptions{CacheDir: t.TempDir(), Blobs: filepath.Join(cache, "blobs")})
	if _, err := kept.fetchTrees(t.Context()); err != nil {
		t.Errorf("with the cache: %v", err)
	}
	lost := prepare(&plan, BuildOptions{CacheDir: t.TempDir()})
	if _, err := lost.fetchTrees(t.Context()); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "./image") {
		t.Errorf("without it: %v; want ErrLost with the tree's name", err)
	}
}

// TestBootable: what a container image lacks is said at once, with the
// command of its distribution.
func TestBootable(t *testing.T) {
	b := &build{p: &profiles.Profile{Base: profiles.Base{OCI: "x"}}}
	var said bytes.Buffer
	b.Log = slog.New(slog.NewTextHandler(&said, nil))
	if err := b.checkBootable(buildertest.SystemdTree(t)); err != nil || said.Len() > 0 {
		t.Errorf("a whole system: %v, %s", err, said.String())
	}
	bare := tree.New()
	if err := bare.PutFile("etc/os-release", 0o644, []byte("ID=ubuntu\nID_LIKE=debian\n")); err != nil {
		t.Fatal(err)
	}
	err := b.checkBootable(bare)
	want := "the root lacks an init system (/sbin/init), udev (devices), a network service, dbus, sshd (remote login, host keys); where the root is made: apt-get install systemd systemd-sysv udev dbus openssh-server"
	if !errors.Is(err, ErrNotBootable) || !strings.Contains(err.Error(), want) {
		t.Errorf("a bare container: %v; want …%s", err, want)
	}
	busybox := tree.New()
	if err := errors.Join(busybox.PutFile("bin/busybox", 0o755, nil), busybox.PutLink("sbin/init", "/bin/busybox")); err != nil {
		t.Fatal(err)
	}
	if err := b.checkBootable(busybox); !errors.Is(err, ErrNotBootable) || !strings.Contains(err.Error(), "/bin/busybox; ingot's machines are started by systemd") {
		t.Errorf("another init: %v", err)
	}
	some := buildertest.SystemdTree(t)
	some.Remove("usr/bin/dbus-daemon")
	if err := b.checkBootable(some); err != nil || !strings.Contains(said.String(), "missing=\"dbus; where the root is made: apt-get install dbus\"") {
		t.Errorf("without dbus: %v, said %s; want a warning", err, said.String())
	}
}

// TestDiffOfBases: of two roots that came whole, dpkg's own lists tell what
// is another version, and which is the older one.
func TestDiffOfBases(t *testing.T) {
	var c [2]*Contents
	for i, status := range []string{"Package: a\nStatus: install ok installed\nVersion: 1.10\n\nPackage: b\nStatus: install ok installed\nVersion: 1\n",
		"Package: a\nStatus: install ok installed\nVersion: 1.9\n\nPackage: c\nStatus: install ok installed\nVersion: 1\n"} {
		c[i] = &Contents{Tree: tree.New()}
		if err := c[i].PutFile("var/lib/dpkg/status", 0o644, []byte(status)); err != nil {
			t.Fatal(err)
		}
	}
	var d Diff
	if err := d.listed(t.Context(), c[0], c[1]); err != nil {
		t.Fatal(err)
	}
	const why = "the package came with the base, not by itself"
	want := []PackageChange{{Change: Change{"a", "1.10", "1.9"}, Older: true, NoChangelog: why}, {Change: Change{"b", "1", ""}}, {Change: Change{"c", "", "1"}}}
	if diff := cmp.Diff(want, d.Packages); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
}

// TestModulesBesideLib: a root from before merged /usr finds its modules.
func TestModulesBesideLib(t *testing.T) {
	tr := tree.New()
	if err := errors.Join(tr.PutFile("lib/libc.so", 0o755, nil), tr.PutFile("usr/lib/modules/6/x.ko", 0o644, nil), linkModules(tr)); err != nil {
		t.Fatal(err)
	}
	if tr.Get("lib/modules/6/x.ko") == nil {
		t.Error("modprobe would not find the modules in /lib/modules")
	}
	merged := buildertest.SystemdTree(t)
	before := merged.Len()
	if err := linkModules(merged); err != nil || merged.Len() != before {
		t.Errorf("a merged /usr is changed (%v)", err)
	}
}
