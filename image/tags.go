package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
)

// ErrInUse: the image is what some machine runs, should run or may fall back to.
var ErrInUse = errors.New("the image is in use")

// ErrDamaged: a stored file is not what its digest says.
var ErrDamaged = errors.New("the store is damaged")

// PartName is an artifact's name for people, "root".
func PartName(media string) string {
	switch media {
	case ingot.ArtifactSBOM:
		return "SBOM"
	case ingot.ArtifactSignedUKI:
		return "signed UKI"
	}
	name := strings.TrimPrefix(media, "application/vnd.ingot.")
	name, _, _ = strings.Cut(name, ".")
	return name
}

// Tag gives an image one more name, PROFILE:WORD, such as node:stable. A tag
// may move from image to image; the version that an image was built as never
// does, and is ErrExists here.
func (s *Store) Tag(ctx context.Context, ref, name string) (Image, error) {
	if _, err := ingot.ParseImageName(name); err != nil {
		return Image{}, fmt.Errorf("tagging: %w", err)
	}
	im, err := s.Get(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	images, err := s.List(ctx)
	if err != nil {
		return Image{}, err
	}
	for _, other := range images {
		if other.Name.String() == name {
			return Image{}, fmt.Errorf("tagging: %w: %s is the version of %s; choose another word", ErrExists, name, other.Digest.Short())
		}
	}
	err = s.edit(func(index *ocispec.Index) error {
		i := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool { return ingot.Digest(d.Digest) == im.Digest })
		if i < 0 {
			return fmt.Errorf("%w: %q", ErrNotFound, ref)
		}
		tag := index.Manifests[i]
		tag.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Annotations[ocispec.AnnotationRefName] == name })
		index.Manifests = append(index.Manifests, tag)
		return nil
	})
	if err != nil {
		return Image{}, err
	}
	return s.Get(ctx, name)
}

// Untag takes a tag away; the image stays.
func (s *Store) Untag(ctx context.Context, name string) error {
	im, err := s.Get(ctx, name)
	if err != nil {
		return err
	}
	if !slices.Contains(im.Tags, name) {
		return fmt.Errorf("taking away %q: %w: it is no tag; to remove the image: ingot image rm %s", name, ErrNotFound, name)
	}
	return s.edit(func(index *ocispec.Index) error {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Annotations[ocispec.AnnotationRefName] == name })
		return nil
	})
}

// Remove takes an image, its tags and what refers to it out of the index. Its
// bytes go with the next GC. inUse says why an image must stay.
func (s *Store) Remove(ctx context.Context, ref string, inUse map[ingot.Digest]string) (Image, error) {
	im, err := s.Get(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	if why := inUse[im.Digest]; why != "" {
		return im, fmt.Errorf("removing %s: %w: %s", im.Name, ErrInUse, why)
	}
	return im, s.remove(im.Digest)
}

func (s *Store) remove(d ingot.Digest) error {
	return s.edit(func(index *ocispec.Index) error {
		gone := s.withReferrers(*index, map[ingot.Digest]bool{d: true})
		index.Manifests = slices.DeleteFunc(index.Manifests, func(m ocispec.Descriptor) bool { return gone[ingot.Digest(m.Digest)] })
		return nil
	})
}

// withReferrers adds to a set of manifests what refers to them, and what
// refers to that: the signature of an SBOM goes with its image.
func (s *Store) withReferrers(index ocispec.Index, set map[ingot.Digest]bool) map[ingot.Digest]bool {
	for grew := true; grew; {
		grew = false
		for _, m := range index.Manifests {
			if set[ingot.Digest(m.Digest)] {
				continue
			}
			for subject := range set {
				if s.refersTo(m, subject) {
					set[ingot.Digest(m.Digest)], grew = true, true
					break
				}
			}
		}
	}
	return set
}

// edit changes the index under the store's lock.
func (s *Store) edit(change func(*ocispec.Index) error) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	if err := change(&index); err != nil {
		return err
	}
	return s.saveIndex(index)
}

func (s *Store) saveIndex(index ocispec.Index) error {
	b, err := json.MarshalIndent(index, "", " ")
	if err != nil {
		return fmt.Errorf("encoding the index: %w", err)
	}
	if err := renameio.WriteFile(s.dir(ocispec.ImageIndexFile), b, 0o644); err != nil {
		return fmt.Errorf("writing the index: %w", err)
	}
	return syncDir(s.dir())
}

// refersTo reports whether a manifest is a referrer of subject: a signature, an
// SBOM. One that cannot be read is taken for one: it is of no use to anybody.
func (s *Store) refersTo(d ocispec.Descriptor, subject ingot.Digest) bool {
	if d.ArtifactType == ingot.MediaTypeConfig {
		return false
	}
	b, err := s.readBlob(ingot.Digest(d.Digest))
	if err != nil {
		return true
	}
	var m ocispec.Manifest
	return json.Unmarshal(b, &m) == nil && m.Subject != nil && ingot.Digest(m.Subject.Digest) == subject
}

// GCOptions say what GC removes.
type GCOptions struct {
	// Keep is how many images of each profile stay, the newest ones. Zero keeps all.
	Keep int
	// InUse says why an image must stay, by digest. Images with a tag stay as well.
	InUse map[ingot.Digest]string
	// DryRun changes nothing.
	DryRun bool
}

// Collected is what GC removed, or would remove.
type Collected struct {
	Images []Image `json:"-"`
	Blobs  int     `json:"blobs"`
	Bytes  int64   `json:"bytes"`
}

