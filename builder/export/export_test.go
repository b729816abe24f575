package export

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cavaliergopher/cpio"

	"ingot"
	"ingot/builder/buildertest"
	"ingot/builder/secureboot"
	"ingot/builder/uki"
	"ingot/image"
	"ingot/internal/wire"
)

// sealed is a store with a small image.
func sealed(t *testing.T) (*image.Store, image.Image) {
	t.Helper()
	return buildertest.SealedImage(t, hostStub(t))
}

// hostStub is the systemd-stub of this host.
func hostStub(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if err != nil {
		wire.Cannot(t, "systemd-boot-efi is not installed; run scripts/setup test")
	}
	return b
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

func TestWrite(t *testing.T) {
	s, im := sealed(t)
	dir := t.TempDir()
	for _, medium := range []Medium{RawDisk, ISO} {
		var seen [2][]byte
		for i := range seen {
			path := filepath.Join(dir, "out."+string(medium))
			if err := Write(t.Context(), s, im, path, Options{Medium: medium}); err != nil {
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
	if err := Write(t.Context(), s, im, dir, Options{Medium: RawDisk}); !errors.Is(err, ErrNotFile) {
		t.Errorf("exporting over a folder: %v; want ErrNotFile", err)
	}
	bare := im
	bare.Manifest.UKI = nil
	if err := Write(t.Context(), s, bare, filepath.Join(dir, "bare"),
		Options{Medium: RawDisk}); !errors.Is(err, ErrNoLocalBoot) {
		t.Errorf("exporting an image without a UKI: %v; want ErrNoLocalBoot", err)
	}
	if err := Write(t.Context(), s, im, filepath.Join(dir, "signed"),
		Options{Medium: RawDisk, Sign: secureboot.KeyPair{Key: "/none", Certificate: "/none"}}); err == nil {
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
func TestWriteSigned(t *testing.T) {
	wire.Need(t, "sbsign", "sbverify", "openssl", "mcopy")
	s, im := sealed(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	wire.Run(t, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=db",
		"-keyout", at("key"), "-out", at("crt"))
	if err := Write(t.Context(), s, im, at("disk"),
		Options{Medium: RawDisk, Sign: secureboot.KeyPair{Key: at("key"), Certificate: at("crt")}}); err != nil {
		t.Fatal(err)
	}
	wire.Run(t, "mcopy", "-i", at("disk")+"@@1M", "::EFI/BOOT/BOOTX64.EFI", at("uki"))
	wire.Run(t, "sbverify", "--cert", at("crt"), at("uki"))
}
