package source

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ingot"
)

// Blobs keeps files by the SHA-256 of their bytes, as DIR/<hex>. Adding a file removes those that
// have not been used for ninety days.
type Blobs struct{ Dir string }

// unusedBlobs is how long a blob is kept without being used.
const unusedBlobs = 90 * 24 * time.Hour

// incoming is the prefix of files that are being written.
const incoming = ".incoming-"

// Path is where a blob is kept.
func (b Blobs) Path(d ingot.Digest) string { return filepath.Join(b.Dir, d.Hex()) }

// Has reports whether a blob is kept; a size of 0 or less is not compared. Its
// bytes are verified when they are used.
func (b Blobs) Has(d ingot.Digest, size int64) bool {
	st, err := os.Stat(b.Path(d))
	return err == nil && (size <= 0 || st.Size() == size)
}

// Put keeps the bytes of r, which only their owner may read, as roots hold password hashes and
// sometimes keys. It returns their digest and size. When want is not empty, bytes of
// another digest are refused with ErrDigest.
func (b Blobs) Put(ctx context.Context, r io.Reader, want ingot.Digest) (ingot.Digest, int64, error) {
	if err := os.MkdirAll(b.Dir, 0o755); err != nil {
		return "", 0, fmt.Errorf("preparing the cache: %w", err)
	}
	b.prune(time.Now())
	tmp, err := os.CreateTemp(b.Dir, incoming)
	if err != nil {
		return "", 0, fmt.Errorf("adding to the cache: %w", err)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, sum), &stoppable{ctx, r})
	if err != nil {
		return "", 0, err
	}
	got := digestOfSum(sum)
	if want != "" && got != want {
		return "", 0, fmt.Errorf("%w: sha256 is %s…; want %s…", ErrDigest, got.Short(), want.Short())
	}
	if err := errors.Join(tmp.Chmod(0o600), tmp.Sync()); err != nil {
		return "", 0, fmt.Errorf("adding to the cache: %w", err)
	}
	if err := os.Rename(tmp.Name(), b.Path(got)); err != nil {
		return "", 0, fmt.Errorf("adding to the cache: %w", err)
	}
	return got, n, nil
}

// Read returns the verified bytes of a small blob.
func (b Blobs) Read(d ingot.Digest) ([]byte, error) {
	content, err := os.ReadFile(b.Path(d))
	if err != nil {
		return nil, fmt.Errorf("reading the cache: %w", err)
	}
	if ingot.DigestOf(content) != d {
		return nil, b.damaged(d)
	}
	return content, nil
}

// Verify compares a blob with its digest.
func (b Blobs) Verify(ctx context.Context, d ingot.Digest) error {
	r, err := b.open(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	return r.finish()
}

// damaged removes a blob that is not what its name says.
func (b Blobs) damaged(d ingot.Digest) error {
	if err := os.Remove(b.Path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing a damaged file from the cache: %w", err)
	}
	return fmt.Errorf("%w: %s; the file was removed", ErrDamaged, d.Short())
}

// open opens a blob. The reader's finish reports whether the bytes had its digest.
func (b Blobs) open(ctx context.Context, d ingot.Digest) (*blobReader, error) {
	f, err := os.Open(b.Path(d))
	if err != nil {
		return nil, fmt.Errorf("reading the cache: %w", err)
	}
	now := time.Now()
	_ = os.Chtimes(b.Path(d), now, now) // recently used: decides only what is pruned
	return &blobReader{Reader: &stoppable{ctx, f}, f: f, sum: sha256.New(), blobs: b, want: d}, nil
}

// blobReader hashes a blob while it is read.
type blobReader struct {
	io.Reader
	f     *os.File
	sum   hash.Hash
	blobs Blobs
	want  ingot.Digest
}

func (r *blobReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.sum.Write(p[:n])
	return n, err
}

// finish reads the rest and compares the digest.
func (r *blobReader) finish() error {
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("reading the cache: %w", err)
	}
	if digestOfSum(r.sum) != r.want {
		return r.blobs.damaged(r.want)
	}
	return nil
}

func (r *blobReader) Close() error { return r.f.Close() }

// prune removes blobs that have not been used for long, and half-written ones of killed processes
// after a day.
func (b Blobs) prune(now time.Time) {
	entries, _ := os.ReadDir(b.Dir)
	for _, e := range entries {
		st, err := e.Info()
		if err != nil || st.IsDir() {
			continue
		}
		age := now.Sub(st.ModTime())
		if age > unusedBlobs || strings.HasPrefix(e.Name(), incoming) && age > 24*time.Hour {
			os.Remove(filepath.Join(b.Dir, e.Name()))
		}
	}
}

// stoppable ends reading when its context ends.
type stoppable struct {
	ctx context.Context
	r   io.Reader
}

func (s *stoppable) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}

func digestOfSum(h hash.Hash) ingot.Digest { return ingot.DigestFromSum([sha256.Size]byte(h.Sum(nil))) }
