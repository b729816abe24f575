package verity

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// referee is veritysetup; without it the test is skipped, but not in CI.
func referee(t *testing.T) string {
	t.Helper()
	for _, p := range []string{"veritysetup", "/usr/sbin/veritysetup"} {
		if path, err := exec.LookPath(p); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("veritysetup is missing; run scripts/setup test")
	}
	t.Skip("veritysetup is missing; run scripts/setup test")
	return ""
}

// file is a file of random blocks, the same at each run.
func file(t testing.TB, blocks int) (f *os.File, size int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	size = int64(blocks) * BlockSize
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), size); err != nil {
		t.Fatal(err)
	}
	return f, size
}

// sizes are numbers of blocks around the borders of a tree's levels.
var sizes = []int{1, 2, 127, 128, 129, 128 * 128, 128*128 + 1}

const (
	salt = "e48da609055204e89ae53b655ca2216dd983cf3cb829f34f63a297d106d53e2d"
	uuid = "01020304-0506-0708-090a-0b0c0d0e0f10"
)

func options(t testing.TB) Options {
	t.Helper()
	s, err := hex.DecodeString(salt)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Salt: s, UUID: [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}}
}

func run(t *testing.T, tool string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput()
	return string(out), err
}

// TestVeritysetup: the same bytes and the same root hash as veritysetup's own,
// which accepts ours, and refuses it when one bit of data or tree is another.
func TestVeritysetup(t *testing.T) {
	tool := referee(t)
	for _, blocks := range sizes {
		for _, salted := range []bool{true, false} {
			if !salted && blocks > 129 {
				continue
			}
			f, size := file(t, blocks)
			o, saltArg := options(t), salt
			if !salted {
				o.Salt, saltArg = nil, "-"
			}
			theirs := f.Name() + ".theirs"
			if out, err := run(t, "cp", f.Name(), theirs); err != nil {
				t.Fatal(out)
			}
			ours, err := Write(t.Context(), f, size, f, size, o)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := run(t, tool, "format", theirs, theirs, fmt.Sprintf("--data-blocks=%d", blocks),
				fmt.Sprintf("--hash-offset=%d", size), "--salt="+saltArg, "--uuid="+uuid); err != nil {
				t.Fatalf("veritysetup format: %v: %s", err, out)
			}
			got, want := read(t, f.Name()), read(t, theirs)
			// veritysetup writes 512 bytes of superblock; a file with nothing after them ends there.
			want = append(want, make([]byte, max(0, len(got)-len(want)))...)
			if !bytes.Equal(got, want) {
				t.Errorf("%d blocks: %d bytes differ from veritysetup's %d", blocks, len(got), len(want))
			}
			if n := int64(len(got)) - size; n != Size(size) {
				t.Errorf("Size(%d) = %d; want %d", size, Size(size), n)
			}
			verify := func() (string, error) {
				return run(t, tool, "verify", f.Name(), f.Name(), ours.String(), fmt.Sprintf("--hash-offset=%d", size))
			}
			if out, err := verify(); err != nil {
				t.Errorf("%d blocks: veritysetup refuses the tree: %s", blocks, out)
			}
			for _, at := range []int64{0, size - 1, int64(len(got)) - BlockSize} {
				if at >= size+BlockSize || at < size { // data or tree, not the superblock
					flip(t, f, at)
					if _, err := verify(); err == nil {
						t.Errorf("%d blocks: veritysetup accepts another bit at %d", blocks, at)
					}
					flip(t, f, at)
				}
			}
		}
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func flip(t *testing.T, f *os.File, at int64) {
	t.Helper()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// TestWorkers: how many hash does not change what is written.
func TestWorkers(t *testing.T) {
	var first []byte
	for _, workers := range []int{1, 2, 7} {
		f, size := file(t, 5000)
		o := options(t)
		o.Workers = workers
		if _, err := Write(t.Context(), f, size, f, size, o); err != nil {
			t.Fatal(err)
		}
		got := read(t, f.Name())
		if first == nil {
			first = got
		}
		if !bytes.Equal(got, first) {
			t.Errorf("%d workers write other bytes than one", workers)
		}
	}
}

// brokenStore fails to keep what is written after its first blocks.
type brokenStore struct {
	*os.File
	left int
}

func (s *brokenStore) WriteAt(b []byte, at int64) (int, error) {
	if s.left--; s.left < 0 {
		return 0, os.ErrPermission
	}
	return s.File.WriteAt(b, at)
}

func TestRefusals(t *testing.T) {
	f, size := file(t, 300)
	for _, c := range []struct {
		name string
		size int64
		o    Options
		want error
	}{
		{"no data", 0, Options{}, ErrSize},
		{"half a block", 2048, Options{}, ErrSize},
		{"long salt", size, Options{Salt: make([]byte, 257)}, ErrSalt},
		{"less data than said", 2 * size, Options{}, io.ErrUnexpectedEOF},
	} {
		out, _ := file(t, 1)
		if _, err := Write(t.Context(), f, c.size, out, 0, c.o); !errors.Is(err, c.want) {
			t.Errorf("%s: Write = %v; want %v", c.name, err, c.want)
		}
	}
	if _, err := Write(t.Context(), f, size, &brokenStore{f, 2}, size,
		Options{Workers: 1}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a full disk: Write = %v; want %v", err, os.ErrPermission)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Write(ctx, f, size, f, size, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: Write = %v; want %v", err, context.Canceled)
	}
}

// BenchmarkWrite hashes 256 MiB, as much as a root.
func BenchmarkWrite(b *testing.B) {
	f, size := file(b, 65536)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Write(b.Context(), f, size, f, size, options(b)); err != nil {
			b.Fatal(err)
		}
	}
}
