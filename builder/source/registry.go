package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// registry is a container image in a registry (OCI distribution specification
// 1.1). Credentials come from the usual files: docker's config.json, or the
// auth.json of podman and skopeo.
type registry struct {
	ref    name.Reference
	client *http.Transport
}

func openRegistry(ref string) (depot, error) {
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fmt.Errorf("%w: %q is no reference such as registry.example/name:tag; write a path with a leading ./",
			ErrNoImage, ref)
	}
	return &registry{ref: r, client: &http.Transport{
		Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: layerFetchers, ResponseHeaderTimeout: 30 * time.Second,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, TLSHandshakeTimeout: 10 * time.Second,
	}}, nil
}

func (r *registry) close() { r.client.CloseIdleConnections() }

func (r *registry) options(ctx context.Context) []remote.Option {
	return []remote.Option{remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithTransport(r.client), remote.WithUserAgent("ingot"),
		remote.WithRetryBackoff(remote.Backoff{Duration: 200 * time.Millisecond, Factor: 3, Steps: 3})}
}

func (r *registry) index(ctx context.Context) ([]byte, types.MediaType, error) {
	d, err := remote.Get(r.ref, r.options(ctx)...)
	if err != nil {
		return nil, "", r.explain(ctx, err)
	}
	if d.Size > maxManifest {
		return nil, "", fmt.Errorf("%w: the manifest of %s has %d bytes", ErrBadImage, r.ref, d.Size)
	}
	return d.Manifest, d.MediaType, nil
}

func (r *registry) blob(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	at := r.ref.Context().Digest(d.Digest.String())
	if d.MediaType.IsImage() || d.MediaType.IsIndex() {
		m, err := remote.Get(at, r.options(ctx)...)
		if err != nil {
			return nil, r.explain(ctx, err)
		}
		return io.NopCloser(bytes.NewReader(m.Manifest)), nil
	}
	l, err := remote.Layer(at, r.options(ctx)...)
	if err != nil {
		return nil, r.explain(ctx, err)
	}
	body, err := l.Compressed()
	if err != nil {
		return nil, r.explain(ctx, err)
	}
	return body, nil
}

// explain turns an answer of the registry into one sentence.
func (r *registry) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	host := r.ref.Context().RegistryStr()
	var answer *transport.Error
	if !errors.As(err, &answer) {
		var where *url.Error
		if errors.As(err, &where) {
			err = where.Err
		}
		return fmt.Errorf("%w: %s: %w; check its name and the network", ErrNoRegistry, host, err)
	}
	said := ""
	if len(answer.Errors) > 0 && answer.Errors[0].Message != "" {
		said = " (" + answer.Errors[0].Message + ")"
	}
	switch answer.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: %s answers %d%s; log in with: docker login %s, podman login %s or skopeo login %s",
			ErrRefused, host, answer.StatusCode, said, host, host, host)
	case http.StatusNotFound:
		return fmt.Errorf("%w: %s has no %s%s", ErrNoImage, host, r.ref.Context().RepositoryStr()+":"+r.ref.Identifier(),
			said)
	case http.StatusTooManyRequests:
		return fmt.Errorf("%w: %s: too many requests%s; log in, or try again later", ErrRefused, host, said)
	}
	return fmt.Errorf("%w: %s answers %d%s", ErrNoRegistry, host, answer.StatusCode, said)
}
