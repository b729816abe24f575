package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"ingot"
	"ingot/internal/owned"
)

// Files are the paths of the finished artifacts of an image. Put copies them.
type Files struct {
	Kernel    string
	Initramfs string
	Root      string // squashfs
	Plan      string // canonical JSON of the plan
	UKI       string // unified kernel image; may be empty
	// Chunks are the sizes of the root's chunks in bytes, in order; their sum is the size of the
	// root. Empty means chunks of 1 MiB.
	Chunks []int64
	// Attach returns what to store with the image of that digest, in the same change of the index;
	// it may be nil.
	Attach func(im ingot.Digest) ([]Attachment, error)
}

// chunkSize is the size in bytes of a root's chunks if the caller does not give their sizes.
const chunkSize = 1 << 20

// ErrChunks: the chunk sizes that the caller gave do not match the root.
var ErrChunks = errors.New("the sizes of the chunks do not add up to the size of the root")

// tempPrefix marks blobs that are being written.
const tempPrefix = ".incoming-"

// Put stores an image. It fills in the digests, sizes and chunks of m, signs the manifest with sign
// and tags it with its name; the tag is written last. Storing the same content again changes
// nothing; other content under an existing name is ErrExists.
func (s *Store) Put(ctx context.Context, m *ingot.ImageManifest, f Files, sign SecretKey) (Image, error) {
	unlock, err := s.lock()
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	layers, err := s.putFiles(ctx, m, f)
	if err != nil {
		return Image{}, err
	}
	desc, body, err := s.putManifest(m, layers)
	if err != nil {
		return Image{}, err
	}
	index, err := s.readIndex()
	if err != nil {
		return Image{}, err
	}
	name := m.Name().String()
	if other := s.taken(index, name, desc); other != "" {
		return Image{}, fmt.Errorf("%w: %s is %s; choose another --version", ErrExists, name, other.Short())
	}
	attached := []Attachment{{Type: ingot.ArtifactSignature, Media: ingot.ArtifactSignature,
		Content: strings.NewReader(sign.Sign(body, "image "+name+" "+desc.Digest.String()))}}
	if f.Attach != nil {
		more, err := f.Attach(ingot.Digest(desc.Digest))
		if err != nil {
			return Image{}, err
		}
		attached = append(attached, more...)
	}
	referrers := make([]ocispec.Descriptor, len(attached))
	for i, a := range attached {
		if referrers[i], err = s.putReferrer(ctx, desc, a); err != nil {
			return Image{}, err
		}
	}
	if err := s.writeIndex(index, desc, referrers...); err != nil {
		return Image{}, err
	}
	return s.Get(ctx, desc.Digest.String())
}

// taken returns the digest of another image than d that has the name; empty if there is none.
func (s *Store) taken(index ocispec.Index, name string, d ocispec.Descriptor) ingot.Digest {
	for _, other := range index.Manifests {
		if other.Annotations[ocispec.AnnotationRefName] != name || other.ArtifactType != ingot.MediaTypeConfig ||
			other.Digest == d.Digest {
			continue
		}
		if _, err := s.read(other); err == nil {
			return ingot.Digest(other.Digest)
		}
	}
	return ""
}

// putFiles copies the artifacts and sets their digests, sizes and chunks in the manifest.
func (s *Store) putFiles(ctx context.Context, m *ingot.ImageManifest, f Files) ([]ocispec.Descriptor, error) {
	var layers []ocispec.Descriptor
	if f.UKI != "" {
		m.UKI = new(ingot.Artifact)
	}
	for _, part := range []struct {
		path, media string
		into        *ingot.Artifact
		chunks      *chunker
	}{
		{f.Kernel, ingot.MediaTypeKernel, &m.Kernel, nil},
		{f.Initramfs, ingot.MediaTypeInitramfs, &m.Initramfs, nil},
		{f.Root, ingot.MediaTypeRoot, &m.Root, &chunker{sizes: f.Chunks}},
		{f.UKI, ingot.MediaTypeUKI, m.UKI, nil},
		{f.Plan, ingot.MediaTypePlan, &ingot.Artifact{}, nil},
	} {
		if part.into == nil {
			continue
		}
		a, err := s.putFile(ctx, part.path, part.chunks)
		if err != nil {
			return nil, err
		}
		*part.into = a
		if part.chunks != nil {
			if m.Chunks, err = part.chunks.finish(); err != nil {
				return nil, fmt.Errorf("storing the root: %w", err)
			}
		}
		layers = append(layers, descriptor(part.media, a))
	}
	return layers, nil
}

