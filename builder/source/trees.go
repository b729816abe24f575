package source

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"ingot"
	"ingot/internal/beneath"
)

// The kinds of trees other than installed packages.
const (
	KindOCI = "oci" // a container image
	KindTar = "tar" // a tarball
	KindDir = "dir" // a folder
)

// Pin is a tree of a plan other than installed packages, pinned by digest.
type Pin struct {
	Kind string `json:"kind"`
	From string `json:"from"` // as the profile calls it
	// Digest is that of the manifest for one platform (oci), of the file (tar),
	// or of the canonical tar of the folder (dir).
	Digest ingot.Digest `json:"digest"`
	Size   int64        `json:"size"` // bytes of the layers, file or canonical tar
	// Created is the Unix time that the image's config names, or of the newest
	// file of the tarball; 0 when neither is reliable.
	Created int64 `json:"created,omitempty"`
}

// Check reports what is wrong with a pin that was read from a file.
func (p Pin) Check() error {
	if p.Kind != KindOCI && p.Kind != KindTar && p.Kind != KindDir {
		return fmt.Errorf("tree %q: unknown kind %q", p.From, p.Kind)
	}
	if _, err := ingot.ParseDigest(string(p.Digest)); err != nil {
		return fmt.Errorf("tree %q: %w", p.From, err)
	}
	if p.From == "" || p.Size < 0 || p.Created < 0 || p.Created > maxTime {
		return fmt.Errorf("tree %q: name, size or time is wrong", p.From)
	}
	return nil
}

// maxTime is the last time that SquashFS can hold.
const maxTime = 1<<32 - 1

var epochZero = time.Unix(0, 0)

// Origin is where a tree comes from.
type Origin struct {
	Kind string
	Ref  string // as the profile calls it
	// Path is where it is on this host. Empty: it is in a registry, or its place is no longer known.
	Path beneath.Path
	// Image chooses one of the images of an archive; may be empty.
	Image string
	// Local: it is a file or folder, wherever that is.
	Local      bool
	Arch       string // by Debian's name, which for our architectures is also OCI's
	KeepOwners bool   // of a folder; otherwise all is root's
}

// known reports whether the place of a local tree is known.
func (o Origin) known() bool { return o.Path != (beneath.Path{}) }

// Trees fetches and keeps the trees that are not installed packages. Everything is kept in Blobs by
// digest. A damaged blob is fetched again, with a warning.
type Trees struct {
	Blobs   Blobs
	Offline bool
	// Credentials are files such as docker's config.json, for registries.
	Credentials []string
	Log         *slog.Logger // nil is quiet
}

func (t *Trees) warn(what string, args ...any) {
	if t.Log != nil {
		t.Log.Warn(what, args...)
	}
}

// Pin finds the digest of what is at the origin now. Of a container image in a registry it fetches
// only manifest and config.
func (t *Trees) Pin(ctx context.Context, o Origin) (Pin, error) {
	pin := Pin{Kind: o.Kind, From: o.Ref}
	var err error
	switch o.Kind {
	case KindOCI:
		err = t.pinOCI(ctx, o, &pin)
	case KindTar:
		err = t.pinTar(ctx, o, &pin)
	case KindDir:
		err = t.pinDir(ctx, o, &pin)
	default:
		err = fmt.Errorf("unknown kind %q", o.Kind)
	}
	if err != nil {
		return pin, fmt.Errorf("pinning %s %s: %w", o.Kind, o.Ref, err)
	}
	pin.Created = min(max(pin.Created, 0), maxTime)
	return pin, nil
}

func (t *Trees) pinOCI(ctx context.Context, o Origin, pin *Pin) error {
	from, err := t.depot(ctx, o)
	if err != nil {
		return err
	}
	defer from.close()
	c, err := t.pinImage(ctx, o, from)
	if err != nil {
		return err
	}
	pin.Digest, pin.Size, pin.Created = c.digest, c.size(), c.created()
	return nil
}

// depot opens where a container image is.
func (t *Trees) depot(ctx context.Context, o Origin) (depot, error) {
	if o.Local {
		if !o.known() {
			return nil, ErrNoTree
		}
		return openArchive(ctx, o, t.Blobs.Dir)
	}
	if t.Offline {
		return nil, fmt.Errorf("%w: %s is in a registry and not in the cache; leave out --offline", ErrOffline, o.Ref)
	}
	return openRegistry(ctx, o.Ref, t.Credentials)
}

// Missing reports whether the cache lacks parts of a pin.
func (t *Trees) Missing(pin Pin) bool {
	if pin.Kind == KindOCI {
		return len(t.missingOfImage(pin)) > 0
	}
	return !t.Blobs.Has(pin.Digest, pin.Size)
}

// Fetch downloads everything that a pin names into the cache. progress is called with bytes done
// and in total; it may be nil.
func (t *Trees) Fetch(ctx context.Context, o Origin, pin Pin, progress func(done, total int64)) error {
	if !t.Missing(pin) {
		return nil
	}
	if err := t.fetch(ctx, o, pin, progress); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("fetching %s %s: %w", o.Kind, o.Ref, err)
	}
	return nil
}

func (t *Trees) fetch(ctx context.Context, o Origin, pin Pin, progress func(done, total int64)) error {
	var done atomic.Int64
	count := func(n int64) {
		if v := done.Add(n); progress != nil {
			progress(v, pin.Size)
		}
	}
	if pin.Kind == KindOCI {
		from, err := t.depot(ctx, o)
		if err != nil {
			return err
		}
		defer from.close()
		return t.fetchImage(ctx, o, pin, from, count)
	}
	if !o.known() {
		return ErrNoTree
	}
	now, err := t.Pin(ctx, o)
	if err != nil {
		return err
	}
	if now.Digest != pin.Digest {
		return fmt.Errorf("%w: it changed since the plan was made; run: ingot plan", ErrDigest)
	}
	return nil
}

// Unpack writes the tree of a fetched pin to the file out as a canonical tar (package tree). A
// damaged part in the cache gives ErrDamaged and is removed.
func (t *Trees) Unpack(ctx context.Context, pin Pin, out string) error {
	spool, err := os.CreateTemp(t.Blobs.Dir, incoming)
	if err != nil {
		return fmt.Errorf("unpacking %s %s: %w", pin.Kind, pin.From, err)
	}
	defer os.Remove(spool.Name())
	defer spool.Close()
	m := newMerger(spool)
	if pin.Kind == KindOCI {
		err = t.unpackImage(ctx, pin, m)
	} else {
		err = t.unpackTar(ctx, pin, m)
	}
	if err == nil {
		err = writeCanonical(ctx, m.tree, out)
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("unpacking %s %s: %w", pin.Kind, pin.From, err)
	}
	return nil
}

// mergeHashed calls lay with the uncompressed stream and returns the digest of all of it.
func mergeHashed(ctx context.Context, r io.Reader, lay func(context.Context, io.Reader) error) (ingot.Digest, error) {
	u, err := uncompressed(ctx, r)
	if err != nil {
		return "", err
	}
	defer u.Close()
	sum := sha256.New()
	hashed := io.TeeReader(u, sum)
	if err := lay(ctx, hashed); err != nil {
		return "", err
	}
	if _, err := io.Copy(io.Discard, hashed); err != nil {
		return "", err
	}
	return digestOfSum(sum), nil
}
