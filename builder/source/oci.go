package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	ocidigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"ingot"
)

// depot is where a container image is: a registry or an archive on disk.
type depot interface {
	// index returns what the reference names: an index or a manifest.
	index(ctx context.Context) (raw []byte, mediaType string, err error)
	// blob opens a manifest, config or layer by its digest.
	blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	close()
}

// maxManifest and maxConfig limit what a registry can make this process hold in memory.
const (
	maxManifest = 4 << 20 // what registries accept
	maxConfig   = 16 << 20
)

// container is one image of one platform: what its manifest says.
type container struct {
	name     string // for people
	manifest ocispec.Manifest
	config   ocispec.Image
	digest   ingot.Digest // of the manifest
}

// size is the number of bytes of all layers as they are kept.
func (c *container) size() int64 {
	var n int64
	for _, l := range c.manifest.Layers {
		n += l.Size
	}
	return n
}

// created is when the image was made; 0 when it does not say.
func (c *container) created() int64 {
	if c.config.Created == nil {
		return 0
	}
	return max(0, c.config.Created.Unix())
}

// pinImage finds the image of an architecture and keeps its manifest and
// config; its layers are fetched later.
func (t *Trees) pinImage(ctx context.Context, o Origin, from depot) (*container, error) {
	raw, mediaType, err := from.index(ctx)
	if err != nil {
		return nil, err
	}
	if isIndex(mediaType) {
		if raw, err = t.choose(ctx, o, from, raw, 0); err != nil {
			return nil, err
		}
	} else if !isManifest(mediaType) {
		return nil, fmt.Errorf("%w: %s is of type %q, which is no container image", ErrNoImage, o.Ref, mediaType)
	}
	digest, _, err := t.Blobs.Put(ctx, strings.NewReader(string(raw)), "")
	if err != nil {
		return nil, err
	}
	m, err := parseManifest(o.Ref, raw)
	if err != nil {
		return nil, err
	}
	if err := t.keep(ctx, from, m.Config, nil); err != nil {
		return nil, fmt.Errorf("reading the config of %s: %w", o.Ref, err)
	}
	c, err := t.container(o.Ref, digest)
	if err != nil {
		return nil, err
	}
	return c, c.fits(o.Arch)
}

// choose returns the manifest of the image in an index that is for Linux and
// the architecture. An index may hold further ones.
func (t *Trees) choose(ctx context.Context, o Origin, from depot, raw []byte, depth int) ([]byte, error) {
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%w: the index of %s: %w", ErrBadImage, o.Ref, err)
	}
	for _, d := range index.Manifests {
		if _, err := ingot.ParseDigest(d.Digest.String()); err != nil {
			return nil, fmt.Errorf("%w: the index of %s: %w", ErrBadImage, o.Ref, err)
		}
	}
	fitting := slices.DeleteFunc(slices.Clone(index.Manifests),
		func(d ocispec.Descriptor) bool { return !mayFit(d, o.Arch) })
	if len(fitting) == 0 {
		return nil, fmt.Errorf("%w: %s has %s; the profile wants linux/%s", ErrArch, o.Ref,
			platforms(index.Manifests), o.Arch)
	}
	if len(fitting) > 1 && !samePlatform(fitting) {
		fitting = fitting[:1] // variants of one architecture: the first is the registry's choice
	}
	if len(fitting) > 1 {
		return nil, fmt.Errorf("%w in %s: %s; choose one with %s#NAME", ErrManyImages, o.Ref, imageNames(fitting), o.Ref)
	}
	d := fitting[0]
	manifest, err := readSmall(ctx, from, d, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("reading the manifest of %s: %w", o.Ref, err)
	}
	if !isIndex(d.MediaType) {
		return manifest, nil
	}
	if depth > 3 {
		return nil, fmt.Errorf("%w: the index of %s holds indexes without end", ErrBadImage, o.Ref)
	}
	return t.choose(ctx, o, from, manifest, depth+1)
}

// mayFit reports whether a descriptor may be an image for Linux and arch.
// Without a platform the image's config has the last word.
func mayFit(d ocispec.Descriptor, arch string) bool {
	if !isManifest(d.MediaType) && !isIndex(d.MediaType) {
		return false
	}
	return d.Platform == nil || d.Platform.Architecture == "" || (d.Platform.OS == "linux" || d.Platform.OS == "") &&
		d.Platform.Architecture == arch
}

// samePlatform reports whether the images are no variants of one another.
func samePlatform(list []ocispec.Descriptor) bool {
	seen := map[string]bool{}
	for _, d := range list {
		variant := ""
		if d.Platform != nil {
			variant = platformName(d.Platform)
		}
		if seen[variant] {
			return true
		}
		seen[variant] = true
	}
	return false
}

// platforms lists what an index has, for people.
func platforms(list []ocispec.Descriptor) string {
	var names []string
	for _, d := range list {
		if d.Platform == nil || d.Platform.OS == "unknown" { // attestations
			continue
		}
		if s := platformName(d.Platform); s != "" && !slices.Contains(names, s) {
			names = append(names, s)
		}
	}
	if len(names) == 0 {
		return "no image"
	}
	return strings.Join(names, ", ")
}

