package firmware

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"ingot/builder/tree"
)

func compressed(t *testing.T, text string, open func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := open(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// firmwareTree is a root with firmware in each form in which the kernel finds it.
func firmwareTree(t *testing.T) *tree.Tree {
	t.Helper()
	root := tree.New()
	for name, content := range map[string][]byte{
		"plain.bin": []byte("plain"), "updates/plain.bin": []byte("newer"), "bnx2/a-1.fw": []byte("a1"),
		"bnx2/a-2.fw.zst":      compressed(t, "a2", func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
		"rtl.fw.xz":            compressed(t, "rtl", func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }),
		"broken.fw.xz":         []byte("no xz"),
		"intel-ucode/06-01-02": []byte("I1"), "intel-ucode/06-01-03.initramfs": []byte("I2"),
		"intel-ucode/README": []byte("no"), "amd-ucode/microcode_amd.bin": []byte("A1"),
		"amd-ucode/microcode_amd.bin.asc": []byte("no"), "amd-ucode/microcode_amd_fam15h.bin": []byte("A2"),
	} {
		if err := root.PutFile(Dir+"/"+name, 0o644, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := root.PutLink(Dir+"/link.fw", "rtl.fw"); err != nil {
		t.Fatal(err)
	}
	if err := root.PutLink(Dir+"/link.fw.xz", "rtl.fw.xz"); err != nil {
		t.Fatal(err)
	}
	if err := root.PutFile("etc/shadow", 0o600, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestFind(t *testing.T) {
	files, missing, err := Find(firmwareTree(t), []string{"plain.bin", "bnx2/a-*.fw", "rtl.fw", "link.fw", "gone.fw",
		"none-*.fw", "../../../etc/shadow"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"plain.bin": "newer", "bnx2/a-1.fw": "a1", "bnx2/a-2.fw": "a2", "rtl.fw": "rtl",
		"link.fw": "rtl"}
	for name, text := range want {
		if string(files[name]) != text {
			t.Errorf("%s = %q; want %q", name, files[name], text)
		}
	}
	if len(files) != len(want) {
		t.Errorf("found %d files; want %d", len(files), len(want))
	}
	if want := []string{"../../../etc/shadow", "gone.fw", "none-*.fw"}; !slices.Equal(missing, want) {
		t.Errorf("missing = %q; want %q", missing, want)
	}
	if _, _, err := Find(firmwareTree(t), []string{"broken.fw"}); err == nil {
		t.Error("a damaged file is no error")
	}
}

func TestPackage(t *testing.T) {
	for name, want := range map[string]string{"rtl_nic/rtl8168h-2.fw": "firmware-realtek", "bnx2/a.fw": "firmware-bnx2",
		"bnx2x/a.fw": "firmware-bnx2x", "other.fw": ""} {
		if got := Package(name); got != want {
			t.Errorf("Package(%s) = %q; want %q", name, got, want)
		}
	}
}

func TestMicrocode(t *testing.T) {
	files, err := Microcode(firmwareTree(t))
	if err != nil {
		t.Fatal(err)
	}
	intel, amd := files["/kernel/x86/microcode/GenuineIntel.bin"], files["/kernel/x86/microcode/AuthenticAMD.bin"]
	if len(files) != 2 || string(intel) != "I1I2" || string(amd) != "A1A2" {
		t.Errorf("Microcode = %q", files)
	}
	if files, err := Microcode(tree.New()); err != nil || len(files) != 0 {
		t.Errorf("Microcode of an empty root = %q, %v", files, err)
	}
}
