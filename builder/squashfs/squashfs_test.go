package squashfs

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed; run scripts/setup test", name)
		}
		t.Skipf("%s is not installed", name)
	}
}

func testTar(t *testing.T, epoch time.Time) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./bin/su", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 5},
		{Name: "./bin/ping", Typeflag: tar.TypeReg, Mode: 0o755, Uid: 7, Gid: 70000, Size: 5,
			PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}},
		{Name: "./link", Typeflag: tar.TypeSymlink, Linkname: "bin/su", Mode: 0o777},
		{Name: "./null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666},
		{Name: "./hard", Typeflag: tar.TypeLink, Linkname: "./bin/su", Mode: 0o4755},
	} {
		h.ModTime, h.Format = epoch, tar.FormatPAX
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestWrite lets unsquashfs judge: modes, owners, devices, links, and a root
// folder that is not 0777.
func TestWrite(t *testing.T) {
	needTool(t, "tar2sqfs")
	needTool(t, "unsquashfs")
	epoch := time.Unix(1_700_000_000, 0)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, out := range []string{a, b} {
		if err := Write(t.Context(), bytes.NewReader(testTar(t, epoch)), out, Options{Epoch: epoch}); err != nil {
			t.Fatal(err)
		}
	}
	first, errA := os.ReadFile(a)
	second, errB := os.ReadFile(b)
	if errA != nil || errB != nil || !bytes.Equal(first, second) {
		t.Errorf("the same tar gives different images (%v, %v)", errA, errB)
	}
	cmd := exec.Command("unsquashfs", "-lln", a)
	cmd.Env = append(os.Environ(), "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("unsquashfs: %v: %s", err, out)
	}
	got := strings.Join(strings.Fields(string(out)), " ")
	for _, want := range []string{
		"drwxr-xr-x 0/0", "-rwsr-xr-x 0/0 5 2023-11-14 22:13 squashfs-root/bin/su", "-rwxr-xr-x 7/70000 5",
		"lrwxrwxrwx 0/0 6 2023-11-14 22:13 squashfs-root/link -> bin/su", "crw-rw-rw- 0/0 1, 3", "-rwsr-xr-x 0/0 5 2023-11-14 22:13 squashfs-root/hard",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("unsquashfs does not show %q in\n%s", want, out)
		}
	}
}

func TestWriteRefusesGarbage(t *testing.T) {
	needTool(t, "tar2sqfs")
	err := Write(t.Context(), strings.NewReader(strings.Repeat("not a tar", 1000)), filepath.Join(t.TempDir(), "x"), Options{})
	if err == nil {
		t.Error("Write takes garbage for a tar")
	}
}