func descriptor(media string, a ingot.Artifact) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: media, Digest: ociDigest(a.Digest), Size: a.Size}
}

// putManifest writes the config and the OCI manifest. Both are deterministic: encoding/json keeps
// the order of fields and sorts maps.
func (s *Store) putManifest(m *ingot.ImageManifest, layers []ocispec.Descriptor) (ocispec.Descriptor, []byte, error) {
	config, err := json.Marshal(m)
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("encoding image config: %w", err)
	}
	c, err := s.putBytes(config)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	body, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: ingot.MediaTypeConfig,
		Config:       descriptor(ingot.MediaTypeConfig, c),
		Layers:       layers,
		Annotations: map[string]string{
			ocispec.AnnotationCreated: m.Created.UTC().Format(time.RFC3339),
			ocispec.AnnotationTitle:   m.Profile, ocispec.AnnotationVersion: m.Version,
		},
	})
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("encoding OCI manifest: %w", err)
	}
	a, err := s.putBytes(body)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	d := descriptor(ocispec.MediaTypeImageManifest, a)
	d.ArtifactType = ingot.MediaTypeConfig
	d.Annotations = map[string]string{ocispec.AnnotationRefName: m.Name().String()}
	return d, body, nil
}

// writeIndex adds an image and its referrers to the index. They replace an older entry of that name
// and older referrers of the same types. Other referrers, such as a UKI that was signed later,
// stay.
func (s *Store) writeIndex(index ocispec.Index, im ocispec.Descriptor, referrers ...ocispec.Descriptor) error {
	name := im.Annotations[ocispec.AnnotationRefName]
	var kept []ocispec.Descriptor
	for _, d := range index.Manifests {
		replaced := slices.ContainsFunc(referrers, func(r ocispec.Descriptor) bool {
			return r.ArtifactType == d.ArtifactType
		})
		if d.Annotations[ocispec.AnnotationRefName] == name || replaced && s.refersTo(d, ingot.Digest(im.Digest)) {
			continue
		}
		kept = append(kept, d)
	}
	index.Manifests = append(append(kept, im), referrers...)
	return s.saveIndex(index)
}

func (s *Store) putBytes(b []byte) (ingot.Artifact, error) {
	return s.putReader(context.Background(), bytes.NewReader(b), nil)
}

func (s *Store) putFile(ctx context.Context, path string, c *chunker) (ingot.Artifact, error) {
	f, err := os.Open(path)
	if err != nil {
		return ingot.Artifact{}, fmt.Errorf("storing artifact: %w", err)
	}
	defer f.Close()
	return s.putReader(ctx, f, c)
}

// putReader writes one blob: temporary name, sync, rename.
func (s *Store) putReader(ctx context.Context, r io.Reader, c *chunker) (ingot.Artifact, error) {
	blobs := s.dir("blobs", "sha256")
	tmp, err := owned.CreateTemp(blobs, tempPrefix)
	if err != nil {
		return ingot.Artifact{}, fmt.Errorf("storing blob: %w", err)
	}
	defer os.Remove(tmp.Name()) // a no-op after the rename
	defer tmp.Close()
	sum := sha256.New()
	w := io.MultiWriter(tmp, sum)
	if c != nil {
		w = io.MultiWriter(tmp, sum, c)
	}
	n, err := io.Copy(w, readerWithContext{ctx, r})
	if err != nil {
		return ingot.Artifact{}, fmt.Errorf("storing blob: %w", err)
	}
	d := ingot.DigestFromSum([sha256.Size]byte(sum.Sum(nil)))
	if st, err := os.Lstat(s.Blob(d)); err == nil && st.Mode().IsRegular() && st.Size() == n &&
		s.verifyBlob(ctx, "", d) == nil { // a damaged one is replaced
		return ingot.Artifact{Digest: d, Size: n}, nil
	}
	if err := tmp.Chmod(0o644); err != nil {
		return ingot.Artifact{}, fmt.Errorf("storing blob %s: %w", d.Short(), err)
	}
	if err := tmp.Sync(); err != nil {
		return ingot.Artifact{}, fmt.Errorf("storing blob %s: %w", d.Short(), err)
	}
	if err := os.Rename(tmp.Name(), s.Blob(d)); err != nil {
		return ingot.Artifact{}, fmt.Errorf("storing blob %s: %w", d.Short(), err)
	}
	return ingot.Artifact{Digest: d, Size: n}, syncDir(blobs)
}

