package builder

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/builder/squashfs"
	"ingot/builder/tree"
	"ingot/builder/uki"
	"ingot/image"
	"ingot/internal/wire"
	"ingot/profiles"
)

// sealedRoot is a root of some files with its hash tree.
func sealedRoot(t *testing.T, profile string) (*build, image.Files, *ingot.Verity) {
	t.Helper()
	tr := tree.New()
	for i := range 40 {
		content := bytes.Repeat([]byte{byte(i), byte(i * 7)}, 5000*i)
		if err := tr.PutFile(fmt.Sprintf("usr/share/f%d", i), 0o644, content); err != nil {
			t.Fatal(err)
		}
	}
	b := &build{p: &profiles.Profile{Name: profile, Arch: ingot.AMD64}, work: t.TempDir()}
	files := image.Files{Root: b.at("root")}
	f, err := os.Create(files.Root)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := squashfs.Write(t.Context(), f, squashEntries(tr, 0), squashfs.Options{Compression: squashfs.None})
	if err != nil {
		t.Fatal(err)
	}
	files.Chunks = info.Cuts
	v, err := b.appendVerity(t.Context(), &files)
	if err != nil {
		t.Fatal(err)
	}
	return b, files, v
}

// TestSealedRoot: veritysetup accepts the root with its tree and refuses it
// when it was tampered with; it still is the squashfs that it was; the chunks
// cover all of it; another profile's tree is another.
func TestSealedRoot(t *testing.T) {
	wire.Need(t, "unsquashfs", "/usr/sbin/veritysetup")
	_, files, v := sealedRoot(t, "web")
	st, err := os.Stat(files.Root)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, c := range files.Chunks {
		sum += c
	}
	if sum != st.Size() || v.HashOffset >= sum {
		t.Errorf("chunks add up to %d, the hash tree begins at %d; the root has %d bytes", sum, v.HashOffset, st.Size())
	}
	verify := []string{"verify", files.Root, files.Root, v.RootHash, fmt.Sprintf("--hash-offset=%d", v.HashOffset)}
	wire.Run(t, append([]string{"/usr/sbin/veritysetup"}, verify...)...)
	if dump := wire.Run(t, "/usr/sbin/veritysetup", "dump", files.Root,
		fmt.Sprintf("--hash-offset=%d", v.HashOffset)); !strings.Contains(dump, v.UUID) || !strings.Contains(dump, v.Salt) {
		t.Errorf("veritysetup sees another UUID than %s or salt than %s:\n%s", v.UUID, v.Salt, dump)
	}
	out := filepath.Join(t.TempDir(), "out")
	if text := wire.Run(t, "unsquashfs", "-n", "-q", "-d", out, files.Root); strings.Contains(strings.ToLower(text),
		"warning") {
		t.Errorf("unsquashfs warns: %s", text)
	}
	if b, err := os.ReadFile(filepath.Join(out, "usr/share/f39")); err != nil || len(b) != 2*5000*39 {
		t.Errorf("a file has %d bytes (%v); want %d", len(b), err, 2*5000*39)
	}
	f, err := os.OpenFile(files.Root, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if c, err := ReadContents(f); err != nil || c.Get("usr/share/f39") == nil {
		t.Errorf("our own reader does not find the files: %v", err)
	}
	if _, err := f.WriteAt([]byte{1}, v.HashOffset-1); err != nil {
		t.Fatal(err)
	}
	if err := exec.CommandContext(t.Context(), "/usr/sbin/veritysetup", verify...).Run(); err == nil {
		t.Error("veritysetup accepts a root that was tampered with")
	}
	_, _, same := sealedRoot(t, "web")
	if diff := cmp.Diff(v, same); diff != "" {
		t.Errorf("the same root again (-want +got):\n%s", diff)
	}
	if _, _, other := sealedRoot(t, "node"); other.UUID == v.UUID || other.Salt == v.Salt {
		t.Errorf("two profiles share UUID %s or salt", v.UUID)
	}
}

// TestKernelMountsSealedRoot: the kernel mounts the root with its tree.
func TestKernelMountsSealedRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	_, files, _ := sealedRoot(t, "web")
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop,ro", "-t", "squashfs", files.Root,
		dir).CombinedOutput(); err != nil {
		t.Skipf("this kernel mounts no squashfs: %s", out)
	}
	defer func() { wire.Run(t, "umount", dir) }()
	if b, err := os.ReadFile(filepath.Join(dir, "usr/share/f39")); err != nil || len(b) != 2*5000*39 {
		t.Errorf("a file has %d bytes (%v); want %d", len(b), err, 2*5000*39)
	}
}

// hostStub is the systemd-stub of this host; images take Debian 13's.
func hostStub(t *testing.T) []byte {
	t.Helper()
	stub, err := os.ReadFile("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if err != nil {
		wire.Cannot(t, "systemd-boot-efi is not installed; run scripts/setup test")
	}
	return stub
}

// someUKI is a UKI of small parts.
func someUKI(t *testing.T, b *build, v *ingot.Verity, linux string) (path string, m *ingot.ImageManifest) {
	t.Helper()
	root := tree.New()
	release := "ID=debian\nIMAGE_ID=old\nVERSION_ID=13"
	if err := root.PutFile("usr/lib/os-release", 0o644, []byte(release)); err != nil {
		t.Fatal(err)
	}
	m = &ingot.ImageManifest{Profile: "web", Version: "1", Arguments: []string{"quiet", `a="b c"`, "panic=10"}, Verity: v,
		KernelRelease: "6.12"}
	initramfs := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(initramfs, []byte("initramfs"), 0o644); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "uki.efi")
	if err := writeUKI(path, hostStub(t), b.ukiParts(root, []byte(linux), m), initramfs); err != nil {
		t.Fatal(err)
	}
	return path, m
}

func TestUKI(t *testing.T) {
	b, _, v := sealedRoot(t, "web")
	path, _ := someUKI(t, b, v, "linux")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sections, err := uki.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, s := range sections {
		var content bytes.Buffer
		if _, err := content.ReadFrom(s.Content); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(".osrel .cmdline .uname .initrd .linux", s.Name) {
			got[s.Name] = content.String()
		}
	}
	want := map[string]string{".osrel": "ID=debian\nVERSION_ID=13\nIMAGE_ID=web\nIMAGE_VERSION=1\n", ".uname": "6.12",
		".cmdline": `quiet a="b c" panic=10 ingot.roothash=` + v.RootHash, ".initrd": "initramfs", ".linux": "linux"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sections (-want +got):\n%s", diff)
	}
	if pcr, err := predictPCR11(path); err != nil || len(pcr["sha256"]) != 64 || len(pcr["sha384"]) != 96 {
		t.Errorf("predictPCR11 = %v, %v; want values of two banks", pcr, err)
	}
}
