package image

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestArchiveOfFIFOs: a folder with FIFOs, or links out of it, in the place of files is refused; nobody
// waits for their other end.
func TestArchiveOfFIFOs(t *testing.T) {
	fifos, links := t.TempDir(), t.TempDir()
	for _, name := range []string{"oci-layout", "index.json"} {
		if err := syscall.Mkfifo(filepath.Join(fifos, name), 0o600); err != nil {
			t.Fatal(err)
		}
		outside := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(outside, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(links, name)); err != nil {
			t.Fatal(err)
		}
	}
	fifo := filepath.Join(fifos, "index.json")
	for _, file := range []string{fifos, links, fifo} {
		done := make(chan error, 1)
		go func() {
			_, err := OpenArchive(file)
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("OpenArchive(%s) = nil; want an error", file)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("OpenArchive(%s) waits", file)
		}
	}
}
