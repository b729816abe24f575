package builder

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/builder/buildertest"
	"ingot/builder/importer"
	"ingot/builder/source"
	"ingot/builder/source/hosttest"
	"ingot/profiles"
)

// importOptions are those of a profile named web.
func importOptions(t *testing.T, folder string) importer.Options {
	t.Helper()
	return importer.Options{Name: "web", Folder: folder,
		Kernel: profiles.Kernel{Suite: "trixie", Modules: []string{"@boot"}, Arguments: []string{"console=ttyS0"}}}
}

// offlineEnv never asks a network.
func offlineEnv(t *testing.T) *source.Env {
	t.Helper()
	return &source.Env{CacheDir: t.TempDir(), Offline: true}
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
		im, err := importer.Image(t.Context(), offlineEnv(t), filepath.Join(in, form), o)
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
	for p, text := range map[string]string{"etc/machine-id": "0123", "etc/ssh/ssh_host_rsa_key": "SECRET",
		"etc/shadow": "root:$y$hash:1::::::\n", "srv/data/x": "data"} {
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
	if out, err := exec.Command("tar", "--extract", "--file", tarFile, "--directory",
		onDisk).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	sshd := hosttest.SSHD(t)
	h := source.Host{Target: sshd.Target, Port: sshd.Port, Options: sshd.Options, Batch: true, Root: onDisk}
	o := importOptions(t, filepath.Join(t.TempDir(), "web"))
	o.Rules = source.Excluded()
	dry := o
	dry.DryRun = true
	if im, err := importer.Host(t.Context(), offlineEnv(t), h, dry); err != nil || im.Folder != "" || im.Packages != 1 {
		t.Errorf("a dry run: %+v, %v; want a look alone", im, err)
	}
	im, err := importer.Host(t.Context(), offlineEnv(t), h, o)
	if err != nil {
		t.Fatal(err)
	}
	if im.Distribution != "Debian GNU/Linux 13 (trixie)" || len(im.Lacks) > 0 || im.Packages != 1 ||
		!slices.Equal(im.Passwords, []string{"root"}) || len(im.Compared.Conffiles) != 2 {
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
