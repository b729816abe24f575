package uki

import (
	"bytes"
	"crypto"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"debug/pe"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// referee is a program that judges; without it the test is skipped, but not in CI.
func referee(t *testing.T, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing; run scripts/setup test", n)
		}
		t.Skipf("%s is missing; run scripts/setup test", n)
	}
}

// hostStub is the systemd-stub of this host's package systemd-boot-efi. That
// of Debian 12 has a symbol table after its last section.
func hostStub(t *testing.T) []byte {
	t.Helper()
	const path = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"
	referee(t, path)
	return readFile(t, path)
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// makeStub is the smallest stub: a head with room for rows of sections, one
// section of code, and a tail.
func makeStub(rows int, tail string) []byte {
	b := make([]byte, 1024)
	le.PutUint32(b[0x3c:], 0x40)
	copy(b, "MZ")
	copy(b[0x40:], "PE\x00\x00")
	le.PutUint16(b[0x44:], pe.IMAGE_FILE_MACHINE_AMD64)
	le.PutUint16(b[0x46:], 1)
	le.PutUint16(b[0x54:], 240)
	o := b[0x58:]
	le.PutUint16(o, 0x20b)
	le.PutUint32(o[32:], 4096)
	le.PutUint32(o[36:], 512)
	le.PutUint32(o[60:], uint32(0x58+240+40*(1+rows)))
	le.PutUint32(o[108:], 16)
	s := o[240:]
	copy(s, ".text")
	for i, v := range []uint32{7, 4096, 512, 512} {
		le.PutUint32(s[8+4*i:], v)
	}
	copy(b[512:], "program")
	if tail != "" {
		le.PutUint32(b[0x40+4+8:], 1024) // a symbol table
		le.PutUint32(o[112+4*8:], 1024)  // a signature
		le.PutUint32(o[112+4*8+4:], uint32(len(tail)))
	}
	return append(b, tail...)
}

// symbols is a symbol table of nothing but an empty table of strings.
const symbols = "\x08\x00\x00\x00tail"

// parts is the content of an image's sections, by name.
func parts(pairs ...string) (list []Section) {
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, Section{pairs[i], int64(len(pairs[i+1])), strings.NewReader(pairs[i+1])})
	}
	return list
}

// some is an image like ours in small, with sizes around the alignments.
func some() []string {
	return []string{".osrel", "ID=debian\n", ".cmdline", "quiet", ".uname", strings.Repeat("u", 512), ".initrd",
		strings.Repeat("initrd ", 1171), ".linux", strings.Repeat("linux\x00", 50000) + "!"}
}

func write(t *testing.T, stub []byte, pairs ...string) (path string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "uki.efi"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := Write(f, stub, parts(pairs...))
	if err != nil {
		t.Fatal(err)
	}
	if st, err := f.Stat(); err != nil || st.Size() != size {
		t.Fatalf("Write returned %d; the file has %v bytes, %v", size, st.Size(), err)
	}
	return f.Name()
}

// contents are the sections that an image has besides those of the stub.
func contents(t *testing.T, path string, stub []byte) (pairs []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	own, err := Read(bytes.NewReader(stub))
	if err != nil {
		t.Fatal(err)
	}
	all, err := Read(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all[len(own):] {
		b, err := io.ReadAll(s.Content)
		if err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, s.Name, string(b))
	}
	return pairs
}

