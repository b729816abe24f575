// Package instance is how a command on this host finds the server of a store: a small file in the
// store's folder with the server's process and its administrator's socket. The server writes it when
// the socket is open and removes it when it ends. What a crash leaves is not believed: the process
// must be alive and the one that wrote the file, and the folder must not be a copy.
//
// It does not say that no server runs: one that is starting has no file yet. Whether the state is in
// use is for the lock of its backend.
package instance

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/renameio/v2"
)

// file is the name of the file in the store's folder.
const file = "server.json"

// Instance is one running server.
type Instance struct {
	PID    int    `json:"pid"`
	Socket string `json:"socket"` // path of the administrator's Unix socket
}

// record is what the file holds.
type record struct {
	Instance
	Start string `json:"start"` // of the process, in ticks since the host booted: process ids are used again
	Store uint64 `json:"store"` // inode of the store's folder: in a copy, it is another one
}

// Write records this process as the server of the store at root. remove takes that back.
func Write(root, socket string) (remove func() error, err error) {
	r := record{Instance: Instance{PID: os.Getpid(), Socket: socket}, Start: startOf(os.Getpid())}
	path := filepath.Join(root, file)
	if r.Store, err = inodeOf(root); err == nil {
		var text []byte
		if text, err = json.Marshal(r); err == nil {
			err = renameio.WriteFile(path, append(text, '\n'), 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("recording the server's socket: %w", err)
	}
	return func() error { return os.Remove(path) }, nil
}

// Find returns the running server of the store at root.
func Find(root string) (Instance, bool) {
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return Instance{}, false
	}
	var r record
	if json.Unmarshal(text, &r) != nil || r.PID <= 0 || r.Start == "" || startOf(r.PID) != r.Start {
		return Instance{}, false
	}
	inode, err := inodeOf(root)
	return r.Instance, err == nil && inode == r.Store
}

// startOf returns when a process started (proc_pid_stat(5), field 22), or nothing if there is none.
func startOf(pid int) string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// names may have spaces
	_, after, _ := strings.Cut(string(text[max(0, strings.LastIndexByte(string(text), ')')):]), " ")
	fields := strings.Fields(after)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

func inodeOf(path string) (uint64, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return st.Sys().(*syscall.Stat_t).Ino, nil
}
