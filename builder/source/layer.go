package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"

	"ingot/builder/tree"
)

// The prefix of whiteouts, and the name that hides everything that lower layers have in a folder
// (OCI image specification, layer.md, "Whiteouts"). Other names with the double prefix belong to
// AUFS and are ignored.
const (
	whiteout       = ".wh."
	opaqueWhiteout = ".wh..wh..opq"
)

// merger merges tar streams into a tree. Content is copied to a spool file, so that streams may be
// compressed and have sparse files.
type merger struct {
	tree   *tree.Tree
	spool  *os.File
	at     int64 // end of the spool
	newest int64 // latest modification, Unix time
}

func newMerger(spool *os.File) *merger { return &merger{tree: tree.New(), spool: spool} }

// stacked adds one layer of a container image. Its whiteouts hide files of lower layers, wherever
// they are in the stream. An entry replaces one of another kind, as in container runtimes.
func (m *merger) stacked(ctx context.Context, r io.Reader) error {
	var entries []tree.Entry
	var hidden, opaque []string
	err := m.read(ctx, r, func(e tree.Entry) {
		dir, name := path.Split(e.Path)
		switch {
		case name == opaqueWhiteout:
			opaque = append(opaque, dir)
		case strings.HasPrefix(name, whiteout+whiteout):
		case strings.HasPrefix(name, whiteout):
			hidden = append(hidden, dir+strings.TrimPrefix(name, whiteout))
		default:
			entries = append(entries, e)
		}
	})
	if err != nil {
		return err
	}
	for _, p := range opaque {
		if err := ctx.Err(); err != nil {
			return err
		}
		m.empty(p)
	}
	for _, p := range hidden {
		if err := ctx.Err(); err != nil {
			return err
		}
		m.tree.Remove(p)
	}
	return m.put(ctx, entries, func(e tree.Entry) {
		if old := m.tree.Get(e.Path); old != nil && e.Path != "" && (old.Kind == tree.Dir) != (e.Kind == tree.Dir) {
			m.tree.Remove(e.Path)
		}
	})
}

// plain adds a tarball. A folder whose path is a link in the tree means the link's target.
func (m *merger) plain(ctx context.Context, r io.Reader) error {
	var entries []tree.Entry
	if err := m.read(ctx, r, func(e tree.Entry) { entries = append(entries, e) }); err != nil {
		return err
	}
	return m.put(ctx, entries, func(tree.Entry) {})
}

// empty removes everything in a folder, but not the folder.
func (m *merger) empty(dir string) {
	e := m.tree.Find(dir)
	if e == nil || e.Kind != tree.Dir {
		return
	}
	prefix := e.Path + "/"
	if e.Path == "" {
		prefix = ""
	}
	for _, c := range m.tree.Entries() {
		if c.Path != "" && strings.HasPrefix(c.Path, prefix) && !strings.Contains(c.Path[len(prefix):], "/") {
			m.tree.Remove(c.Path)
		}
	}
}

// put adds entries in the order of their stream. Hard links to later files are added at the end.
func (m *merger) put(ctx context.Context, entries []tree.Entry, before func(tree.Entry)) error {
	var waiting []tree.Entry
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		before(e)
		err := m.tree.Put(e)
		if errors.Is(err, tree.ErrNoFile) {
			waiting = append(waiting, e)
			continue
		}
		if err != nil {
			return err
		}
	}
	for _, e := range waiting {
		if err := m.tree.Put(e); err != nil {
			return err
		}
	}
	return nil
}

// read calls back for each entry of a tar stream, with its content spooled.
func (m *merger) read(ctx context.Context, r io.Reader, each func(tree.Entry)) error {
	to := &spool{ctx: ctx, f: m.spool, at: m.at}
	w := bufio.NewWriterSize(to, 1<<20)
	for tr := tar.NewReader(r); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return w.Flush()
		}
		if err != nil {
			return err
		}
		e, ok := tree.FromHeader(h)
		if !ok {
			continue
		}
		m.newest = max(m.newest, h.ModTime.Unix())
		if e.Kind == tree.File && e.Hard == "" {
			if err := to.room(h.Size); err != nil { // before anything of it is written
				return fmt.Errorf("%.200q: %w", h.Name, err)
			}
			n, err := io.Copy(w, tr)
			if err != nil {
				return fmt.Errorf("%.200q: %w", h.Name, err)
			}
			e.Size, e.Open = n, tree.Section(m.spool.Name(), m.at, n)
			m.at += n
		}
		each(e)
	}
}

