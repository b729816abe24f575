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

// TestImportLeavesHostState: a tarball and a folder come without what belongs to the host that they
// were on, and only their owner may read what is written.
func TestImportLeavesHostState(t *testing.T) {
	root := buildertest.SystemdTree(t)
	for p, text := range map[string]string{"etc/resolv.conf": "nameserver 10.9.8.7\n", "etc/machine-id": "0123",
		"etc/hosts":  "127.0.0.1 localhost\n127.0.1.1 builder.corp builder\n10.0.0.1 db\n",
		"etc/shadow": "root:$y$hash:1::::::\n", "etc/munge/munge.key": "SECRET", "etc/ssl/private/x.key": "SECRET",
		"etc/systemd/network/10-static.network": "[Network]\nAddress=10.9.8.7/24\n", "srv/www/index.html": "www",
		"etc/mailname": "builder", "etc/apt/auth.conf": "password"} {
		if err := root.PutFile(p, 0o640, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	in := t.TempDir()
	buildertest.Layout(t, filepath.Join(in, "layout"), root)
	f, err := os.Create(filepath.Join(in, "root.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(root.WriteTar(t.Context(), f, buildertest.MadeAt), f.Close(),
		os.Mkdir(filepath.Join(in, "folder"), 0o755)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "--extract", "--no-same-owner", "--file", f.Name(), "--directory",
		filepath.Join(in, "folder")).CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	for _, form := range []string{"root.tar", "folder", "layout"} {
		o := importOptions(t, filepath.Join(t.TempDir(), "out"))
		o.Rules = source.Excluded()
		if form != "layout" {
			o.Include = []string{"/etc/mailname"}
		}
		im, err := importer.Image(t.Context(), offlineEnv(t), filepath.Join(in, form), o)
		if err != nil {
			t.Fatal(err)
		}
		archives, err := filepath.Glob(filepath.Join(o.Folder, "root.tar.zst"))
		if form == "layout" {
			archives, err = filepath.Glob(filepath.Join(o.Folder, "image/blobs/sha256/*"))
		}
		if err != nil || len(archives) == 0 {
			t.Fatalf("%s: archives %v, %v", form, archives, err)
		}
		for _, a := range archives {
			if st, err := os.Stat(a); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%s: %s has mode %v, %v; want 0600", form, filepath.Base(a), st.Mode(), err)
			}
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
		if err := b.addFiles(got); err != nil {
			t.Fatal(err)
		}
		if e := got.Find("etc/resolv.conf"); e != nil && read(t, got, "etc/resolv.conf") == "nameserver 10.9.8.7\n" {
			t.Errorf("%s: the image has the resolv.conf of the host", form)
		}
		if form == "layout" {
			continue // an image is taken as it is; its profile replaces the resolver
		}
		for _, p := range []string{"etc/munge", "etc/ssl/private", "etc/systemd/network", "etc/apt"} {
			if e := got.Get(p); p != "etc/systemd/network" && (e == nil || got.Get(p+"/x.key") != nil ||
				got.Get(p+"/munge.key") != nil || got.Get(p+"/auth.conf") != nil || got.Get(p+"/10-static.network") != nil) {
				t.Errorf("%s: /%s = %+v; want an empty folder", form, p, e)
			}
		}
		if got.Get("etc/machine-id") != nil || got.Get("srv/www/index.html") == nil || got.Get("etc/mailname") == nil {
			t.Errorf("%s: want no machine-id, but the data, and what was included", form)
		}
		if text := read(t, got, "etc/hosts"); text != "127.0.0.1 localhost\n10.0.0.1 db\n" {
			t.Errorf("%s: /etc/hosts = %q; want no name of the host", form, text)
		}
		if text := read(t, got, "etc/shadow"); text != "root:*:1::::::\n" || !slices.Equal(im.Passwords, []string{"root"}) {
			t.Errorf("%s: /etc/shadow = %q, passwords %v; want no hash, and the user named", form, text, im.Passwords)
		}
		if !slices.Contains(im.LeftOut, "/etc/resolv.conf") || slices.Contains(im.LeftOut, "/srv/www/index.html") {
			t.Errorf("%s: left out %v", form, im.LeftOut)
		}
	}
}
