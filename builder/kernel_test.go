package builder

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"ingot"
	"ingot/builder/buildertest"
	"ingot/builder/initramfs"
	"ingot/builder/inspect"
	"ingot/builder/setup"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/image"
	"ingot/internal/wire"
	"ingot/profiles"
)

// TestKernelLinks: links in a kernel's package make depmod neither read nor write files of the host.
func TestKernelLinks(t *testing.T) {
	for _, lib := range []string{"lib", "usr/lib"} {
		dir := t.TempDir()
		secret, victim := filepath.Join(dir, "secret"), filepath.Join(dir, "victim")
		tr := tree.New()
		const release = "/modules/6.0.1/"
		if err := errors.Join(os.WriteFile(secret, []byte("SECRET"), 0o600), os.WriteFile(victim, []byte("mine"), 0o644),
			tr.PutFile(lib+release+"kernel/x.ko", 0o644, nil), tr.PutFile(lib+release+"modules.builtin", 0o644, nil),
			tr.PutLink(lib+release+"modules.order", secret), tr.PutLink(lib+release+"modules.alias", victim),
			tr.PutLink(lib+release+"build", "/usr/src/linux")); err != nil {
			t.Fatal(err)
		}
		b := &build{plan: &Plan{Kernel: source.Package{Name: "linux-image"}}}
		if err := b.indexModules(t.Context(), tr, filepath.Join(dir, "kernel.d")); err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(victim); err != nil || string(text) != "mine" {
			t.Errorf("%s: a file of the host is now %q, %v", lib, text, err)
		}
		for _, e := range tr.Entries() {
			if e.Kind != tree.File {
				continue
			}
			if text := read(t, tr, e.Path); strings.Contains(text, "SECRET") {
				t.Errorf("%s: /%s has the secret of the host", lib, e.Path)
			}
		}
		if tr.Get("usr/lib/modules/6.0.1/modules.dep") == nil {
			t.Errorf("%s: the tree has no index", lib)
		}
	}
}