// GC removes old images, and the blobs that no image needs. While an image is
// being received it is ErrBusy.
func (s *Store) GC(ctx context.Context, o GCOptions) (Collected, error) {
	var c Collected
	quiet, err := s.noTransfers()
	if err != nil {
		return c, err
	}
	defer quiet()
	images, err := s.List(ctx)
	if err != nil {
		return c, err
	}
	c.Images = old(images, o)
	if !o.DryRun {
		for _, im := range c.Images {
			if err := s.remove(im.Digest); err != nil {
				return c, err
			}
		}
	}
	unlock, err := s.lock()
	if err != nil {
		return c, err
	}
	defer unlock()
	index, err := s.readIndex()
	if err != nil {
		return c, err
	}
	gone := map[ingot.Digest]bool{}
	for _, im := range c.Images {
		gone[im.Digest] = true
	}
	needed, err := s.needed(index, s.withReferrers(index, gone))
	if err != nil {
		return c, err
	}
	return c, s.sweep(needed, o.DryRun, &c)
}

// old are the images that may go.
func old(images []Image, o GCOptions) []Image {
	if o.Keep == 0 {
		return nil
	}
	byProfile := map[string][]Image{}
	for _, im := range images {
		byProfile[im.Name.Profile] = append(byProfile[im.Name.Profile], im)
	}
	var list []Image
	for _, of := range byProfile {
		for _, im := range of[:max(0, len(of)-o.Keep)] { // the newest are last
			if o.InUse[im.Digest] == "" && len(im.Tags) == 0 {
				list = append(list, im)
			}
		}
	}
	slices.SortFunc(list, func(a, b Image) int {
		return cmp.Or(strings.Compare(a.Name.Profile, b.Name.Profile), a.Stored.Compare(b.Stored))
	})
	return list
}

// needed are the blobs that the index leads to, images in gone left out.
func (s *Store) needed(index ocispec.Index, gone map[ingot.Digest]bool) (map[string]bool, error) {
	needed := map[string]bool{}
	for _, d := range index.Manifests {
		id := ingot.Digest(d.Digest)
		if gone[id] {
			continue
		}
		b, err := s.readBlob(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // an image that is not complete: nothing to keep
		}
		if err != nil {
			return nil, fmt.Errorf("%w; nothing was removed: mend or remove that image first", err)
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(b, &m); err != nil {
			return nil, fmt.Errorf("reading manifest %s: %w", id.Short(), err)
		}
		needed[id.Hex()] = true
		for _, l := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			needed[ingot.Digest(l.Digest).Hex()] = true
		}
	}
	return needed, nil
}

// sweep removes the blobs that are not needed. The lock is held: nobody is
// just putting an image.
func (s *Store) sweep(needed map[string]bool, dry bool, c *Collected) error {
	entries, err := os.ReadDir(s.dir("blobs", "sha256"))
	if err != nil {
		return fmt.Errorf("collecting garbage: %w", err)
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil || needed[e.Name()] || strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		if !dry {
			if err := os.Remove(s.dir("blobs", "sha256", e.Name())); err != nil {
				return fmt.Errorf("collecting garbage: %w", err)
			}
		}
		c.Blobs++
		c.Bytes += st.Size()
	}
	return nil
}

// Verify reads every blob of an image and of what refers to it, checks it
// against its digest and the signature against keys, one of which must have
// made it, and returns the first thing that is wrong.
func (s *Store) Verify(ctx context.Context, im Image, keys ...PublicKey) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(im.OCI, &m); err != nil {
		return fmt.Errorf("verifying %s: %w", im.Name, err)
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := s.verifyBlob(ctx, PartName(d.MediaType), ingot.Digest(d.Digest)); err != nil {
			return fmt.Errorf("verifying %s: %w", im.Name, err)
		}
	}
	if err := s.verifyReferrers(ctx, im.Digest); err != nil {
		return fmt.Errorf("verifying %s: %w", im.Name, err)
	}
	if err := im.VerifySignature(keys...); err != nil {
		return fmt.Errorf("verifying %s: %w", im.Name, err)
	}
	return nil
}

// verifyBlob reads one blob and checks it against its digest.
func (s *Store) verifyBlob(ctx context.Context, name string, want ingot.Digest) error {
	got, err := s.measure(ctx, want)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%w: its %s has digest %s; want %s", ErrDamaged, name, got.Short(), want.Short())
	}
	return nil
}

// verifyReferrers reads what refers to an image. A damaged manifest cannot say
// what it refers to: it counts as the image's own.
func (s *Store) verifyReferrers(ctx context.Context, subject ingot.Digest) error {
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	for _, d := range index.Manifests {
		if !s.refersTo(d, subject) {
			continue
		}
		if err := s.verifyBlob(ctx, PartName(d.ArtifactType)+"'s manifest", ingot.Digest(d.Digest)); err != nil {
			return err
		}
		blobs, err := s.Blobs(ingot.Digest(d.Digest))
		if err != nil {
			return err
		}
		for _, b := range blobs {
			if err := s.verifyBlob(ctx, PartName(d.ArtifactType), ingot.Digest(b.Digest)); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure is the digest of what is stored as the blob d.
func (s *Store) measure(ctx context.Context, d ingot.Digest) (ingot.Digest, error) {
	f, err := os.Open(s.Blob(d))
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := newSum()
	if _, err := io.Copy(sum, readerWithContext{ctx, f}); err != nil {
		return "", err
	}
	return sum.digest(), nil
}
