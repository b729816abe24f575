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
	"ingot/internal/owned"
)

// Origin is where an image is received from, such as a registry or an archive. Nothing that it
// returns is trusted before it is checked against its digest.
type Origin interface {
	// Fetch opens a manifest or a blob.
	Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
	// Referrers lists the manifests whose subject is d. Duplicates and manifests with another
	// subject are ignored.
	Referrers(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error)
}

// ReceiveOptions are the options of Receive.
type ReceiveOptions struct {
	Trusted  []PublicKey             // release keys, one of which must have signed the image
	Progress func(done, total int64) // bytes of blobs, including those already present; may be nil
	// Repaired is called at the end if the store had the image and files of it were damaged or missing;
	// it may be nil.
	Repaired func(parts []string)
}

// Limits for what an untrusted archive or registry can make this program read.
const (
	maxManifest  = 4 << 20  // bytes of a manifest, as the OCI distribution-spec advises
	maxConfig    = 16 << 20 // bytes of an image's config, and of any blob that is read into memory
	maxReferrers = 64
	maxDepth     = 3       // a referrer of a referrer of a referrer
	maxReferring = 1 << 30 // bytes of all referrers of one image
)

// parallel is how many blobs of an image are received at the same time.
const parallel = 3

// Receive copies an image and its referrers from an origin, in this order: the manifest, its
// signature by a trusted key, the config, the blobs, the index. Each is checked against its digest.
// The image does not exist in the store until the index is written. Complete blobs stay after a
// failure, and the next attempt does not fetch them again. The store is not locked while blobs are
// fetched.
func (s *Store) Receive(ctx context.Context, from Origin, d ocispec.Descriptor, o ReceiveOptions) (Image, error) {
	done, err := s.beginTransfer()
	if err != nil {
		return Image{}, err
	}
	defer done()
	r := &receiver{Store: s, from: from, ReceiveOptions: o}
	if err := r.findStored(); err != nil {
		return Image{}, err
	}
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
	if len(r.repaired) > 0 && o.Repaired != nil {
		slices.Sort(r.repaired)
		o.Repaired(slices.Compact(r.repaired))
	}
	return s.Get(ctx, string(d.Digest))
}

// receiver is one image that is being received.
type receiver struct {
	*Store
	ReceiveOptions
	from      Origin
	image     received
	config    ingot.ImageManifest
	raw       []byte // of config
	referrers []received
	stored    map[ingot.Digest]bool // manifests that the index had before
	mu        sync.Mutex            // guards repaired
	repaired  []string              // names of files that were damaged or missing
}

// findStored remembers which manifests the index has.
func (r *receiver) findStored() error {
	index, err := r.readIndex()
	if err != nil {
		return err
	}
	r.stored = map[ingot.Digest]bool{}
	for _, d := range index.Manifests {
		r.stored[ingot.Digest(d.Digest)] = true
	}
	return nil
}

// noteRepaired adds a file that the store should have had.
func (r *receiver) noteRepaired(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repaired = append(r.repaired, name)
}

// received is a manifest that has been fetched and checked against its digest.
type received struct {
	desc     ocispec.Descriptor
	body     []byte
	manifest ocispec.Manifest
}

// mediaOf returns the type that names a blob: a referrer's for what a referrer consists of.
func (a received) mediaOf(l ocispec.Descriptor) string {
	if a.manifest.Subject != nil {
		return a.manifest.ArtifactType
	}
	return l.MediaType
}

