// Package owned makes files and folders that belong to the owner of the folder that they are in.
//
// An image store belongs to the user of the server. An administrator who builds or imports images into
// it as root must not leave files there that this user cannot read, lock or remove. Only root can give
// files away; for other users the functions are those of packages os and renameio.
package owned

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// MkdirAll is os.MkdirAll.
func MkdirAll(dir string, mode fs.FileMode) error {
	st, err := os.Stat(dir)
	if err == nil {
		if !st.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := MkdirAll(parent, mode); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, mode); err != nil {
		if errors.Is(err, fs.ErrExist) { // another process was first
			return nil
		}
		return err
	}
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return give(f, filepath.Dir(dir))
}

// WriteFile replaces a file by one rename, after a sync.
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	f, err := renameio.NewPendingFile(path, renameio.WithPermissions(mode), renameio.IgnoreUmask())
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }() // nothing after the rename
	if err := give(f.File, filepath.Dir(path)); err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// CreateTemp is os.CreateTemp.
func CreateTemp(dir, pattern string) (*os.File, error) {
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, err
	}
	if err := give(f, dir); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// OpenFile opens a file for reading and writing, and makes it if it is missing. It follows no link.
func OpenFile(path string, mode fs.FileMode) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
		f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
		if errors.Is(err, fs.ErrExist) { // another process was first
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := give(f, filepath.Dir(path)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return f, nil
	}
}

// give gives what was just made to the owner of a folder.
func give(f *os.File, dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var owner, now unix.Stat_t
	if err := unix.Stat(dir, &owner); err != nil {
		return fmt.Errorf("reading the owner of %q: %w", dir, err)
	}
	if err := unix.Fstat(int(f.Fd()), &now); err != nil {
		return fmt.Errorf("reading the owner of %q: %w", f.Name(), err)
	}
	if owner.Uid == now.Uid && owner.Gid == now.Gid {
		return nil
	}
	if err := f.Chown(int(owner.Uid), int(owner.Gid)); err != nil {
		return fmt.Errorf("giving a file to the owner of %q: %w", dir, err)
	}
	return nil
}
