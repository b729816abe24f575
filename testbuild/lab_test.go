//go:build e2e

package testbuild

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"ingot"
	"ingot/builder"
	"ingot/builder/lock"
	"ingot/builder/squashfs"
	"ingot/image"
)

var ordinary = surroundings{name: "ordinary", procs: "2", umask: "022", zone: "UTC"}

// scene is a place as a scene that failing commands are checked in.
func (l *lab) scene(dir string) *scene {
	return &scene{t: l.t, ctx: l.ctx, dir: dir, m: &Mirror{URL: "http://"}, profile: l.profile, env: []string{
		"INGOT_STORE=" + dir + "/store", "XDG_CACHE_HOME=" + dir + "/cache", "TMPDIR=" + dir + "/tmp"}}
}

// TestSceneBuildInterrupted ends builds at every step, gently and not. No image
// comes of it, nothing is left, and the next build works.
func TestSceneBuildInterrupted(t *testing.T) {
	requireAll(t)
	l := newLab(t)
	want := l.build(ordinary) // fills the caches, and is what the others must give
	dir := l.place(surroundings{name: "interrupted", cache: ordinary.name})
	s := l.scene(dir)
	for _, c := range []struct {
		sig  syscall.Signal
		step string // that has ended; "installing": in the midst of it
	}{
		{syscall.SIGINT, "resolve"}, {syscall.SIGINT, "installing"}, {syscall.SIGINT, "kernel"}, {syscall.SIGINT, "merge"},
		{syscall.SIGINT, "pack root"}, {syscall.SIGINT, "initramfs"},
		{syscall.SIGKILL, "resolve"}, {syscall.SIGKILL, "installing"}, {syscall.SIGKILL, "kernel"},
		{syscall.SIGKILL, "merge"}, {syscall.SIGKILL, "pack root"}, {syscall.SIGKILL, "initramfs"},
	} {
		l.must(os.RemoveAll(filepath.Join(dir, "cache/ingot/blocks")))
		if c.step == "installing" {
			bases, _ := filepath.Glob(filepath.Join(dir, "cache/ingot/layers/base-*"))
			for _, b := range bases {
				l.must(os.Remove(b))
			}
		}
		var out lockedBuffer
		cmd := l.command(ordinary, dir, "build", l.profile, "--offline")
		cmd.Stdout, cmd.Stderr = &out, &out
		l.must(cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		var err error
		for running := true; running; {
			select {
			case err = <-ended:
				running = false
			case <-time.After(5 * time.Millisecond):
				seen := strings.Contains(out.String(), c.step)
				if c.step == "installing" && strings.Contains(out.String(), "fetch  ") {
					time.Sleep(2 * time.Second)
					seen = true
				}
				if seen {
					_ = cmd.Process.Signal(c.sig)
					err = <-ended
					running = false
				}
			}
		}
		if err == nil {
			t.Logf("%v after %q came too late", c.sig, c.step)
			for _, name := range s.images() {
				s.ok("image", "rm", name)
			}
			continue
		}
		if images := s.images(); len(images) > 0 {
			t.Errorf("%v after %q: images %v; want none", c.sig, c.step, images)
		}
		if c.sig == syscall.SIGINT {
			if !strings.Contains(out.String(), "ingot: interrupted; nothing was stored") {
				t.Errorf("%v after %q says\n%s", c.sig, c.step, out.String())
			}
			s.clean()
		}
		s.noProcesses()
	}
	out, err := l.command(ordinary, dir, "build", l.profile, "--version", "v1", "--offline", "-o", "json").Output()
	l.must(err)
	if !strings.Contains(string(out), want) {
		t.Errorf("after all that the build gives\n%s\nwant %s", out, want)
	}
	s.clean()
}

// lockedBuffer is written to by a process and read meanwhile.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestSceneTwoBuilds: two builds of one profile at the same moment.
func TestSceneTwoBuilds(t *testing.T) {
	requireAll(t)
	l := newLab(t)
	dir := l.place(ordinary)
	var digests [2]string
	var wg sync.WaitGroup
	for i := range digests {
		wg.Go(func() {
			out, err := l.command(ordinary, dir, "build", l.profile, "--offline", "-o", "json").Output()
			var v struct{ Digest string }
			if err := json.Unmarshal(out, &v); err != nil {
				t.Errorf("build %d: %v", i, err)
			}
			if err != nil {
				t.Errorf("build %d: %v", i, err)
			}
			digests[i] = v.Digest
		})
	}
	wg.Wait()
	if digests[0] != digests[1] {
		t.Errorf("the two give %v; want the same image", digests)
	}
	s := l.scene(dir)
	if images := s.images(); len(images) != 1 {
		t.Errorf("images %v; want one", images)
	}
	s.clean()
}

// TestSceneFullDisks: store, scratch folder and cache on disks that are too small.
func TestSceneFullDisks(t *testing.T) {
	requireAll(t)
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root; CI has it")
	}
	l := newLab(t)
	l.build(ordinary)
	for _, c := range []struct{ what, size string }{{"store", "30m"}, {"tmp", "20m"}, {"cache", "20m"}} {
		dir := l.place(surroundings{name: "full " + c.what, cache: ordinary.name})
		script := fmt.Sprintf(`mount -t tmpfs -o size=%s none %s/%s && exec "$0" "$@"`, c.size, dir, c.what)
		if c.what == "cache" {
			script = fmt.Sprintf(`mount -t tmpfs -o size=%s none %s/cache && mkdir %[2]s/cache/ingot && `+
				`ln -s %s/debs %[2]s/cache/ingot/debs && exec "$0" "$@"`, c.size, dir, l.dir)
		}
		cmd := l.command(ordinary, dir, "build", l.profile, "--offline")
		cmd.Args = append([]string{"unshare", "--mount", "sh", "-c", script}, cmd.Args...)
		var err error
		cmd.Path, err = exec.LookPath("unshare")
		l.must(err)
		s := l.scene(dir)
		s.failsAs(cmd, "no space left on device", "free disk space, or move the store (--store) or the cache "+
			"(XDG_CACHE_HOME); nothing was stored")
		if images := s.images(); len(images) > 0 {
			t.Errorf("a full %s: images %v; want none", c.what, images)
		}
	}
}

