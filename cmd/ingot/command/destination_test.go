package command

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDestination: a link leads to the file that is replaced, and nothing but files is replaced.
func TestDestination(t *testing.T) {
	dir := t.TempDir()
	file, link, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", link); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(dir, "new")
	for path, want := range map[string]string{file: file, link: file, missing: missing} {
		if got, err := Destination(path); err != nil || got != want {
			t.Errorf("%s is written to %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"/dev/full", "/dev/null", pipe, dir} {
		if got, err := Destination(path); err == nil {
			t.Errorf("%s would be replaced at %s", path, got)
		}
	}
}
