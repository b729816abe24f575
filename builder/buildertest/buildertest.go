// Package buildertest makes what tests of the build pipeline need: packages that exist nowhere,
// small roots that look like a distribution's, and container images of them. It is for tests only.
package buildertest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/builder/uki"
	"ingot/image"
	"ingot/profiles"
)

// MadeAt is the time of everything that this package makes.
var MadeAt = time.Date(2025, 3, 4, 5, 6, 7, 0, time.UTC)

// Package is a well-formed package for amd64 that no mirror has.
func Package(name, version string) source.Package {
	return source.Package{Name: name, Version: version, Arch: "amd64", Size: 10, SHA256: strings.Repeat("ab", 32),
		Archive: "debian", Path: "pool/main/x/" + name + "_" + version + "_amd64.deb"}
}

// UsersTree is a root with accounts and some units.
func UsersTree(t *testing.T) *tree.Tree {
	t.Helper()
	tr := tree.New()
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/bash\n" +
			"www-data:x:33:33::/var/www:/usr/sbin/nologin\n",
		"etc/shadow":  "root:*:20000:0:99999:7:::\nwww-data:*:20000:0:99999:7:::\n",
		"etc/group":   "root:x:0:\nwww-data:x:33:\nsudo:x:27:\n",
		"etc/gshadow": "root:*::\nwww-data:*::\nsudo:*::\n",
		"usr/lib/systemd/system/ssh.service": "[Unit]\nDescription=x\n[Install]\nWantedBy=multi-user.target\n" +
			"Alias=sshd.service\nAlso=ssh-keys.service missing.service\n",
		"usr/lib/systemd/system/ssh-keys.service": "[Install]\nRequiredBy=ssh.service\n",
		"usr/lib/systemd/system/getty@.service":   "[Install]\nWantedBy=getty.target\n",
		"usr/lib/systemd/system/apt.timer":        "[Install]\nWantedBy=timers.target\n",
	} {
		if err := tr.PutFile(name, 0o640, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tr.PutLink("etc/systemd/system/timers.target.wants/apt.timer",
		"/usr/lib/systemd/system/apt.timer"); err != nil {
		t.Fatal(err)
	}
	return tr
}

// Layout writes a container image with the files of a tree as an OCI layout.
func Layout(t *testing.T, dir string, tr *tree.Tree) {
	t.Helper()
	var b bytes.Buffer
	if err := tr.WriteTar(t.Context(), &b, MadeAt); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b.Bytes())),
			nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	im, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1),
		types.OCIConfigJSON), l)
	if err != nil {
		t.Fatal(err)
	}
	c, err := im.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c = c.DeepCopy()
	c.OS, c.Architecture, c.Created = "linux", "amd64", v1.Time{Time: MadeAt}
	if im, err = mutate.ConfigFile(im, c); err != nil {
		t.Fatal(err)
	}
	at, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	if err := at.AppendImage(im); err != nil {
		t.Fatal(err)
	}
}

