package bolt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"ingot/bootserver/state"
)

// lockFile holds the id of the process that has the lock, or had it last.
const lockFile = "lock"

func takeLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		text, _ := os.ReadFile(path)                 // nothing, when it cannot be read
		pid, _, _ := strings.Cut(string(text), "\n") // servers of before wrote more lines
		f.Close()
		return nil, fmt.Errorf("%w: process %s; stop it, or use another --store", state.ErrLocked, pid)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintln(f, os.Getpid()) // only for the words of that error
	}
	return f, nil
}