// documents fetches manifests, signatures and config, and checks that the image is acceptable.
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
func (r *receiver) manifest(ctx context.Context, d ocispec.Descriptor) (received, error) {
	a := received{desc: ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}}
	var err error
	damaged := false
	if r.stored[ingot.Digest(d.Digest)] {
		_, err := r.readBlob(ingot.Digest(d.Digest))
		damaged = err != nil
	}
	if a.body, err = r.small(ctx, a.desc, maxManifest); err != nil {
		return a, fmt.Errorf("receiving a manifest: %w", err)
	}
	if damaged {
		r.noteRepaired("manifest")
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

// small reads a whole small blob, from the store or from the origin.
func (r *receiver) small(ctx context.Context, d ocispec.Descriptor, limit int64) ([]byte, error) {
	id, err := ingot.ParseDigest(d.Digest.String())
	if err != nil {
		return nil, err
	}
	if d.Size < 0 || d.Size > limit {
		return nil, fmt.Errorf("blob %s has %d bytes; want at most %d", id.Short(), d.Size, limit)
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
		return nil, fmt.Errorf("%w: blob %s has digest %s", ErrContent, id.Short(), got.Short())
	}
	return b, nil
}

// collectReferrers fetches the referrers of a manifest, and the referrers of those.
func (r *receiver) collectReferrers(ctx context.Context, subject ocispec.Descriptor, depth int) error {
	list, err := r.from.Referrers(ctx, subject)
	if err != nil {
		return fmt.Errorf("looking for signatures: %w", err)
	}
	for _, d := range list {
		known := slices.ContainsFunc(r.referrers, func(a received) bool { return a.desc.Digest == d.Digest })
		if known || d.Digest == r.image.desc.Digest {
			continue
		}
		if len(r.referrers) == maxReferrers {
			return fmt.Errorf("%w: it has more than %d referrers", ErrNotImage, maxReferrers)
		}
		a, err := r.manifest(ctx, d)
		if errors.Is(err, ErrNotImage) {
			continue // of another type, such as an index
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

// checkSignatures requires a signature by a trusted key. Signatures by other keys are not received:
// nothing here could verify them.
func (r *receiver) checkSignatures(ctx context.Context) error {
	var invalid error
	good := 0
	kept := r.referrers[:0]
	for _, a := range r.referrers {
		if a.manifest.ArtifactType == ingot.ArtifactSignature && a.manifest.Subject.Digest == r.image.desc.Digest {
			err := r.checkSignature(ctx, a)
			if err != nil && !errors.Is(err, ErrSignature) {
				return err
			}
			if err != nil {
				invalid = err
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
	case invalid != nil:
		return fmt.Errorf("%w: %w", ErrUntrusted, invalid)
	}
	return fmt.Errorf("%w: it has no signature", ErrUntrusted)
}

func (r *receiver) checkSignature(ctx context.Context, a received) error {
	if len(a.manifest.Layers) != 1 {
		return fmt.Errorf("%w: its manifest has %d layers, want 1", ErrSignature, len(a.manifest.Layers))
	}
	text, err := r.small(ctx, a.manifest.Layers[0], 64<<10)
	if err != nil {
		return fmt.Errorf("receiving a signature: %w", err)
	}
	return verifyWith(r.Trusted, r.image.body, string(text))
}

// checkConfig checks the config against the manifest: the artifacts that a server or a machine
// reads must be among the blobs.
func (r *receiver) checkConfig() error {
	if _, err := ingot.ParseImageName(r.config.Name().String()); err != nil || r.config.Version == "" {
		return fmt.Errorf("%w: invalid name %q", ErrNotImage, r.config.Name())
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
			return fmt.Errorf("%w: its manifest lacks the %s of its config", ErrNotImage, part.name)
		}
	}
	var referring int64
	for _, a := range r.referrers {
		for _, l := range a.manifest.Layers {
			referring += l.Size
		}
	}
	if referring > maxReferring {
		return fmt.Errorf("%w: its referrers have %d MiB; want at most %d",
			ErrNotImage, referring>>20, maxReferring>>20)
	}
	return nil
}

// checkName refuses a name that another image has, before any large blob is fetched.
func (r *receiver) checkName() error {
	index, err := r.readIndex()
	if err != nil {
		return err
	}
	name := r.config.Name().String()
	if other := r.taken(index, name, r.image.desc); other != "" {
		return fmt.Errorf("receiving %s %s: %w: in this store it is %s",
			name, ingot.Digest(r.image.desc.Digest).Short(), ErrExists, other.Short())
	}
	return nil
}

// blobs fetches every blob that the store lacks.
func (r *receiver) blobs(ctx context.Context) error {
	missing, had := map[ingot.Digest]ocispec.Descriptor{}, map[ingot.Digest]string{}
	var total int64
	for _, a := range append([]received{r.image}, r.referrers...) {
		for _, l := range append([]ocispec.Descriptor{a.manifest.Config}, a.manifest.Layers...) {
			_, named := had[ingot.Digest(l.Digest)]
			if !named && r.stored[ingot.Digest(a.desc.Digest)] {
				had[ingot.Digest(l.Digest)] = PartName(a.mediaOf(l))
			}
			if _, seen := missing[ingot.Digest(l.Digest)]; !seen {
				missing[ingot.Digest(l.Digest)] = l
				total += l.Size
			}
		}
	}
	m := meter{total: total, progress: r.Progress}
	m.add(0)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, l := range missing {
		g.Go(func() error {
			fetched, err := r.blob(ctx, l, &m)
			if name, had := had[ingot.Digest(l.Digest)]; fetched && had && err == nil {
				r.noteRepaired(name)
			}
			return err
		})
	}
	return g.Wait()
}

// blob fetches one blob unless the store has it, undamaged.
func (r *receiver) blob(ctx context.Context, d ocispec.Descriptor, m *meter) (fetched bool, err error) {
	id := ingot.Digest(d.Digest)
	if st, err := os.Lstat(r.Blob(id)); err == nil && st.Mode().IsRegular() && st.Size() == d.Size {
		if got, err := r.measure(ctx, id); err == nil && got == id {
			m.add(d.Size)
			return false, nil
		}
	}
	body, err := r.from.Fetch(ctx, d)
	if err != nil {
		return false, fmt.Errorf("fetching the %s: %w", PartName(d.MediaType), err)
	}
	defer body.Close()
	if err := r.write(ctx, id, d.Size, io.TeeReader(body, m)); err != nil {
		return false, fmt.Errorf("fetching the %s: %w", PartName(d.MediaType), err)
	}
	return true, nil
}

// write stores what it reads from r as blob id, after checking digest and size.
func (s *Store) write(ctx context.Context, id ingot.Digest, size int64, r io.Reader) error {
	blobs := s.dir("blobs", "sha256")
	tmp, err := owned.CreateTemp(blobs, tempPrefix)
	if err != nil {
		return fmt.Errorf("storing blob %s: %w", id.Short(), err)
	}
	defer os.Remove(tmp.Name()) // a no-op after the rename
	defer tmp.Close()
	sum := newHasher()
	n, err := io.Copy(io.MultiWriter(tmp, sum), readerWithContext{ctx, io.LimitReader(r, size+1)})
	if err != nil {
		return err
	}
	if got := sum.digest(); n != size || got != id {
		return fmt.Errorf("%w: blob %s has digest %s and %d of %d bytes", ErrContent, id.Short(), got.Short(), n, size)
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

// commit writes the manifests and, under the store's lock, the index. Referrers that the image has
// in the store already stay.
func (r *receiver) commit() error {
	for _, a := range append([]received{r.image}, r.referrers...) {
		id := ingot.Digest(a.desc.Digest)
		if err := r.write(context.Background(), id, a.desc.Size, bytes.NewReader(a.body)); err != nil {
			return err
		}
	}
	name := r.config.Name().String()
	return r.edit(func(index *ocispec.Index) error {
		if other := r.taken(*index, name, r.image.desc); other != "" {
			return fmt.Errorf("receiving %s: %w: meanwhile %s was stored", name, ErrExists, other.Short())
		}
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			return d.Annotations[ocispec.AnnotationRefName] == name ||
				slices.ContainsFunc(r.referrers, func(a received) bool { return a.desc.Digest == d.Digest })
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

// ReferrerTree returns the referrers of an image, and the referrers of those, each after its
// subject: all that is pushed or exported with the image.
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
				continue // damaged
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

// Descriptor returns the descriptor of the image's manifest.
func (im Image) Descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: ingot.MediaTypeConfig,
		Digest: ociDigest(im.Digest), Size: int64(len(im.OCI))}
}

// beginTransfer keeps the garbage collector from removing blobs that the index does not reference
// yet.
func (s *Store) beginTransfer() (done func(), err error) {
	return lockFile(s.dir(".transfers"), unix.LOCK_SH)
}

// lockTransfers is the collector's side of beginTransfer. While an image is being received it is
// ErrBusy.
func (s *Store) lockTransfers() (release func(), err error) {
	release, err = lockFile(s.dir(".transfers"), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("%w: no garbage is collected meanwhile; try again later", ErrBusy)
	}
	return release, err
}

// meter adds up the bytes that several goroutines transfer.
type meter struct {
	mu          sync.Mutex
	done, total int64
	progress    func(done, total int64) // may be nil
}

func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done += n
	if m.progress != nil {
		m.progress(min(m.done, m.total), m.total)
	}
}

// Write counts bytes, for io.TeeReader.
func (m *meter) Write(p []byte) (int, error) {
	m.add(int64(len(p)))
	return len(p), nil
}

// emptyIndex is an index without entries.
func emptyIndex() ocispec.Index {
	return ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
}
