package catalog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/singleflight"

	"ingot"
	"ingot/image"
)

// blobs remembers which files of the store have the content that they are named after. A file is read
// once, and again when it is another file or was written to: reading a root takes a second, and a
// storm of machines asks for it thousands of times.
type blobs struct {
	mu       sync.Mutex
	verdicts map[ingot.Digest]verdict
	reading  singleflight.Group
}

// verdict is what was found of one version of a file.
type verdict struct {
	of  identity
	err error // nil: it has the content
}

// identity tells versions of a file apart. Whoever writes to a file changes its ctime.
type identity struct {
	device, inode uint64
	size          int64
	mtime, ctime  syscall.Timespec
}

// maxVerdicts bounds how many verdicts are kept; an image has five.
const maxVerdicts = 4096

// clockTick is longer than the steps in which Linux counts the times of files (10 ms at most).
const clockTick = 50 * time.Millisecond

// anySize is the size of an artifact whose size is not known.
const anySize = -1

// Open opens a file of the store that has the content of an artifact. What is read from it is what was
// checked, also if another file takes its place. The error is image.ErrDamaged or fs.ErrNotExist.
func (c *Catalog) Open(a ingot.Artifact) (*os.File, error) {
	f, err := c.openUnchecked(a)
	if err != nil {
		return nil, err
	}
	if err := c.blobs.check(f, a); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (c *Catalog) openUnchecked(a ingot.Artifact) (*os.File, error) {
	f, err := os.OpenFile(c.store.Blob(a.Digest), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return nil, damaged(a.Digest, "is a symbolic link")
	}
	if err != nil {
		return nil, fmt.Errorf("opening blob %s: %w", a.Digest.Short(), err)
	}
	return f, nil
}

func damaged(d ingot.Digest, format string, args ...any) error {
	return fmt.Errorf("%w: blob %s %s; %s", image.ErrDamaged, d.Short(), fmt.Sprintf(format, args...), image.Repair)
}

// check returns an error unless an open file has the content of an artifact.
func (b *blobs) check(f *os.File, a ingot.Artifact) error {
	is, err := look(f, a)
	if err != nil {
		return err
	}
	if v, known := b.verdict(a.Digest); known && v.of == is {
		return v.err
	}
	_, err, _ = b.reading.Do(fmt.Sprint(a.Digest, is), func() (any, error) {
		if v, known := b.verdict(a.Digest); known && v.of == is {
			return nil, v.err
		}
		return nil, b.read(f, a.Digest, is)
	})
	return err
}

// look returns the identity of an open file, and an error if it cannot have the content of an artifact.
func look(f *os.File, a ingot.Artifact) (identity, error) {
	is, err := identify(f)
	switch {
	case errors.Is(err, fs.ErrInvalid):
		return is, damaged(a.Digest, "is not a regular file")
	case err != nil:
		return is, fmt.Errorf("looking at blob %s: %w", a.Digest.Short(), err)
	case a.Size != anySize && is.size != a.Size:
		return is, damaged(a.Digest, "has %d bytes; want %d", is.size, a.Size)
	}
	return is, nil
}

// read reads a file, and remembers what it found.
func (b *blobs) read(f *os.File, want ingot.Digest, is identity) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, math.MaxInt64)); err != nil {
		return fmt.Errorf("reading blob %s: %w", want.Short(), err)
	}
	after, err := identify(f)
	if err != nil || after != is {
		return damaged(want, "changed while it was read")
	}
	v := verdict{of: is}
	if got := ingot.DigestFromSum([sha256.Size]byte(sum.Sum(nil))); got != want {
		v.err = damaged(want, "has digest %s", got.Short())
	}
	if age := time.Since(time.Unix(is.ctime.Unix())); age >= 0 && age < clockTick {
		return v.err // another write would have the same time
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.verdicts == nil || len(b.verdicts) >= maxVerdicts {
		b.verdicts = map[ingot.Digest]verdict{}
	}
	b.verdicts[want] = v
	return v.err
}

func (b *blobs) verdict(d ingot.Digest) (v verdict, known bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, known = b.verdicts[d]
	return v, known
}

// identify returns the identity of a regular file; fs.ErrInvalid for another one.
func identify(f *os.File) (identity, error) {
	st, err := f.Stat()
	if err != nil {
		return identity{}, err
	}
	if !st.Mode().IsRegular() {
		return identity{}, fs.ErrInvalid
	}
	return identityIn(st), nil
}

func identityIn(st fs.FileInfo) identity {
	s := st.Sys().(*syscall.Stat_t)
	return identity{s.Dev, s.Ino, s.Size, s.Mtim, s.Ctim}
}

// sound returns an error unless all files of an image that machines fetch have their content. It may
// have a UKI.
func (c *Catalog) sound(im image.Image, uki *ingot.Artifact) error {
	for _, a := range c.artifacts(im, uki) {
		if c.isSound(a) {
			continue
		}
		f, err := c.Open(a)
		if err != nil {
			return fmt.Errorf("image %s: %w", im.Name, err)
		}
		f.Close()
	}
	return nil
}

// artifacts are the files of an image that machines fetch. It may have a UKI.
func (c *Catalog) artifacts(im image.Image, uki *ingot.Artifact) []ingot.Artifact {
	list := []ingot.Artifact{im.Manifest.Kernel, im.Manifest.Initramfs, im.Manifest.Root, c.Config(im)}
	if uki != nil {
		list = append(list, *uki)
	}
	return list
}

// isSound reports whether a file was found to have the content of an artifact, and is the same file still.
func (c *Catalog) isSound(a ingot.Artifact) bool {
	v, known := c.blobs.verdict(a.Digest)
	return known && v.err == nil && (a.Size == anySize || a.Size == v.of.size) &&
		identityOf(c.store.Blob(a.Digest)) == v.of
}

// Config is the config of an image as an artifact.
func (c *Catalog) Config(im image.Image) ingot.Artifact {
	return ingot.Artifact{Digest: im.Config, Size: anySize}
}

// Examine checks images before machines ask for them, until ctx ends.
func (c *Catalog) Examine(ctx context.Context, images []ingot.Digest, log *slog.Logger) {
	for _, d := range images {
		if ctx.Err() != nil {
			return
		}
		if _, err := c.Image(d); errors.Is(err, image.ErrDamaged) {
			log.Error("an image that machines boot is damaged and is not served", "image", d.Short(), "err", err)
		}
	}
}