// SystemdTree is the least that passes for a systemd distribution.
func SystemdTree(t *testing.T) *tree.Tree {
	t.Helper()
	tr := UsersTree(t)
	for _, p := range []string{"usr/lib/systemd/systemd", "usr/lib/systemd/systemd-udevd",
		"usr/lib/systemd/systemd-networkd", "usr/bin/dbus-daemon", "usr/sbin/sshd"} {
		if err := tr.PutFile(p, 0o755, []byte("ELF")); err != nil {
			t.Fatal(err)
		}
	}
	for p, text := range map[string]string{
		"usr/lib/systemd/system/systemd-networkd.service": "[Install]\nWantedBy=multi-user.target\n",
		"usr/lib/modules/4.19/old.ko":                     "old", ".dockerenv": "",
		"usr/lib/os-release":  "ID=debian\nVERSION_CODENAME=trixie\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n",
		"etc/ssh/sshd_config": "Include /etc/ssh/sshd_config.d/*.conf\n"} {
		if err := tr.PutFile(p, 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tr.PutLink("sbin", "usr/sbin"), tr.PutLink("lib", "usr/lib"),
		tr.PutLink("etc/os-release", "../usr/lib/os-release"),
		tr.PutLink("usr/sbin/init", "../lib/systemd/systemd")); err != nil {
		t.Fatal(err)
	}
	return tr
}

// PackagedTree is a SystemdTree with dpkg's records of the package app, some of whose files are
// edited, and with local files.
func PackagedTree(t *testing.T) *tree.Tree {
	t.Helper()
	tr := SystemdTree(t)
	const md5OfApp = "d2a57dc1d883fd21fb9951699df71cc7" // md5sum of "app"
	for p, text := range map[string]string{
		"var/lib/dpkg/status": "Package: app\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0\n" +
			"Conffiles:\n /etc/app.conf " + md5OfApp + "\n /etc/same.conf " + md5OfApp + "\nDescription: x\n /etc/not 1\n\n" +
			"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n",
		"var/lib/dpkg/info/app.list": "/.\n/lib\n/lib/app\n/usr/bin\n/usr/bin/app\n/usr/bin/edited\n/usr/bin/old\n" +
			"/etc\n/etc/app.conf\n/etc/same.conf\n/opt\n",
		"var/lib/dpkg/info/app.md5sums": md5OfApp + "  usr/bin/app\n" + md5OfApp + "  usr/bin/edited\n" + md5OfApp +
			"  lib/app\n" + md5OfApp + "  usr/bin/old\n",
		"var/lib/dpkg/diversions": "/usr/bin/old\n/usr/bin/old.distrib\nlocal\n",
		"var/lib/ucf/hashfile":    md5OfApp + "  /etc/ucf.conf\n",
		"usr/lib/app":             "app", "usr/bin/app": "app", "usr/bin/edited": "patched", "usr/bin/old": "mine",
		"usr/bin/old.distrib": "app", "etc/app.conf": "edited", "etc/same.conf": "app", "etc/ucf.conf": "edited too",
		"opt/tool/a": "12345", "opt/tool/deep/b": "123", "usr/local/bin/script": "x", "etc/mine.conf": "x",
		"var/log/x.log": "x", "usr/lib/python3/__pycache__/x.pyc": "x",
	} {
		if err := tr.PutFile(p, 0o644, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

// SealedImage is a store with a small image that has a UKI of the given systemd-stub and a root of
// zeros. Its dm-verity root hash is invented.
func SealedImage(t *testing.T, stub []byte) (*image.Store, image.Image) {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	hash := strings.Repeat("0123456789abcdef", 4)
	kernel, first := bytes.Repeat([]byte("kernel"), 10_000), []byte("an initramfs of odd length!")
	f, err := os.Create(filepath.Join(dir, "uki"))
	if err != nil {
		t.Fatal(err)
	}
	section := func(name string, content []byte) uki.Section {
		return uki.Section{Name: name, Size: int64(len(content)), Content: bytes.NewReader(content)}
	}
	if _, err := uki.Write(f, stub, []uki.Section{section(".osrel", []byte("ID=lab\n")),
		section(".cmdline", []byte("quiet ingot.roothash="+hash)),
		section(".uname", []byte("6.12")), section(".initrd", first), section(".linux", kernel)}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := image.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keys, err := image.LoadOrCreateKeys(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	im, err := s.Put(t.Context(), &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: "v1",
		Arch: ingot.AMD64, Created: time.Unix(1, 0).UTC(),
		Verity: &ingot.Verity{RootHash: hash, HashOffset: 8192}},
		image.Files{Kernel: write("kernel", kernel), Initramfs: write("initramfs", first),
			Root: write("root", make([]byte, 16384)), Plan: write("plan", []byte("{}")), UKI: f.Name()},
		keys.Release.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return s, im
}

// TreesProfile writes a profile with a container image as its base and a
// folder and a tarball over it.
func TreesProfile(t *testing.T) (dir string, load func() *profiles.Profile) {
	t.Helper()
	dir = t.TempDir()
	Layout(t, filepath.Join(dir, "image"), SystemdTree(t))
	over := tree.New()
	if err := errors.Join(over.PutFile("etc/from-tar", 0o600, []byte("tar")),
		over.Put(tree.Entry{Path: "etc/owned", Kind: tree.File, Mode: 0o644, UID: 7, Open: tree.Bytes(nil)})); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "over.tar"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(over.WriteTar(t.Context(), f, MadeAt), f.Close(),
		os.MkdirAll(filepath.Join(dir, "www/css"), 0o755),
		os.WriteFile(filepath.Join(dir, "www/css/a.css"), []byte("css"), 0o644),
		os.Chmod(filepath.Join(dir, "www"), 0o700)); err != nil {
		t.Fatal(err)
	}
	text := "name: web\nextends: lab\nbase: {oci: ./image}\nlayers:\n  - {tar: ./over.tar}\n" +
		"  - {dir: ./www, into: /srv/www}\n"
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

// Module is an ELF file like a kernel module that may load firmware.
func Module(t *testing.T, firmware ...string) []byte {
	t.Helper()
	info := "license=GPL\x00"
	for _, name := range firmware {
		info += "firmware=" + name + "\x00"
	}
	const names, header, section = "\x00.modinfo\x00.shstrtab\x00", 64, 64
	h := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: header,
		Shoff: uint64(header + len(info) + len(names)), Shentsize: section, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], []byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)})
	var b bytes.Buffer
	for _, part := range []any{h, []byte(info), []byte(names), elf.Section64{},
		elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: header, Size: uint64(len(info))},
		elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(header + len(info)), Size: uint64(len(names))}} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}
