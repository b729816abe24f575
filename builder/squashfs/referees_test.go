package squashfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// needRoot skips tests that mount.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("mounting needs root")
	}
	t.Skip("mounting needs root")
}

// mount mounts an image until the test ends or unmount is called.
func mount(t *testing.T, image string) (dir string, unmount func()) {
	t.Helper()
	needRoot(t)
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "squashfs", "-o", "ro,loop", image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	return dir, func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}
}

// TestFileHandles: an NFS server finds files by the export table. Handles of
// one mount are opened in another, where the kernel knows no inode yet.
func TestFileHandles(t *testing.T) {
	entries := []Entry{dir("a"), dir("a/b"), file("a/b/deep", []byte("deep")), file("top", []byte("top"))}
	for i := range 3000 { // several blocks of the table
		entries = append(entries, file(fmt.Sprintf("a/%04d", i), fmt.Appendf(nil, "content %d", i)))
	}
	image, _ := writeFile(t, entries, Options{Level: 1})
	at, unmount := mount(t, image)
	handles := map[string]unix.FileHandle{}
	for _, e := range entries {
		h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, filepath.Join(at, e.Path), 0)
		if err != nil {
			unmount()
			t.Fatalf("%q: %v", e.Path, err)
		}
		handles[e.Path] = h
	}
	unmount()

	at, unmount = mount(t, image)
	defer unmount()
	fs, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close()
	for _, e := range entries {
		fd, err := unix.OpenByHandleAt(int(fs.Fd()), handles[e.Path], unix.O_RDONLY)
		if err != nil {
			t.Fatalf("%q: %v", e.Path, err)
		}
		f := os.NewFile(uintptr(fd), e.Path)
		if e.Kind == File {
			if err := sameContent(e.Open, func() (io.ReadCloser, error) { return f, nil }, e.Size); err != nil {
				t.Errorf("%q by its handle: %v", e.Path, err)
			}
		}
		f.Close()
	}
}

// posixACL is a value of system.posix_acl_access: rw for the owner and for
// user 1000, r for the rest (linux/posix_acl_xattr.h).
const posixACL = "\x02\x00\x00\x00" +
	"\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x06\x00\xe8\x03\x00\x00" + "\x04\x00\x04\x00\xff\xff\xff\xff" +
	"\x10\x00\x06\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"

// TestACLsHaveNoPlace shows why a POSIX ACL is refused: squashfs numbers the
// name spaces user, trusted and security (SQUASHFS_XATTR_USER…SECURITY) and no
// other; mksquashfs loses an ACL, and the kernel cannot show one.
func TestACLsHaveNoPlace(t *testing.T) {
	needTool(t, "mksquashfs")
	src := t.TempDir()
	path := filepath.Join(src, "file")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(path, "system.posix_acl_access", []byte(posixACL), 0); err != nil {
		t.Skipf("this file system has no ACLs: %v", err)
	}
	image := filepath.Join(t.TempDir(), "image")
	if out, err := exec.Command("mksquashfs", src, image, "-no-progress", "-comp", "zstd").CombinedOutput(); err != nil {
		t.Fatalf("mksquashfs: %v: %s", err, out)
	}
	at, unmount := mount(t, image)
	defer unmount()
	if _, err := unix.Getxattr(filepath.Join(at, "file"), "system.posix_acl_access", make([]byte, 1024)); !errors.Is(err,
		unix.ENOTSUP) && !errors.Is(err, unix.ENODATA) {
		t.Errorf("the kernel gives an ACL: %v; then we should write them", err)
	}
	e := file("file", nil)
	e.Xattrs = map[string]string{"system.posix_acl_access": posixACL}
	if _, err := Write(t.Context(), &memory{}, []Entry{e}, Options{}); !errors.Is(err, ErrEntry) {
		t.Errorf("writing an ACL: %v; want %v", err, ErrEntry)
	}
}

// TestReadsOthers: images of the usual tools are read like our own.
func TestReadsOthers(t *testing.T) {
	needTool(t, "unsquashfs")
	needRoot(t) // owners
	entries := append(system(4, 150), file("noise", noise(1, 700_000)), file("zero", make([]byte, 600_000)),
		Entry{Path: "link", Kind: Symlink, Mode: 0o777, Target: "noise"})
	for i := range 3000 {
		entries = append(entries, file(fmt.Sprintf("d000/many-%04d", i), nil))
	}
	ours, _ := writeFile(t, entries, Options{Level: 1})
	src := filepath.Join(t.TempDir(), "tree")
	if out, err := exec.Command("unsquashfs", "-no-progress", "-d", src, ours).CombinedOutput(); err != nil {
		t.Fatalf("unsquashfs: %v: %s", err, out)
	}
	if err := unix.Setxattr(filepath.Join(src, "noise"), "user.of", []byte(strings.Repeat("v", 3000)), 0); err != nil {
		t.Fatal(err)
	}
	for i, args := range [][]string{{"-comp", "zstd"}, {"-comp", "gzip", "-b", "4096"},
		{"-comp", "zstd", "-b", "1M", "-noI", "-no-fragments"},
		{"-comp", "gzip", "-always-use-fragments", "-noD", "-noF"}} {
		image := filepath.Join(t.TempDir(), fmt.Sprint(i))
		if out, err := exec.Command("mksquashfs", append([]string{src, image, "-no-progress"},
			args...)...).CombinedOutput(); err != nil {
			t.Fatalf("mksquashfs %q: %v: %s", args, err, out)
		}
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		img, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatalf("mksquashfs %q: %v", args, err)
		}
		got, err := img.Entries()
		if err != nil {
			t.Fatalf("mksquashfs %q: %v", args, err)
		}
		want := whole(entries)
		if len(got) != len(want) {
			t.Fatalf("mksquashfs %q: %d entries; want %d", args, len(got), len(want))
		}
		for j, e := range got {
			if e.Path != want[j].Path || e.Kind != want[j].Kind || e.Size != want[j].Size || e.Target != want[j].Target {
				t.Fatalf("mksquashfs %q: %+v; want %+v", args, describe(e), describe(want[j]))
			}
			if err := sameContent(want[j].Open, e.Open, e.Size); err != nil {
				t.Errorf("mksquashfs %q: content of %q: %v", args, e.Path, err)
			}
			if e.Path == "noise" && len(e.Xattrs["user.of"]) != 3000 {
				t.Errorf("mksquashfs %q: an attribute of %d bytes; want 3000", args, len(e.Xattrs["user.of"]))
			}
		}
	}
}

// TestFarData: blocks that begin behind 4 GiB need other inodes.
func TestFarData(t *testing.T) {
	if os.Getenv("INGOT_TEST_ALL") == "" {
		t.Skip("takes 5 GiB and half a minute; INGOT_TEST_ALL=1 runs it")
	}
	big := func(seed byte) Entry {
		const size = 2200 << 20
		return Entry{Path: fmt.Sprintf("big-%d", seed), Kind: File, Mode: 0o644, Size: size,
			Open: func() (io.ReadCloser, error) {
				return io.NopCloser(io.LimitReader(chaCha(seed), size)), nil
			}}
	}
	testTree(t, []Entry{big(1), big(2), file("z", noise(9, 300_000)), file("zz", words(9, 500))}, Options{Level: 1})
}
