package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// parallel is how many blobs are sent at the same time.
const parallel = 3

// Push sends an image: blobs that the registry lacks, the manifest, its referrers, and last the
// tag, so that a pull by the tag finds everything. Without a tag in the reference it is the image's
// version. A tag may move, but a version that names another image at the registry is ErrTaken.
// progress may be nil; it gets bytes of blobs.
func (r *Repository) Push(
	ctx context.Context, s *image.Store, im image.Image, progress func(done, total int64),
) (Pushed, error) {
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
	if err := p.sendBlobs(ctx, manifests); err != nil {
		return p.result, err
	}
	for _, d := range manifests {
		if err := p.sendManifest(ctx, d); err != nil {
			return p.result, err
		}
	}
	return p.result, r.retry(ctx, func() error {
		err := r.repo.PushReference(ctx, im.Descriptor(), bytes.NewReader(im.OCI), tag)
		return r.explain(err, "tagging %s as %q", im.Name, tag)
	})
}

// push is a push in progress.
type push struct {
	*Repository
	store    *image.Store
	progress func(done, total int64)

	mu     sync.Mutex // of what follows
	result Pushed
	done   int64
	total  int64
}

// checkTag checks that the tag is free before anything is sent. It is also the first request to the
// registry: problems with the connection show here.
func (p *push) checkTag(ctx context.Context, im image.Image) error {
	d, err := p.repo.Resolve(ctx, p.result.Tag)
	if err != nil {
		err = p.explain(err, "pushing %s to %s", im.Name, p.Reference.Registry)
		if errors.Is(err, ErrMissing) {
			return nil
		}
		return err
	}
	if found := ingot.Digest(d.Digest); p.result.Tag == im.Name.Version && found != im.Digest {
		return fmt.Errorf("pushing %s: %w: there %q is %s, here %s",
			im.Name, ErrTaken, p.result.Tag, found.Short(), im.Digest.Short())
	}
	return nil
}

// sendBlobs sends the distinct blobs of the manifests.
func (p *push) sendBlobs(ctx context.Context, manifests []ocispec.Descriptor) error {
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
	p.advance(0)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, b := range list {
		g.Go(func() error { return p.retry(ctx, func() error { return p.sendBlob(ctx, b) }) })
	}
	return g.Wait()
}

// sendBlob sends one blob unless the registry has it.
func (p *push) sendBlob(ctx context.Context, d ocispec.Descriptor) error {
	short := ingot.Digest(d.Digest).Short()
	there, err := p.repo.Blobs().Exists(ctx, d)
	if err != nil {
		return p.explain(err, "looking for blob %s", short)
	}
	if there {
		p.advance(d.Size)
		p.count(&p.result.Present, d.Size)
		return nil
	}
	f, err := os.Open(p.store.Blob(ingot.Digest(d.Digest)))
	if err != nil {
		return fmt.Errorf("sending blob %s: %w", short, err)
	}
	defer f.Close()
	w := newWatch(ctx, 3*p.stall) // longer than for a fetch: nothing moves while the registry hashes the blob
	defer w.stop()
	body := &upload{r: f, push: p, watch: w}
	if err := p.repo.Blobs().Push(w.ctx, d, body); err != nil {
		p.advance(-body.end())
		return p.explain(w.cause(err), "sending blob %s", short)
	}
	p.count(&p.result.Sent, d.Size)
	return nil
}

// upload is a blob that is being sent; it counts the bytes. The HTTP transport reads it in a
// goroutine of its own, which may outlive the request (net/http, RoundTripper): after end it reads
// nothing more.
type upload struct {
	push  *push
	watch *watch

	mu    sync.Mutex // of what follows
	r     io.Reader
	sent  int64 // bytes
	ended bool
}

func (u *upload) Read(b []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended {
		return 0, fs.ErrClosed
	}
	n, err := u.r.Read(b)
	u.sent += int64(n)
	u.watch.reset()
	u.push.advance(int64(n))
	return n, err
}

// end stops the upload and returns how many bytes it has sent.
func (u *upload) end() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.ended = true
	return u.sent
}

// advance adds to the progress.
func (p *push) advance(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += n
	if p.progress != nil {
		p.progress(p.done, p.total)
	}
}

func (p *push) count(counter *int64, n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*counter += n
}

// sendManifest sends one manifest by its digest. A referrer is sent even if the registry has it:
// this makes sure that it is in the list of referrers.
func (p *push) sendManifest(ctx context.Context, d ocispec.Descriptor) error {
	b, err := os.ReadFile(p.store.Blob(ingot.Digest(d.Digest)))
	if err != nil {
		return fmt.Errorf("sending a manifest: %w", err)
	}
	d = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	return p.retry(ctx, func() error {
		err := p.repo.Manifests().Push(ctx, d, bytes.NewReader(b))
		return p.explain(err, "sending manifest %s", ingot.Digest(d.Digest).Short())
	})
}
