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
	"ingot/internal/beneath"
)

// ErrNotArchive: the file is not an OCI image layout in a tar.
var ErrNotArchive = errors.New("not an OCI archive")

// Export writes an image and its referrers as an OCI image layout in a tar (image-spec,
// image-layout.md), which other tools call oci-archive. The same image gives the same bytes.
// progress gets bytes and may be nil.
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
	m := meter{progress: progress}
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

// archived is one file of an archive: either body or a blob of the store.
type archived struct {
	name string
	size int64
	body []byte
	file string       // of a blob, if body is nil
	want ingot.Digest // of file
}

// archive lists the files of an image's archive: the layout's two documents, the manifests, and
// then the blobs by digest.
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

// write adds the file to a tar. A damaged blob is ErrDamaged.
func (e archived) write(ctx context.Context, w *tar.Writer, m *meter) error {
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: e.name, Size: e.size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
	}
	if e.size > 8<<30-1 { // the largest size in ustar
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

// copyVerified copies a blob and fails with ErrDamaged if its digest is not the one wanted.
func copyVerified(w io.Writer, r io.Reader, want ingot.Digest) error {
	sum := newHasher()
	if _, err := io.Copy(io.MultiWriter(w, sum), r); err != nil {
		return err
	}
	if got := sum.digest(); got != want {
		return fmt.Errorf("%w: blob %s has digest %s", ErrDamaged, want.Short(), got.Short())
	}
	return nil
}

// Archive is an OCI image layout in a tar or in a folder, opened for reading. It is an Origin.
type Archive struct {
	file  *os.File          // nil for a folder
	dir   string            // of a folder
	parts map[string]extent // of a tar, by name
	index ocispec.Index
}

// extent is the position of an entry's content in a tar, in bytes.
type extent struct{ offset, size int64 }

// OpenArchive opens an OCI image layout in a tar or a folder. The caller closes it.
func OpenArchive(file string) (*Archive, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("opening an archive: %w", err)
	}
	a := &Archive{dir: file}
	if !st.IsDir() {
		if a.file, err = (beneath.Path{Name: file}).Open(); err != nil {
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

// Close closes the archive.
func (a *Archive) Close() error {
	if a.file == nil {
		return nil
	}
	return a.file.Close()
}

// scan records the position of each file in the tar.
func (a *Archive) scan() error {
	const limit = 100_000 // entries
	a.parts = map[string]extent{}
	count := &countingReader{r: a.file}
	t := tar.NewReader(count)
	for range limit {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotArchive, err)
		}
		if h.Typeflag == tar.TypeReg {
			a.parts[path.Clean(h.Name)] = extent{count.offset, h.Size}
		}
	}
	return fmt.Errorf("%w: it has more than %d files", ErrNotArchive, limit)
}

// countingReader tracks the offset of a tar.Reader, which skips contents by seeking.
type countingReader struct {
	r      *os.File
	offset int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.offset += int64(n)
	return n, err
}

func (c *countingReader) Seek(offset int64, whence int) (int64, error) {
	at, err := c.r.Seek(offset, whence)
	if err == nil {
		c.offset = at
	}
	return at, err
}

func (a *Archive) readIndex() error {
	documents := map[string]any{ocispec.ImageLayoutFile: &ocispec.ImageLayout{}, ocispec.ImageIndexFile: &a.index}
	for name, into := range documents {
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
		return beneath.Path{Root: a.dir, Name: filepath.FromSlash(name)}.Open() // never a FIFO, which would wait
	}
	e, ok := a.parts[name]
	if !ok {
		return nil, fmt.Errorf("opening %q: %w", name, fs.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(a.file, e.offset, e.size)), nil
}

// Images returns the ingot images of the archive, in the order of its index.
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
		return nil, fmt.Errorf("%w: none of the %d manifests in the archive is one", ErrNotImage, len(a.index.Manifests))
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
		return nil, fmt.Errorf("%w: blob %s is missing", ErrNotArchive, id.Short())
	}
	return f, err
}

// Referrers lists the manifests in the index whose subject is the given one.
func (a *Archive) Referrers(ctx context.Context, subject ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var list []ocispec.Descriptor
	for _, d := range a.index.Manifests {
		if m, err := a.manifest(ctx, d); err == nil && m.Subject != nil && m.Subject.Digest == subject.Digest {
			list = append(list, d)
		}
	}
	return list, nil
}
