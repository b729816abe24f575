package tree

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

const xattrRecord = "SCHILY.xattr."

// FromTar reads the entries of an uncompressed tar file. Content stays in the file and is read when
// an entry is opened. The file stays open as long as the tree's entries are in use, and must not
// change.
func FromTar(ctx context.Context, file string) (*Tree, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("reading tar: %w", err)
	}
	t, err := FromFile(ctx, f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reading tar %q: %w", file, err)
	}
	return t, nil
}

// FromFile is FromTar of an open file, which must stay open as long as the tree's entries are in use.
func FromFile(ctx context.Context, f *os.File) (*Tree, error) {
	t := New()
	counted := &offsetReader{r: f}
	r := tar.NewReader(counted)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		h, err := r.Next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		e, ok := FromHeader(h)
		if !ok {
			continue
		}
		if sparse(h) {
			return nil, fmt.Errorf("%q: %w", h.Name, ErrSparse)
		}
		if e.Kind == File && e.Hard == "" {
			e.Open = section(f, counted.n, h.Size)
		}
		if err := t.Put(e); err != nil {
			return nil, err
		}
	}
}

// sparse reports whether a file is in one of GNU tar's sparse formats (tar
// manual, "Storing Sparse Files").
func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// offsetReader counts where archive/tar is in the file: after Next that is where the entry's
// content begins. It reads ahead a little, because headers and most contents are small and system
// calls are expensive.
type offsetReader struct {
	r    io.ReaderAt
	n    int64  // where the next byte is
	buf  []byte // what was read ahead
	from int64  // where it begins
}

const readAhead = 32 << 10

func (o *offsetReader) Read(p []byte) (int, error) {
	if o.n < o.from || o.n >= o.from+int64(len(o.buf)) {
		if o.buf == nil {
			o.buf = make([]byte, readAhead)
		}
		n, err := o.r.ReadAt(o.buf[:readAhead], o.n)
		o.buf, o.from = o.buf[:n], o.n
		if n == 0 {
			return 0, err
		}
	}
	n := copy(p, o.buf[o.n-o.from:])
	o.n += int64(n)
	return n, nil
}

// Seek makes archive/tar skip content without reading it.
func (o *offsetReader) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || o.n+offset < 0 {
		return 0, fmt.Errorf("seeking in a tar file: %w", errors.ErrUnsupported)
	}
	o.n += offset
	return o.n, nil
}

// Section returns an Open for content that is a part of a file.
func Section(file string, at, size int64) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		return struct {
			io.Reader
			io.Closer
		}{io.NewSectionReader(f, at, size), f}, nil
	}
}

func section(f *os.File, at, size int64) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(f, at, size)), nil }
}

var kinds = map[byte]Kind{
	tar.TypeReg: File, tar.TypeDir: Dir, tar.TypeSymlink: Symlink, tar.TypeLink: File,
	tar.TypeGNUSparse: File, tar.TypeChar: CharDevice, tar.TypeBlock: BlockDevice, tar.TypeFifo: Fifo,
}

// FromHeader returns the entry that a tar header describes, and false for types that a tree cannot
// hold. The caller sets Open of files.
func FromHeader(h *tar.Header) (Entry, bool) {
	kind, ok := kinds[h.Typeflag]
	if !ok {
		return Entry{}, false
	}
	e := Entry{Path: clean(h.Name), Kind: kind, Mode: uint32(h.Mode) & 0o7777, UID: h.Uid, GID: h.Gid,
		Major: h.Devmajor, Minor: h.Devminor}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		e.Size = h.Size
	case tar.TypeSymlink:
		e.Target = h.Linkname
	case tar.TypeLink:
		e.Hard = clean(h.Linkname)
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrRecord); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = v
		}
	}
	return e, true
}

// WriteTar writes the tree as a canonical tar: sorted, with numeric owners and with epoch as every
// time. Hard links come after all files, so that readers know their targets.
func (t *Tree) WriteTar(ctx context.Context, w io.Writer, epoch time.Time) error {
	tw := tar.NewWriter(w)
	for _, hard := range []bool{false, true} {
		for _, e := range t.Entries() {
			if (e.Hard != "") != hard {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := writeEntry(tw, e, epoch); err != nil {
				return fmt.Errorf("writing %q to tar: %w", e.Path, err)
			}
		}
	}
	return tw.Close()
}

func writeEntry(tw *tar.Writer, e *Entry, epoch time.Time) error {
	h := &tar.Header{Name: "./" + e.Path, Mode: int64(e.Mode), Uid: e.UID, Gid: e.GID, ModTime: epoch,
		Devmajor: e.Major, Devminor: e.Minor, Format: tar.FormatPAX}
	switch {
	case e.Hard != "":
		h.Typeflag, h.Linkname = tar.TypeLink, "./"+e.Hard
	case e.Kind == File:
		h.Typeflag, h.Size = tar.TypeReg, e.Size
	case e.Kind == Dir:
		h.Typeflag = tar.TypeDir
		h.Name = strings.TrimSuffix(h.Name, "/") + "/"
	case e.Kind == Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
	case e.Kind == CharDevice:
		h.Typeflag = tar.TypeChar
	case e.Kind == BlockDevice:
		h.Typeflag = tar.TypeBlock
	case e.Kind == Fifo:
		h.Typeflag = tar.TypeFifo
	}
	for k, v := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+k] = v
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	r, err := e.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(tw, r)
	if err == nil && n != e.Size {
		err = fmt.Errorf("content has %d bytes; want %d", n, e.Size)
	}
	return err
}

// Digest returns the SHA-256 of all entries with all fields and contents.
func (t *Tree) Digest() ([sha256.Size]byte, error) {
	sum := sha256.New()
	for _, e := range t.Entries() {
		fmt.Fprintf(sum, "%q %d %o %d:%d %d %q %q %d,%d %q\n", e.Path, e.Kind, e.Mode, e.UID, e.GID,
			e.Size, e.Target, e.Hard, e.Major, e.Minor, e.Xattrs)
		if e.Kind != File || e.Hard != "" {
			continue
		}
		r, err := e.Open()
		if err != nil {
			return [sha256.Size]byte{}, fmt.Errorf("digesting %q: %w", e.Path, err)
		}
		_, err = io.Copy(sum, r)
		r.Close()
		if err != nil {
			return [sha256.Size]byte{}, fmt.Errorf("digesting %q: %w", e.Path, err)
		}
	}
	return [sha256.Size]byte(sum.Sum(nil)), nil
}
