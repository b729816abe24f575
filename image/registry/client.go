package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// newTransport connects, with TLS by the system's authorities and those of the options.
func (o *Options) newTransport() (*http.Transport, error) {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool()
	}
	if len(o.CA) > 0 && !roots.AppendCertsFromPEM(o.CA) {
		return nil, fmt.Errorf("%w: no PEM certificate in it", ErrCA)
	}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8,
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 2 * time.Minute, // a registry hashes a large blob before it answers
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}, nil
}

// newClient adds retries of requests and authentication to the transport.
func (r *Repository) newClient(ctx context.Context) (*auth.Client, error) {
	policy := &retry.GenericPolicy{Retryable: retry.DefaultPredicate, Backoff: retry.DefaultBackoff,
		MinWait: 200 * time.Millisecond, MaxWait: 3 * time.Second, MaxRetry: 3}
	retrying := &retry.Transport{Base: r.transport, Policy: func() retry.Policy { return policy }}
	client := &auth.Client{Client: &http.Client{Transport: retrying}, Cache: auth.NewCache()}
	agent := r.UserAgent
	if agent == "" {
		agent = "ingot"
	}
	client.SetUserAgent(agent)
	stores := make([]credentials.Store, 0, len(r.Credentials))
	for _, file := range r.Credentials {
		s, err := credentials.NewStore(file, credentials.StoreOptions{})
		if err != nil {
			return nil, fmt.Errorf("reading credentials from %q: %w", file, err)
		}
		stores = append(stores, s)
	}
	if len(stores) == 0 {
		return client, nil
	}
	client.Credential = r.credential(credentials.NewStoreWithFallbacks(stores[0], stores[1:]...))
	host := r.Reference.Host()
	found, err := client.Credential(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("asking the credential helper for %s: %w", host, err)
	}
	r.loggedIn = found != auth.EmptyCredential
	return client, nil
}

// credential looks credentials up: those of the repository, which podman's auth.json may have,
// before those of its registry.
func (r *Repository) credential(store credentials.Store) auth.CredentialFunc {
	byHost := credentials.Credential(store)
	return func(ctx context.Context, host string) (auth.Credential, error) {
		if host == r.Reference.Host() {
			found, err := store.Get(ctx, r.Reference.Registry+"/"+r.Reference.Repository)
			if err == nil && found != auth.EmptyCredential {
				return found, nil
			}
		}
		return byHost(ctx, host)
	}
}

// isLocal reports whether HOST[:PORT] is this host or in a private network.
func isLocal(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return ip.IsLoopback() || ip.IsPrivate()
	}
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || strings.HasSuffix(host, ".local")
}

// offersHTTPOnly asks a registry for its API by HTTPS and, if that fails, by HTTP
// (distribution-spec, "Determining Support").
func offersHTTPOnly(ctx context.Context, transport http.RoundTripper, host string) bool {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	if _, err := ping(ctx, transport, "https://"+host+"/v2/"); err == nil {
		return false
	} else if errors.Is(err, http.ErrSchemeMismatch) {
		return true
	}
	status, err := ping(ctx, transport, "http://"+host+"/v2/")
	return err == nil && (status == http.StatusOK || status == http.StatusUnauthorized)
}

func ping(ctx context.Context, transport http.RoundTripper, url string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 4<<10) // so that the connection can be used again
	return answer.StatusCode, nil
}
