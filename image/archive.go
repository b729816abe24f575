package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
)

// ErrNotArchive: the file is no OCI layout in a tar.
var ErrNotArchive = errors.New("this is no OCI archive")

// Export writes an image, with what refers to it, as an OCI image layout in a
// tar (image-spec, image-layout.md): what other tools call oci-archive. The
// same image gives the same bytes. progress may be nil.
func (s *Store) Export(ctx context.Context, im Image, file string, progress func(done, total int64)) error {
	entries, err := s.archive(im)
	if err != nil {
		return fmt.Errorf("exporting %s: %w", im.Name, err)
	}
	out, err := renameio.NewPendingFile(file, renameio.WithPermissions(0o644))
	if err != nil {
		return fmt.Errorf("exporting %s: %w", im.Name, err)
	}
	defer func() { _ = out.Cleanup() }() // a no-op after the rename
	m := meter{tell: progress}
	for _, e := range entries {
		m.total += e.size
	}
	w := tar.NewWriter(out)
	for _, e := range entries {
		if err := e.write(ctx, w, &m); err != nil {
			return fmt.Errorf("exporting %s: %w", im.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("exporting %s: %w", im.Name, err)
	}
	if err := out.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("exporting %s: %w", im.Name, err)
	}
	return nil
}

// archived is one file of an archive.
type archived struct {
	name string
	size int64
	body []byte // or, when nil:
	file string
	want ingot.Digest // of file
}

// archive lists the files of an image's archive: the layout's two documents,
// the manifests, and then blobs by digest.
func (s *Store) archive(im Image) ([]archived, error) {
	referrers, err := s.ReferrerTree(im)
	if err != nil {
		return nil, err
	}
	index := emptyIndex()
	named := im.Descriptor()
	named.Annotations = map[string]string{ocispec.AnnotationRefName: im.Name.String()}
	index.Manifests = append([]ocispec.Descriptor{named}, referrers...)
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	entries := []archived{
		{name: ocispec.ImageLayoutFile, size: int64(len(layout)), body: layout},
		{name: ocispec.ImageIndexFile, size: int64(len(text)), body: text},
	}
	blobs := map[string]ocispec.Descriptor{}
	for _, d := range index.Manifests {
		entries = append(entries, s.archivedBlob(d))
		list, err := s.Blobs(ingot.Digest(d.Digest))
		if err != nil {
			return nil, err
		}
		for _, b := range list {
			blobs[b.Digest.String()] = b
		}
	}
	at := len(entries)
	for _, d := range blobs {
		entries = append(entries, s.archivedBlob(d))
	}
	slices.SortFunc(entries[at:], func(a, b archived) int { return strings.Compare(a.name, b.name) })
	return entries, nil
}

func (s *Store) archivedBlob(d ocispec.Descriptor) archived {
	id := ingot.Digest(d.Digest)
	return archived{name: "blobs/sha256/" + id.Hex(), size: d.Size, file: s.Blob(id), want: id}
}

// write adds the file to a tar; a blob that is damaged here is not passed on.
func (e archived) write(ctx context.Context, w *tar.Writer, m *meter) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Size: e.size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
	if e.size > 8<<30-1 { // what ustar can say
		header.Format = tar.FormatPAX
	}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if e.body != nil {
		m.add(e.size)
		_, err := w.Write(e.body)
		return err
	}
	f, err := os.Open(e.file)
	if err != nil {
		return err
	}
	defer f.Close()
	return copyVerified(w, io.TeeReader(readerWithContext{ctx, f}, m), e.want)
}

// copyVerified copies a blob and fails when it was not the one.
func copyVerified(w io.Writer, r io.Reader, want ingot.Digest) error {
	sum := newSum()
	if _, err := io.Copy(io.MultiWriter(w, sum), r); err != nil {
		return err
	}
	if got := sum.digest(); got != want {
		return fmt.Errorf("%w: blob %s is %s", ErrDamaged, want.Short(), got.Short())
	}
	return nil
}

// Archive is an OCI image layout in a tar or in a folder, opened to import
// from; it is an Origin.
type Archive struct {
	file  *os.File           // nil for a folder
	dir   string             // of a folder
	parts map[string]extents // of a tar, by name
	index ocispec.Index
}

