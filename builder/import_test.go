package builder

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/builder/buildertest"
	"ingot/builder/inspect"
	"ingot/builder/source"
	"ingot/builder/source/hosttest"
	"ingot/profiles"
)

// importOptions never ask a network.
func importOptions(t *testing.T, folder string) ImportOptions {
	t.Helper()
	return ImportOptions{Name: "web", Folder: folder, CacheDir: t.TempDir(), Offline: true,
		Kernel: profiles.Kernel{Suite: "trixie", Modules: []string{"@boot"}, Arguments: []string{"console=ttyS0"}}}
}

// TestImportEveryForm: a layout, a tarball and a folder of the same root
// become profiles that load and give the same tree, wherever the folder goes.
func TestImportEveryForm(t *testing.T) {
	root := buildertest.SystemdTree(t)
	in := t.TempDir()
	buildertest.Layout(t, filepath.Join(in, "layout"), root)
	f, err := os.Create(filepath.Join(in, "root.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(root.WriteTar(t.Context(), f, buildertest.MadeAt), f.Close()); err != nil {
		t.Fatal(err)
	}
	var first [32]byte
	for i, form := range []string{"layout", "root.tar"} {
		o := importOptions(t, filepath.Join(t.TempDir(), "out"))
		im, err := ImportImage(t.Context(), filepath.Join(in, form), o)
		if err != nil {
			t.Errorf("%s: %v", form, err)
			continue
		}
		if im.Distribution != "Debian GNU/Linux 13 (trixie)" || len(im.Lacks) > 0 || im.Bytes == 0 {
			t.Errorf("%s: %+v; want Debian that lacks nothing", form, im)
		}
		moved := filepath.Join(t.TempDir(), "elsewhere")
		if err := os.Rename(o.Folder, moved); err != nil {
			t.Fatal(err)
		}
		p, err := profiles.Load(moved)
		if err != nil {
			t.Fatalf("%s: the profile it wrote: %v", form, err)
		}
		if p.Kernel.Package != "linux-image-amd64" || p.Name != "web" || len(p.Checks) != 2 {
			t.Errorf("%s: kernel %+v, name %q, checks %+v", form, p.Kernel, p.Name, p.Checks)
		}
		if cmp.Diff([]string{"systemd-networkd.service", "ssh.service"}, p.Units.Enable) != "" {
			t.Errorf("%s: units %+v; want network and ssh", form, p.Units)
		}
		b, _ := treesBuild(t, p, t.TempDir())
		if _, err := b.fetchTrees(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := b.rootTree(t.Context(), func() {})
		if err != nil {
			t.Fatal(err)
		}
		if d := digestTree(t, got); i == 0 {
			first = d
		} else if d != first {
			t.Errorf("%s gives another tree", form)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(o.Folder), ".*")); len(left) > 0 {
			t.Errorf("%s leaves %v", form, left)
		}
	}
}

// TestImportLeavesNothing: neither a failed import nor one that only looks
// writes anything, and nothing is written over.
func TestImportLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.tar")
	if err := os.WriteFile(bad, []byte(strings.Repeat("no tarball ", 100)), 0o644); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "layout")
	buildertest.Layout(t, good, buildertest.SystemdTree(t))
	out := filepath.Join(t.TempDir(), "deep", "web")
	if _, err := ImportImage(t.Context(), bad, importOptions(t, out)); !errors.Is(err, source.ErrBadTar) {
		t.Errorf("no tarball: %v; want ErrBadTar", err)
	}
	if _, err := ImportImage(t.Context(), filepath.Join(dir, "gone.tar"), importOptions(t, out)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	o := importOptions(t, out)
	o.DryRun = true
	if im, err := ImportImage(t.Context(), good, o); err != nil || im.Folder != "" || im.Distribution == "" {
		t.Errorf("a dry run: %+v, %v", im, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(out)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	// What a killed import left goes; a running one is not disturbed.
	stale := filepath.Join(filepath.Dir(out), ".web.importing", ".scratch")
	if err := errors.Join(os.MkdirAll(stale, 0o755), os.WriteFile(filepath.Join(stale, "lock"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	running := importOptions(t, out)
	w, err := running.begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ImportImage(t.Context(), good, importOptions(t, out)); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), "another import") {
		t.Errorf("beside a running import: %v; want ErrExists", err)
	}
	w.abandon()
	if _, err := ImportImage(t.Context(), good, importOptions(t, out)); err != nil {
		t.Fatal(err)
	}
	if _, err := ImportImage(t.Context(), good, importOptions(t, out)); !errors.Is(err, ErrExists) {
		t.Errorf("over what is there: %v; want ErrExists", err)
	}
}

// TestImportHost: a host that is reached over SSH becomes a profile that
// builds its root, without what makes it that host.
func TestImportHost(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may log in as root")
	}
	if _, err := exec.LookPath("sshd"); err != nil && os.Getenv("CI") == "" {
		t.Skip(err)
	}
	root := buildertest.PackagedTree(t)
	for p, text := range map[string]string{"etc/machine-id": "0123", "etc/ssh/ssh_host_rsa_key": "SECRET", "etc/shadow": "root:$y$hash:1::::::\n", "srv/data/x": "data"} {
		if err := root.PutFile(p, 0o640, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	onDisk, tarFile := t.TempDir(), filepath.Join(t.TempDir(), "root.tar")
	f, err := os.Create(tarFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(root.WriteTar(t.Context(), f, buildertest.MadeAt), f.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "--extract", "--file", tarFile, "--directory", onDisk).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	sshd := hosttest.SSHD(t)
	h := source.Host{Target: sshd.Target, Port: sshd.Port, Options: sshd.Options, Batch: true, Root: onDisk}
	o := importOptions(t, filepath.Join(t.TempDir(), "web"))
	o.Rules = source.Excluded()
	dry := o
	dry.DryRun = true
	if im, err := ImportHost(t.Context(), h, dry); err != nil || im.Folder != "" || im.Packages != 1 {
		t.Errorf("a dry run: %+v, %v; want a look alone", im, err)
	}
	im, err := ImportHost(t.Context(), h, o)
	if err != nil {
		t.Fatal(err)
	}
	if im.Distribution != "Debian GNU/Linux 13 (trixie)" || len(im.Lacks) > 0 || im.Packages != 1 || !slices.Equal(im.Passwords, []string{"root"}) || len(im.Compared.Conffiles) != 2 {
		t.Errorf("ImportHost = %+v", im)
	}
	p, err := profiles.Load(o.Folder)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := treesBuild(t, p, t.TempDir())
	if _, err := b.fetchTrees(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := b.rootTree(t.Context(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"etc/machine-id", "etc/ssh/ssh_host_rsa_key", "srv/data", "usr/lib/modules/4.19"} {
		if got.Get(p) != nil {
			t.Errorf("/%s of the host is in the root", p)
		}
	}
	if text := read(t, got, "etc/shadow"); text != "root:*:1::::::\n" {
		t.Errorf("/etc/shadow = %q; want no hash", text)
	}
	if err := b.checkBootable(got); err != nil {
		t.Error(err)
	}
}

// TestCompareFiles: edited configuration, patched programs and files of
// nobody are told apart.
func TestCompareFiles(t *testing.T) {
	tr := buildertest.PackagedTree(t)
	in := takeInventory(inspect.ParseStatus(read(t, tr, "var/lib/dpkg/status")))
	var c Comparison
	if err := c.compareFiles(t.Context(), tr, in); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"/etc/app.conf", "/etc/ucf.conf"}, c.Conffiles); d != "" {
		t.Errorf("edited configuration (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"/usr/bin/edited"}, c.Modified); d != "" {
		t.Errorf("other edited files (-want +got):\n%s", d)
	}
	local := map[string]LocalPath{}
	for _, l := range c.Local {
		local[l.Path] = l
	}
	for _, want := range []LocalPath{{"/opt/tool", 2, 8}, {"/usr/local/bin/script", 1, 1}, {"/etc/mine.conf", 1, 1}} {
		if got := local[want.Path]; got != want {
			t.Errorf("local files: %+v; want %+v among them", c.Local, want)
		}
	}
	for _, p := range []string{"/etc/app.conf", "/usr/lib/app", "/var/log/x.log", "/usr/bin/old", "/usr/bin/old.distrib", "/usr/lib/python3"} {
		if _, ok := local[p]; ok {
			t.Errorf("%s counts as a local file", p)
		}
	}
}

func TestComparePackages(t *testing.T) {
	have := takeInventory(inspect.ParseStatus("Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\nStatus: install ok installed\nVersion: 2\n\nPackage: mine\nStatus: hold ok installed\nVersion: 3\n\nPackage: dep\nStatus: install ok installed\nVersion: 4\n\nPackage: half\nStatus: install ok half-installed\nVersion: 1\n"))
	var c Comparison
	c.comparePackages(have, autoInstalled("Package: dep\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: mine\nAuto-Installed: 0\n"), map[string]string{"a": "1", "b": "1", "less": "9"})
	want := Comparison{Same: 1, Added: []Change{{"dep", "", "4"}, {"mine", "", "3"}}, Missing: []Change{{"less", "9", ""}}, Changed: []Change{{"b", "1", "2"}}, Asked: []string{"mine"}}
	if d := cmp.Diff(want, c); d != "" {
		t.Errorf("comparePackages (-want +got):\n%s", d)
	}
}

// TestReport: what people read and what programs read say the same.
func TestReport(t *testing.T) {
	in := filepath.Join(t.TempDir(), "layout")
	buildertest.Layout(t, in, buildertest.PackagedTree(t))
	o := importOptions(t, filepath.Join(t.TempDir(), "web"))
	if _, err := ImportImage(t.Context(), in, o); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(o.Folder, "profile.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Made by: ingot import ", "1 packages", "# Configuration of packages, edited: /etc/app.conf, /etc/ucf.conf", "/opt/tool (2 files)"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the profile does not say %q:\n%s", want, text)
		}
	}
	b, err := os.ReadFile(filepath.Join(o.Folder, "import.json"))
	if err != nil {
		t.Fatal(err)
	}
	var im Imported
	if err := json.Unmarshal(b, &im); err != nil || im.Compared == nil || len(im.Compared.Conffiles) != 2 || im.Packages != 1 {
		t.Errorf("import.json: %v\n%s", err, b)
	}
}
