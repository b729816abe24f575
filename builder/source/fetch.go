package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Cache keeps packages by the SHA-256 of their bytes, as DIR/<sha256>.deb.
type Cache struct{ Dir string }

// Path is where a package is kept.
func (c Cache) Path(p Package) string { return filepath.Join(c.Dir, p.SHA256+".deb") }

// fetchers is the number of downloads at a time.
const fetchers = 8

// Missing are the packages of a list that the cache does not hold, or not with
// their size.
func (c Cache) Missing(list []Package) []Package {
	var missing []Package
	for _, p := range list {
		if st, err := os.Stat(c.Path(p)); err != nil || st.Size() != p.Size {
			missing = append(missing, p)
		}
	}
	return missing
}

// Fetch downloads what is missing, eight at a time, and verifies each file
// before it gets its name. A file of the wrong size in the cache is fetched
// again. progress is called with bytes done and in total; it may be nil.
func (c Cache) Fetch(ctx context.Context, m Mirrors, list []Package, progress func(done, total int64)) error {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return fmt.Errorf("preparing the package cache: %w", err)
	}
	missing := c.Missing(list)
	var total int64
	for _, p := range missing {
		total += p.Size
	}
	client := &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: fetchers, ResponseHeaderTimeout: 30 * time.Second,
		DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
	}}
	defer client.CloseIdleConnections()
	var done atomic.Int64
	tell := func(n int64) {
		if v := done.Add(n); progress != nil {
			progress(v, total)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for _, p := range missing {
		g.Go(func() error { return c.fetchRetrying(ctx, client, m, p, tell) })
	}
	return g.Wait()
}

// fetchRetrying tries three times: mirrors drop a connection now and then.
func (c Cache) fetchRetrying(ctx context.Context, client *http.Client, m Mirrors, p Package, tell func(int64)) error {
	var err error
	for attempt := range 3 {
		if attempt > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Duration(attempt) * time.Second):
			}
		}
		if err = c.fetch(ctx, client, m.URL(p), p); err == nil {
			tell(p.Size)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return fmt.Errorf("fetching %s %s: %w", p.Name, p.Version, err)
}

func (c Cache) fetch(ctx context.Context, client *http.Client, url string, p Package) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("%w: %s", ErrOffline, hideHost(err.Error()))
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%w: the mirror no longer has /%s; plan again", ErrNoPackage, p.Path)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the mirror answers %s for /%s", resp.Status, p.Path)
	}
	tmp, err := os.CreateTemp(c.Dir, ".incoming-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(tmp, sum), io.LimitReader(resp.Body, p.Size+1)); err != nil {
		return err
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
	return os.Rename(tmp.Name(), c.Path(p))
}

// Verify checks a cached package against its digest; a damaged one is removed,
// so that the next Fetch repairs it.
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
		return fmt.Errorf("verifying %s in the cache: %w: sha256 is %s…; the file is removed, build again", p.Name, ErrDigest, got[:12])
	}
	return nil
}

// Epoch is the newest build time among the packages: the time stamp of the
// first member of each .deb (deb(5), ar(5)), which dpkg-deb takes from the
// changelog. It depends on the packages alone, never on today.
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