// extents are where the content of a tar's entry lies.
type extents struct{ at, size int64 }

// OpenArchive opens an OCI layout, a tar or a folder.
func OpenArchive(file string) (*Archive, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("opening an archive: %w", err)
	}
	a := &Archive{dir: file}
	if !st.IsDir() {
		if a.file, err = os.Open(file); err != nil {
			return nil, fmt.Errorf("opening an archive: %w", err)
		}
		if err := a.scan(); err != nil {
			a.Close()
			return nil, fmt.Errorf("reading %q: %w", file, err)
		}
	}
	if err := a.readIndex(); err != nil {
		a.Close()
		return nil, fmt.Errorf("reading %q: %w", file, err)
	}
	return a, nil
}

// Close closes the archive's file.
func (a *Archive) Close() error {
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}

// scan notes where each file of the tar lies.
func (a *Archive) scan() error {
	const most = 100_000 // entries
	a.parts = map[string]extents{}
	count := &countingReader{r: a.file}
	t := tar.NewReader(count)
	for range most {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotArchive, err)
		}
		if h.Typeflag == tar.TypeReg {
			a.parts[path.Clean(h.Name)] = extents{count.at, h.Size}
		}
	}
	return fmt.Errorf("%w: it has more than %d files", ErrNotArchive, most)
}

// countingReader knows where in the file the tar's reader stands, which skips
// over contents by seeking.
type countingReader struct {
	r  *os.File
	at int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.at += int64(n)
	return n, err
}

func (c *countingReader) Seek(offset int64, whence int) (int64, error) {
	at, err := c.r.Seek(offset, whence)
	if err == nil {
		c.at = at
	}
	return at, err
}

func (a *Archive) readIndex() error {
	for name, into := range map[string]any{ocispec.ImageLayoutFile: &ocispec.ImageLayout{}, ocispec.ImageIndexFile: &a.index} {
		f, err := a.open(name)
		if err != nil {
			return fmt.Errorf("%w: it has no %s", ErrNotArchive, name)
		}
		b, err := io.ReadAll(io.LimitReader(f, maxManifest))
		f.Close()
		if err != nil {
			return err
		}
		if err := json.Unmarshal(b, into); err != nil {
			return fmt.Errorf("%w: parsing %s: %w", ErrNotArchive, name, err)
		}
	}
	return nil
}

func (a *Archive) open(name string) (io.ReadCloser, error) {
	if a.file == nil {
		return os.Open(filepath.Join(a.dir, filepath.FromSlash(name)))
	}
	e, ok := a.parts[name]
	if !ok {
		return nil, fmt.Errorf("opening %q: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(a.file, e.at, e.size)), nil
}

// Images are the archive's images of ingot, in its order.
func (a *Archive) Images(ctx context.Context) ([]ocispec.Descriptor, error) {
	var list []ocispec.Descriptor
	for _, d := range a.index.Manifests {
		if slices.ContainsFunc(list, func(l ocispec.Descriptor) bool { return l.Digest == d.Digest }) {
			continue
		}
		if m, err := a.manifest(ctx, d); err == nil && m.Config.MediaType == ingot.MediaTypeConfig {
			list = append(list, d)
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: the archive holds %d manifests of other things", ErrNotImage, len(a.index.Manifests))
	}
	return list, nil
}

func (a *Archive) manifest(ctx context.Context, d ocispec.Descriptor) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	f, err := a.Fetch(ctx, d)
	if err != nil {
		return m, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return m, err
	}
	return m, json.Unmarshal(b, &m)
}

// Fetch opens a blob.
func (a *Archive) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	id, err := ingot.ParseDigest(d.Digest.String())
	if err != nil {
		return nil, err
	}
	f, err := a.open("blobs/sha256/" + id.Hex())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: it lacks blob %s", ErrNotArchive, id.Short())
	}
	return f, err
}

// Referrers lists what the index has besides the images.
func (a *Archive) Referrers(ctx context.Context, subject ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var list []ocispec.Descriptor
	for _, d := range a.index.Manifests {
		if m, err := a.manifest(ctx, d); err == nil && m.Subject != nil && m.Subject.Digest == subject.Digest {
			list = append(list, d)
		}
	}
	return list, nil
}
