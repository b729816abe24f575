package builder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ingot/builder/inspect"
	"ingot/builder/source"
	"ingot/builder/tree"
)

// requireAll skips what takes minutes unless make test-all runs.
func requireAll(t *testing.T) {
	t.Helper()
	if os.Getenv("INGOT_TEST_ALL") == "" {
		t.Skip("set INGOT_TEST_ALL=1")
	}
}

// mmdebstrap is the referee with the packages of a build, from a flat repository
// (sources.list(5), "exact path") that holds nothing else.
func mmdebstrap(tb testing.TB, b *build, format, out string) *exec.Cmd {
	tb.Helper()
	repo, work := tb.TempDir(), tb.TempDir()
	var index bytes.Buffer
	var names []string
	for _, p := range b.plan.Packages {
		control, err := exec.Command("dpkg-deb", "--field", b.cache.Path(p)).Output()
		if err != nil {
			tb.Fatalf("dpkg-deb of %s: %v", p.Name, err)
		}
		content, err := os.ReadFile(b.cache.Path(p))
		if err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(repo, p.SHA256+".deb"), content, 0o644); err != nil {
			tb.Fatal(err)
		}
		fmt.Fprintf(&index, "%s\nFilename: ./%s.deb\nSize: %d\nSHA256: %s\n\n",
			bytes.TrimSpace(control), p.SHA256, p.Size, p.SHA256)
		names = append(names, p.Name)
	}
	suite := b.p.Base.Suite
	release := fmt.Sprintf("Suite: %s\nCodename: %s\nDate: %s\nSHA256:\n %x %d Packages\n", suite, suite,
		b.epoch.UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"), sha256.Sum256(index.Bytes()), index.Len())
	for name, text := range map[string][]byte{"Packages": index.Bytes(), "Release": []byte(release)} {
		if err := os.WriteFile(filepath.Join(repo, name), text, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	for _, dir := range []string{repo, work} {
		if err := os.Chmod(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	args := []string{"--mode=root", "--variant=essential", "--format=" + format, "--include=" + strings.Join(names, ",")}
	for _, o := range []string{
		"exclude=/usr/share/doc/*", "include=/usr/share/doc/*/copyright", "exclude=/usr/share/man/*",
		"exclude=/usr/share/info/*", "exclude=/usr/share/lintian/*",
		"exclude=/usr/share/bug/*", "exclude=/usr/share/locale/*", "include=/usr/share/locale/locale.alias",
	} {
		args = append(args, "--dpkgopt=path-"+o)
	}
	cmd := exec.Command("mmdebstrap", append(args, suite, out, "deb [trusted=yes] copy://"+repo+" ./")...)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH="+strconv.FormatInt(b.epoch.Unix(), 10), "TMPDIR="+work)
	return cmd
}

// explained are the differences from what mmdebstrap makes, each with its
// reason. Any other is a defect.
var explained = []struct{ pattern, why string }{
	{"etc/apt/*", "folders of apt, which runs outside and leaves them"},
	{"var/lib/apt", "apt's state"}, {"var/lib/apt/*", "apt's state"}, {"var/lib/apt/lists/*", "apt's state"},
	{"var/cache/apt", "apt's cache"}, {"var/cache/apt/*", "apt's cache"},
	{"etc/dpkg/dpkg.cfg.d/99mmdebstrap", "mmdebstrap's own options"},
	{"var/lib/dpkg/arch", "of mmdebstrap; dpkg knows its own architecture"},
	{"etc/fstab", "of mmdebstrap; a profile brings its own"},
	{"etc/systemd/system/timers.target.wants/*", "mmdebstrap configures essential packages before their units' " +
		"helper: a link through /lib instead of /usr/lib"},
	{"var/lib/systemd/deb-systemd-helper-enabled/*", "the same"},
}

// normal is the content of a file without what may differ.
func normal(p string, content []byte) []byte {
	lines := strings.Split(string(content), "\n")
	switch p {
	case "etc/passwd", "etc/group": // the ids of system users follow the order of configuration
		for i, l := range lines {
			lines[i] = regexp.MustCompile(`:[0-9]+`).ReplaceAllString(l, ":N")
		}
	case "etc/shadow", "etc/gshadow", "var/lib/dpkg/triggers/File": // the order alone
	default:
		return content
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, "\n"))
}

// TestInstallLikeMmdebstrap compares our tree with mmdebstrap's of the same
// packages, entry by entry; times are not compared.
func TestInstallLikeMmdebstrap(t *testing.T) {
	requireAll(t)
	for _, profile := range []string{"lab", "node"} {
		t.Run(profile, func(t *testing.T) {
			b := profileBuild(t, profile)
			ourTar, theirTar := b.at("ours.tar"), b.at("theirs.tar")
			err := source.Install(t.Context(), b.cache, b.plan.Packages, ourTar,
				source.InstallOptions{Arch: string(b.p.Arch), Epoch: b.epoch, Work: b.work})
			if err != nil {
				t.Fatal(err)
			}
			if said, err := mmdebstrap(t, b, "tar", theirTar).CombinedOutput(); err != nil {
				t.Fatalf("mmdebstrap: %v: %s", err, said)
			}
			ours, theirs := purgedTree(t, ourTar), purgedTree(t, theirTar)
			for _, d := range treeDifferences(t, ours, theirs) {
				if !slices.ContainsFunc(explained, func(e struct{ pattern, why string }) bool {
					ok,
						_ := path.Match(e.pattern, d[0])
					return ok
				}) {
					t.Errorf("/%s: %s", d[0], d[1])
				}
			}
		})
	}
}

// purgedTree is an installed tree without what no image keeps.
func purgedTree(t *testing.T, tar string) *tree.Tree {
	t.Helper()
	tr, err := tree.FromTar(t.Context(), tar)
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.RemoveMatching(inspect.Purged...); err != nil {
		t.Fatal(err)
	}
	tr.DropXattrs("system.")
	return tr
}

// idNames are the names of a tree's ids, by the file that has them.
func idNames(t *testing.T, tr *tree.Tree, file string) map[int]string {
	t.Helper()
	content, err := tr.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	names := map[int]string{}
	for line := range strings.Lines(string(content)) {
		f := strings.Split(line, ":")
		id, err := strconv.Atoi(f[2])
		if err != nil {
			t.Fatalf("%s: %q", file, line)
		}
		names[id] = f[0]
	}
	return names
}

// treeDifferences lists what two trees do not have in common, as path and words.
func treeDifferences(t *testing.T, ours, theirs *tree.Tree) (list [][2]string) {
	t.Helper()
	describe := func(tr *tree.Tree) func(e *tree.Entry) string {
		users, groups := idNames(t, tr, "etc/passwd"), idNames(t, tr, "etc/group")
		return func(e *tree.Entry) string {
			var attrs []string
			for k, v := range e.Xattrs {
				attrs = append(attrs, fmt.Sprintf("%s=%x", k, v))
			}
			slices.Sort(attrs)
			text := fmt.Sprintf("kind %d mode %o owner %s:%s target %q link %q device %d:%d xattrs %v", e.Kind, e.Mode,
				users[e.UID], groups[e.GID], e.Target, e.Hard, e.Major, e.Minor, attrs)
			if e.Kind != tree.File || e.Hard != "" {
				return text
			}
			content, err := tr.ReadFile(e.Path)
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%s size %d content %x", text, len(content), sha256.Sum256(normal(e.Path, content)))
		}
	}
	we, they := describe(ours), describe(theirs)
	for _, e := range theirs.Entries() {
		if ours.Get(e.Path) == nil {
			list = append(list, [2]string{e.Path, "only mmdebstrap has it"})
		}
	}
	for _, e := range ours.Entries() {
		o := theirs.Get(e.Path)
		if o == nil {
			list = append(list, [2]string{e.Path, "only we have it"})
		} else if a, b := we(e), they(o); a != b {
			list = append(list, [2]string{e.Path, "we: " + a + "\n\tmmdebstrap: " + b})
		}
	}
	return list
}

// failing is a package with the given script.
func failing(t *testing.T, c source.Cache, script string) source.Package {
	t.Helper()
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "x.deb")
	for name, text := range map[string]string{"DEBIAN/control": "Package: failing\nVersion: 1\nArchitecture: all\n" +
		"Maintainer: n <n@example.org>\nDescription: x\n", "DEBIAN/postinst": script} {
		if err := os.MkdirAll(filepath.Join(dir, "DEBIAN"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{dir, filepath.Join(dir, "DEBIAN")} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if said, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", dir, out).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, said)
	}
	content, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	p := source.Package{Name: "failing", Version: "1", Arch: "all", Size: int64(len(content)),
		SHA256: hex.EncodeToString(sum[:])}
	if err := os.WriteFile(c.Path(p), content, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(c.Path(p)) })
	return p
}

// TestInstallFails: a script that fails is named with what it said; one that
// never ends is killed with the build. Neither leaves a process or a mount.
func TestInstallFails(t *testing.T) {
	requireAll(t)
	b := profileBuild(t, "lab")
	install := func(ctx context.Context, script string, report func(string)) error {
		list := append(slices.Clone(b.plan.Packages), failing(t, b.cache, script))
		return source.Install(ctx, b.cache, list, b.at("out.tar"), source.InstallOptions{Arch: string(b.p.Arch),
			Epoch: b.epoch, Work: b.work, Progress: report})
	}
	err := install(t.Context(), "#!/bin/sh\necho the moon is in the wrong place\nexit 3\n", nil)
	if !errors.Is(err, source.ErrScript) || !strings.Contains(err.Error(), "failing") ||
		!strings.Contains(err.Error(), "the moon is in the wrong place") {
		t.Errorf("a failing script = %v; want ErrScript, its package and its words", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := time.Now()
	err = install(ctx, "#!/bin/sh\n(trap '' TERM; exec sleep 987654) &\nexec sleep 987654\n", func(line string) {
		if strings.HasSuffix(line, ": failing") {
			start = time.Now()
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || time.Since(start) > 30*time.Second {
		t.Errorf("an interrupted installation = %v after %v", err, time.Since(start))
	}
	if said, _ := exec.Command("pgrep", "-f", "sleep 987654").Output(); len(said) > 0 {
		t.Errorf("processes are left: %s", said)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), b.work) {
		t.Errorf("mounts below %s are left (%v)", b.work, err)
	}
}

// buildBench is the command line as an operator uses it, with caches of its own.
type buildBench struct {
	b                   *testing.B
	bin, store, profile string
}

// run builds with the caches of a folder and returns the time that it took.
func (x *buildBench) run(caches string) time.Duration {
	x.b.Helper()
	cmd := exec.Command(filepath.Join(x.bin, "ingot"), "build", x.profile, "--store", x.store, "--offline")
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+caches)
	start := time.Now()
	if said, err := cmd.CombinedOutput(); err != nil {
		x.b.Fatalf("ingot build: %v: %s", err, said)
	}
	return time.Since(start)
}

// write writes the profile: node, and one file.
func (x *buildBench) write(content string) {
	x.b.Helper()
	text := "name: bench\nextends: node\nfiles:\n  - path: /etc/bench\n    content: " + content + "\n"
	if err := os.WriteFile(filepath.Join(x.profile, "profile.yaml"), []byte(text), 0o644); err != nil {
		x.b.Fatal(err)
	}
}

// BenchmarkBuild builds the node profile from its lock, with warm packages and
// nothing else, beside mmdebstrap with the same packages and mksquashfs at
// zstd level 3, which make neither a kernel nor an initramfs; then once more
// with nothing changed, and with one file changed.
func BenchmarkBuild(b *testing.B) {
	nb := nodeBuild(b)
	x := &buildBench{b: b, bin: b.TempDir(), store: b.TempDir(), profile: b.TempDir()}
	for _, name := range []string{"ingot", "ingot-init"} {
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o",
			filepath.Join(x.bin, name), "ingot/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, said)
		}
	}
	x.write("one")
	plan := exec.Command(filepath.Join(x.bin, "ingot"), "plan", x.profile, "--store", x.store, "--fetch")
	if said, err := plan.CombinedOutput(); err != nil {
		b.Fatalf("ingot plan: %v: %s", err, said)
	}
	caches := b.TempDir()
	if err := os.MkdirAll(filepath.Join(caches, "ingot"), 0o755); err != nil {
		b.Fatal(err)
	}
	if err := os.Symlink(nb.cache.Dir, filepath.Join(caches, "ingot/debs")); err != nil {
		b.Fatal(err)
	}
	dir := filepath.Join(b.TempDir(), "tree")
	bootstrap := mmdebstrap(b, nb, "directory", dir)
	start := time.Now()
	for _, cmd := range []*exec.Cmd{bootstrap, exec.Command("mksquashfs", dir, dir+".squashfs", "-noappend",
		"-no-progress", "-comp", "zstd", "-Xcompression-level", "3")} {
		if said, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%s: %v: %s", cmd.Args[0], err, said)
		}
	}
	usual := time.Since(start)
	cold := x.run(caches)
	same := x.run(caches)
	x.write("two")
	changed := x.run(caches)
	for name, took := range map[string]time.Duration{"mmdebstrap+mksquashfs": usual, "ingot": cold,
		"ingot-unchanged": same, "ingot-one-file": changed} {
		b.ReportMetric(took.Seconds(), name+"-s")
	}
	b.ReportMetric(cold.Seconds()/usual.Seconds(), "x-mmdebstrap")
	b.ReportMetric(0, "ns/op") // one run of each is enough
}
