//go:build e2e

package testvm

import (
	"bytes"
	"debug/pe"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem"
	"github.com/diskfs/go-diskfs/filesystem/fat32"

	"ingot"
)

// TestSceneMeasured: UEFI boots the UKI of an image, signed for Secure Boot, from a
// disk; a TPM holds in PCR 11 what the manifest predicts; ingot-init begins.
// The UKI is the image's own: what tells the value comes as an addon of the
// stub, which is measured elsewhere (systemd-stub(7): PCR 12).
func TestSceneMeasured(t *testing.T) {
	requireAll(t)
	s := newStage(t)
	for _, args := range [][]string{
		{"openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "db.key", "-out", "db.crt", "-days",
			"9", "-subj", "/CN=lab/"},
		{filepath.Join(bin, "ingot"), "--store", s.store, "image", "sign", "lab:v1", "--secure-boot-key", "db.key",
			"--secure-boot-cert", "db.crt"},
	} {
		s.tool(args...)
	}
	var im struct {
		Manifest ingot.ImageManifest
		OCI      struct {
			Layers []struct{ MediaType, Digest string }
		}
		Referrers []struct {
			Type    string
			Content ingot.Artifact
		}
	}
	if err := json.Unmarshal([]byte(s.run("image", "inspect", "lab:v1", "-o", "json")), &im); err != nil {
		t.Fatal(err)
	}
	blob := func(d string) string {
		return filepath.Join(s.store, "images/blobs/sha256", strings.TrimPrefix(d, "sha256:"))
	}
	var signed string
	for _, r := range im.Referrers {
		if r.Type == ingot.ArtifactSignedUKI {
			signed = blob(string(r.Content.Digest))
		}
	}
	s.tool("sbverify", "--cert", "db.crt", signed)
	var plan string
	for _, l := range im.OCI.Layers {
		if l.MediaType == ingot.MediaTypePlan {
			plan = blob(l.Digest)
		}
	}
	esp := s.esp(map[string]string{
		"/EFI/BOOT/BOOTX64.EFI":                         signed,
		"/EFI/BOOT/BOOTX64.EFI.extra.d/probe.addon.efi": s.addon(plan),
	})
	vm, err := s.lan.StartVM(s.ctx, Config{Name: "measured", Firmware: UEFI, MAC: "52:54:00:12:00:77", Offline: true,
		TPM: true, Disks: []Disk{esp}})
	if err != nil {
		t.Fatal(err)
	}
	for _, bank := range []string{"sha256", "sha384"} {
		m, err := vm.Console.WaitFor(s.ctx, `probe: (PCR11 `+bank+`=([0-9a-f]+)|[a-z].*)\r?\n`)
		if err != nil {
			t.Fatal(err)
		}
		if want := im.Manifest.PCR11[bank]; m[2] != want {
			t.Errorf("PCR 11 of the bank %s: the machine says %q; want %s", bank, m[1], want)
		}
	}
	if _, err := vm.Console.WaitFor(s.ctx, `probe: becoming /init(?s:.*)(?i:ingot)`); err != nil {
		t.Fatal(err)
	}
}

// tool runs a program in the scene's folder; it must succeed.
func (s *stage) tool(argv ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.ctx, argv[0], argv[1:]...)
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// esp is a disk with one FAT filesystem that holds the files, by path on it.
func (s *stage) esp(files map[string]string) Disk {
	s.t.Helper()
	const size = 128 << 20
	d, err := NewDisk(filepath.Join(s.dir, "esp.img"), "SER-esp", size)
	if err != nil {
		s.t.Fatal(err)
	}
	f, err := os.OpenFile(d.Path, os.O_RDWR, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	fs, err := fat32.Create(file.New(f, false), size, 0, 512, "ESP", true)
	if err != nil {
		s.t.Fatal(err)
	}
	for to, from := range files {
		s.copyTo(fs, to, from)
	}
	return d
}

func (s *stage) copyTo(fs filesystem.FileSystem, to, from string) {
	s.t.Helper()
	content, err := os.ReadFile(from)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := fs.Mkdir(filepath.Dir(to)); err != nil {
		s.t.Fatal(err)
	}
	out, err := fs.OpenFile(to, os.O_CREATE|os.O_RDWR)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := out.Write(content); err != nil {
		s.t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// addon is an addon of systemd-stub (from the package that the images' own
// stub is from) that starts the probe before ingot-init: objcopy puts an
// archive with the probe, and the argument that names it, into it.
func (s *stage) addon(planFile string) string {
	s.t.Helper()
	probe := filepath.Join(s.dir, "probe")
	cmd := exec.CommandContext(s.ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", probe, "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("building the probe: %v\n%s", err, out)
	}
	text, err := os.ReadFile(planFile)
	if err != nil {
		s.t.Fatal(err)
	}
	var plan struct{ Stub struct{ SHA256 string } }
	if err := json.Unmarshal(text, &plan); err != nil {
		s.t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		s.t.Fatal(err)
	}
	s.tool("dpkg-deb", "--extract", filepath.Join(cache, "ingot/debs", plan.Stub.SHA256+".deb"), "stub")
	stub := filepath.Join(s.dir, "stub/usr/lib/systemd/boot/efi/addonx64.efi.stub")
	for name, content := range map[string][]byte{"cmdline": []byte("rdinit=/probe"), "ucode": s.archive(probe)} {
		if err := os.WriteFile(filepath.Join(s.dir, name), content, 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	argv := []string{"objcopy"}
	base := s.base(stub)
	for name, offset := range map[string]int64{"cmdline": 0x20000, "ucode": 0x30000} {
		argv = append(argv, "--add-section", "."+name+"="+name, "--set-section-flags", "."+name+"=data,readonly,alloc,load",
			"--change-section-vma", fmt.Sprintf(".%s=%#x", name, base+offset))
	}
	s.tool(append(argv, stub, "probe.addon.efi")...)
	return filepath.Join(s.dir, "probe.addon.efi")
}

// base is the address that a stub's sections are counted from.
func (s *stage) base(stub string) int64 {
	s.t.Helper()
	f, err := pe.Open(stub)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	return int64(f.OptionalHeader.(*pe.OptionalHeader64).ImageBase)
}

// archive is an initramfs that holds one program.
func (s *stage) archive(program string) []byte {
	s.t.Helper()
	content, err := os.ReadFile(program)
	if err != nil {
		s.t.Fatal(err)
	}
	var b bytes.Buffer
	w := cpio.NewWriter(&b)
	header := &cpio.Header{Name: "probe", Mode: cpio.TypeReg | 0o755, Size: int64(len(content))}
	if err := w.WriteHeader(header); err != nil {
		s.t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		s.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	return b.Bytes()
}
