// Package registry moves images between a store and any OCI registry
// (distribution-spec 1.1). Signatures, SBOMs and whatever else refers to an
// image travel with it, by the referrers API or, where a registry has none, by
// the tag schema that the specification gives as fallback.
//
// oras-go speaks with the registry; the store writes and reads its own layout,
// see package image. Left out on purpose: unverified TLS (name the authority
// with CA instead), chunked uploads, mounting blobs from other repositories.
package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	orasregistry "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"

	"ingot"
)

// Options say how a registry is talked to. The zero value is HTTPS with the
// system's authorities and no credentials.
type Options struct {
	PlainHTTP   bool                             // HTTP: for labs
	CA          []byte                           // PEM certificates of further authorities
	Credentials []string                         // docker's config.json and the like, the first that knows the registry counts; files that are missing are skipped
	UserAgent   string                           // empty means "ingot"
	Retry       func(err error, p time.Duration) // told before each pause; nil is quiet

	stall time.Duration // without a byte; zero means stallLimit
	pause time.Duration // the first one; zero means firstPause
}

const (
	stallLimit = time.Minute
	firstPause = 500 * time.Millisecond
	tries      = 5 // of one blob
)

// Repository is one repository of a registry, with a tag or digest. It is an
// image.Origin.
type Repository struct {
	Options
	Reference orasregistry.Reference
	repo      *remote.Repository
	known     bool // credentials for the registry are there
}

// Open parses REGISTRY/REPOSITORY[:TAG|@DIGEST]. It does not connect yet.
func Open(ctx context.Context, ref string, o Options) (*Repository, error) {
	if scheme, rest, ok := strings.Cut(ref, "://"); ok {
		return nil, fmt.Errorf("%w: %q; leave out %q: %s", ErrReference, ref, scheme+"://", rest)
	}
	parsed, err := orasregistry.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("%w: %q", ErrReference, ref)
	}
	client, known, err := o.client(ctx, parsed.Host())
	if err != nil {
		return nil, err
	}
	r := &Repository{Options: o, Reference: parsed, known: known}
	r.repo = &remote.Repository{Client: client, Reference: parsed, PlainHTTP: o.PlainHTTP,
		SkipReferrersGC:      true, // deleting is a right that few pushers have
		ReferrerListMaxPages: 100, HandleWarning: nil}
	if r.stall == 0 {
		r.stall = stallLimit
	}
	if r.pause == 0 {
		r.pause = firstPause
	}
	return r, nil
}

// client builds the chain: TLS, retries of requests, authentication.
func (o *Options) client(ctx context.Context, host string) (c *auth.Client, known bool, err error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if len(o.CA) > 0 && !roots.AppendCertsFromPEM(o.CA) {
		return nil, false, fmt.Errorf("%w: no PEM certificate in it", ErrCA)
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute, // a registry digests a large blob before it answers
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	stores := make([]credentials.Store, 0, len(o.Credentials))
	for _, file := range o.Credentials {
		s, err := credentials.NewStore(file, credentials.StoreOptions{})
		if err != nil {
			return nil, false, fmt.Errorf("reading credentials from %q: %w", file, err)
		}
		stores = append(stores, s)
	}
	client := &auth.Client{Client: &http.Client{Transport: retry.NewTransport(transport)}, Cache: auth.NewCache()}
	agent := o.UserAgent
	if agent == "" {
		agent = "ingot"
	}
	client.SetUserAgent(agent)
	if len(stores) > 0 {
		client.Credential = credentials.Credential(credentials.NewStoreWithFallbacks(stores[0], stores[1:]...))
		cred, err := client.Credential(ctx, host)
		if err != nil {
			return nil, false, fmt.Errorf("asking the credential helper for %s: %w", host, err)
		}
		known = cred != auth.EmptyCredential
	}
	return client, known, nil
}

// Resolve looks the tag or digest up.
func (r *Repository) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	ref := r.Reference.Reference
	if ref == "" {
		return ocispec.Descriptor{}, fmt.Errorf("%w: %q names no tag", ErrReference, r.Reference)
	}
	d, err := r.repo.Resolve(ctx, ref)
	if err != nil {
		return d, r.explain(err, "looking up %s", r.Reference)
	}
	return d, nil
}

