package initramfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"ingot/builder/tree"
)

const release = "6.12.0-test"

func packed(t *testing.T, text string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := xz.NewWriter(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// kernelTree is a small /usr/lib/modules as depmod leaves it.
func kernelTree(t *testing.T) *tree.Tree {
	t.Helper()
	tr := tree.New()
	dir := "usr/lib/modules/" + release + "/"
	for name, content := range map[string][]byte{
		"kernel/fs/ext4/ext4.ko.xz": packed(t, "ext4"), "kernel/fs/jbd2/jbd2.ko.xz": packed(t, "jbd2"),
		"kernel/lib/crc32c-generic.ko.xz":             packed(t, "crc"),
		"kernel/arch/x86/crc32c-intel.ko.xz":          packed(t, "crc of Intel"),
		"kernel/drivers/net/virtio_net.ko.xz":         packed(t, "virtio_net"),
		"kernel/drivers/net/ethernet/intel/igb.ko.xz": packed(t, "igb"),
		"kernel/drivers/net/ethernet/other/old.ko.xz": packed(t, "old"),
		"kernel/sound/snd.ko.xz":                      packed(t, "noise"),
		"modules.dep": []byte("kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz\nkernel/fs/jbd2/jbd2.ko.xz:\n" +
			"kernel/lib/crc32c-generic.ko.xz:\nkernel/arch/x86/crc32c-intel.ko.xz:\n" +
			"kernel/drivers/net/virtio_net.ko.xz:\nkernel/drivers/net/ethernet/intel/igb.ko.xz:\n" +
			"kernel/drivers/net/ethernet/other/old.ko.xz:\nkernel/sound/snd.ko.xz:\n"),
		"modules.alias": []byte("# comment\nalias virtio:d00000001v* virtio_net\nalias pci:v8086* igb\n" +
			"alias snd-card snd\nalias crypto-crc32c crc32c_generic\nalias crypto-crc32c crc32c_intel\n"),
		"modules.softdep": []byte("softdep ext4 pre: crypto-crc32c\n"),
		"modules.builtin": []byte("kernel/fs/squashfs/squashfs.ko\n"),
	} {
		if err := tr.PutFile(dir+name, 0o644, content); err != nil {
			t.Fatal(err)
		}
	}
	return tr
}

func pack(t *testing.T, want ...string) ([]byte, Info, error) {
	t.Helper()
	var buf bytes.Buffer
	info, err := Write(&buf, Options{Init: []byte("#!init"), Modules: kernelTree(t), Release: release, Select: want,
		Files: map[string][]byte{"/etc/ingot/server.pub": []byte("key")}, Epoch: time.Unix(1000, 0)})
	return buf.Bytes(), info, err
}

// TestWrite lets the real cpio judge the archive.
func TestWrite(t *testing.T) {
	packed, info, err := pack(t, "@boot", "drivers/net/ethernet/intel/")
	if err != nil {
		t.Fatal(err)
	}
	if info.Modules != 5 {
		t.Errorf("Modules = %d; want ext4, jbd2, crc32c-generic, crc32c-intel, igb", info.Modules)
	}
	again, _, err := pack(t, "@boot", "drivers/net/ethernet/intel/")
	if err != nil || !bytes.Equal(packed, again) {
		t.Errorf("the same options give other bytes (%v)", err)
	}
	z, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("cpio"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("cpio is not installed; run scripts/setup test")
		}
		t.Skip("cpio is not installed")
	}
	dir := t.TempDir()
	cmd := exec.Command("cpio", "--extract", "--make-directories", "--quiet", "--no-preserve-owner")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(plain)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	for path, want := range map[string]string{
		"init":                 "#!init",
		"etc/ingot/server.pub": "key",
		"lib/modules/" + release + "/kernel/fs/ext4/ext4.ko":           "ext4",
		"usr/lib/modules/" + release + "/kernel/lib/crc32c-generic.ko": "crc",
		"usr/lib/modules/" + release + "/modules.alias": "alias pci:v8086* igb\n" +
			"alias crypto-crc32c crc32c_generic\nalias crypto-crc32c crc32c_intel\n",
		"usr/lib/modules/" + release + "/modules.softdep": "softdep ext4 pre: crypto-crc32c\n",
	} {
		if got, err := os.ReadFile(dir + "/" + path); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v; want %q", path, got, err, want)
		}
	}
	if st, err := os.Stat(dir + "/init"); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("mode of init: %v, %v; want 0755", st, err)
	}
	dep, err := os.ReadFile(dir + "/usr/lib/modules/" + release + "/modules.dep")
	if err != nil || !strings.Contains(string(dep), "kernel/fs/ext4/ext4.ko: kernel/fs/jbd2/jbd2.ko\n") ||
		strings.Contains(string(dep), "snd") {
		t.Errorf("modules.dep = %q, %v; want plain paths of the chosen modules", dep, err)
	}
}

func TestUnknownModule(t *testing.T) {
	if _, _, err := pack(t, "mlx5_core"); !errors.Is(err, ErrNoModule) || !strings.Contains(err.Error(), "mlx5_core") {
		t.Errorf("Write = %v; want ErrNoModule that names it", err)
	}
	if _, _, err := pack(t, "squashfs", "@storage"); err != nil {
		t.Errorf("a built-in module, and a preset that the kernel lacks: %v; want no error", err)
	}
}
