// Package image stores finished images, and verifies the signatures that make them trusted. It is
// where builder and bootserver meet.
//
// A Store is an OCI image layout (OCI image-spec, image-layout.md) that other
// OCI tools can read: each image is an OCI manifest whose config blob is an
// ingot.ImageManifest and whose layers are kernel, initramfs, root and plan.
// Its signature is a referrer (image-spec, manifest.md, "subject"), so that
// signing does not change an image's digest.
//
// The package writes the layout itself: a blob is written under a temporary name, synced and
// renamed, index.json is written last, and one lock serialises the writers of all processes.
// Receive, which copies an image from a registry or an archive, writes blobs without that lock; it
// checks the signature first and writes the entry in the index last.
//
// Left out on purpose: the registry client, which is in image/registry, so that a program that only
// reads a Store does not link it; image indexes for several platforms; digests other than SHA-256.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"ingot"
	"ingot/internal/owned"
)

// Errors that callers may test for with errors.Is.
var (
	// ErrNotFound: the reference matches no complete image.
	ErrNotFound = errors.New("no such image")
	// ErrExists: an image with another digest has the name.
	ErrExists = errors.New("an image of that name already exists with other content")
	// ErrAmbiguous: the digests of several images begin with the given digits.
	ErrAmbiguous = errors.New("several images match")
	// ErrBusy: an image is being received, so no garbage can be collected.
	ErrBusy = errors.New("an image is being received")
	// ErrContent: received content does not match its digest.
	ErrContent = errors.New("the content does not match its digest")
	// ErrNotImage: what was received is not an image of ingot.
	ErrNotImage = errors.New("not an ingot image")
	// ErrUntrusted: a received image is not signed by a trusted key.
	ErrUntrusted = errors.New("the image is not signed by a release key that this store trusts")
)

// Store is a folder of images. Readers need no lock and see only complete images. A Store may be
// used by several goroutines and processes.
type Store struct{ root string }

// Image is one complete image of a Store.
type Image struct {
	Digest    ingot.Digest // of OCI: what machines are assigned
	Name      ingot.ImageName
	Tags      []string // further names
	Manifest  ingot.ImageManifest
	OCI       []byte       // the OCI manifest, bytes as signed
	Config    ingot.Digest // blob that holds Manifest
	Signature string       // minisign signature of OCI; empty when unsigned
	Size      int64        // bytes of all blobs
	Stored    time.Time
}

// Open opens the store at root and creates the folders that are missing.
func Open(_ context.Context, root string) (*Store, error) {
	s := &Store{root: root}
	if err := owned.MkdirAll(s.dir("blobs", "sha256"), 0o755); err != nil {
		return nil, fmt.Errorf("opening store %q: %w", root, err)
	}
	layout := s.dir(ocispec.ImageLayoutFile)
	if _, err := os.Stat(layout); errors.Is(err, fs.ErrNotExist) {
		b, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
		if err != nil {
			return nil, err
		}
		if err := owned.WriteFile(layout, b, 0o644); err != nil {
			return nil, fmt.Errorf("opening store %q: %w", root, err)
		}
	} else if err != nil {
		return nil, fmt.Errorf("opening store %q: %w", root, err)
	}
	return s, nil
}

// Root returns the folder that the store was opened with.
func (s *Store) Root() string { return s.root }

func (s *Store) dir(elem ...string) string {
	return filepath.Join(append([]string{s.root, "images"}, elem...)...)
}

// Blob returns the path of the file that holds the blob d. The file exists for every blob of a
// complete image.
func (s *Store) Blob(d ingot.Digest) string { return s.dir("blobs", "sha256", d.Hex()) }

