package instance

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestFind: a command finds the running server of a store, and nothing in a copy of the store, after
// the server has ended, or before it said where it is.
func TestFind(t *testing.T) {
	root := t.TempDir()
	if i, ok := Find(root); ok {
		t.Errorf("before a server: %+v", i)
	}
	remove, err := Write(root, "/run/ingot/a socket")
	if err != nil {
		t.Fatal(err)
	}
	want := Instance{PID: os.Getpid(), Socket: "/run/ingot/a socket"}
	if i, ok := Find(root); !ok || i != want {
		t.Errorf("Find = %+v, %t; want %+v", i, ok, want)
	}
	st, err := os.Stat(filepath.Join(root, file))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v; want 0600", st.Mode(), err)
	}
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	twin := t.TempDir()
	if err := os.WriteFile(filepath.Join(twin, file), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if i, ok := Find(twin); ok {
		t.Errorf("in a copy of the store: %+v", i)
	}
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	if i, ok := Find(root); ok {
		t.Errorf("after the server ended: %+v", i)
	}
}

// TestFindStale: what a server left that was killed is not believed, also when another process has
// its id now.
func TestFindStale(t *testing.T) {
	root := t.TempDir()
	inode, err := inodeOf(root)
	if err != nil {
		t.Fatal(err)
	}
	write := func(pid int, start string) {
		t.Helper()
		text := fmt.Sprintf(`{"pid":%d,"socket":"/s","start":%q,"store":%d}`, pid, start, inode)
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	start := startOf(other.Process.Pid)
	write(other.Process.Pid, start)
	if i, ok := Find(root); !ok || i.Socket != "/s" || start == "" {
		t.Errorf("of a live process that started at %q: %+v, %t", start, i, ok)
	}
	write(other.Process.Pid, start+"1")
	if i, ok := Find(root); ok {
		t.Errorf("of another process with its id: %+v", i)
	}
	write(other.Process.Pid, start)
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a zombie at first, and then nothing
		gone := startOf(other.Process.Pid) == ""
		if i, ok := Find(root); ok && gone {
			t.Errorf("of a process that was killed: %+v", i)
		}
		_ = other.Wait() // it was killed
	}
	if i, ok := Find(root); ok {
		t.Errorf("of a process that is gone: %+v", i)
	}
	for _, text := range []string{"", "412\n/run/ingot.sock\n", `{"pid":-1}`, "null"} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if i, ok := Find(root); ok {
			t.Errorf("of a file with %q: %+v", text, i)
		}
	}
}