// bootFiles packs the initramfs of a profile for a kernel and a root. It returns the files of the archive that the
// kernel reads first, those of the one after it, and what the build said.
func bootFiles(t *testing.T, p *profiles.Profile, root *tree.Tree) (early, files map[string]string, said string,
	err error) {
	t.Helper()
	const release = "6.12.0-test"
	modules := tree.New()
	for name, content := range map[string][]byte{
		"kernel/drivers/net/card.ko":  buildertest.Module(t, "bnx2/card.fw", "card.bin"),
		"kernel/drivers/net/other.ko": buildertest.Module(t),
		"modules.dep":                 []byte("kernel/drivers/net/card.ko:\nkernel/drivers/net/other.ko:\n"),
		"modules.alias":               []byte("alias pci:a* card\nalias pci:b* other\n"),
		"modules.softdep":             nil, "modules.builtin": nil,
	} {
		if err := modules.PutFile("usr/lib/modules/"+release+"/"+name, 0o644, content); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	b := &build{Env: &Env{Log: slog.New(slog.NewTextHandler(&log, nil))}, p: p, plan: &Plan{}, init: []byte("init"),
		work: t.TempDir()}
	b.Keys, err = image.LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b.layers = layerCache{dir: t.TempDir(), warn: func(what string) { t.Error(what) }}
	k := kernel{tree: modules, release: release}
	wanted, err := b.wantedFirmware(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	path, err := b.packInitramfs(t.Context(), k, root, wanted)
	if err != nil {
		return nil, nil, log.String(), err
	}
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(packed, []byte{0x28, 0xb5, 0x2f, 0xfd}) // the first frame of zstd
	z, err := zstd.NewReader(bytes.NewReader(packed[at:]))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if at%4 != 0 {
		t.Errorf("the early archive has %d bytes, not a multiple of four", at)
	}
	return unpackCpio(t, packed[:at]), unpackCpio(t, plain), log.String(), nil
}

// unpackCpio lets the real cpio unpack an archive.
func unpackCpio(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	files := map[string]string{}
	if len(archive) == 0 {
		return files
	}
	wire.Need(t, "cpio")
	dir := t.TempDir()
	cmd := exec.Command("cpio", "--extract", "--make-directories", "--quiet", "--no-preserve-owner")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(p)
		files[strings.TrimPrefix(p, dir+"/")] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestInitramfsTakesOfTheRoot: firmware of the modules, microcode, settings of modprobe.d and the files that the
// profile names are in the initramfs, and what the root lacks is named.
func TestInitramfsTakesOfTheRoot(t *testing.T) {
	root := tree.New()
	for name, text := range map[string]string{"usr/lib/firmware/card.bin": "card", "usr/lib/firmware/unused.bin": "x",
		"usr/lib/firmware/intel-ucode/06-01-02": "intel", "usr/lib/firmware/amd-ucode/microcode_amd.bin": "amd",
		"etc/modprobe.d/x.conf": "options card debug=1\noptions absent a=1\nblacklist other\n", "etc/iscsi/name": "iqn"} {
		if err := root.PutFile(name, 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	p := &profiles.Profile{Arch: ingot.AMD64, Kernel: profiles.Kernel{Modules: []string{"card", "other"},
		Initramfs: []string{"/etc/iscsi/name"}}}
	early, files, said, err := bootFiles(t, p, root)
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"kernel/x86/microcode/GenuineIntel.bin": "intel",
		"kernel/x86/microcode/AuthenticAMD.bin": "amd"}; !maps.Equal(early, want) {
		t.Errorf("the early archive has %q; want %q", early, want)
	}
	for name, want := range map[string]string{"usr/lib/firmware/card.bin": "card", "etc/iscsi/name": "iqn",
		"etc/modprobe.d/image.conf":                 "options card debug=1\n",
		"usr/lib/modules/6.12.0-test/modules.alias": "alias pci:a* card\n"} {
		if files[name] != want {
			t.Errorf("%s = %q; want %q", name, files[name], want)
		}
	}
	if _, is := files["usr/lib/firmware/unused.bin"]; is {
		t.Error("firmware that no module loads is in the initramfs")
	}
	if strings.Count(said, "WARN") != 1 || !strings.Contains(said, "module=card file=bnx2/card.fw package=firmware-bnx2") {
		t.Errorf("the build said: %s", said)
	}
	p.Arch = ingot.ARM64
	if early, _, _, err := bootFiles(t, p, root); err != nil || len(early) != 0 {
		t.Errorf("microcode on arm64: %q, %v", early, err)
	}
}

// TestInitramfsFiles: a file that the root lacks, or that is ingot's own, is refused.
func TestInitramfsFiles(t *testing.T) {
	root := tree.New()
	for _, name := range []string{"init", "etc/ingot/release.pub", "usr/lib/modules/x"} {
		if err := root.PutFile(name, 0o644, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := root.PutLink("lib", "usr/lib"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{"/etc/gone": setup.ErrMissing, "/init": ErrNotBootable,
		ingot.KeyDir + "/release.pub": ErrNotBootable, "/etc/../init": ErrNotBootable, "/lib/modules/x": ErrNotBootable} {
		p := &profiles.Profile{Arch: ingot.AMD64, Kernel: profiles.Kernel{Initramfs: []string{name}}}
		if _, _, _, err := bootFiles(t, p, root); !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", name, err, want)
		}
	}
}

// TestInitramfsKeepsItsKey: of a root that has nothing for it, the initramfs is kept under the key of earlier versions.
func TestInitramfsKeepsItsKey(t *testing.T) {
	b := &build{Env: &Env{}, p: &profiles.Profile{Arch: ingot.AMD64}, plan: &Plan{}}
	o := initramfs.Options{Files: map[string][]byte{ingot.KeyDir + "/release.pub": []byte("key")}}
	var key bytes.Buffer
	missing, err := b.addOfRoot(&o, tree.New(), []initramfs.Wanted{{Module: "m", File: "f"}}, &key)
	if err != nil || key.Len() > 0 || !slices.Equal(missing, []string{"f"}) {
		t.Errorf("addOfRoot adds %q to the key, %v is missing, %v", key.String(), missing, err)
	}
}

// TestKernelKeepsItsCopyright: the licence of the kernel is in the image, as that of every package is, and belongs to
// the kernel; its other documentation is left out.
func TestKernelKeepsItsCopyright(t *testing.T) {
	k := tree.New()
	const name = "linux-image-6.12"
	for _, p := range []string{"boot/vmlinuz-6.12", "usr/lib/modules/6.12/kernel/a.ko",
		"usr/share/doc/" + name + "/copyright", "usr/share/doc/" + name + "/changelog.gz",
		"usr/share/bug/" + name + "/info"} {
		if err := k.PutFile(p, 0o644, []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := splitKernel(k); err != nil {
		t.Fatal(err)
	}
	owners, err := inspect.Owners(k, name)
	want := map[string]string{"usr/lib/modules/6.12/kernel/a.ko": name,
		"usr/share/doc/" + name + "/copyright": name}
	if err != nil || !maps.Equal(owners, want) {
		t.Errorf("the kernel's files are %v, %v; want %v", owners, err, want)
	}
	for _, e := range k.Entries() {
		if e.Kind == tree.File && owners[e.Path] == "" {
			t.Errorf("%s is left", e.Path)
		}
	}
}
