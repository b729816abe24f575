package builder

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"ingot"
	"ingot/builder/uki"
	"ingot/image"
)

// sealed is a store with a small image that has a real UKI and a root of zeros.
func sealed(t *testing.T) (*image.Store, image.Image) {
	t.Helper()
	stub, err := os.ReadFile("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("systemd-boot-efi is not installed; run scripts/setup test")
		}
		t.Skip("systemd-boot-efi is not installed")
	}
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
	if _, err := uki.Write(f, stub, []uki.Section{sectionOf(".osrel", []byte("ID=lab\n")), sectionOf(".cmdline", []byte("quiet ingot.roothash="+hash)),
		sectionOf(".uname", []byte("6.12")), sectionOf(".initrd", first), sectionOf(".linux", kernel)}); err != nil {
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
	im, err := s.Put(t.Context(), &ingot.ImageManifest{Schema: 1, Profile: "lab", Version: "v1", Arch: ingot.AMD64, Created: time.Unix(1, 0).UTC(),
		Verity: &ingot.Verity{RootHash: hash, HashOffset: 8192}},
		image.Files{Kernel: write("kernel", kernel), Initramfs: write("initramfs", first), Root: write("root", make([]byte, 16384)), Plan: write("plan", []byte("{}")), UKI: f.Name()},
		keys.Release.Secret)
	if err != nil {
		t.Fatal(err)
	}
	return s, im
}

// TestSplitUKI: a UKI that is taken apart and assembled again is the same.
func TestSplitUKI(t *testing.T) {
	s, im := sealed(t)
	b, err := os.ReadFile(s.Blob(im.Manifest.UKI.Digest))
	if err != nil {
		t.Fatal(err)
	}
	stub, sections, err := splitUKI(b)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "again"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := uki.Write(out, stub, sections); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(out.Name()); err != nil || !bytes.Equal(again, b) {
		t.Errorf("assembled again it has %d bytes, %v; want the same %d", len(again), err, len(b))
	}
}

// TestLocalUKI: the exported UKI says where the root is, and its initramfs has
// the image's manifest behind what it had.
func TestLocalUKI(t *testing.T) {
	s, im := sealed(t)
	path := filepath.Join(t.TempDir(), "uki")
	if err := localUKI(s, im, "iso/X", path); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sections, err := uki.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range sections {
		b, err := io.ReadAll(section.Content)
		if err != nil {
			t.Fatal(err)
		}
		switch section.Name {
		case ".cmdline":
			if want := "quiet ingot.roothash=" + im.Manifest.Verity.RootHash + " ingot.local=iso/X"; string(b) != want {
				t.Errorf("command line %q; want %q", b, want)
			}
		case ".initrd":
			const before = 28 // 27 bytes, filled up to a multiple of four
			r := cpio.NewReader(bytes.NewReader(b[before:]))
			for {
				h, err := r.Next()
				if err != nil {
					t.Fatalf("looking for the manifest: %v", err)
				}
				if "/"+h.Name == ingot.LocalFile {
					break
				}
			}
			if text, err := io.ReadAll(r); err != nil || !bytes.Contains(text, []byte(im.Digest)) {
				t.Errorf("the manifest in the initramfs: %.80q, %v", text, err)
			}
		}
	}
}

func TestExport(t *testing.T) {
	s, im := sealed(t)
	dir := t.TempDir()
	for _, medium := range []Medium{RawDisk, ISO} {
		var seen [2][]byte
		for i := range seen {
			path := filepath.Join(dir, "out."+string(medium))
			if err := Export(t.Context(), s, im, path, ExportOptions{Medium: medium}); err != nil {
				t.Fatal(err)
			}
			var err error
			if seen[i], err = os.ReadFile(path); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(seen[0], seen[1]) {
			t.Errorf("two exports as %s differ", medium)
		}
	}
	if err := Export(t.Context(), s, im, dir, ExportOptions{Medium: RawDisk}); !errors.Is(err, ErrNotFile) {
		t.Errorf("exporting over a folder: %v; want ErrNotFile", err)
	}
	bare := im
	bare.Manifest.UKI = nil
	if err := Export(t.Context(), s, bare, filepath.Join(dir, "bare"), ExportOptions{Medium: RawDisk}); !errors.Is(err, ErrNoLocalBoot) {
		t.Errorf("exporting an image without a UKI: %v; want ErrNoLocalBoot", err)
	}
	if err := Export(t.Context(), s, im, filepath.Join(dir, "signed"), ExportOptions{Medium: RawDisk, Key: "/none", Certificate: "/none"}); err == nil {
		t.Error("exporting with a key that is not there succeeds")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 {
		t.Errorf("failed exports leave %v", left)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".ingot-*")); len(left) != 0 {
		t.Errorf("exports leave %v", left)
	}
}

// TestExportSigned lets sbverify judge the UKI of a disk for Secure Boot.
func TestExportSigned(t *testing.T) {
	for _, tool := range []string{"sbsign", "sbverify", "openssl", "mcopy"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is not installed; run scripts/setup test", tool)
			}
			t.Skipf("%s is not installed", tool)
		}
	}
	s, im := sealed(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=db", "-keyout", at("key"), "-out", at("crt"))
	if err := Export(t.Context(), s, im, at("disk"), ExportOptions{Medium: RawDisk, Key: at("key"), Certificate: at("crt")}); err != nil {
		t.Fatal(err)
	}
	run("mcopy", "-i", at("disk")+"@@1M", "::EFI/BOOT/BOOTX64.EFI", at("uki"))
	run("sbverify", "--cert", at("crt"), at("uki"))
}
