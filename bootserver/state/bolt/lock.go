package bolt

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"ingot/bootserver/state"
)

// lockFile says which process has the lock, where that answers, and the lock's
// own inode: in a copy of the folder, the rest is not true.
const lockFile = "lock"

func takeLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _ := Holder(dir)
		f.Close()
		return nil, fmt.Errorf("%w: process %s; stop it, or use another --store", state.ErrLocked, pid)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintln(f, os.Getpid()) // only for the words of that error
	}
	return f, nil
}

// Holder is who has the lock of the state in dir, or had it last: the process,
// and the socket at which it answers. That is empty as long as a server starts,
// and for a command that changes the store.
func Holder(dir string) (pid, socket string) {
	path := filepath.Join(dir, lockFile)
	text, _ := os.ReadFile(path) // nobody, when it cannot be read
	line := append(strings.Split(string(text), "\n"), "", "")
	if st, err := os.Stat(path); err == nil && line[2] == inode(st) {
		socket = line[1]
	}
	return line[0], socket
}

// inode tells a lock from its copy in another folder.
func inode(st os.FileInfo) string { return strconv.FormatUint(st.Sys().(*syscall.Stat_t).Ino, 10) }

// Answers writes down, for Holder, where the server of this state answers.
func (s *Store) Answers(socket string) error {
	st, err := s.lock.Stat()
	if err == nil {
		_, err = fmt.Fprintf(s.lock, "%s\n%s\n", socket, inode(st))
	}
	if err != nil {
		return fmt.Errorf("writing down the server's socket: %w", err)
	}
	return nil
}