// TestSceneDamagedCaches: damaged entries of the caches are made again, with a warning, and the
// image is the same.
func TestSceneDamagedCaches(t *testing.T) {
	requireAll(t)
	l := newLab(t)
	want := l.build(ordinary)
	for _, c := range []struct{ kind, files, said string }{
		{"layer", "layers/kernel-*", "a layer in the cache is damaged; making it again"},
		{"initramfs", "layers/initramfs-*", "a layer in the cache is damaged; making it again"},
		{"block", "blocks/*/*.pack", "the block cache was damaged"},
	} {
		dir := l.place(surroundings{name: "damaged " + c.kind, cache: ordinary.name})
		files, _ := filepath.Glob(filepath.Join(dir, "cache/ingot", c.files))
		if len(files) == 0 {
			t.Fatalf("there is no %s in the cache", c.kind)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			l.must(err)
			b[len(b)/3] ^= 1
			l.must(os.WriteFile(f, b, 0o644))
		}
		cmd := l.command(ordinary, dir, "build", l.profile, "--version", "v1", "--offline", "-o", "json")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("a damaged %s: %v\n%s%s\nwant %s", c.kind, err, out, stderr.String(), want)
		}
		if !strings.Contains(stderr.String(), c.said) {
			t.Errorf("a damaged %s: it says\n%s\nwant %q", c.kind, stderr.String(), c.said)
		}
	}
}

// TestSceneVerify: an image is verified, and one that was altered is not.
func TestSceneVerify(t *testing.T) {
	requireAll(t)
	l := newLab(t)
	l.build(ordinary)
	dir := filepath.Join(l.dir, ordinary.name)
	s := l.scene(dir)
	if out, _ := s.ok("verify", "lab:v1", "--offline"); !strings.Contains(out, "every bit the same") {
		t.Errorf("ingot verify says\n%s", out)
	}
	store, im, c := l.open(ordinary.name)
	defer c.Close()
	keys, err := image.LoadOrCreateKeys(filepath.Join(dir, "store/keys"))
	l.must(err)
	entries := append([]squashfs.Entry(nil), c.Entries...)
	for i, e := range entries {
		if e.Path == "usr/bin/passwd" {
			entries[i].Mode = 0o755
		}
	}
	root, err := os.Create(filepath.Join(dir, "root"))
	l.must(err)
	defer root.Close()
	_, err = squashfs.Write(l.ctx, root, entries,
		squashfs.Options{Level: 3, BlockSize: 512 << 10, Epoch: im.Manifest.Created})
	l.must(err)
	m := im.Manifest
	m.Version = "evil"
	plan, err := builder.PlanOf(store, im)
	l.must(err)
	text, err := plan.Canonical()
	l.must(err)
	l.must(os.WriteFile(filepath.Join(dir, "plan"), text, 0o644))
	_, err = store.Put(l.ctx, &m, image.Files{Kernel: store.Blob(m.Kernel.Digest),
		Initramfs: store.Blob(m.Initramfs.Digest), Root: root.Name(), Plan: filepath.Join(dir, "plan"),
		UKI: store.Blob(m.UKI.Digest)}, keys.Release.Secret)
	l.must(err)
	s.fails([]string{"verify", "lab:evil", "--offline"}, "differs: /usr/bin/passwd: mode 0755 → 4755",
		"the rebuilt image differs")
}

