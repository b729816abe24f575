package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"ingot"
)

// Origin is where an image comes from: a registry, an archive. What it gives
// is believed only as far as its digest goes.
type Origin interface {
	// Fetch opens a manifest or a blob.
	Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	// Referrers lists the manifests whose subject is d; one that it lists twice
	// or wrongly does no harm.
	Referrers(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error)
}

// ReceiveOptions say what Receive accepts.
type ReceiveOptions struct {
	Trusted  []PublicKey             // release keys, one of which must have signed
	Progress func(done, total int64) // bytes of blobs, those that were there already among them; nil is quiet
}

// Bounds of what a stranger's archive or registry may make us read.
const (
	maxManifest  = 4 << 20  // bytes of a manifest, as the OCI distribution-spec advises
	maxConfig    = 16 << 20 // bytes of an image's config; readBlob's bound
	maxReferrers = 64
	maxDepth     = 3       // a referrer of a referrer of a referrer
	maxReferring = 1 << 30 // bytes of all that refers to one image
)

// parallel is how many blobs of an image travel at the same time.
const parallel = 3

// Receive takes an image and what refers to it from elsewhere. In this order:
// manifest, its signature by a trusted key, config, blobs, index; each is
// checked against its digest. Until the index is written the image does not
// exist here; blobs that are complete stay and are not fetched again by the
// next try. The store is not locked while bytes travel.
func (s *Store) Receive(ctx context.Context, from Origin, d ocispec.Descriptor, o ReceiveOptions) (Image, error) {
	done, err := s.beginTransfer()
	if err != nil {
		return Image{}, err
	}
	defer done()
	r := &receiver{Store: s, from: from, ReceiveOptions: o}
	if err := r.documents(ctx, d); err != nil {
		return Image{}, err
	}
	if err := r.checkName(); err != nil {
		return Image{}, err
	}
	if err := r.blobs(ctx); err != nil {
		return Image{}, fmt.Errorf("receiving %s: %w", r.config.Name(), err)
	}
	if err := r.commit(); err != nil {
		return Image{}, err
	}
	return s.Get(ctx, string(d.Digest))
}

// receiver is one image under way.
type receiver struct {
	*Store
	ReceiveOptions
	from      Origin
	image     arrived
	config    ingot.ImageManifest
	raw       []byte // of config
	referrers []arrived
}

// arrived is a manifest that came in, checked against its digest.
type arrived struct {
	desc     ocispec.Descriptor
	body     []byte
	manifest ocispec.Manifest
}

// documents fetches the small files and decides whether the image is wanted.
func (r *receiver) documents(ctx context.Context, d ocispec.Descriptor) error {
	var err error
	if r.image, err = r.manifest(ctx, d); err != nil {
		return err
	}
	m := r.image.manifest
	if m.Config.MediaType != ingot.MediaTypeConfig {
		return fmt.Errorf("%w: its config is %q", ErrNotImage, m.Config.MediaType)
	}
	r.image.desc.ArtifactType = ingot.MediaTypeConfig
	if err := r.collectReferrers(ctx, r.image.desc, 1); err != nil {
		return err
	}
	if err := r.checkSignatures(ctx); err != nil {
		return err
	}
	if r.raw, err = r.small(ctx, m.Config, maxConfig); err != nil {
		return fmt.Errorf("receiving an image's config: %w", err)
	}
	if err := json.Unmarshal(r.raw, &r.config); err != nil {
		return fmt.Errorf("%w: parsing its config: %w", ErrNotImage, err)
	}
	return r.checkConfig()
}