// The annotations by which an index names its images.
const (
	annotationRef       = "org.opencontainers.image.ref.name"
	annotationImageName = "io.containerd.image.name"
)

func imageNames(list []ocispec.Descriptor) string {
	var names []string
	for _, d := range list {
		name := d.Digest.String()
		for _, a := range []string{annotationRef, annotationImageName} {
			if d.Annotations[a] != "" {
				name = d.Annotations[a]
			}
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// container reads the kept manifest and config of an image.
func (t *Trees) container(name string, digest ingot.Digest) (*container, error) {
	raw, err := t.Blobs.Read(digest)
	if err != nil {
		return nil, err
	}
	c := &container{name: name, digest: digest}
	m, err := parseManifest(name, raw)
	if err != nil {
		return nil, err
	}
	c.manifest = *m
	config, err := t.Blobs.Read(ingot.Digest(m.Config.Digest.String()))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(config, &c.config); err != nil {
		return nil, fmt.Errorf("%w: the config of %s: %w", ErrBadImage, name, err)
	}
	if n := len(c.config.RootFS.DiffIDs); n != len(c.manifest.Layers) {
		return nil, fmt.Errorf("%w: %s has %d layers, its config speaks of %d", ErrBadImage, name, len(c.manifest.Layers), n)
	}
	return c, nil
}

func parseManifest(name string, raw []byte) (*ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("%w: the manifest of %s: %w", ErrBadImage, name, err)
	}
	if !isConfig(m.Config.MediaType) {
		return nil, fmt.Errorf("%w: %s is an artifact of type %q", ErrNoImage, name, m.Config.MediaType)
	}
	if _, err := ingot.ParseDigest(m.Config.Digest.String()); err != nil || m.Config.Size < 0 {
		return nil, fmt.Errorf("%w: the config of %s: %q of %d bytes", ErrBadImage, name, m.Config.Digest, m.Config.Size)
	}
	for i, l := range m.Layers {
		if _, err := ingot.ParseDigest(l.Digest.String()); err != nil || l.Size < 0 {
			return nil, fmt.Errorf("%w: layer %d of %s: %q of %d bytes", ErrBadImage, i+1, name, l.Digest, l.Size)
		}
		if !isLayer(l.MediaType) {
			return nil, fmt.Errorf("%w: layer %d of %s has the type %q", ErrNoImage, i+1, name, l.MediaType)
		}
	}
	return &m, nil
}

// fits checks what the config says the image is for.
func (c *container) fits(arch string) error {
	if os := c.config.OS; os != "" && os != "linux" {
		return fmt.Errorf("%w: %s is for %s; the profile wants linux/%s", ErrArch, c.name, os, arch)
	}
	if have := c.config.Architecture; have != "" && have != arch {
		return fmt.Errorf("%w: %s is for linux/%s; the profile wants linux/%s", ErrArch, c.name, have, arch)
	}
	return nil
}

// readSmall reads a manifest that a descriptor names.
func readSmall(ctx context.Context, from depot, d ocispec.Descriptor, limit int64) ([]byte, error) {
	r, err := from.blob(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	content, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(content)) > limit {
		return nil, fmt.Errorf("%w: %s has more than %d MiB", ErrBadImage, d.Digest, limit>>20)
	}
	if got := ingot.DigestOf(content); string(got) != d.Digest.String() {
		return nil, fmt.Errorf("%w: sha256 is %s…; want %s…", ErrDigest, got.Short(), ingot.Digest(d.Digest.String()).Short())
	}
	return content, nil
}

// keep brings a blob into the cache unless it is there.
func (t *Trees) keep(ctx context.Context, from depot, d ocispec.Descriptor, count func(int64)) error {
	digest := ingot.Digest(d.Digest.String())
	if t.Blobs.Has(digest, d.Size) {
		return nil
	}
	r, err := from.blob(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	limited := io.LimitReader(&counted{r, count}, d.Size+1) // one more would be another file
	switch _, n, err := t.Blobs.Put(ctx, limited, digest); {
	case errors.Is(err, ErrDigest):
		return fmt.Errorf("%w: its bytes are not those of %s, which the manifest names", ErrBadImage, digest.Short())
	case err == nil && n != d.Size:
		return fmt.Errorf("%w: %s has %d bytes; the manifest says %d", ErrBadImage, digest.Short(), n, d.Size)
	default:
		return err
	}
}

// counted reports how many bytes were read.
type counted struct {
	r     io.Reader
	count func(int64)
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if c.count != nil {
		c.count(int64(n))
	}
	return n, err
}

// fetchImage brings the layers of a pinned image into the cache; count is
// called with bytes as they come.
func (t *Trees) fetchImage(ctx context.Context, o Origin, pin Pin, from depot, count func(int64)) error {
	manifest := ocispec.Descriptor{Digest: ocidigest.Digest(pin.Digest), MediaType: ocispec.MediaTypeImageManifest}
	if !t.Blobs.Has(pin.Digest, 0) || t.Blobs.Verify(ctx, pin.Digest) != nil {
		raw, err := readSmall(ctx, from, manifest, maxManifest)
		if err != nil && o.Local {
			return fmt.Errorf("%w: %s changed since the plan was made; run: ingot plan", ErrDigest, o.Ref)
		}
		if err != nil {
			return fmt.Errorf("fetching the manifest of %s: %w", o.Ref, err)
		}
		if _, _, err := t.Blobs.Put(ctx, strings.NewReader(string(raw)), pin.Digest); err != nil {
			return err
		}
	}
	raw, err := t.Blobs.Read(pin.Digest)
	if err != nil {
		return err
	}
	m, err := parseManifest(o.Ref, raw)
	if err != nil {
		return err
	}
	if d := ingot.Digest(m.Config.Digest.String()); t.Blobs.Has(d, 0) && t.Blobs.Verify(ctx, d) != nil {
		t.warn("the config of a container image in the cache is damaged; it is fetched again")
	}
	if m.Config.Size > maxConfig {
		return fmt.Errorf("%w: the config of %s has %d bytes", ErrBadImage, o.Ref, m.Config.Size)
	}
	if err := t.keep(ctx, from, m.Config, nil); err != nil {
		return fmt.Errorf("fetching the config of %s: %w", o.Ref, err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(layerFetchers)
	done := map[ocidigest.Digest]bool{} // the same layer may be there twice
	for i, l := range m.Layers {
		if done[l.Digest] {
			continue
		}
		done[l.Digest] = true
		g.Go(func() error {
			if err := t.keep(ctx, from, l, count); err != nil {
				return fmt.Errorf("fetching layer %d of %d of %s: %w", i+1, len(m.Layers), o.Ref, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// layerFetchers is the number of layers that are fetched at a time.
const layerFetchers = 4

// missing lists the blobs of a pinned image that are not kept.
func (t *Trees) missingOfImage(pin Pin) []ingot.Digest {
	raw, err := t.Blobs.Read(pin.Digest)
	if err != nil {
		return []ingot.Digest{pin.Digest}
	}
	m, err := parseManifest(pin.From, raw)
	if err != nil {
		return []ingot.Digest{pin.Digest}
	}
	var list []ingot.Digest
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if digest := ingot.Digest(d.Digest.String()); !t.Blobs.Has(digest, d.Size) {
			list = append(list, digest)
		}
	}
	return list
}

// unpackImage merges the layers of an image in the cache.
func (t *Trees) unpackImage(ctx context.Context, pin Pin, m *merger) error {
	c, err := t.container(pin.From, pin.Digest)
	if err != nil {
		return err
	}
	for i, l := range c.manifest.Layers {
		if err := t.unpackLayer(ctx, m, l, c.config.RootFS.DiffIDs[i]); err != nil {
			return fmt.Errorf("unpacking layer %d of %d of %s: %w", i+1, len(c.manifest.Layers), pin.From, err)
		}
	}
	return nil
}

// unpackLayer adds one layer, whose bytes must have the digest of the manifest
// and, uncompressed, that of the config.
func (t *Trees) unpackLayer(ctx context.Context, m *merger, l ocispec.Descriptor, diffID ocidigest.Digest) error {
	blob, err := t.Blobs.open(ctx, ingot.Digest(l.Digest.String()))
	if err != nil {
		return err
	}
	defer blob.Close()
	got, err := mergeHashed(ctx, blob, m.stacked)
	if damage := blob.finish(); damage != nil {
		return damage // the reason of whatever else went wrong
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadImage, err)
	}
	if want := ingot.Digest(diffID.String()); got != want {
		return fmt.Errorf("%w: its content has sha256 %s…; the config wants %s…", ErrBadImage, got.Short(), want.Short())
	}
	return nil
}

// The media types of Docker's Image Manifest V2, Schema 2 (distribution,
// docs/spec/manifest-v2-2.md), which registries and archives hold beside those of OCI.
const (
	dockerManifest          = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList      = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig            = "application/vnd.docker.container.image.v1+json"
	dockerLayer             = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerUncompressedLayer = "application/vnd.docker.image.rootfs.diff.tar"
	dockerForeignLayer      = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// OCI's layers that may not be passed on (image-spec 1.0, layer.md).
const (
	restrictedLayer     = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	restrictedLayerGzip = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
)

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerManifestList
}

func isConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == dockerConfig
}

func isLayer(mediaType string) bool {
	return slices.Contains([]string{
		ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		dockerLayer, dockerUncompressedLayer, dockerForeignLayer, restrictedLayer, restrictedLayerGzip,
	}, mediaType)
}

// platformName is OS/ARCHITECTURE[/VARIANT][:VERSION]; empty without an OS.
func platformName(p *ocispec.Platform) string {
	if p.OS == "" {
		return ""
	}
	name := p.OS
	for _, part := range []string{p.Architecture, p.Variant} {
		if part != "" {
			name += "/" + part
		}
	}
	if p.OSVersion != "" {
		name += ":" + p.OSVersion
	}
	return name
}
