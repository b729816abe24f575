// Package scratch makes temporary folders that do not outlive their process by
// much: each is held by a lock, and whoever makes the next one of the same
// prefix removes those whose holder was killed.
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

// New makes a folder below the system's temporary folder, readable by all
// because mmdebstrap works in it as another user. The prefix must end in "-".
func New(prefix string) (*Dir, error) {
	removeDead(prefix)
	path, err := os.MkdirTemp("", prefix)
	if err != nil {
		return nil, fmt.Errorf("making a scratch folder: %w", err)
	}
	if err := os.Chmod(path, 0o755); err != nil {
		return nil, fmt.Errorf("making a scratch folder: %w", err)
	}
	f, err := os.Create(filepath.Join(path, "lock"))
	if err != nil {
		return nil, fmt.Errorf("making a scratch folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("locking the scratch folder: %w", err)
	}
	return &Dir{path, f}, nil
}

// Remove removes the folder with all that is in it.
func (d *Dir) Remove() {
	os.RemoveAll(d.Path)
	d.lock.Close()
}

// removeDead removes the folders whose process is no more. One in which
// something is still mounted is left alone.
func removeDead(prefix string) {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for _, dir := range dirs {
		f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR, 0)
		if err != nil {
			continue // not ours, or just being made
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil && !strings.Contains(string(mounts), dir+"/") {
			os.RemoveAll(dir)
		}
		f.Close()
	}
}
