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

	"ingot/builder/buildertest"
	"ingot/builder/lock"
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

// treesBuild is a build of the profile's trees alone.
func treesBuild(t *testing.T, p *profiles.Profile, cache string) (*build, *bytes.Buffer) {
	t.Helper()
	var said bytes.Buffer
	env := &Env{CacheDir: cache, Log: slog.New(slog.NewTextHandler(&said, nil))}
	var pins []source.Pin
	for _, l := range p.Trees() {
		pin, err := env.Trees().Pin(t.Context(), lock.Origin(p.Arch, l))
		if err != nil {
			t.Fatal(err)
		}
		pins = append(pins, pin)
	}
	return prepare(env, &Plan{Profile: p, Trees: pins}, BuildOptions{}), &said
}

// TestRootOfTrees: image, tarball and folder become one root, the same one
// from a cold cache, a warm one, and a damaged one.
func TestRootOfTrees(t *testing.T) {
	dir, load := buildertest.TreesProfile(t)
	if p := load(); len(p.Packages) > 0 || p.Kernel.Suite != "trixie" || p.Kernel.Package != "linux-image-cloud-amd64" {
		t.Errorf("the base replaces the suite of lab: packages %v, kernel %+v; want none, and lab's kernel of trixie",
			p.Packages, p.Kernel)
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
	for p, want := range map[string]string{"etc/from-tar": "tar", "srv/www/css/a.css": "css",
		"usr/lib/systemd/systemd": "ELF"} {
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
		t.Fatalf("a damaged cache: %v; want it repaired", err)
	}
	if digestTree(t, again) != want || !strings.Contains(said.String(), "damaged") {
		t.Errorf("a damaged cache: same root %v, said %q; want the same, with a warning", digestTree(t, again) == want, said)
	}
	_ = dir
}

// TestLostTrees: a plan that was read from an image needs the cache, or says
// what is lost.
func TestLostTrees(t *testing.T) {
	_, load := buildertest.TreesProfile(t)
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
	kept := prepare(&Env{CacheDir: t.TempDir(), Blobs: filepath.Join(cache, "blobs")}, &plan, BuildOptions{})
	if _, err := kept.fetchTrees(t.Context()); err != nil {
		t.Errorf("with the cache: %v", err)
	}
	lost := prepare(&Env{CacheDir: t.TempDir()}, &plan, BuildOptions{})
	if _, err := lost.fetchTrees(t.Context()); !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), "./image") {
		t.Errorf("without it: %v; want ErrLost with the tree's name", err)
	}
}

// TestBootable: what a container image lacks is said at once, with the
// command of its distribution.
func TestBootable(t *testing.T) {
	var said bytes.Buffer
	b := &build{Env: &Env{Log: slog.New(slog.NewTextHandler(&said, nil))},
		p: &profiles.Profile{Base: profiles.Base{OCI: "x"}}}
	if err := b.checkBootable(buildertest.SystemdTree(t)); err != nil || said.Len() > 0 {
		t.Errorf("a whole system: %v, %s", err, said.String())
	}
	bare := tree.New()
	if err := bare.PutFile("etc/os-release", 0o644, []byte("ID=ubuntu\nID_LIKE=debian\n")); err != nil {
		t.Fatal(err)
	}
	err := b.checkBootable(bare)
	want := "the root lacks an init system (/sbin/init), udev (devices), a network service, dbus, sshd (remote login, " +
		"host keys); where the root is made, run: apt-get install systemd systemd-sysv udev dbus openssh-server"
	if !errors.Is(err, ErrNotBootable) || !strings.Contains(err.Error(), want) {
		t.Errorf("a bare container: %v; want …%s", err, want)
	}
	busybox := tree.New()
	if err := errors.Join(busybox.PutFile("bin/busybox", 0o755, nil),
		busybox.PutLink("sbin/init", "/bin/busybox")); err != nil {
		t.Fatal(err)
	}
	if err := b.checkBootable(busybox); !errors.Is(err, ErrNotBootable) ||
		!strings.Contains(err.Error(), "/bin/busybox; ingot supports systemd only") {
		t.Errorf("another init: %v", err)
	}
	some := buildertest.SystemdTree(t)
	some.Remove("usr/bin/dbus-daemon")
	if err := b.checkBootable(some); err != nil ||
		!strings.Contains(said.String(), "missing=\"dbus; where the root is made, run: apt-get install dbus\"") {
		t.Errorf("without dbus: %v, said %s; want a warning", err, said.String())
	}
}

// TestModulesBesideLib: a root from before merged /usr finds its modules.
func TestModulesBesideLib(t *testing.T) {
	tr := tree.New()
	if err := errors.Join(tr.PutFile("lib/libc.so", 0o755, nil), tr.PutFile("usr/lib/modules/6/x.ko", 0o644, nil),
		linkModules(tr)); err != nil {
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