// manifest fetches and parses one manifest.
func (r *receiver) manifest(ctx context.Context, d ocispec.Descriptor) (arrived, error) {
	a := arrived{desc: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
	var err error
	if a.body, err = r.small(ctx, a.desc, maxManifest); err != nil {
		return a, fmt.Errorf("receiving a manifest: %w", err)
	}
	if err := json.Unmarshal(a.body, &a.manifest); err != nil {
		return a, fmt.Errorf("%w: parsing manifest %s: %w", ErrNotImage, ingot.Digest(d.Digest).Short(), err)
	}
	if a.manifest.MediaType != ocispec.MediaTypeImageManifest || a.manifest.SchemaVersion != 2 {
		return a, fmt.Errorf("%w: %s is of type %q", ErrNotImage, ingot.Digest(d.Digest).Short(), a.manifest.MediaType)
	}
	a.desc.MediaType, a.desc.ArtifactType = ocispec.MediaTypeImageManifest, a.manifest.ArtifactType
	for _, l := range append([]ocispec.Descriptor{a.manifest.Config}, a.manifest.Layers...) {
		if _, err := ingot.ParseDigest(l.Digest.String()); err != nil || l.Size < 0 {
			return a, fmt.Errorf("%w: manifest %s: %w", ErrNotImage, ingot.Digest(d.Digest).Short(), err)
		}
	}
	return a, nil
}

// small reads a whole small blob, from here or from elsewhere.
func (r *receiver) small(ctx context.Context, d ocispec.Descriptor, most int64) ([]byte, error) {
	id, err := ingot.ParseDigest(d.Digest.String())
	if err != nil {
		return nil, err
	}
	if d.Size < 0 || d.Size > most {
		return nil, fmt.Errorf("%s has %d bytes; at most %d are accepted", id.Short(), d.Size, most)
	}
	if b, err := r.readBlob(id); err == nil && int64(len(b)) == d.Size {
		return b, nil
	}
	body, err := r.from.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, d.Size+1))
	if err != nil {
		return nil, err
	}
	if got := ingot.DigestOf(b); got != id || int64(len(b)) != d.Size {
		return nil, fmt.Errorf("%w: %s came as %s", ErrContent, id.Short(), got.Short())
	}
	return b, nil
}

