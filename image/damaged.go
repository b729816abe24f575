package image

import (
	"context"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
)

// Repair is the next step after ErrDamaged.
const Repair = "build or pull the image again"

// Damaged is an image that the index of a store has and that List leaves out.
type Damaged struct {
	Digest ingot.Digest
	Name   ingot.ImageName // zero if the index does not say it
	Tags   []string        // its other names
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
			list = addDamaged(list, d, err)
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
func addDamaged(list []Damaged, d ocispec.Descriptor, why error) []Damaged {
	id, text := ingot.Digest(d.Digest), d.Annotations[ocispec.AnnotationRefName]
	i := slices.IndexFunc(list, func(x Damaged) bool { return x.Digest == id })
	if i < 0 {
		i = len(list)
		list = append(list, Damaged{Digest: id})
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

// isNamed reports whether a reference names the image, or for a profile might name it.
func (x Damaged) isNamed(ref string) bool {
	hex := strings.TrimPrefix(ref, "sha256:")
	return ref != "" && ref == x.Name.String() || slices.Contains(x.Tags, ref) || ref == string(x.Digest) ||
		ref != "" && ref == x.Name.Profile ||
		len(hex) >= 6 && strings.HasPrefix(strings.TrimPrefix(string(x.Digest), "sha256:"), hex)
}
