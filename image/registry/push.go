package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"ingot"
	"ingot/image"
)

// Pushed is what Push did.
type Pushed struct {
	Reference string `json:"reference"` // by digest
	Tag       string `json:"tag"`
	Sent      int64  `json:"sent"`    // bytes of blobs
	Present   int64  `json:"present"` // bytes of blobs that the registry had
	Referrers int    `json:"referrers"`
}

// parallel is how many blobs travel at the same time.
const parallel = 3

// Push sends an image: blobs that the registry lacks, the manifest, what
// refers to it, and last its tag, so that whoever pulls by the tag finds it
// all. Without a tag it is the image's version. A tag may move, but a version
// that names another image there is ErrTaken.
func (r *Repository) Push(ctx context.Context, s *image.Store, im image.Image, progress func(done, total int64)) (Pushed, error) {
	tag := r.Reference.Reference
	if tag == "" {
		tag = im.Name.Version
	}
	p := &push{Repository: r, store: s, progress: progress}
	p.result.Tag = tag
	p.result.Reference = r.Reference.Registry + "/" + r.Reference.Repository + "@" + im.Digest.String()
	if r.Reference.ValidateReferenceAsDigest() == nil {
		return p.result, fmt.Errorf("%w: an image is pushed to a tag, not to %s", ErrReference, tag)
	}
	if err := p.checkTag(ctx, im); err != nil {
		return p.result, err
	}
	referrers, err := s.ReferrerTree(im)
	if err != nil {
		return p.result, err
	}
	p.result.Referrers = len(referrers)
	manifests := append([]ocispec.Descriptor{im.Descriptor()}, referrers...)
	if err := p.blobs(ctx, manifests); err != nil {
		return p.result, err
	}
	for _, d := range manifests {
		if err := p.manifest(ctx, d); err != nil {
			return p.result, err
		}
	}
	err = r.again(ctx, func() error {
		return r.explainNil(r.repo.PushReference(ctx, im.Descriptor(), bytes.NewReader(im.OCI), tag), "tagging %s as %q", im.Name, tag)
	})
	return p.result, err
}

func (r *Repository) explainNil(err error, doing string, args ...any) error {
	if err == nil {
		return nil
	}
	return r.explain(err, doing, args...)
}

// push is one push under way.
type push struct {
	*Repository
	result   Pushed
	store    *image.Store
	mu       sync.Mutex
	done     int64
	total    int64
	progress func(done, total int64)
}

// checkTag asks, before anything travels, whether the tag is free. It is also
// the first word with the registry: what is wrong with it shows here.
func (p *push) checkTag(ctx context.Context, im image.Image) error {
	d, err := p.repo.Resolve(ctx, p.result.Tag)
	if err != nil {
		err = p.explain(err, "pushing %s to %s", im.Name, p.Reference.Registry)
		if errors.Is(err, ErrMissing) {
			return nil
		}
		return err
	}
	if p.result.Tag == im.Name.Version && ingot.Digest(d.Digest) != im.Digest {
		return fmt.Errorf("pushing %s: %w: there %q is %s, here %s", im.Name, ErrTaken, p.result.Tag, ingot.Digest(d.Digest).Short(), im.Digest.Short())
	}
	return nil
}

func (p *push) blobs(ctx context.Context, manifests []ocispec.Descriptor) error {
	seen := map[string]bool{}
	var list []ocispec.Descriptor
	for _, m := range manifests {
		blobs, err := p.store.Blobs(ingot.Digest(m.Digest))
		if err != nil {
			return err
		}
		for _, b := range blobs {
			if !seen[b.Digest.String()] {
				seen[b.Digest.String()] = true
				list = append(list, b)
				p.total += b.Size
			}
		}
	}
	p.move(0)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, b := range list {
		g.Go(func() error { return p.again(ctx, func() error { return p.blob(ctx, b) }) })
	}
	return g.Wait()
}

// blob sends one blob unless the registry has it.
func (p *push) blob(ctx context.Context, d ocispec.Descriptor) error {
	what := ingot.Digest(d.Digest).Short()
	there, err := p.repo.Blobs().Exists(ctx, d)
	if err != nil {
		return p.explain(err, "asking for blob %s", what)
	}
	if there {
		p.move(d.Size)
		p.count(&p.result.Present, d.Size)
		return nil
	}
	f, err := os.Open(p.store.Blob(ingot.Digest(d.Digest)))
	if err != nil {
		return fmt.Errorf("sending blob %s: %w", what, err)
	}
	defer f.Close()
	w := watchStall(ctx, p.stall+2*p.stall) // the registry's own digesting has no bytes to show
	defer w.stop()
	sent := &sending{r: f, p: p, w: w}
	if err := p.repo.Blobs().Push(w.ctx, d, sent); err != nil {
		p.move(-sent.n)
		return p.explain(w.why(err), "sending blob %s", what)
	}
	p.count(&p.result.Sent, d.Size)
	return nil
}

// sending counts what leaves.
type sending struct {
	r io.Reader
	p *push
	w *watch
	n int64
}

func (s *sending) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.n += int64(n)
	s.w.alive()
	s.p.move(int64(n))
	return n, err
}

func (p *push) move(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if p.progress != nil {
		p.progress(p.done, p.total)
	}
}

func (p *push) count(what *int64, n int64) {
	p.mu.Lock()
	*what += n
	p.mu.Unlock()
}

// manifest sends one manifest by its digest. A referrer is sent even if it is
// there: that makes sure of its entry in the list of referrers.
func (p *push) manifest(ctx context.Context, d ocispec.Descriptor) error {
	b, err := os.ReadFile(p.store.Blob(ingot.Digest(d.Digest)))
	if err != nil {
		return fmt.Errorf("sending a manifest: %w", err)
	}
	d = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	return p.again(ctx, func() error {
		return p.explainNil(p.repo.Manifests().Push(ctx, d, bytes.NewReader(b)), "sending manifest %s", ingot.Digest(d.Digest).Short())
	})
}
