package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/scratch"
)

// Cache keeps packages by the SHA-256 of their bytes, as DIR/<sha256>.deb. Only damaged files are
// removed: a lock may name a package that mirrors no longer have.
type Cache struct{ Dir string }

// Path is where a package is kept.
func (c Cache) Path(p Package) string { return filepath.Join(c.Dir, p.SHA256+".deb") }

const (
	// fetchers is the number of downloads at a time.
	fetchers = 8
	// attempts is how often a package is requested: mirrors drop a connection now and then.
	attempts = 3
	// stalled ends an attempt after so long without a byte.
	stalled = 30 * time.Second
)

// Missing returns the packages of a list that the cache does not have, or not with their size.
func (c Cache) Missing(list []Package) []Package {
	var missing []Package
	for _, p := range list {
		if st, err := os.Stat(c.Path(p)); err != nil || st.Size() != p.Size {
			missing = append(missing, p)
		}
	}
	return missing
}

// RemoveDamaged reads the packages of a list that the cache has, removes those whose bytes do not
// have their digest, and returns them.
func (c Cache) RemoveDamaged(ctx context.Context, list []Package) (damaged []Package, err error) {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, p := range list {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			err := c.Verify(p)
			if errors.Is(err, ErrDigest) {
				mu.Lock()
				damaged = append(damaged, p)
				mu.Unlock()
				return nil
			}
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			return err
		})
	}
	return damaged, g.Wait()
}

// Fetch downloads missing packages, eight at a time, and verifies each file before it gets its
// name. A file of the wrong size in the cache is fetched again. progress is called with bytes done
// and in total; it may be nil.
func (c Cache) Fetch(ctx context.Context, m Mirrors, list []Package, progress func(done, total int64)) error {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return fmt.Errorf("preparing the package cache: %w", err)
	}
	incoming, err := scratch.In(c.Dir, ".incoming-")
	if err != nil {
		return fmt.Errorf("preparing the package cache: %w", err)
	}
	defer incoming.Remove()
	missing := c.Missing(list)
	var total int64
	for _, p := range missing {
		total += p.Size
	}
	transport := &http.Transport{Proxy: http.ProxyFromEnvironment,
		MaxIdleConnsPerHost: fetchers, ResponseHeaderTimeout: stalled,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext}
	transport.RegisterProtocol("file", http.NewFileTransport(http.Dir("/"))) // a mirror on disk, as apt knows it
	f := fetch{cache: c, mirrors: m, incoming: incoming.Path, client: &http.Client{Transport: transport},
		stalled: stalled, progress: progress, total: total}
	defer f.client.CloseIdleConnections()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, p := range missing {
		g.Go(func() error { return f.retrying(ctx, p) })
	}
	return g.Wait()
}

// fetch is one run of Fetch.
type fetch struct {
	cache    Cache
	mirrors  Mirrors
	incoming string // folder for what is not complete
	client   *http.Client
	stalled  time.Duration
	progress func(done, total int64)
	done     atomic.Int64
	total    int64
}

func (f *fetch) retrying(ctx context.Context, p Package) error {
	url, err := f.mirrors.URL(p)
	if err != nil {
		return fmt.Errorf("fetching %s %s: %w", p.Name, p.Version, err)
	}
	for attempt := range attempts {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(attempt) * time.Second):
		}
		if err = f.one(ctx, url, p); err == nil {
			if done := f.done.Add(p.Size); f.progress != nil {
				f.progress(done, f.total)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, ErrNoPackage) {
			break
		}
	}
	if errors.Is(err, ErrDigest) {
		err = fmt.Errorf("%w; try another --mirror or, when the lock is wrong, --update", err)
	}
	return fmt.Errorf("fetching %s %s: %w", p.Name, p.Version, err)
}

// one requests a package once.
func (f *fetch) one(ctx context.Context, url string, p Package) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(f.stalled, func() {
		cancel(fmt.Errorf("%w: it sent nothing for %v", ErrOffline, f.stalled))
	})
	defer watch.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, ErrOffline) {
			return cause
		}
		return fmt.Errorf("%w: %s", ErrOffline, hideHost(err.Error()))
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: the mirror no longer has /%s; update the lock with --update", ErrNoPackage, p.Path)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%w: it answered %s for /%s", ErrOffline, resp.Status, p.Path)
	}
	return f.keep(ctx, &watched{resp.Body, watch, f.stalled}, p)
}

// keep writes the body of a response to the cache if it is the package.
func (f *fetch) keep(ctx context.Context, body io.Reader, p Package) error {
	tmp, err := os.CreateTemp(f.incoming, "")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(tmp, sum), io.LimitReader(body, p.Size+1))
	switch cause := context.Cause(ctx); {
	case err != nil && errors.Is(cause, ErrOffline):
		return cause
	case errors.Is(err, io.ErrUnexpectedEOF) || err == nil && n < p.Size:
		return fmt.Errorf("%w: it ended after %d of %d bytes", ErrDigest, n, p.Size)
	case err != nil:
		return err
	case n > p.Size:
		return fmt.Errorf("%w: it is longer than %d bytes", ErrDigest, p.Size)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.SHA256 {
		return fmt.Errorf("%w: sha256 is %s…; want %s…", ErrDigest, got[:12], p.SHA256[:12])
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), f.cache.Path(p))
}

// watched resets a timer with every byte that arrives.
type watched struct {
	io.Reader
	watch *time.Timer
	after time.Duration
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if n > 0 {
		w.watch.Reset(w.after)
	}
	return n, err
}

// Verify checks a cached package against its digest. A damaged one is removed, so that the next
// Fetch gets it again.
func (c Cache) Verify(p Package) error {
	f, err := os.Open(c.Path(p))
	if err != nil {
		return fmt.Errorf("verifying %s: %w", p.Name, err)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("verifying %s: %w", p.Name, err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != p.SHA256 {
		os.Remove(c.Path(p))
		return fmt.Errorf("verifying %s in the cache: %w: sha256 is %s…; the file was removed; build again", p.Name,
			ErrDigest,
			got[:12])
	}
	return nil
}

// Epoch returns the newest build time of the packages: the time stamp of the first member of each
// .deb (deb(5), ar(5)), which dpkg-deb takes from the changelog. It depends on the packages alone.
func (c Cache) Epoch(list []Package) (time.Time, error) {
	var newest int64
	for _, p := range list {
		f, err := os.Open(c.Path(p))
		if err != nil {
			return time.Time{}, fmt.Errorf("reading the time of %s: %w", p.Name, err)
		}
		var head [8 + 60]byte // "!<arch>\n" and one member header
		_, err = io.ReadFull(f, head[:])
		f.Close()
		if err != nil {
			return time.Time{}, fmt.Errorf("reading the time of %s: %w", p.Name, err)
		}
		t, err := strconv.ParseInt(strings.TrimSpace(string(head[8+16:8+28])), 10, 64)
		if err != nil {
			return time.Time{}, fmt.Errorf("reading the time of %s: not a Debian package: %w", p.Name, err)
		}
		newest = max(newest, t)
	}
	return time.Unix(newest, 0).UTC(), nil
}