// List returns the complete images, sorted by profile and then by age, the newest last. An image
// with a blob that is missing or truncated is left out.
func (s *Store) List(ctx context.Context) ([]Image, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	signatures := s.signatures(index)
	tags := map[ingot.Digest][]string{}
	var images []Image
	for _, d := range index.Manifests {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if d.ArtifactType != ingot.MediaTypeConfig {
			continue
		}
		id := ingot.Digest(d.Digest)
		names, seen := tags[id]
		tags[id] = append(names, d.Annotations[ocispec.AnnotationRefName])
		if seen {
			continue
		}
		im, err := s.read(d)
		if err != nil {
			continue // not complete
		}
		im.Signature = signatures[im.Digest]
		images = append(images, im)
	}
	for i, im := range images {
		images[i].Tags = slices.DeleteFunc(tags[im.Digest], func(t string) bool {
			return t == "" || t == im.Name.String()
		})
		slices.Sort(images[i].Tags)
	}
	sort.SliceStable(images, func(i, j int) bool {
		a, b := images[i], images[j]
		if a.Name.Profile != b.Name.Profile {
			return a.Name.Profile < b.Name.Profile
		}
		return a.Stored.Before(b.Stored)
	})
	return images, nil
}

// Get returns the image that ref names: PROFILE:VERSION, a tag, PROFILE for its newest version, a
// digest, or a unique prefix of a digest of at least 6 hex digits.
func (s *Store) Get(ctx context.Context, ref string) (Image, error) {
	images, err := s.List(ctx)
	if err != nil {
		return Image{}, err
	}
	im, err := Find(images, ref)
	if errors.Is(err, ErrNotFound) {
		if damaged := s.incomplete(ctx, ref); damaged != nil {
			return im, damaged
		}
	}
	return im, err
}

// incomplete returns an ErrDamaged if the index has an image that ref names, which List left out; nil if it
// does not.
func (s *Store) incomplete(ctx context.Context, ref string) error {
	list, err := s.Damaged(ctx)
	if err != nil {
		return err
	}
	for _, x := range list {
		if x.isNamed(ref) {
			return x.Err
		}
	}
	return nil
}

// Find returns the image that a reference names, as Get does, from the images that List returned.
func Find(images []Image, ref string) (Image, error) {
	var found []Image
	for _, im := range images {
		if im.Name.String() == ref || string(im.Digest) == ref || slices.Contains(im.Tags, ref) {
			return im, nil
		}
		if hex := strings.TrimPrefix(ref, "sha256:"); len(hex) >= 6 && strings.HasPrefix(im.Digest.Hex(), hex) {
			found = append(found, im)
		}
	}
	if len(found) == 0 {
		for i := len(images) - 1; i >= 0; i-- {
			if images[i].Name.Profile == ref {
				return images[i], nil
			}
		}
	}
	switch len(found) {
	case 0:
		return Image{}, fmt.Errorf("%w: %q%s", ErrNotFound, ref, available(images))
	case 1:
		return found[0], nil
	}
	return Image{}, fmt.Errorf("%w: %d digests begin with %q; give more digits", ErrAmbiguous, len(found), ref)
}

// InexactError: a reference is too loose for something that cannot be undone. Only PROFILE:VERSION, a
// digest, or a beginning of at least 8 digits that no other digest has, will do.
type InexactError struct {
	Ref   string
	Means Image    // what the reference means now
	Among []string // the names of all images of the profile, if the reference is one
}

func (e *InexactError) Error() string {
	name := e.Means.Name.String()
	switch {
	case slices.Contains(e.Means.Tags, e.Ref):
		return fmt.Sprintf("%s is a tag, which can move; it means %s now", e.Ref, name)
	case len(e.Among) > 1:
		return fmt.Sprintf("%q is a profile with %d images, %s, and means %s, the newest of them", e.Ref, len(e.Among),
			strings.Join(e.Among, ", "), name)
	case len(e.Among) == 1:
		return fmt.Sprintf("%q is a profile, and means %s, its only image", e.Ref, name)
	}
	return fmt.Sprintf("%q has too few digits; it means %s now, digest %s", e.Ref, name, e.Means.Digest)
}

// exactDigits is how many digits of a digest name an image exactly.
const exactDigits = 8

// Exact returns the image that a reference names exactly, see InexactError.
func Exact(images []Image, ref string) (Image, error) {
	im, err := Find(images, ref)
	hex := strings.TrimPrefix(ref, "sha256:")
	if err != nil || im.Name.String() == ref || len(hex) >= exactDigits && strings.HasPrefix(im.Digest.Hex(), hex) {
		return im, err
	}
	loose := &InexactError{Ref: ref, Means: im}
	for _, other := range images {
		if other.Name.Profile == ref {
			loose.Among = append(loose.Among, other.Name.String())
		}
	}
	return im, loose
}

