package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// place opens a folder of the root to mount something on, and makes it if it is not there. No part of
// its path may be a link: on volumes that are mounted already, services may have made some, and a
// link is followed from here out of the root.
func place(root, p string) (*os.File, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	at, err := unix.Open(root, flags&^unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", root, err)
	}
	for part := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		next, err := unix.Openat(at, part, flags, 0)
		if errors.Is(err, unix.ENOENT) {
			if err = unix.Mkdirat(at, part, 0o755); err == nil {
				next, err = unix.Openat(at, part, flags, 0)
			}
		}
		_ = unix.Close(at)
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return nil, fmt.Errorf("opening %s: %q is a link or a file", p, part)
		}
		if err != nil {
			return nil, fmt.Errorf("opening %s: %q: %w", p, part, err)
		}
		at = next
	}
	return os.NewFile(uintptr(at), p), nil
}

// mountAt mounts something on a folder of the root.
func (m Mounter) mountAt(p, source, fstype string, flags uintptr, data string) error {
	target, err := place(m.Root, p)
	if err != nil {
		return err
	}
	defer target.Close()
	return unix.Mount(source, fmt.Sprintf("/proc/self/fd/%d", target.Fd()), fstype, flags, data)
}

// ownName is the folder of a volume that is ingot's.
const ownName = ".ingot"

// OwnFolder returns ingot's folder on a volume that is mounted at a path, and makes it. The volume may
// belong to a service, which can rename what is on top of it, but cannot make a folder of root's. What
// somebody else put there is not used, but renamed.
func OwnFolder(at string) (string, error) {
	own := filepath.Join(at, ownName)
	if isRoots(own) {
		return own, nil
	}
	err := os.Rename(own, fmt.Sprintf("%s-refused-%d", own, time.Now().UnixNano()))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return own, os.Mkdir(own, 0o700)
}

// isRoots reports whether a path is a folder that only root can have made, and can change.
func isRoots(p string) bool {
	var st unix.Stat_t
	return unix.Lstat(p, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Uid == 0 && st.Mode&0o022 == 0
}
