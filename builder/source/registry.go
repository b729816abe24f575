package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot/image/registry"
)

// remoteImage is a container image in a registry (OCI distribution specification 1.1).
type remoteImage struct{ repository *registry.Repository }

// openRegistry opens an image by the short names that docker and podman accept, too. credentials
// are files such as docker's config.json; the first that knows the registry counts.
func openRegistry(ctx context.Context, ref string, credentials []string) (depot, error) {
	r, err := registry.Open(ctx, fullReference(ref), registry.Options{LocalHTTP: true, Credentials: credentials})
	if errors.Is(err, registry.ErrReference) {
		return nil, fmt.Errorf("%w: %q is not a reference such as registry.example/name:tag; write a path with a leading ./",
			ErrNoImage, ref)
	}
	if err != nil {
		return nil, err
	}
	return &remoteImage{r}, nil
}

// fullReference completes a short name: without a registry it is Docker Hub's, whose official
// images are in library/; without a tag it is latest.
func fullReference(ref string) string {
	host, path, found := strings.Cut(ref, "/")
	if !found || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, path = "docker.io", ref
	}
	if host == "index.docker.io" {
		host = "docker.io"
	}
	if host == "docker.io" && !strings.Contains(path, "/") {
		path = "library/" + path
	}
	if !strings.ContainsAny(path, ":@") {
		path += ":latest"
	}
	return host + "/" + path
}

func (r *remoteImage) close() { r.repository.Close() }

func (r *remoteImage) index(ctx context.Context) ([]byte, string, error) {
	return r.manifest(ctx, r.repository.Reference.Reference)
}

func (r *remoteImage) manifest(ctx context.Context, reference string) ([]byte, string, error) {
	d, raw, err := r.repository.Manifest(ctx, reference, maxManifest)
	if err != nil {
		return nil, "", r.explain(ctx, err)
	}
	return raw, d.MediaType, nil
}

func (r *remoteImage) blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if isManifest(d.MediaType) || isIndex(d.MediaType) {
		raw, _, err := r.manifest(ctx, d.Digest.String())
		if err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(raw)), nil
	}
	body, err := r.repository.Fetch(ctx, d)
	if err != nil {
		return nil, r.explain(ctx, err)
	}
	return &explained{body, ctx, r}, nil
}

// explained is a blob whose errors are explained.
type explained struct {
	io.ReadCloser
	ctx context.Context // of the request that this is the answer to
	r   *remoteImage
}

func (e *explained) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = e.r.explain(e.ctx, err)
	}
	return n, err
}

// explain adds what to do about an error of the registry.
func (r *remoteImage) explain(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	host := r.repository.Reference.Registry
	switch {
	case errors.Is(err, registry.ErrCredentials), errors.Is(err, registry.ErrRefused),
		errors.Is(err, registry.ErrForbidden):
		return fmt.Errorf("%w: %w; log in with: docker login %s, podman login %s or skopeo login %s",
			ErrRefused, err, host, host, host)
	case errors.Is(err, registry.ErrMissing):
		return fmt.Errorf("%w: %w", ErrNoImage, err)
	case errors.Is(err, registry.ErrRateLimit):
		return fmt.Errorf("%w: %w; log in, or try again later", ErrRefused, err)
	case errors.Is(err, registry.ErrTooLarge):
		return fmt.Errorf("%w: %w", ErrBadImage, err)
	}
	return fmt.Errorf("%w: %w; check its name and the network", ErrNoRegistry, err)
}