func TestSections(t *testing.T) {
	for name, stub := range map[string][]byte{"small": makeStub(5, ""), "with a tail": makeStub(5, symbols)} {
		path := write(t, stub, some()...)
		if diff := cmp.Diff(some(), contents(t, path, stub)); diff != "" {
			t.Errorf("%s: sections (-want +got):\n%s", name, diff)
		}
		image := readFile(t, path)
		if !bytes.Equal(image, readFile(t, write(t, makeStub(5, ""), some()...))) {
			t.Errorf("%s: the tail of the stub or chance changes the image", name)
		}
		f, err := pe.NewFile(bytes.NewReader(image))
		if err != nil {
			t.Fatal(err)
		}
		o := f.OptionalHeader.(*pe.OptionalHeader64)
		if f.PointerToSymbolTable != 0 || o.DataDirectory[4].VirtualAddress != 0 {
			t.Errorf("%s: symbols at %d, signature at %d; want none", name, f.PointerToSymbolTable,
				o.DataDirectory[4].VirtualAddress)
		}
		var end uint32 = 4096
		for _, s := range f.Sections {
			if s.VirtualAddress%4096 != 0 || s.Offset%512 != 0 || s.Size%512 != 0 || s.VirtualAddress < end {
				t.Errorf("%s: section %+v is not aligned or overlaps with another", name, s.SectionHeader)
			}
			end = s.VirtualAddress + s.VirtualSize
		}
		if o.SizeOfImage != (end+4095)/4096*4096 {
			t.Errorf("%s: size of the image = %d; want the last section's end %d, rounded up", name, o.SizeOfImage, end)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name     string
		stub     []byte
		sections []Section
		want     error
	}{
		{"no program", []byte("#!/bin/sh"), nil, ErrStub},
		{"truncated", makeStub(1, "")[:700], nil, ErrStub},
		{"no room", makeStub(1, ""), parts(".a", "a", ".b", "b"), ErrStub},
		{"long name", makeStub(1, ""), parts(".longname", "a"), ErrSection},
		{"no dot", makeStub(1, ""), parts("linux", "a"), ErrSection},
		{"empty", makeStub(1, ""), parts(".linux", ""), ErrSection},
		{"twice", makeStub(2, ""), parts(".linux", "a", ".linux", "b"), ErrSection},
		{"the stub's own", makeStub(2, ""), parts(".text", "a"), ErrSection},
		{"shorter than said", makeStub(2, ""), []Section{{".linux", 5, strings.NewReader("four")}}, ErrSection},
		{"too large", makeStub(2, ""), []Section{{".linux", 1 << 32, strings.NewReader("")}}, ErrSection},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "uki.efi"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Write(f, c.stub, c.sections); !errors.Is(err, c.want) {
			t.Errorf("%s: Write = %v; want %v", c.name, err, c.want)
		}
		f.Close()
	}
}

// TestSigning: sbsign signs an image, sbverify accepts it and refuses it
// when a bit is another, objcopy finds the sections as they were, and signing
// changes nothing that is measured.
func TestSigning(t *testing.T) {
	referee(t, "sbsign", "sbverify", "openssl", "objcopy")
	stub := hostStub(t)
	path := write(t, stub, some()...)
	dir := filepath.Dir(path)
	tool := func(name string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	must := func(name string, args ...string) {
		t.Helper()
		out, err := tool(name, args...)
		if err != nil || strings.Contains(out, "warning") {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	must("openssl", "req", "-new", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "k.pem", "-out", "c.pem",
		"-days", "9", "-subj", "/CN=test/")
	must("sbsign", "--key", "k.pem", "--cert", "c.pem", "--output", "signed.efi", path)
	must("sbverify", "--cert", "c.pem", "signed.efi")
	for _, p := range []string{path, filepath.Join(dir, "signed.efi")} {
		if diff := cmp.Diff(some(), contents(t, p, stub)); diff != "" {
			t.Errorf("sections of %s (-want +got):\n%s", filepath.Base(p), diff)
		}
		must("objcopy", "--dump-section", ".linux=linux", p, "copy.efi")
		if got := string(readFile(t, filepath.Join(dir, "linux"))); got != some()[9] {
			t.Errorf("objcopy finds %d bytes of .linux; want %d", len(got), len(some()[9]))
		}
	}
	a, b := pcr11(t, path, crypto.SHA256), pcr11(t, filepath.Join(dir, "signed.efi"), crypto.SHA256)
	if a != b {
		t.Errorf("signing changes PCR 11 from %s to %s", a, b)
	}
	bad := readFile(t, filepath.Join(dir, "signed.efi"))
	plain := readFile(t, path)
	if ok, err := IsSigned(bytes.NewReader(bad), bytes.NewReader(plain), int64(len(plain))); err != nil || !ok {
		t.Errorf("IsSigned of what sbsign made = %v, %v; want true", ok, err)
	}
	bad[bytes.Index(bad, []byte("quiet"))] ^= 1
	if err := os.WriteFile(filepath.Join(dir, "signed.efi"), bad, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := tool("sbverify", "--cert", "c.pem", "signed.efi"); err == nil {
		t.Errorf("sbverify accepts other arguments: %s", out)
	}
}

// TestChecksum: the linker that made the host's stub computed the same.
func TestChecksum(t *testing.T) {
	stub := hostStub(t)
	h, err := parseStub(stub)
	if err != nil {
		t.Fatal(err)
	}
	at := h.optional + optCheckSum
	want := le.Uint32(stub[at:])
	if want == 0 {
		t.Skip("this stub has no checksum")
	}
	clear(stub[at : at+4])
	for _, piece := range []int{1, 7, len(stub)} {
		c := &checksummer{w: io.Discard}
		for b := stub; len(b) > 0; b = b[min(piece, len(b)):] {
			if _, err := c.Write(b[:min(piece, len(b))]); err != nil {
				t.Fatal(err)
			}
		}
		if got := c.sum(); got != want {
			t.Errorf("checksum in pieces of %d = %d; want %d", piece, got, want)
		}
	}
}

func pcr11(t *testing.T, path string, bank crypto.Hash) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum, err := PCR11(f, bank)
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(sum)
}

// TestSystemdMeasure: the host's own tool predicts the same. That of Debian 12
// knows neither .uname nor .sbat; package builder asks that of Debian 13.
func TestSystemdMeasure(t *testing.T) {
	const tool = "/usr/lib/systemd/systemd-measure"
	referee(t, tool)
	pairs := some()
	pairs = append(pairs[:4], pairs[6:]...)
	path := write(t, makeStub(5, ""), pairs...)
	for bank, hash := range map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384} {
		args := []string{"calculate", "--bank=" + bank, "--phase="}
		for i := 0; i < len(pairs); i += 2 {
			file := filepath.Join(t.TempDir(), "section")
			if err := os.WriteFile(file, []byte(pairs[i+1]), 0o644); err != nil {
				t.Fatal(err)
			}
			args = append(args, "--"+pairs[i][1:]+"="+file)
		}
		out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if got := pcr11(t, path, hash); !strings.Contains(string(out), "11:"+bank+"="+got) {
			t.Errorf("PCR11(%s) = %s; systemd-measure says %s", bank, got, out)
		}
	}
}

// FuzzRead: an image from outside is read or refused.
func FuzzRead(f *testing.F) {
	f.Add(makeStub(3, ""))
	f.Add(makeStub(0, symbols))
	f.Fuzz(func(t *testing.T, b []byte) {
		sections, err := Read(bytes.NewReader(b))
		if err != nil {
			return
		}
		for _, s := range sections {
			n, _ := io.Copy(io.Discard, io.LimitReader(s.Content, 1<<16))
			if n > s.Size {
				t.Errorf("%q has %d bytes, more than %d", s.Name, n, s.Size)
			}
		}
		if h, err := parseStub(b); err == nil && h.body > int64(len(b)) {
			t.Errorf("a stub of %d bytes ends at %d", len(b), h.body)
		}
	})
}

// BenchmarkWrite assembles as much as kernel and initramfs of a node.
func BenchmarkWrite(b *testing.B) {
	content := make([]byte, 36<<20)
	b.SetBytes(int64(len(content)))
	f, err := os.Create(filepath.Join(b.TempDir(), "uki.efi"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for b.Loop() {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			b.Fatal(err)
		}
		if _, err := Write(f, makeStub(1, ""),
			[]Section{{".linux", int64(len(content)), bytes.NewReader(content)}}); err != nil {
			b.Fatal(err)
		}
	}
}
