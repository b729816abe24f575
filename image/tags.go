package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
	"ingot/internal/owned"
)

// ErrDamaged: a stored file does not match its digest.
var ErrDamaged = errors.New("the store is damaged")

// PartName returns the short name of an artifact for people, such as "root".
func PartName(media string) string {
	switch media {
	case ingot.MediaTypeConfig:
		return "config"
	case ingot.ArtifactSBOM:
		return "SBOM"
	case ingot.ArtifactSignedUKI:
		return "signed UKI"
	}
	name := strings.TrimPrefix(media, "application/vnd.ingot.")
	name, _, _ = strings.Cut(name, ".")
	return name
}

// Tag adds a name, PROFILE:WORD, such as node:stable, to an image. A tag can move from image to
// image. The version that an image was built with cannot, and is ErrExists.
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
			return Image{}, fmt.Errorf("tagging: %w: %s is the version of %s; choose another word",
				ErrExists, name, other.Digest.Short())
		}
	}
	err = s.edit(func(index *ocispec.Index) error {
		i := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			return ingot.Digest(d.Digest) == im.Digest
		})
		if i < 0 {
			return fmt.Errorf("%w: %q", ErrNotFound, ref)
		}
		tag := index.Manifests[i]
		tag.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		index.Manifests = append(withoutName(index.Manifests, name), tag)
		return nil
	})
	if err != nil {
		return Image{}, err
	}
	return s.Get(ctx, name)
}

// Untag removes a tag; the image stays.
func (s *Store) Untag(ctx context.Context, name string) error {
	im, err := s.Get(ctx, name)
	if err != nil {
		return err
	}
	if !slices.Contains(im.Tags, name) {
		return fmt.Errorf("removing tag %q: %w: it is not a tag; to remove the image: ingot image rm %s",
			name, ErrNotFound, name)
	}
	return s.edit(func(index *ocispec.Index) error {
		index.Manifests = withoutName(index.Manifests, name)
		return nil
	})
}

// withoutName returns the entries of an index that do not have a name. It changes the slice.
func withoutName(entries []ocispec.Descriptor, name string) []ocispec.Descriptor {
	return slices.DeleteFunc(entries, func(d ocispec.Descriptor) bool {
		return d.Annotations[ocispec.AnnotationRefName] == name
	})
}

// edit changes the index under the store's lock.
func (s *Store) edit(change func(*ocispec.Index) error) error {
	unlock, err := s.lock()
	if err != nil {
		return err
	}
	defer unlock()
	return s.change(change)
}

// change changes the index. The caller holds the store's lock.
func (s *Store) change(change func(*ocispec.Index) error) error {
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
	if err := owned.WriteFile(s.dir(ocispec.ImageIndexFile), b, 0o644); err != nil {
		return fmt.Errorf("writing the index: %w", err)
	}
	return syncDir(s.dir())
}

// refersTo reports whether a manifest is a referrer of subject, such as a signature or an SBOM. One
// that cannot be read counts as a referrer of every image.
func (s *Store) refersTo(d ocispec.Descriptor, subject ingot.Digest) bool {
	of, refers := s.subject(d)
	return refers && (of == subject || of == "")
}

// subject returns the subject of a manifest that has one. Of a manifest that cannot be read it is
// empty.
func (s *Store) subject(d ocispec.Descriptor) (subject ingot.Digest, refers bool) {
	if d.ArtifactType == ingot.MediaTypeConfig {
		return "", false
	}
	b, err := s.readBlob(ingot.Digest(d.Digest))
	if err != nil {
		return "", true
	}
	var m ocispec.Manifest
	if json.Unmarshal(b, &m) != nil || m.Subject == nil || m.Subject.Digest == "" {
		return "", false
	}
	return ingot.Digest(m.Subject.Digest), true
}

// Verify checks every blob of an image and of its referrers against its digest, and the signature
// against keys, one of which must have made it. The error names all blobs that are damaged or missing.
func (s *Store) Verify(ctx context.Context, im Image, keys ...PublicKey) error {
	if err := s.verifyParts(ctx, im); err != nil {
		return err
	}
	if err := s.verifyReferrers(ctx, im.Digest); err != nil {
		return fmt.Errorf("verifying %s: %w", im.Name, err)
	}
	if err := im.VerifySignature(keys...); err != nil {
		return fmt.Errorf("verifying %s: %w", im.Name, err)
	}
	return nil
}

// verifyParts checks the blobs of an image, without its referrers.
func (s *Store) verifyParts(ctx context.Context, im Image) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(im.OCI, &m); err != nil {
		return fmt.Errorf("verifying %s: %w", im.Name, err)
	}
	var bad error
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		err := s.verifyBlob(ctx, PartName(d.MediaType), ingot.Digest(d.Digest))
		switch {
		case err == nil:
		case !errors.Is(err, ErrDamaged):
			return fmt.Errorf("verifying %s: %w", im.Name, err)
		case bad == nil:
			bad = err
		default:
			bad = fmt.Errorf("%w; %s", bad, strings.TrimPrefix(err.Error(), ErrDamaged.Error()+": "))
		}
	}
	if bad != nil {
		return fmt.Errorf("verifying %s: %w", im.Name, bad)
	}
	return nil
}

// verifyBlob reads one blob and checks it against its digest.
func (s *Store) verifyBlob(ctx context.Context, name string, want ingot.Digest) error {
	got, err := s.measure(ctx, want)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: its %s is missing (%s)", ErrDamaged, name, want.Short())
	}
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%w: its %s has digest %s; want %s", ErrDamaged, name, got.Short(), want.Short())
	}
	return nil
}

// verifyReferrers verifies the referrers of an image. A damaged manifest has no readable subject,
// so it counts as a referrer.
func (s *Store) verifyReferrers(ctx context.Context, subject ingot.Digest) error {
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	for _, d := range index.Manifests {
		if !s.refersTo(d, subject) {
			continue
		}
		if err := s.verifyReferrer(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// verifyReferrer verifies the manifest of a referrer and its blobs.
func (s *Store) verifyReferrer(ctx context.Context, d ocispec.Descriptor) error {
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
	return nil
}

// measure returns the digest of the file that is stored as blob d.
func (s *Store) measure(ctx context.Context, d ingot.Digest) (ingot.Digest, error) {
	f, err := os.Open(s.Blob(d))
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := newHasher()
	if _, err := io.Copy(sum, readerWithContext{ctx, f}); err != nil {
		return "", err
	}
	return sum.digest(), nil
}