// TestSceneOwnMirror: Debian's packages and two of one's own, from a mirror of
// one's own with keys of one's own: a package is upgraded, compared, and then
// one comes that wants a file of another.
func TestSceneOwnMirror(t *testing.T) {
	requireAll(t)
	l := newLab(t)
	s := newScene(t)
	debs, _ := filepath.Glob(filepath.Join(l.dir, "debs/*.deb"))
	for _, d := range debs {
		l.must(s.m.AddFile(d, filepath.Base(d)))
	}
	meta := "Depends: " + l.kernel() + "\n"
	for _, d := range []Deb{{Name: "linux-image-cloud-amd64", Version: "1", Fields: meta}, own("1"),
		{Name: "rival", Version: "1", Files: map[string]string{"usr/share/own": "mine\n"}}} {
		l.must(s.m.Add(l.ctx, d))
	}
	s.publish(Release{})
	s.profile = filepath.Join(s.dir, "lab.yaml")
	profile := "name: lab\nextends: lab\npackages: [own]\n"
	s.write(s.profile, profile)
	s.ok("build", s.profile, "--version", "v1")
	l.must(s.m.Add(l.ctx, own("2")))
	s.publish(Release{})
	s.write(s.profile, profile+"kernel: {arguments: [quiet]}\n")
	if _, said := s.ok("build", s.profile, "--version", "v2", "--update"); !strings.Contains(said, "↑ own 1 → 2") {
		t.Errorf("build --update says\n%s", said)
	}
	out, _ := s.ok("image", "diff", "lab:v1", "lab:v2", "--files")
	for _, want := range []string{"↑ own 1 → 2", "own (2) trixie", "* A change of version 2.", "+ kernel argument quiet",
		"/usr/share/own: content, from byte 0 on (own)"} {
		if !strings.Contains(out, want) {
			t.Errorf("image diff says\n%s\nwant %q in it", out, want)
		}
	}
	if strings.Contains(out, "A change of version 1.") {
		t.Errorf("image diff shows entries of the older version:\n%s", out)
	}
	sum := field(t, s.read(filepath.Join(s.dir, "lab.lock")), "own")
	l.must(os.Remove(filepath.Join(s.cache(), "ingot/debs", sum+".deb")))
	if out, _ := s.ok("image", "diff", "lab:v1", "lab:v2"); !strings.Contains(out, "no changelog: own 2 is no longer "+
		"in the package cache") {
		t.Errorf("image diff without the package says\n%s", out)
	}
	s.write(s.profile, strings.Replace(profile, "[own]", "[own, rival]", 1))
	s.fails([]string{"build", s.profile, "--version", "v3"}, "installing packages", "/usr/share/own", "rival")
	if images := s.images(); len(images) != 2 {
		t.Errorf("images %v; want two", images)
	}
}

// own is a package with a changelog.
func own(version string) Deb {
	log := ""
	for _, v := range []string{"2", "1"} {
		if v <= version {
			log += fmt.Sprintf("own (%s) trixie; urgency=low\n\n  * A change of version %[1]s.\n\n"+
				" -- A <a@localhost>  Mon, 02 Nov 2026 00:00:00 +0000\n\n", v)
		}
	}
	return Deb{Name: "own", Version: version, Files: map[string]string{"usr/share/own": version + "\n",
		"usr/share/doc/own/changelog.gz": zipped(log)}}
}

func zipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(text)) // to memory
	_ = z.Close()
	return b.String()
}

// kernel is the name of the kernel's package in the lock.
func (l *lab) kernel() string {
	lock, err := lock.Read(filepath.Join(l.dir, "lab.lock"))
	l.must(err)
	return lock.Kernel.Name
}

// TestSceneBuildRepairs: building a damaged image again repairs it, whichever of its files is damaged and
// however; its digest and its tags stay.
func TestSceneBuildRepairs(t *testing.T) {
	requireAll(t)
	l := newLab(t)
	dir := l.place(ordinary)
	s := l.scene(dir)
	build := func() string {
		t.Helper()
		out, err := l.command(ordinary, dir, "build", l.profile, "--version", "v1", "--offline").Output()
		l.must(err)
		return string(out)
	}
	build()
	s.ok("image", "tag", "lab:v1", "lab:stable")
	store, err := image.Open(l.ctx, filepath.Join(dir, "store"))
	l.must(err)
	im, err := store.Get(l.ctx, "lab:v1")
	l.must(err)
	if out := build(); !strings.Contains(out, "nothing changed since it was built") {
		t.Errorf("building an undamaged image says\n%s", out)
	}
	for part, d := range map[string]ingot.Digest{"manifest": im.Digest, "config": im.Config,
		"kernel": im.Manifest.Kernel.Digest, "initramfs": im.Manifest.Initramfs.Digest, "root": im.Manifest.Root.Digest} {
		b, err := os.ReadFile(store.Blob(d))
		l.must(err)
		flipped := bytes.Clone(b)
		flipped[len(b)/2] ^= 1
		for how, damage := range map[string]func() error{
			"flipped byte": func() error { return os.WriteFile(store.Blob(d), flipped, 0o644) },
			"truncated":    func() error { return os.Truncate(store.Blob(d), int64(len(b)-1)) },
			"missing":      func() error { return os.Remove(store.Blob(d)) },
		} {
			l.must(damage())
			if out := build(); !strings.Contains(out, "  repaired: ") || !strings.Contains(out, string(im.Digest)) {
				t.Errorf("%s %s: the build says\n%s", part, how, out)
			}
			if err := s.ingot("image", "verify", "lab:stable").Run(); err != nil {
				t.Errorf("%s %s: after the build, ingot image verify: %v", part, how, err)
			}
		}
	}
}
