package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ingot"
)

// A volume hides what the image has at its mount point, so a new one gets a copy: files with owners,
// modes and extended attributes, and those of the folder itself. The copy is made in ingot's folder under
// one name, synced, and renamed when it is whole; then its entries are moved to the top of the volume; at
// last an attribute of the volume says that this is done. A boot that finds the first name copies again,
// one that finds the second moves on. Nothing is ever removed or replaced but a copy that is not whole.

const (
	seedCopying = ownName + "/copying"   // a copy that is not whole
	seedCopied  = ownName + "/copied"    // what of a whole copy is not moved yet
	seedDone    = "trusted.ingot.seeded" // extended attribute of the volume's top folder
)

// seeding is how far the seeding of a volume is.
type seeding uint8

const (
	seedNothing seeding = iota // nothing is to be done
	seedDecline                // the volume was used without having been seeded
	seedCopy
	seedMove
)

// seedingOf looks at a volume that is mounted at a path.
func seedingOf(at string) (seeding, error) {
	if n, err := unix.Getxattr(at, seedDone, nil); err == nil && n > 0 {
		return seedNothing, nil
	}
	entries, err := os.ReadDir(at)
	if err != nil {
		return seedNothing, err
	}
	has := func(name string) bool {
		_, err := os.Lstat(filepath.Join(at, name))
		return err == nil && isRoots(filepath.Join(at, ownName))
	}
	if has(seedCopied) {
		return seedMove, nil
	}
	begun := has(seedCopying)
	used := slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return e.Name() != "lost+found" && e.Name() != ownName
	})
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil {
		return seedNothing, err
	}
	if used || !begun && (st.Uid != 0 || st.Gid != 0 || st.Mode&0o7777 != 0o755) { // as mkfs.ext4 leaves it
		return seedDecline, nil
	}
	return seedCopy, nil
}

// seed gives a mounted volume that nobody used yet the image's files at its mount point.
func (m Mounter) seed(v ingot.Volume, device string) error {
	at, from := filepath.Join(m.Root, v.Mount), filepath.Join(m.Image, v.Mount)
	if m.Image == "" {
		return nil
	}
	todo, err := seedingOf(at)
	if err != nil || todo == seedNothing {
		return err
	}
	flags, data := mountOptions(v.Options)
	if flags&unix.MS_RDONLY != 0 {
		if todo == seedDecline {
			return nil
		}
		if err := unix.Mount(device, at, "", unix.MS_REMOUNT|flags&^unix.MS_RDONLY, data); err != nil {
			return fmt.Errorf("mounting it writable: %w", err)
		}
		defer func() { _ = unix.Mount(device, at, "", unix.MS_REMOUNT|flags, data) }()
	}
	if _, err := os.Lstat(from); todo == seedMove || todo == seedCopy && err == nil {
		m.Log("volume %s: copying the image's files of %s", v.Name, v.Mount)
		if err := seedFrom(from, at, todo); err != nil {
			_ = os.RemoveAll(filepath.Join(at, seedCopying)) // or the next boot does it
			return problem{ingot.VolumeUnseeded, fmt.Errorf("copying the image's files of %s to the volume: %w", v.Mount, err)}
		}
	}
	if err := unix.Setxattr(at, seedDone, []byte("1"), 0); err != nil && todo != seedDecline {
		return fmt.Errorf("writing that the volume is seeded: %w", err)
	}
	return nil // a volume that is in use may be full, or older than such attributes
}

// seedFrom goes on with the seeding of a volume.
func seedFrom(from, at string, todo seeding) error {
	copying, copied := filepath.Join(at, seedCopying), filepath.Join(at, seedCopied)
	own, err := OwnFolder(at)
	if err != nil {
		return err
	}
	if todo == seedCopy {
		if err := os.RemoveAll(copying); err != nil {
			return err
		}
		if err := copyTree(from, copying); err != nil {
			return err
		}
		if err := syncFilesystem(at); err != nil {
			return err
		}
		if err := os.Rename(copying, copied); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(copied)
	if err != nil {
		return err
	}
	for _, e := range entries {
		to := filepath.Join(at, e.Name())
		if _, err := os.Lstat(to); err == nil {
			continue // of somebody who used the volume with another image in between
		}
		if err := os.Rename(filepath.Join(copied, e.Name()), to); err != nil {
			return err
		}
	}
	var st unix.Stat_t
	if err := unix.Lstat(copied, &st); err != nil {
		return err
	}
	if err := copyAttributes(copied, at, &st); err != nil {
		return err
	}
	if err := os.RemoveAll(copied); err != nil {
		return err
	}
	_ = os.Remove(own) // unless it has something else
	return syncFilesystem(at)
}

func syncFilesystem(at string) error {
	f, err := os.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// copyTree copies a file or folder with all that is in it.
func copyTree(from, to string) error { return copier{}.copy(from, to) }

// copier copies files. It maps the inodes of files with several names to the first copy.
type copier map[uint64]string

func (c copier) copy(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return fmt.Errorf("reading %s: %w", from, err)
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = c.copyFolder(from, to)
	case unix.S_IFLNK:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	case unix.S_IFREG:
		if first, ok := c[st.Ino]; ok {
			return os.Link(first, to)
		}
		if st.Nlink > 1 {
			c[st.Ino] = to
		}
		err = copyContent(from, to)
	default:
		err = unix.Mknod(to, st.Mode, int(st.Rdev))
	}
	if err != nil {
		return err
	}
	return copyAttributes(from, to, &st)
}

func (c copier) copyFolder(from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.copy(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyContent(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

// copyAttributes copies owner, mode, extended attributes and times, in this order: a new owner takes
// setuid and capabilities away.
func copyAttributes(from, to string, st *unix.Stat_t) error {
	if err := os.Lchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return fmt.Errorf("changing the mode of %s: %w", to, err)
		}
	}
	names, value := make([]byte, 64<<10), make([]byte, 64<<10) // the kernel's limits, xattr(7)
	n, err := unix.Llistxattr(from, names)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("listing the attributes of %s: %w", from, err)
	}
	for name := range strings.SplitSeq(string(bytes.TrimRight(names[:max(n, 0)], "\x00")), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(from, name, value)
		if err == nil {
			err = unix.Lsetxattr(to, name, value[:n], 0)
		}
		if err != nil {
			return fmt.Errorf("copying the attribute %s of %s: %w", name, from, err)
		}
	}
	times := []unix.Timespec{st.Mtim, st.Mtim}
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW)
}