// available lists the images of the store, for the error about an unknown name.
func available(images []Image) string {
	if len(images) == 0 {
		return "; the store is empty; to build an image: ingot build lab --version v1"
	}
	var names []string
	for _, im := range images {
		names = append(names, im.Name.String())
	}
	if len(names) > 8 {
		names = append(names[len(names)-8:], "…")
	}
	return "; the store has " + strings.Join(names, ", ")
}

// read loads one image and checks that all its blobs are there.
func (s *Store) read(d ocispec.Descriptor) (Image, error) {
	id, err := ingot.ParseDigest(d.Digest.String())
	if err != nil {
		return Image{}, err
	}
	im := Image{Digest: id}
	if im.OCI, err = s.readBlob(id); err != nil {
		return Image{}, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(im.OCI, &m); err != nil {
		return Image{}, fmt.Errorf("parsing manifest %s: %w", id.Short(), err)
	}
	for _, b := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		st, err := os.Stat(s.Blob(ingot.Digest(b.Digest)))
		if err != nil {
			return Image{}, fmt.Errorf("reading image %s: %w", id.Short(), err)
		}
		if st.Size() != b.Size {
			return Image{}, fmt.Errorf("reading image %s: blob %s has %d bytes; want %d",
				id.Short(), b.Digest, st.Size(), b.Size)
		}
		im.Size += b.Size
	}
	im.Config = ingot.Digest(m.Config.Digest)
	config, err := s.readBlob(im.Config)
	if err != nil {
		return Image{}, err
	}
	if err := json.Unmarshal(config, &im.Manifest); err != nil {
		return Image{}, fmt.Errorf("parsing config of %s: %w", id.Short(), err)
	}
	im.Name = im.Manifest.Name()
	if st, err := os.Stat(s.Blob(id)); err == nil {
		im.Stored = st.ModTime()
	}
	return im, nil
}

// readBlob reads a small blob and checks it against its digest.
func (s *Store) readBlob(d ingot.Digest) ([]byte, error) {
	f, err := os.Open(s.Blob(d))
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", d.Short(), err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err != nil {
		return nil, fmt.Errorf("reading blob %s: %w", d.Short(), err)
	}
	if ingot.DigestOf(b) != d {
		return nil, fmt.Errorf("reading blob %s: the content does not match the digest", d.Short())
	}
	return b, nil
}

func (s *Store) readIndex() (ocispec.Index, error) {
	index := emptyIndex()
	b, err := os.ReadFile(s.dir(ocispec.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err != nil {
		return index, fmt.Errorf("reading the index of store %q: %w", s.root, err)
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return index, fmt.Errorf("parsing the index of store %q: %w", s.root, err)
	}
	return index, nil
}

// signatures maps image digests to the text of their signatures.
func (s *Store) signatures(index ocispec.Index) map[ingot.Digest]string {
	texts := map[ingot.Digest]string{}
	for _, d := range index.Manifests {
		if d.ArtifactType != ingot.ArtifactSignature {
			continue
		}
		b, err := s.readBlob(ingot.Digest(d.Digest))
		if err != nil {
			continue
		}
		var m ocispec.Manifest
		if json.Unmarshal(b, &m) != nil || m.Subject == nil || len(m.Layers) != 1 {
			continue
		}
		if text, err := s.readBlob(ingot.Digest(m.Layers[0].Digest)); err == nil {
			texts[ingot.Digest(m.Subject.Digest)] = string(text)
		}
	}
	return texts
}

// lockFile takes a flock(2) lock on path and returns the function that releases it.
func lockFile(path string, how int) (unlock func(), err error) {
	f, err := owned.OpenFile(path, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock %q: %w", path, err)
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %q: %w", path, err)
	}
	return func() { f.Close() }, nil
}

func ociDigest(d ingot.Digest) digest.Digest { return digest.Digest(d) }
