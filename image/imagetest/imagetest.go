// Package imagetest makes small images for tests, in memory, as an origin that a store can receive
// from: complete, unsigned, for another architecture, with referrers of referrers, or damaged. It
// is for tests only.
package imagetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
	"ingot/image"
)

// Origin holds manifests and blobs in memory; it is an image.Origin.
type Origin struct {
	mu        sync.Mutex
	Blobs     map[digest.Digest][]byte
	Manifests []ocispec.Descriptor
	Image     ocispec.Descriptor       // the one that New made
	Fetched   []ocispec.Descriptor     // in order
	Before    func(ocispec.Descriptor) // called before each Fetch; may be nil
}

// Spec describes the image that New makes; the zero Arch is amd64.
type Spec struct {
	Name ingot.ImageName
	Arch ingot.Arch
	Root []byte
	Sign *image.KeyPair // nil leaves the image unsigned
	// Change changes the manifest before it is encoded; may be nil.
	Change func(*ingot.ImageManifest)
}

// New makes an image.
func New(s Spec) *Origin {
	o := &Origin{Blobs: map[digest.Digest][]byte{}}
	if s.Arch == "" {
		s.Arch = ingot.AMD64
	}
	layers := []ocispec.Descriptor{
		o.blob(ingot.MediaTypeKernel, []byte("kernel of "+s.Arch)),
		o.blob(ingot.MediaTypeInitramfs, []byte("initramfs")),
		o.blob(ingot.MediaTypeRoot, s.Root), o.blob(ingot.MediaTypePlan, []byte("{}")),
	}
	artifact := func(i int) ingot.Artifact {
		return ingot.Artifact{Digest: ingot.Digest(layers[i].Digest), Size: layers[i].Size}
	}
	m := ingot.ImageManifest{
		Schema: 1, Profile: s.Name.Profile, Version: s.Name.Version, Arch: s.Arch, Created: time.Unix(1, 0).UTC(),
		Kernel: artifact(0), Initramfs: artifact(1), Root: artifact(2),
		Chunks: []ingot.Chunk{{Digest: artifact(2).Digest, Size: artifact(2).Size}},
	}
	if s.Change != nil {
		s.Change(&m)
	}
	config := o.blob(ingot.MediaTypeConfig, encode(m))
	o.Image = o.manifest(ocispec.Manifest{ArtifactType: ingot.MediaTypeConfig, Config: config, Layers: layers})
	if s.Sign != nil {
		signature := s.Sign.Secret.Sign(o.Blobs[o.Image.Digest], "image "+s.Name.String())
		o.Refer(o.Image, ingot.ArtifactSignature, []byte(signature))
	}
	return o
}

// Refer adds an artifact that refers to subject.
func (o *Origin) Refer(subject ocispec.Descriptor, artifact string, content []byte) ocispec.Descriptor {
	subject.ArtifactType, subject.Annotations = "", nil
	o.blob(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	return o.manifest(ocispec.Manifest{ArtifactType: artifact, Config: ocispec.DescriptorEmptyJSON,
		Layers: []ocispec.Descriptor{o.blob(artifact, content)}, Subject: &subject})
}

func (o *Origin) manifest(m ocispec.Manifest) ocispec.Descriptor {
	m.Versioned, m.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageManifest
	d := o.blob(ocispec.MediaTypeImageManifest, encode(m))
	d.ArtifactType = m.ArtifactType
	o.Manifests = append(o.Manifests, d)
	return d
}

func (o *Origin) blob(media string, b []byte) ocispec.Descriptor {
	d := digest.FromBytes(b)
	o.Blobs[d] = b
	return ocispec.Descriptor{MediaType: media, Digest: d, Size: int64(len(b))}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // values of our own types
	}
	return b
}

// Fetch opens a blob or manifest.
func (o *Origin) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if o.Before != nil {
		o.Before(d)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.Fetched = append(o.Fetched, d)
	b, ok := o.Blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("fetching %s: %w", d.Digest, fs.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// Referrers lists the manifests that refer to subject.
func (o *Origin) Referrers(_ context.Context, subject ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var list []ocispec.Descriptor
	for _, d := range o.Manifests {
		var m ocispec.Manifest
		if err := json.Unmarshal(o.Blobs[d.Digest], &m); err != nil {
			return nil, err
		}
		if m.Subject != nil && m.Subject.Digest == subject.Digest {
			list = append(list, d)
		}
	}
	return list, nil
}

// Has reports whether something of a media type was fetched.
func (o *Origin) Has(media string) bool {
	return slices.ContainsFunc(o.Fetched, func(d ocispec.Descriptor) bool { return d.MediaType == media })
}