// Fetch opens a manifest or blob. A connection that breaks is made anew where
// it stopped, with growing pauses; one that says nothing counts as broken.
func (r *Repository) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	b := &body{r: r, d: d, ctx: ctx}
	if err := b.again(b.open); err != nil {
		return nil, err
	}
	return b, nil
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

// again does something until it succeeds, is refused for good, or has failed
// often enough.
func (r *Repository) again(ctx context.Context, try func() error) error {
	pause := r.pause
	for n := 1; ; n++ {
		err := try()
		if err == nil || !passing(err) || ctx.Err() != nil || n == tries {
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

// body is a blob as it comes in.
type body struct {
	r      *Repository
	d      ocispec.Descriptor
	ctx    context.Context // of the Fetch that this is the result of
	at     int64           // bytes given so far
	in     io.ReadCloser
	watch  *watch
	failed int // since the last byte
}

func (b *body) again(try func() error) error { return b.r.again(b.ctx, try) }

// open asks for the blob from where we are.
func (b *body) open() error {
	b.shut()
	b.watch = watchStall(b.ctx, b.r.stall)
	in, err := b.r.repo.Fetch(b.watch.ctx, b.d)
	if err != nil {
		err = b.watch.why(err)
		b.shut()
		return b.r.explain(err, "fetching %s", ingot.Digest(b.d.Digest).Short())
	}
	b.in = in
	if err := b.skip(); err != nil {
		err = b.watch.why(err)
		b.shut()
		return b.r.explain(err, "fetching %s from byte %d", ingot.Digest(b.d.Digest).Short(), b.at)
	}
	return nil
}

// skip goes to where we are: by a range where the registry has them.
func (b *body) skip() error {
	if b.at == 0 {
		return nil
	}
	if s, ok := b.in.(io.Seeker); ok {
		_, err := s.Seek(b.at, io.SeekStart)
		return err
	}
	for left := b.at; left > 0; {
		n, err := io.CopyN(io.Discard, b.in, min(left, 1<<20))
		if err != nil {
			return err
		}
		b.watch.alive()
		left -= n
	}
	return nil
}

func (b *body) Read(p []byte) (int, error) {
	for {
		if b.in == nil {
			if err := b.again(b.open); err != nil {
				return 0, err
			}
		}
		n, err := b.in.Read(p)
		b.at += int64(n)
		if n > 0 {
			b.watch.alive()
			b.failed = 0
		}
		switch {
		case err == nil || n > 0:
			return n, nil // what went wrong behind these bytes, the next Read shows
		case errors.Is(err, io.EOF) && b.at >= b.d.Size:
			return 0, io.EOF
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF
		}
		err = b.r.explain(b.watch.why(err), "fetching %s from byte %d", ingot.Digest(b.d.Digest).Short(), b.at)
		if b.failed++; b.failed == tries || b.ctx.Err() != nil || !passing(err) {
			return 0, err
		}
		b.shut()
	}
}

func (b *body) shut() {
	if b.in != nil {
		b.in.Close()
		b.in = nil
	}
	if b.watch != nil {
		b.watch.stop()
		b.watch = nil
	}
}

// Close gives the connection back.
func (b *body) Close() error {
	b.shut()
	return nil
}

// watch ends a context when nothing moves any more.
type watch struct {
	ctx    context.Context // it is what the watch ends
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

func watchStall(ctx context.Context, limit time.Duration) *watch {
	w := &watch{limit: limit}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(limit, func() { w.cancel(fmt.Errorf("%w for %s", errStalled, limit)) })
	return w
}

// alive tells that something moved.
func (w *watch) alive() { w.timer.Reset(w.limit) }

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// why replaces the error of an ended context by its reason.
func (w *watch) why(err error) error {
	if cause := context.Cause(w.ctx); cause != nil && errors.Is(cause, errStalled) {
		return cause
	}
	return err
}
