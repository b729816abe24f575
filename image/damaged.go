package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
)

// Repair is the next step after ErrDamaged.
const Repair = "build the image again with its --version, or pull it again"

// Damaged is an image that the index of a store has and that List leaves out.
type Damaged struct {
	Digest ingot.Digest
	Name   ingot.ImageName // zero if the index does not say it
	Tags   []string        // its other names
	Plan   ingot.Digest    // that it was built from; empty if manifest or config cannot be read
	Err    error           // ErrDamaged, with what is wrong
}

// Damaged returns the images that List leaves out because their manifest cannot be read, or a file is
// missing or has another size. Files are not read.
func (s *Store) Damaged(ctx context.Context) ([]Damaged, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var list []Damaged
	for _, d := range index.Manifests {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if d.ArtifactType != ingot.MediaTypeConfig {
			continue
		}
		if _, err := s.read(d); err != nil {
			list = addDamaged(list, d, s.known(ingot.Digest(d.Digest)), err)
		}
	}
	if list == nil {
		return nil, nil
	}
	if index, err = s.readIndex(); err != nil { // a removal takes the entry out of the index first
		return nil, err
	}
	return slices.DeleteFunc(list, func(x Damaged) bool {
		return !slices.ContainsFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			return d.Digest.String() == string(x.Digest)
		})
	}), nil
}

// addDamaged adds an entry of the index, of which there is one for each name of an image.
func addDamaged(list []Damaged, d ocispec.Descriptor, known ingot.ImageManifest, why error) []Damaged {
	id, text := ingot.Digest(d.Digest), d.Annotations[ocispec.AnnotationRefName]
	i := slices.IndexFunc(list, func(x Damaged) bool { return x.Digest == id })
	if i < 0 {
		i = len(list)
		list = append(list, Damaged{Digest: id, Plan: known.Plan})
		if name, err := ingot.ParseImageName(known.Name().String()); err == nil && known.Version != "" {
			list[i].Name = name // the index may list a tag first
		}
	}
	x := &list[i]
	if name, err := ingot.ParseImageName(text); err == nil && x.Name == (ingot.ImageName{}) {
		x.Name = name
	} else if text != "" && text != x.Name.String() {
		x.Tags = append(x.Tags, text)
	}
	called := string(id)
	if x.Name != (ingot.ImageName{}) {
		called = x.Name.String()
	}
	x.Err = fmt.Errorf("image %s: %w: %w; %s", called, ErrDamaged, why, Repair)
	return list
}

// known returns what can be read of the manifest of an image that lacks files: all of it if the config can
// be read, else profile and version if the OCI manifest can.
func (s *Store) known(id ingot.Digest) (m ingot.ImageManifest) {
	body, err := s.readBlob(id)
	if err != nil {
		return m
	}
	var oci ocispec.Manifest
	if json.Unmarshal(body, &oci) != nil {
		return m
	}
	config, err := s.readBlob(ingot.Digest(oci.Config.Digest))
	if err == nil && json.Unmarshal(config, &m) == nil {
		return m
	}
	return ingot.ImageManifest{Profile: oci.Annotations[ocispec.AnnotationTitle],
		Version: oci.Annotations[ocispec.AnnotationVersion]}
}

// Has reports whether the index gives an image a name: it is that of its version or a tag.
func (x Damaged) Has(name ingot.ImageName) bool {
	return x.Name == name || slices.Contains(x.Tags, name.String())
}

// Intact reads the files of an image that a build or a pull writes and compares them with their digests:
// its parts, its signature and its SBOM. A file that is damaged or missing is ErrDamaged. Of a signed UKI
// it says nothing: only a signature makes that again.
func (s *Store) Intact(ctx context.Context, im Image) error {
	if err := s.verifyParts(ctx, im); err != nil {
		return err
	}
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	var unreadable []ocispec.Descriptor // of this image or of another one
	has := map[string]bool{}
	for _, d := range index.Manifests {
		of, refers := s.subject(d)
		switch {
		case !refers || d.ArtifactType == ingot.ArtifactSignedUKI:
		case of == "":
			unreadable = append(unreadable, d)
		case of == im.Digest:
			has[d.ArtifactType] = true
			if err := s.verifyReferrer(ctx, d); err != nil {
				return fmt.Errorf("verifying %s: %w", im.Name, err)
			}
		}
	}
	for _, d := range unreadable {
		if !has[d.ArtifactType] {
			return fmt.Errorf("verifying %s: %w", im.Name, s.verifyReferrer(ctx, d))
		}
	}
	if im.Signature == "" {
		return fmt.Errorf("verifying %s: %w: its signature is missing", im.Name, ErrDamaged)
	}
	return nil
}

// isNamed reports whether a reference names the image, or for a profile might name it.
func (x Damaged) isNamed(ref string) bool {
	hex := strings.TrimPrefix(ref, "sha256:")
	return ref != "" && ref == x.Name.String() || slices.Contains(x.Tags, ref) || ref == string(x.Digest) ||
		ref != "" && ref == x.Name.Profile ||
		len(hex) >= 6 && strings.HasPrefix(strings.TrimPrefix(string(x.Digest), "sha256:"), hex)
}