// Clean removes the temporary files of killed writers and returns their size in bytes. While an
// image is being received it removes nothing.
func (s *Store) Clean(context.Context) (int64, error) {
	unlock, err := s.lock()
	if err != nil {
		return 0, err
	}
	defer unlock()
	release, err := s.lockTransfers()
	if errors.Is(err, ErrBusy) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer release()
	entries, err := os.ReadDir(s.dir("blobs", "sha256"))
	if err != nil {
		return 0, fmt.Errorf("cleaning store: %w", err)
	}
	var freed int64
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		if st, err := e.Info(); err == nil {
			freed += st.Size()
		}
		if err := os.Remove(s.dir("blobs", "sha256", e.Name())); err != nil {
			return freed, fmt.Errorf("cleaning store: %w", err)
		}
	}
	return freed, nil
}

func (s *Store) lock() (unlock func(), err error) {
	return lockFile(filepath.Join(s.root, "images", ".lock"), unix.LOCK_EX)
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("syncing folder: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing folder %q: %w", path, err)
	}
	return nil
}

// readerWithContext ends a long copy when ctx ends.
type readerWithContext struct {
	ctx context.Context
	r   io.Reader
}

func (r readerWithContext) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// hasher computes a digest.
type hasher struct{ hash.Hash }

func newHasher() hasher { return hasher{sha256.New()} }

func (s hasher) digest() ingot.Digest { return ingot.DigestFromSum([sha256.Size]byte(s.Sum(nil))) }

// chunker divides what is written to it into chunks of the given sizes, or of chunkSize if there
// are none, and hashes each.
type chunker struct {
	sizes  []int64 // of the chunks that follow
	given  bool
	chunks []ingot.Chunk
	sum    hash.Hash
	n      int64 // bytes of the current chunk so far
	size   int64 // bytes of the current chunk when it is complete
}

func (c *chunker) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		if c.sum == nil {
			if err := c.begin(); err != nil {
				return done, err
			}
		}
		part := p[done:min(int64(len(p)), int64(done)+c.size-c.n)]
		c.sum.Write(part)
		c.n += int64(len(part))
		done += len(part)
		if c.n == c.size {
			c.flush()
		}
	}
	return len(p), nil
}

// begin starts the next chunk.
func (c *chunker) begin() error {
	c.given = c.given || len(c.sizes) > 0
	c.sum, c.n, c.size = sha256.New(), 0, chunkSize
	if !c.given {
		return nil
	}
	if len(c.sizes) == 0 || c.sizes[0] <= 0 {
		return ErrChunks
	}
	c.size, c.sizes = c.sizes[0], c.sizes[1:]
	return nil
}

func (c *chunker) flush() {
	c.chunks = append(c.chunks, ingot.Chunk{Digest: ingot.DigestFromSum([sha256.Size]byte(c.sum.Sum(nil))), Size: c.n})
	c.sum = nil
}

func (c *chunker) finish() ([]ingot.Chunk, error) {
	if len(c.sizes) > 0 || c.given && c.sum != nil {
		return nil, ErrChunks
	}
	if c.sum != nil {
		c.flush()
	}
	return c.chunks, nil
}
