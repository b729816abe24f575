// Package registry moves images between a store and any OCI registry (distribution-spec 1.1), and
// reads container images from one. Signatures, SBOMs and other referrers of an image travel with
// it, by the referrers API or, where a registry has none, by the tag schema that the specification
// gives as fallback.
//
// oras-go talks to the registry; the store writes and reads its own layout, see package image. Left
// out on purpose: TLS without verification (name the authority with CA instead), chunked uploads,
// mounting blobs from other repositories.
package registry

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	orasregistry "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"ingot"
)

// Options say how to talk to a registry. The zero value is HTTPS with the system's authorities and
// no credentials.
type Options struct {
	PlainHTTP bool // HTTP: for labs
	// LocalHTTP allows HTTP for a registry on this host or in a private network that does not offer
	// HTTPS. Open connects to such a registry to find out.
	LocalHTTP bool
	CA        []byte // PEM certificates of further authorities
	// Credentials are files such as docker's config.json. The first that knows the registry counts;
	// files that are missing are skipped.
	Credentials []string
	UserAgent   string                               // empty means "ingot"
	Retry       func(err error, pause time.Duration) // called before each pause; nil is quiet

	stall time.Duration // without a byte; zero means stallLimit
	pause time.Duration // the first one; zero means firstPause
}

const (
	stallLimit = time.Minute
	firstPause = 500 * time.Millisecond
	attempts   = 5 // for one blob
)

// Repository is one repository of a registry, with a tag or digest. It is an image.Origin.
type Repository struct {
	Options
	Reference orasregistry.Reference
	repo      *remote.Repository
	transport *http.Transport
	loggedIn  bool // there are credentials for the registry
}

// Open parses REGISTRY/REPOSITORY[:TAG|@DIGEST]. Without LocalHTTP it does not connect yet.
func Open(ctx context.Context, ref string, o Options) (*Repository, error) {
	if scheme, rest, ok := strings.Cut(ref, "://"); ok {
		return nil, fmt.Errorf("%w: %q; leave out %q: %s", ErrReference, ref, scheme+"://", rest)
	}
	parsed, err := orasregistry.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("%w: %q", ErrReference, ref)
	}
	r := &Repository{Options: o, Reference: parsed}
	if r.transport, err = o.newTransport(); err != nil {
		return nil, err
	}
	client, err := r.newClient(ctx)
	if err != nil {
		return nil, err
	}
	if o.LocalHTTP && isLocal(parsed.Host()) {
		r.PlainHTTP = r.PlainHTTP || offersHTTPOnly(ctx, r.transport, parsed.Host())
	}
	r.repo = &remote.Repository{
		Client: client, Reference: parsed, PlainHTTP: r.PlainHTTP,
		SkipReferrersGC:      true, // few that may push may also delete
		ReferrerListMaxPages: 100,
	}
	if r.stall == 0 {
		r.stall = stallLimit
	}
	if r.pause == 0 {
		r.pause = firstPause
	}
	return r, nil
}

// Close closes idle connections.
func (r *Repository) Close() { r.transport.CloseIdleConnections() }

// Resolve looks up the tag or digest.
func (r *Repository) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	ref := r.Reference.Reference
	if ref == "" {
		return ocispec.Descriptor{}, fmt.Errorf("%w: %q has no tag", ErrReference, r.Reference)
	}
	d, err := r.repo.Resolve(ctx, ref)
	if err != nil {
		return d, r.explain(err, "looking up %s", r.Reference)
	}
	return d, nil
}

// Manifest reads a manifest or index by tag or digest. One of more than limit bytes is ErrTooLarge.
func (r *Repository) Manifest(ctx context.Context, reference string, limit int64) (ocispec.Descriptor, []byte, error) {
	name := r.name(reference)
	d, body, err := r.repo.Manifests().FetchReference(ctx, reference)
	if err != nil {
		return d, nil, r.explain(err, "reading the manifest of %s", name)
	}
	defer body.Close()
	raw, err := io.ReadAll(io.LimitReader(body, limit+1))
	switch {
	case err != nil:
		return d, nil, r.explain(err, "reading the manifest of %s", name)
	case int64(len(raw)) > limit:
		return d, nil, fmt.Errorf("reading the manifest of %s: %w: more than %d bytes", name, ErrTooLarge, limit)
	case ingot.DigestOf(raw) != ingot.Digest(d.Digest):
		return d, nil, fmt.Errorf("reading the manifest of %s: %w: its sha256 is not %s", name, ErrAnswer, d.Digest)
	}
	return d, raw, nil
}

// name is the repository with another tag or digest.
func (r *Repository) name(reference string) string {
	named := r.Reference
	named.Reference = reference
	return named.String()
}

// Referrers lists what refers to a manifest.
func (r *Repository) Referrers(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var list []ocispec.Descriptor
	err := r.repo.Referrers(ctx, d, "", func(page []ocispec.Descriptor) error {
		list = append(list, page...)
		return nil
	})
	if err != nil {
		return nil, r.explain(err, "listing what refers to %s", ingot.Digest(d.Digest).Short())
	}
	return list, nil
}

// retry calls attempt until it succeeds, fails for good, or has failed often enough.
func (r *Repository) retry(ctx context.Context, attempt func() error) error {
	pause := r.pause
	for n := 1; ; n++ {
		err := attempt()
		if err == nil || !temporary(err) || ctx.Err() != nil || n == attempts {
			return err
		}
		wait := pause/2 + rand.N(pause)
		if r.Retry != nil {
			r.Retry(err, wait)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		pause = min(2*pause, 10*time.Second)
	}
}