// collectReferrers fetches what refers to a manifest, and what refers to that.
func (r *receiver) collectReferrers(ctx context.Context, subject ocispec.Descriptor, depth int) error {
	list, err := r.from.Referrers(ctx, subject)
	if err != nil {
		return fmt.Errorf("asking for signatures: %w", err)
	}
	for _, d := range list {
		known := slices.ContainsFunc(r.referrers, func(a arrived) bool { return a.desc.Digest == d.Digest })
		if known || d.Digest == r.image.desc.Digest {
			continue
		}
		if len(r.referrers) == maxReferrers {
			return fmt.Errorf("%w: more than %d manifests refer to it", ErrNotImage, maxReferrers)
		}
		a, err := r.manifest(ctx, d)
		if errors.Is(err, ErrNotImage) {
			continue // an index, say: of no use to us
		}
		if err != nil {
			return err
		}
		if a.manifest.Subject == nil || a.manifest.Subject.Digest != subject.Digest {
			continue
		}
		r.referrers = append(r.referrers, a)
		if depth < maxDepth {
			if err := r.collectReferrers(ctx, a.desc, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkSignatures keeps the signatures that a trusted key made, and there must
// be one. Others are left behind: nobody here could use them.
func (r *receiver) checkSignatures(ctx context.Context) error {
	var why error
	good := 0
	kept := r.referrers[:0]
	for _, a := range r.referrers {
		if a.manifest.ArtifactType == ingot.ArtifactSignature && a.manifest.Subject.Digest == r.image.desc.Digest {
			err := r.checkSignature(ctx, a)
			if err != nil && !errors.Is(err, ErrSignature) {
				return err
			}
			if err != nil {
				why = err
				continue
			}
			good++
		}
		kept = append(kept, a)
	}
	r.referrers = kept
	switch {
	case good > 0:
		return nil
	case why != nil:
		return fmt.Errorf("%w: %w", ErrUntrusted, why)
	}
	return fmt.Errorf("%w: it has no signature at all", ErrUntrusted)
}

func (r *receiver) checkSignature(ctx context.Context, a arrived) error {
	if len(a.manifest.Layers) != 1 {
		return fmt.Errorf("%w: it has %d parts", ErrSignature, len(a.manifest.Layers))
	}
	text, err := r.small(ctx, a.manifest.Layers[0], 64<<10)
	if err != nil {
		return fmt.Errorf("receiving a signature: %w", err)
	}
	return verifyWith(r.Trusted, r.image.body, string(text))
}

// checkConfig holds the config against the manifest: what a server or a
// machine looks for must be among the blobs.
func (r *receiver) checkConfig() error {
	if _, err := ingot.ParseImageName(r.config.Name().String()); err != nil || r.config.Version == "" {
		return fmt.Errorf("%w: it is named %q", ErrNotImage, r.config.Name())
	}
	type part struct {
		name string
		ingot.Artifact
	}
	parts := []part{{"kernel", r.config.Kernel}, {"initramfs", r.config.Initramfs}, {"root", r.config.Root}}
	if r.config.UKI != nil {
		parts = append(parts, part{"UKI", *r.config.UKI})
	}
	for _, part := range parts {
		if !slices.ContainsFunc(r.image.manifest.Layers, func(l ocispec.Descriptor) bool {
			return ingot.Digest(l.Digest) == part.Digest && l.Size == part.Size
		}) {
			return fmt.Errorf("%w: the %s of its config is not in its manifest", ErrNotImage, part.name)
		}
	}
	var referring int64
	for _, a := range r.referrers {
		for _, l := range a.manifest.Layers {
			referring += l.Size
		}
	}
	if referring > maxReferring {
		return fmt.Errorf("%w: what refers to it has %d MiB; at most %d are accepted", ErrNotImage, referring>>20, maxReferring>>20)
	}
	return nil
}

// checkName refuses a name that another image has, before anything big travels.
func (r *receiver) checkName() error {
	index, err := r.readIndex()
	if err != nil {
		return err
	}
	name := r.config.Name().String()
	if other := r.taken(index, name, r.image.desc); other != "" {
		return fmt.Errorf("receiving %s %s: %w: here it is %s", name, ingot.Digest(r.image.desc.Digest).Short(), ErrExists, other.Short())
	}
	return nil
}

// blobs brings every blob that is not here yet.
func (r *receiver) blobs(ctx context.Context) error {
	missing := map[ingot.Digest]ocispec.Descriptor{}
	var total int64
	for _, a := range append([]arrived{r.image}, r.referrers...) {
		for _, l := range append([]ocispec.Descriptor{a.manifest.Config}, a.manifest.Layers...) {
			if _, seen := missing[ingot.Digest(l.Digest)]; !seen {
				missing[ingot.Digest(l.Digest)] = l
				total += l.Size
			}
		}
	}
	m := meter{total: total, tell: r.Progress}
	m.add(0)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, l := range missing {
		g.Go(func() error { return r.blob(ctx, l, &m) })
	}
	return g.Wait()
}

// blob brings one blob, unless it is here and whole.
func (r *receiver) blob(ctx context.Context, d ocispec.Descriptor, m *meter) error {
	id := ingot.Digest(d.Digest)
	if st, err := os.Stat(r.Blob(id)); err == nil && st.Size() == d.Size {
		if got, err := r.measure(ctx, id); err == nil && got == id {
			m.add(d.Size)
			return nil
		}
	}
	body, err := r.from.Fetch(ctx, d)
	if err != nil {
		return fmt.Errorf("fetching its %s: %w", PartName(d.MediaType), err)
	}
	defer body.Close()
	if err := r.write(ctx, id, d.Size, io.TeeReader(body, m)); err != nil {
		return fmt.Errorf("fetching its %s: %w", PartName(d.MediaType), err)
	}
	return nil
}

// write stores what r gives as the blob id, if that is what it is.
func (s *Store) write(ctx context.Context, id ingot.Digest, size int64, r io.Reader) error {
	blobs := s.dir("blobs", "sha256")
	tmp, err := os.CreateTemp(blobs, tempPrefix)
	if err != nil {
		return fmt.Errorf("storing blob %s: %w", id.Short(), err)
	}
	defer os.Remove(tmp.Name()) // a no-op after the rename
	defer tmp.Close()
	sum := newSum()
	n, err := io.Copy(io.MultiWriter(tmp, sum), readerWithContext{ctx, io.LimitReader(r, size+1)})
	if err != nil {
		return err
	}
	if got := sum.digest(); n != size || got != id {
		return fmt.Errorf("%w: %s came as %s with %d of %d bytes", ErrContent, id.Short(), got.Short(), n, size)
	}
	if err := tmp.Chmod(0o644); err != nil {
		return fmt.Errorf("storing blob %s: %w", id.Short(), err)
	}
	if err := tmp.Sync(); err != nil {
		return fmt.Errorf("storing blob %s: %w", id.Short(), err)
	}
	if err := os.Rename(tmp.Name(), s.Blob(id)); err != nil {
		return fmt.Errorf("storing blob %s: %w", id.Short(), err)
	}
	return syncDir(blobs)
}

// commit writes the manifests and, under the store's lock, the index. What
// referred to the image here before stays.
func (r *receiver) commit() error {
	for _, a := range append([]arrived{r.image}, r.referrers...) {
		if err := r.write(context.Background(), ingot.Digest(a.desc.Digest), a.desc.Size, bytes.NewReader(a.body)); err != nil {
			return err
		}
	}
	name := r.config.Name().String()
	return r.edit(func(index *ocispec.Index) error {
		if other := r.taken(*index, name, r.image.desc); other != "" {
			return fmt.Errorf("receiving %s: %w: meanwhile it is %s", name, ErrExists, other.Short())
		}
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			return d.Annotations[ocispec.AnnotationRefName] == name ||
				slices.ContainsFunc(r.referrers, func(a arrived) bool { return a.desc.Digest == d.Digest })
		})
		named := r.image.desc
		named.Annotations = map[string]string{ocispec.AnnotationRefName: name}
		index.Manifests = append(index.Manifests, named)
		for _, a := range r.referrers {
			index.Manifests = append(index.Manifests, a.desc)
		}
		return nil
	})
}

// ReferrerTree returns the manifests that refer to an image, and those that
// refer to them, each after its subject: all that travels with the image.
func (s *Store) ReferrerTree(im Image) ([]ocispec.Descriptor, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var list []ocispec.Descriptor
	queue := []ingot.Digest{im.Digest}
	for seen := map[ingot.Digest]bool{im.Digest: true}; len(queue) > 0; queue = queue[1:] {
		for _, d := range index.Manifests {
			id := ingot.Digest(d.Digest)
			if seen[id] || !s.refersTo(d, queue[0]) {
				continue
			}
			if _, err := s.readBlob(id); err != nil {
				continue // damaged: it says nothing to anybody
			}
			seen[id] = true
			list, queue = append(list, d), append(queue, id)
		}
	}
	return list, nil
}

// Blobs returns the distinct blobs of a stored manifest: config and layers.
func (s *Store) Blobs(manifest ingot.Digest) ([]ocispec.Descriptor, error) {
	b, err := s.readBlob(manifest)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("parsing manifest %s: %w", manifest.Short(), err)
	}
	var list []ocispec.Descriptor
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if !slices.ContainsFunc(list, func(l ocispec.Descriptor) bool { return l.Digest == d.Digest }) {
			list = append(list, d)
		}
	}
	return list, nil
}

// Descriptor is what an image is found by in a registry or a layout.
func (im Image) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: ingot.MediaTypeConfig,
		Digest: ociDigest(im.Digest), Size: int64(len(im.OCI))}
}

// beginTransfer keeps the garbage collector away from blobs that no index
// leads to yet.
func (s *Store) beginTransfer() (done func(), err error) {
	return lockFile(s.dir(".transfers"), unix.LOCK_SH)
}

// noTransfers is the collector's side of beginTransfer.
func (s *Store) noTransfers() (done func(), err error) {
	done, err = lockFile(s.dir(".transfers"), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: nothing is collected meanwhile; try again when it is here", ErrBusy)
	}
	return done, err
}

// meter adds up bytes from several goroutines.
type meter struct {
	mu          sync.Mutex
	done, total int64
	tell        func(done, total int64)
}

func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
	if m.tell != nil {
		m.tell(min(m.done, m.total), m.total)
	}
}

// Write counts; it is the side of an io.TeeReader.
func (m *meter) Write(p []byte) (int, error) {
	m.add(int64(len(p)))
	return len(p), nil
}

// emptyIndex is an index without entries.
func emptyIndex() ocispec.Index {
	return ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
}
