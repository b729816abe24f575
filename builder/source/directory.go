package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ingot/builder/tree"
)

// pinDir keeps the canonical tar of a folder. The times of its files are left out: they depend on
// when the folder was copied.
func (t *Trees) pinDir(ctx context.Context, o Origin, pin *Pin) error {
	if !o.known() {
		return ErrNoTree
	}
	root, err := o.Path.OpenRoot()
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := fromRoot(ctx, root, o.KeepOwners)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(dir.WriteTar(ctx, w, epochZero)) }()
	defer r.Close()
	pin.Digest, pin.Size, err = t.Blobs.Put(ctx, r, "")
	return err
}

// FromDir returns the tree below a folder of this host, with hard links, devices and those extended
// attributes that belong to the files (user.* and security.capability), without sockets and without
// the mode of the folder itself. Unless keepOwners, everything belongs to root. Content is read on
// demand, and never from outside of the folder.
func FromDir(ctx context.Context, dir string, keepOwners bool) (*tree.Tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("reading the folder %q: %w", dir, err)
	}
	return fromRoot(ctx, root, keepOwners) // the entries keep root; it is closed when they are collected
}

func fromRoot(ctx context.Context, root *os.Root, keepOwners bool) (*tree.Tree, error) {
	t := tree.New()
	links := map[[2]uint64]string{} // by device and inode
	err := fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == "." {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		e, ok, err := entryOf(root, p, links)
		if err != nil || !ok {
			return err
		}
		if !keepOwners {
			e.UID, e.GID = 0, 0
		}
		return t.Put(e)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the folder %q: %w", root.Name(), err)
	}
	return t, nil
}

// entryOf describes one file of the host.
func entryOf(root *os.Root, p string, links map[[2]uint64]string) (e tree.Entry, ok bool, err error) {
	st, err := root.Lstat(p)
	if err != nil {
		return e, false, err
	}
	sys, isStat := st.Sys().(*syscall.Stat_t)
	if !isStat {
		return e, false, errors.New("this system does not report owners")
	}
	e = tree.Entry{Path: p, Mode: sys.Mode & 0o7777, UID: int(sys.Uid), GID: int(sys.Gid)}
	switch sys.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		inode := [2]uint64{sys.Dev, sys.Ino}
		if first, seen := links[inode]; seen && sys.Nlink > 1 {
			e.Hard = first
			return e, true, nil
		}
		links[inode] = p
		e.Kind, e.Size, e.Open = tree.File, st.Size(), func() (io.ReadCloser, error) { return openSame(root, p, st) }
		e.Xattrs, err = ownXattrs(root, p, st)
	case unix.S_IFDIR:
		e.Kind = tree.Dir
		e.Xattrs, err = ownXattrs(root, p, st)
	case unix.S_IFLNK:
		e.Kind, e.Mode = tree.Symlink, 0o777
		e.Target, err = root.Readlink(p)
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Kind = tree.CharDevice
		if sys.Mode&unix.S_IFMT == unix.S_IFBLK {
			e.Kind = tree.BlockDevice
		}
		e.Major, e.Minor = int64(unix.Major(sys.Rdev)), int64(unix.Minor(sys.Rdev))
	case unix.S_IFIFO:
		e.Kind = tree.Fifo
	default:
		return e, false, nil
	}
	return e, err == nil, err
}

// openSame opens the file or folder that st describes, and nothing that took its place meanwhile.
func openSame(root *os.Root, p string, st fs.FileInfo) (*os.File, error) {
	f, err := root.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	now, err := f.Stat()
	if err == nil && !os.SameFile(st, now) {
		err = fmt.Errorf("opening %q: it was replaced while the folder was read", p)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// ownXattrs returns the extended attributes that belong to a file or folder rather than to this
// host's security module or overlay. Other kinds of files cannot have any of them (xattr(7)).
func ownXattrs(root *os.Root, p string, st fs.FileInfo) (map[string]string, error) {
	f, err := openSame(root, p, st)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list [64 << 10]byte // XATTR_LIST_MAX
	n, err := unix.Flistxattr(int(f.Fd()), list[:])
	if errors.Is(err, unix.ENOTSUP) || n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the attributes of %q: %w", p, err)
	}
	var own map[string]string
	for _, name := range strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name != "security.capability" && !strings.HasPrefix(name, "user.") {
			continue
		}
		var value [64 << 10]byte // XATTR_SIZE_MAX
		n, err := unix.Fgetxattr(int(f.Fd()), name, value[:])
		if err != nil {
			return nil, fmt.Errorf("reading the attribute %s of %q: %w", name, p, err)
		}
		if own == nil {
			own = map[string]string{}
		}
		own[name] = string(value[:n])
	}
	return own, nil
}
