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
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

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
		m.empty(p)
	}
	for _, p := range hidden {
		m.tree.Remove(p)
	}
	return m.put(entries, func(e tree.Entry) {
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
	return m.put(entries, func(tree.Entry) {})
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
func (m *merger) put(entries []tree.Entry, before func(tree.Entry)) error {
	var waiting []tree.Entry
	for _, e := range entries {
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
	w := bufio.NewWriterSize(&atEnd{m.spool, m.at}, 1<<20)
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
			n, err := io.Copy(w, tr)
			if err != nil {
				return fmt.Errorf("%q: %w", h.Name, err)
			}
			e.Size, e.Open = n, tree.Section(m.spool.Name(), m.at, n)
			m.at += n
		}
		each(e)
	}
}

// atEnd writes from an offset on.
type atEnd struct {
	f  *os.File
	at int64
}

func (a *atEnd) Write(p []byte) (int, error) {
	n, err := a.f.WriteAt(p, a.at)
	a.at += int64(n)
	return n, err
}

// The magic numbers of the compressions that a tarball or layer may have
// (RFC 1952, RFC 8878, the .xz format 1.1).
var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	xzMagic   = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
)

// uncompressed returns r uncompressed. The first bytes show its compression.
func uncompressed(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 1<<20)
	head, err := b.Peek(len(xzMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		return gzip.NewReader(b)
	case bytes.HasPrefix(head, zstdMagic):
		z, err := zstd.NewReader(b)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(head, xzMagic):
		z, err := xz.NewReader(b)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(z), nil
	}
	return io.NopCloser(b), nil
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
