// Package scratch makes temporary folders that killed processes do not leave behind for ever: each
// folder is locked by its process, and making the next one with the same parent and prefix removes
// those whose process has ended.
package scratch

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is a scratch folder.
type Dir struct {
	Path string
	lock *os.File
}

// New makes a folder in the system's temporary folder. It is readable by everyone, because
// installing packages runs in it as another user. The prefix must end in "-".
func New(prefix string) (*Dir, error) { return In(os.TempDir(), prefix) }

// In makes a folder in parent, so that files made in it can be renamed to a path in parent.
func In(parent, prefix string) (*Dir, error) {
	removeDead(parent, prefix)
	path, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return nil, fmt.Errorf("making a scratch folder: %w", err)
	}
	d := &Dir{Path: path}
	if err := d.hold(); err != nil {
		os.RemoveAll(path)
		return nil, err
	}
	return d, nil
}

// lockName is the file whose lock says that the folder is in use.
const lockName = "lock"

// hold locks the folder. The lock file gets its name after it is locked, so a folder whose lock
// file is not locked is not in use.
func (d *Dir) hold() error {
	if err := os.Chmod(d.Path, 0o755); err != nil {
		return fmt.Errorf("making a scratch folder: %w", err)
	}
	f, err := os.Create(filepath.Join(d.Path, lockName+".new"))
	if err != nil {
		return fmt.Errorf("making a scratch folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return fmt.Errorf("locking the scratch folder: %w", err)
	}
	if err := os.Rename(f.Name(), filepath.Join(d.Path, lockName)); err != nil {
		f.Close()
		return fmt.Errorf("locking the scratch folder: %w", err)
	}
	d.lock = f
	return nil
}

// Remove removes the folder and everything in it.
func (d *Dir) Remove() {
	remove(d.Path)
	d.lock.Close()
}

// remove removes the lock file last: a process that is killed meanwhile leaves a folder that
// removeDead still recognises.
func remove(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != lockName {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
	os.RemoveAll(dir)
}

// removeDead removes the folders whose process has ended, except those in which something is
// mounted.
func removeDead(parent, prefix string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, prefix+"*"))
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, dir := range dirs {
		f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR, 0)
		if err != nil {
			continue // not a folder of this package, or being made
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && !strings.Contains(string(mounts), dir+"/") {
			remove(dir)
		}
		f.Close()
	}
}