// Bounds of what an archive may unpack to.
const (
	maxUnpacked = 256 << 30 // bytes in all
	keepFree    = 256 << 20 // bytes of the filesystem that stay free
	// A root has files of many kinds; more than this many bytes for one of the archive are a bomb, unless
	// there are few of them: files of zeros, such as swap files.
	maxRatio  = 200
	ratioFrom = 2 << 30
)

// spool writes to the end of a scratch file, as long as there is room.
type spool struct {
	ctx     context.Context
	f       *os.File
	at      int64
	checked int64 // up to where there was room
}

// room returns an error that wraps ErrTooLarge if there is no room for n more bytes.
func (s *spool) room(n int64) error {
	const next = "; if it is what you want, unpack it yourself and import the folder"
	if n < 0 || n > maxUnpacked-s.at {
		return fmt.Errorf("%w: more than %d GiB%s", ErrTooLarge, maxUnpacked>>30, next)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(s.f.Fd()), &st); err != nil {
		return fmt.Errorf("looking for room: %w", err)
	}
	if free := int64(st.Bavail) * st.Bsize; n > free-keepFree {
		return fmt.Errorf("%w: the filesystem of %s has %d MiB free, of which %d MiB stay free, and %d MiB are to come; "+
			"free some space there, or set XDG_CACHE_HOME to a larger filesystem", ErrTooLarge, filepath.Dir(s.f.Name()),
			free>>20, keepFree>>20, n>>20)
	}
	s.checked = max(s.checked, s.at+n)
	return nil
}

func (s *spool) Write(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil { // holes of sparse files are written without being read
		return 0, err
	}
	if s.at+int64(len(p)) > s.checked {
		if err := s.room(max(64<<20, int64(len(p)))); err != nil {
			return 0, err
		}
	}
	n, err := s.f.WriteAt(p, s.at)
	s.at += int64(n)
	return n, err
}

// unpacking reads an archive uncompressed, until ctx ends or it is a bomb.
type unpacking struct {
	ctx   context.Context
	r     io.Reader
	close func() error
	in    atomic.Int64 // bytes read, by a goroutine of the decoder
	out   int64        // bytes given
}

func (u *unpacking) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := u.r.Read(p)
	if u.out += int64(n); u.out > maxUnpacked || u.out > ratioFrom && u.out/maxRatio > u.in.Load() {
		return 0, fmt.Errorf("%w: %d MiB until now, from %d KiB, and at most %d GiB or %d for one are taken; if it is what "+
			"you want, unpack it yourself and import the folder", ErrTooLarge, u.out>>20, u.in.Load()>>10,
			maxUnpacked>>30, maxRatio)
	}
	return n, err
}

func (u *unpacking) Close() error { return u.close() }

// The magic numbers of the compressions that a tarball or layer may have
// (RFC 1952, RFC 8878, the .xz format 1.1).
var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	xzMagic   = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
)

// uncompressed returns r uncompressed. The first bytes show its compression.
func uncompressed(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	u := &unpacking{ctx: ctx, close: func() error { return nil }}
	b := bufio.NewReaderSize(&counted{&stoppable{ctx, r}, func(n int64) { u.in.Add(n) }}, 1<<20)
	head, err := b.Peek(len(xzMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		u.r, err = gzip.NewReader(b)
	case bytes.HasPrefix(head, zstdMagic):
		var z *zstd.Decoder
		if z, err = zstd.NewReader(b); err == nil {
			u.r, u.close = z, z.IOReadCloser().Close
		}
	case bytes.HasPrefix(head, xzMagic):
		u.r, err = xz.NewReader(b)
	default:
		u.r, err = b, nil
	}
	if err != nil {
		return nil, err
	}
	return u, nil
}

// compressed reports whether a stream that begins so is compressed.
func compressed(head []byte) bool {
	return bytes.HasPrefix(head, gzipMagic) || bytes.HasPrefix(head, zstdMagic) || bytes.HasPrefix(head, xzMagic)
}

// writeCanonical writes a tree to the file out.
func writeCanonical(ctx context.Context, t *tree.Tree, out string) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	return errors.Join(t.WriteTar(ctx, w, epochZero), w.Flush(), f.Close())
}

// writeZstd compresses what write writes.
func writeZstd(w io.Writer, write func(io.Writer) error) error {
	z, err := zstd.NewWriter(w)
	if err != nil {
		return err
	}
	return errors.Join(write(z), z.Close())
}
