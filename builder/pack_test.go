package builder

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/builder/squashfs"
	"ingot/builder/tree"
	"ingot/profiles"
)

// TestRootByReferees packs real files, and lets the kernel and unsquashfs say
// what GNU tar says of them. With INGOT_TEST_ALL it is the node root, in every
// compression that a profile may ask for; else some of Go's own sources.
func TestRootByReferees(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("mounting needs root")
		}
		t.Skip("mounting needs root")
	}
	tar, names := filepath.Join(t.TempDir(), "root.tar"), []profiles.Compression{profiles.CompressBalanced}
	if os.Getenv("INGOT_TEST_ALL") != "" {
		tar, _ = nodeRoot(t)
		names = slices.Sorted(maps.Keys(rootOptions))
	} else {
		goroot, err := exec.Command("go", "env", "GOROOT").Output()
		if err != nil {
			t.Fatalf("go env GOROOT: %v", err)
		}
		src := filepath.Join(strings.TrimSpace(string(goroot)), "src")
		if out, err := exec.Command("tar", "--create", "--format=pax", "--file", tar, "--directory", src, "crypto",
			"net").CombinedOutput(); err != nil {
			t.Fatalf("tar: %v: %s", err, out)
		}
	}
	want := filepath.Join(t.TempDir(), "want")
	extract(t, tar, want)
	root, err := tree.FromTar(t.Context(), tar)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		t.Run(string(name), func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			f, err := os.Create(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := squashfs.Write(t.Context(), f, squashEntries(root, time.Now().Unix()), rootOptions[name]); err != nil {
				t.Fatal(err)
			}
			unpacked := filepath.Join(t.TempDir(), "unpacked")
			var stderr bytes.Buffer
			cmd := exec.Command("unsquashfs", "-no-progress", "-d", unpacked, image)
			cmd.Stderr = &stderr
			if err := cmd.Run(); err != nil || stderr.Len() > 0 {
				t.Fatalf("unsquashfs: %v: %s", err, stderr.String())
			}
			sameFolders(t, want, unpacked)
			mounted := t.TempDir()
			if out, err := exec.Command("mount", "-t", "squashfs", "-o", "ro,loop", image,
				mounted).CombinedOutput(); err != nil {
				t.Fatalf("mount: %v: %s", err, out)
			}
			defer func() {
				if err := unix.Unmount(mounted, 0); err != nil {
					t.Error(err)
				}
			}()
			sameFolders(t, want, mounted)
		})
	}
}

// sameFolders compares all names below two folders, the folders included.
func sameFolders(t *testing.T, want, got string) {
	t.Helper()
	names := 0
	err := filepath.WalkDir(want, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		names++
		rel := strings.TrimPrefix(path, want)
		return sameFile(path, got+rel)
	})
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(got, func(_ string, _ fs.DirEntry, err error) error { names--; return err })
	if err != nil || names != 0 {
		t.Errorf("%q has %d names too few (%v)", got, names, err)
	}
}

// sameFile compares all that the kernel says of two files but their times.
func sameFile(want, got string) error {
	var a, b unix.Stat_t
	if err := errors.Join(unix.Lstat(want, &a), unix.Lstat(got, &b)); err != nil {
		return fmt.Errorf("%q: %w", got, err)
	}
	dir := a.Mode&unix.S_IFMT == unix.S_IFDIR
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev || !dir &&
		(a.Size != b.Size || a.Nlink != b.Nlink) {
		return fmt.Errorf("%q: mode %#o, owner %d:%d, device %#x, %d bytes, %d names; want %#o, %d:%d, %#x, %d, %d", got,
			b.Mode, b.Uid, b.Gid, b.Rdev, b.Size, b.Nlink, a.Mode, a.Uid, a.Gid, a.Rdev, a.Size, a.Nlink)
	}
	x, errX := attributes(want)
	y, errY := attributes(got)
	if err := errors.Join(errX, errY); err != nil || !maps.Equal(x, y) {
		return fmt.Errorf("%q: attributes %q (%w); want %q", got, y, err, x)
	}
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return sameBytes(want, got)
	case unix.S_IFLNK:
		x, errX := os.Readlink(want)
		y, errY := os.Readlink(got)
		if err := errors.Join(errX, errY); err != nil || x != y {
			return fmt.Errorf("%q: link to %q (%w); want %q", got, y, err, x)
		}
	}
	return nil
}

// attributes are the extended attributes of a file.
func attributes(path string) (map[string]string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil && !errors.Is(err, syscall.ENOTSUP) {
		return nil, err
	}
	attrs := map[string]string{}
	for name := range strings.SplitSeq(string(list[:max(n, 0)]), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, err
		}
		attrs[name] = string(value[:n])
	}
	return attrs, nil
}

func sameBytes(want, got string) error {
	a, err := os.Open(want)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := os.Open(got)
	if err != nil {
		return err
	}
	defer b.Close()
	x, y := make([]byte, 128<<10), make([]byte, 128<<10)
	for {
		n, errX := io.ReadFull(a, x)
		m, errY := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) || !errors.Is(errX, errY) {
			return errors.Join(fmt.Errorf("%q: other content than %q", got, want), errX, errY)
		}
		if errX != nil { // the end of both, or the same trouble, which the sizes would have shown
			return nil
		}
	}
}
