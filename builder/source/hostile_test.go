package source

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ingot/builder/tree"
	"ingot/internal/beneath"
)

// TestDeepTrees: a path that is too deep is refused, and the deepest that is taken costs little.
func TestDeepTrees(t *testing.T) {
	root := tree.New()
	deep := strings.Repeat("d/", 3000) + "f"
	if err := root.PutFile(deep, 0o644, nil); !errors.Is(err, tree.ErrPath) {
		t.Fatalf("a path of 3000 folders: %v; want ErrPath", err)
	}
	for _, p := range []string{strings.Repeat("n", 5000), strings.Repeat("n", 256)} {
		if err := root.PutFile(p, 0o644, nil); !errors.Is(err, tree.ErrPath) {
			t.Errorf("a name of %d bytes: %v; want ErrPath", len(p), err)
		}
	}
	for i := range 30 {
		if err := root.PutFile(strings.Repeat(string(rune('a'+i%26))+"/", 240+i%10)+"f", 0o644, nil); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	if _, _, err := LeaveOut(t.Context(), root, Excluded(), nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("leaving out took %s for %d entries", took, root.Len())
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, _, err := LeaveOut(ctx, root, Excluded(), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted LeaveOut = %v", err)
	}
}

// TestRulesOfDepth: a rule is compared with the folder that is as deep as its pattern.
func TestRulesOfDepth(t *testing.T) {
	for _, c := range []struct {
		pattern, path string
		want          bool
	}{
		{"/home/*", "/home/a/b/c", true}, {"/home/*", "/home", false}, {"/a/*/c", "/a/b/c", true},
		{"/a/*/c", "/a/b/d/c", false},
		{"/swap", "swap", true}, {"/swap", "/swap/x", true}, {"/swap", "/swapfile", false}, {"/opt/[ab]", "/opt/b/c", true},
		{"/opt[^a]b", "/opt/b", true}, {"home", "/home", false}, {"/", "/a", false},
	} {
		if got := (Rule{Pattern: c.pattern}).Matches(c.path); got != c.want {
			t.Errorf("%s matches %s: %t; want %t", c.pattern, c.path, got, c.want)
		}
	}
}

// TestFIFOs: a folder whose files are FIFOs is refused; nobody waits for their other end.
func TestFIFOs(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "index.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		d, err := openArchive(t.Context(), Origin{Path: beneath.Path{Name: dir}, Ref: dir}, t.TempDir())
		if err == nil {
			d.close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a folder with a FIFO as its index is an archive")
		}
	case <-time.After(10 * time.Second):
		t.Error("opening a folder with a FIFO as its index waits")
	}
}

// zeros is a tar with a file of n zeros, compressed.
func zeros(t *testing.T, n int64) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "bomb.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	z := gzip.NewWriter(f)
	w := tar.NewWriter(z)
	err = errors.Join(w.WriteHeader(&tar.Header{Name: "bomb", Size: n, Mode: 0o644}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyN(w, zeroReader{}, n)
	if err := errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return f
}

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestBombs: what unpacks to far more than it is, or to more than there is room for, is refused before
// the disk is full, and an interrupt ends unpacking.
func TestBombs(t *testing.T) {
	f := zeros(t, ratioFrom+1<<20)
	u, err := uncompressed(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, u); !errors.Is(err, ErrTooLarge) || n > ratioFrom+1<<20 {
		t.Errorf("a bomb: %d bytes, %v; want ErrTooLarge", n, err)
	}
	scratch, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	defer scratch.Close()
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(tar.NewWriter(w).WriteHeader(&tar.Header{Name: "huge", Size: 1 << 50, Mode: 0o644,
			Format: tar.FormatGNU}))
	}()
	if err := newMerger(scratch).plain(t.Context(), r); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a file of 1 PiB: %v; want ErrTooLarge", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	s := &spool{ctx: ctx, f: scratch}
	if _, err := s.Write(make([]byte, 10)); err != nil {
		t.Error(err)
	}
	stop()
	if _, err := io.Copy(s, zeroReader{}); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupted copy: %v", err)
	}
}
