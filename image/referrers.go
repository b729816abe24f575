package image

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
)

// Attachment is content to store with an image without being part of it: a signature, an SBOM, a
// signed UKI. It becomes a referrer.
type Attachment struct {
	Type        string // artifact type, such as ingot.ArtifactSignature
	Media       string // media type of Content
	Content     io.Reader
	Annotations map[string]string // of the referrer's manifest; may be nil
}

// Referrer is a stored attachment (OCI image-spec, manifest.md, "subject").
type Referrer struct {
	Digest      ingot.Digest      `json:"digest"` // of its OCI manifest
	Type        string            `json:"type"`
	Media       string            `json:"media"`
	Content     ingot.Artifact    `json:"content"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// AddReferrer stores an attachment to the image of the given digest, which does not change. Adding
// the same attachment again changes nothing.
func (s *Store) AddReferrer(ctx context.Context, subject ingot.Digest, a Attachment) (Referrer, error) {
	unlock, err := s.lock()
	if err != nil {
		return Referrer{}, err
	}
	defer unlock()
	index, err := s.readIndex()
	if err != nil {
		return Referrer{}, err
	}
	i := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		return ingot.Digest(d.Digest) == subject && d.ArtifactType == ingot.MediaTypeConfig
	})
	if i < 0 {
		return Referrer{}, fmt.Errorf("adding a referrer: %w: %q", ErrNotFound, subject)
	}
	d, err := s.putReferrer(ctx, index.Manifests[i], a)
	if err != nil {
		return Referrer{}, err
	}
	if !slices.ContainsFunc(index.Manifests, func(m ocispec.Descriptor) bool { return m.Digest == d.Digest }) {
		index.Manifests = append(index.Manifests, d)
		if err := s.saveIndex(index); err != nil {
			return Referrer{}, err
		}
	}
	r, _, err := s.referrer(d)
	return r, err
}

// Referrers returns the referrers of an image, oldest first: those of one artifact type, or all if
// it is empty. A referrer that cannot be read is left out.
func (s *Store) Referrers(_ context.Context, subject ingot.Digest, artifactType string) ([]Referrer, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var list []Referrer
	for _, d := range index.Manifests {
		if d.ArtifactType == ingot.MediaTypeConfig || artifactType != "" && d.ArtifactType != artifactType {
			continue
		}
		if r, of, err := s.referrer(d); err == nil && of == subject {
			list = append(list, r)
		}
	}
	return list, nil
}

// ReadReferrer returns the content of a referrer, checked against its digest.
func (s *Store) ReadReferrer(r Referrer) ([]byte, error) { return s.readBlob(r.Content.Digest) }

// referrer reads the manifest of a referrer.
func (s *Store) referrer(d ocispec.Descriptor) (r Referrer, subject ingot.Digest, err error) {
	b, err := s.readBlob(ingot.Digest(d.Digest))
	if err != nil {
		return r, "", err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return r, "", fmt.Errorf("parsing referrer %s: %w", ingot.Digest(d.Digest).Short(), err)
	}
	if m.Subject == nil || len(m.Layers) != 1 {
		return r, "", fmt.Errorf("parsing referrer %s: want a subject and one layer, got %d layers",
			ingot.Digest(d.Digest).Short(), len(m.Layers))
	}
	l := m.Layers[0]
	r = Referrer{
		Digest: ingot.Digest(d.Digest), Type: m.ArtifactType, Media: l.MediaType,
		Content: ingot.Artifact{Digest: ingot.Digest(l.Digest), Size: l.Size}, Annotations: m.Annotations,
	}
	return r, ingot.Digest(m.Subject.Digest), nil
}

// putReferrer writes the blobs of an attachment to subject; the caller holds
// the lock and adds the descriptor to the index.
func (s *Store) putReferrer(ctx context.Context, subject ocispec.Descriptor, a Attachment) (ocispec.Descriptor, error) {
	content, err := s.putReader(ctx, a.Content, nil)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if _, err := s.putBytes(ocispec.DescriptorEmptyJSON.Data); err != nil {
		return ocispec.Descriptor{}, err
	}
	plain := ocispec.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	body, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: a.Type, Config: ocispec.DescriptorEmptyJSON,
		Layers: []ocispec.Descriptor{descriptor(a.Media, content)}, Subject: &plain, Annotations: a.Annotations,
	})
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("encoding the manifest of a referrer: %w", err)
	}
	m, err := s.putBytes(body)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := descriptor(ocispec.MediaTypeImageManifest, m)
	d.ArtifactType = a.Type
	return d, nil
}
