package importer

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/builder/buildertest"
	"ingot/builder/inspect"
	"ingot/builder/lock"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/profiles"
)

// importOptions are those of a profile named web.
func importOptions(t *testing.T, folder string) Options {
	t.Helper()
	return Options{Name: "web", Folder: folder,
		Kernel: profiles.Kernel{Suite: "trixie", Modules: []string{"@boot"}, Arguments: []string{"console=ttyS0"}}}
}

// offlineEnv never asks a network.
func offlineEnv(t *testing.T) *source.Env {
	t.Helper()
	return &source.Env{CacheDir: t.TempDir(), Offline: true}
}

func read(t *testing.T, tr *tree.Tree, p string) string {
	t.Helper()
	b, err := tr.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestFailedImports: neither a failed import nor one that only looks
// writes anything, and nothing is written over.
func TestFailedImports(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.tar")
	if err := os.WriteFile(bad, []byte(strings.Repeat("no tarball ", 100)), 0o644); err != nil {
		t.Fatal(err)
	}
	good := filepath.Join(dir, "layout")
	buildertest.Layout(t, good, buildertest.SystemdTree(t))
	out := filepath.Join(t.TempDir(), "deep", "web")
	if _, err := Image(t.Context(), offlineEnv(t), bad, importOptions(t, out)); !errors.Is(err, source.ErrBadTar) {
		t.Errorf("no tarball: %v; want ErrBadTar", err)
	}
	if _, err := Image(t.Context(), offlineEnv(t), filepath.Join(dir, "gone.tar"),
		importOptions(t, out)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	o := importOptions(t, out)
	o.DryRun = true
	if im, err := Image(t.Context(), offlineEnv(t), good, o); err != nil || im.Folder != "" || im.Distribution == "" {
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
	running := &importing{offlineEnv(t), importOptions(t, out)}
	w, err := running.begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Image(t.Context(), offlineEnv(t), good, importOptions(t, out)); !errors.Is(err, ErrExists) ||
		!strings.Contains(err.Error(), "another import") {
		t.Errorf("beside a running import: %v; want ErrExists", err)
	}
	w.abandon()
	if _, err := Image(t.Context(), offlineEnv(t), good, importOptions(t, out)); err != nil {
		t.Fatal(err)
	}
	if _, err := Image(t.Context(), offlineEnv(t), good, importOptions(t, out)); !errors.Is(err, ErrExists) {
		t.Errorf("over what is there: %v; want ErrExists", err)
	}
}

// TestCompareFiles: edited configuration, patched programs and files of
// no package are distinguished.
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
	for _, p := range []string{"/etc/app.conf", "/usr/lib/app", "/var/log/x.log", "/usr/bin/old",
		"/usr/bin/old.distrib", "/usr/lib/python3"} {
		if _, ok := local[p]; ok {
			t.Errorf("%s counts as a local file", p)
		}
	}
}

func TestComparePackages(t *testing.T) {
	have := takeInventory(inspect.ParseStatus("Package: a\nStatus: install ok installed\nVersion: 1\n\nPackage: b\n" +
		"Status: install ok installed\nVersion: 2\n\nPackage: mine\nStatus: hold ok installed\nVersion: 3\n\n" +
		"Package: dep\nStatus: install ok installed\nVersion: 4\n\nPackage: half\nStatus: install ok half-installed\n" +
		"Version: 1\n"))
	var c Comparison
	c.comparePackages(have, autoInstalled("Package: dep\nArchitecture: amd64\nAuto-Installed: 1\n\nPackage: mine\n"+
		"Auto-Installed: 0\n"), map[string]string{"a": "1", "b": "1", "less": "9"})
	want := Comparison{Same: 1, Added: []lock.Change{{Package: "dep", After: "4"}, {Package: "mine", After: "3"}},
		Missing: []lock.Change{{Package: "less", Before: "9"}},
		Changed: []lock.Change{{Package: "b", Before: "1", After: "2"}}, Asked: []string{"mine"}}
	if d := cmp.Diff(want, c); d != "" {
		t.Errorf("comparePackages (-want +got):\n%s", d)
	}
}

// TestReport: what people read and what programs read say the same.
func TestReport(t *testing.T) {
	in := filepath.Join(t.TempDir(), "layout")
	buildertest.Layout(t, in, buildertest.PackagedTree(t))
	o := importOptions(t, filepath.Join(t.TempDir(), "web"))
	if _, err := Image(t.Context(), offlineEnv(t), in, o); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(o.Folder, "profile.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"# Made by: ingot import ", "1 packages", "# Configuration of packages, edited: " +
		"/etc/app.conf, /etc/ucf.conf", "/opt/tool (2 files)"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the profile does not say %q:\n%s", want, text)
		}
	}
	b, err := os.ReadFile(filepath.Join(o.Folder, "import.json"))
	if err != nil {
		t.Fatal(err)
	}
	var im Result
	if err := json.Unmarshal(b, &im); err != nil || im.Compared == nil ||
		len(im.Compared.Conffiles) != 2 || im.Packages != 1 {
		t.Errorf("import.json: %v\n%s", err, b)
	}
}
