// Package catalog has the images that a boot server can serve: complete, undamaged, signed by a release
// key that the store trusts now, and for machines that accept its tickets. It is the one place that looks images
// up for machines, verifies their signatures and remembers the answer.
//
// It changes nothing: operators change a store through package operator, builds and pulls through
// packages image and registry.
package catalog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
	"ingot/bootserver/fleet"
	"ingot/image"
)

// UKI is the name of an image's UKI in URLs and tables. UEFI firmware recognises a program by its suffix.
const UKI = "uki.efi"

// Catalog looks up images of a store. A storm of machines asks for the same image thousands of
// times, and the store reads every manifest of every image to answer: what was read is kept as long
// as the store's index is the same file, and what was found of a signature as long as the same keys
// are trusted. It is safe for concurrent use.
type Catalog struct {
	store *image.Store

	mu      sync.Mutex
	index   mark // of images
	images  map[ingot.Digest]image.Image
	names   map[string]ingot.Digest                        // references that were resolved
	absent  map[string]error                               // references that the store does not have
	ukis    map[ingot.Digest]ingot.Artifact                // of images
	held    map[ingot.Digest]map[ingot.KeyUse]ingot.Digest // keys in the initramfs of images
	keys    keyring
	trusted string // by what was refused
	refused map[ingot.Digest]error

	blobs blobs
}

// New returns the catalog of a store.
func New(store *image.Store) *Catalog { return &Catalog{store: store} }

// mark tells versions of a file apart. The index is replaced, never changed.
type mark struct {
	inode uint64
	size  int64
	time  time.Time
}

// maxKept bounds how many images and names are kept; an image's manifest may have a MB of chunks.
const maxKept = 64

// Image returns an image that can be served: it is complete, its files have the content that was built
// (they are read at the first use, see Open), and a release key that the store trusts
// now has signed it. Machines would refuse another one, and start over for ever. When its key is
// trusted later, machines that wait for it go on.
func (c *Catalog) Image(d ingot.Digest) (image.Image, error) {
	return c.servable(func() (ingot.Digest, error) { return d, nil })
}

// servable is Image for the image that which returns, while c.mu is held.
func (c *Catalog) servable(which func() (ingot.Digest, error)) (image.Image, error) {
	im, uki, err := c.signed(which)
	if err != nil {
		return im, err
	}
	return im, c.sound(im, uki)
}

// signed returns an image that a trusted key signed, and its UKI, if it has one. It looks at the index
// once.
func (c *Catalog) signed(which func() (ingot.Digest, error)) (im image.Image, uki *ingot.Artifact, err error) {
	c.mu.Lock()
	defer c.mu.Unlock() // requests for the same image meanwhile need not read it again
	c.follow()
	d, err := which()
	if err != nil {
		return im, nil, err
	}
	if im, err = c.stored(d); err != nil {
		return im, nil, fmt.Errorf("image %s: %w", d.Short(), err)
	}
	return im, c.uki(im), c.verified(im)
}

// Servable reports whether an image can be served.
func (c *Catalog) Servable(d ingot.Digest) bool {
	_, err := c.Image(d)
	return err == nil
}

// Resolve returns the image that a reference names now, if it can be served: see Image.
func (c *Catalog) Resolve(ctx context.Context, ref string) (image.Image, error) {
	return c.servable(func() (ingot.Digest, error) {
		if d, known := c.names[ref]; known {
			return d, nil
		}
		if err := c.absent[ref]; err != nil { // machines that wait for it ask every few seconds
			return "", err
		}
		im, err := c.store.Get(ctx, ref)
		switch {
		case err == nil:
			c.names[ref] = im.Digest
		case errors.Is(err, image.ErrNotFound):
			c.absent[ref] = err
		}
		return im.Digest, err
	})
}

// Assignment resolves the image that a reference names and returns an assignment of it.
func (c *Catalog) Assignment(ctx context.Context, ref, why string, now time.Time) (fleet.Assignment, error) {
	im, err := c.Resolve(ctx, ref)
	if err != nil {
		return fleet.Assignment{}, err
	}
	return fleet.Assignment{ImageRef: fleet.ImageRef{Image: im.Digest, Name: im.Name.String()}, Why: why,
		Since: now}, nil
}

// UKI returns the UKI of an image that has one: the one signed for Secure Boot last, if any,
// because firmware does not say whether it checks signatures.
func (c *Catalog) UKI(im image.Image) (ingot.Artifact, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.follow()
	if uki := c.uki(im); uki != nil {
		return *uki, true
	}
	return ingot.Artifact{}, false
}

// uki is UKI; c.mu is held.
func (c *Catalog) uki(im image.Image) *ingot.Artifact {
	if im.Manifest.UKI == nil {
		return nil
	}
	uki, known := c.ukis[im.Digest]
	if !known {
		uki = *im.Manifest.UKI
		list, err := c.store.Referrers(context.Background(), im.Digest, ingot.ArtifactSignedUKI)
		if err == nil && len(list) > 0 {
			uki = list[len(list)-1].Content
		}
		if err == nil {
			c.ukis[im.Digest] = uki
		}
	}
	return &uki
}

// Stored returns an image of the store by its digest, whether or not it can be served.
func (c *Catalog) Stored(d ingot.Digest) (image.Image, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.follow()
	return c.stored(d)
}

// stored is Stored; c.mu is held.
func (c *Catalog) stored(d ingot.Digest) (image.Image, error) {
	if im, ok := c.images[d]; ok {
		return im, nil
	}
	im, err := c.store.Get(context.Background(), string(d))
	if err == nil {
		c.images[d] = im
	}
	return im, err
}

// ServerKey returns the digest of the server key that the initramfs of an image holds; empty if its
// plan does not say so.
func (c *Catalog) ServerKey(im ingot.Digest) ingot.Digest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.serverKey(im)
}

func (c *Catalog) serverKey(im ingot.Digest) ingot.Digest {
	held, known := c.held[im]
	if !known {
		var err error
		if held, err = c.store.HeldKeys(im); err == nil && c.held != nil {
			c.held[im] = held
		}
	}
	return held[ingot.KeyServer]
}

// verified returns an error unless a release key that the store trusts now signed an image, and machines
// that boot it accept the store's tickets; c.mu is held.
func (c *Catalog) verified(im image.Image) error {
	if err := c.keys.read(filepath.Join(c.store.Root(), "keys")); err != nil {
		return fmt.Errorf("image %s: %w", im.Name, err)
	}
	if keys := &c.keys; c.trusted != keys.text || len(c.refused) >= maxKept || c.refused == nil {
		c.trusted, c.refused = keys.text, map[ingot.Digest]error{}
	}
	refused, known := c.refused[im.Digest]
	if !known {
		if refused = im.VerifySignature(c.keys.For(im.Digest)...); refused == nil && len(c.keys.Old) > 0 {
			refused = c.keys.Follows(im, c.serverKey(im.Digest))
		}
		c.refused[im.Digest] = refused
	}
	if refused != nil {
		return fmt.Errorf("image %s: %w; machines would refuse it", im.Name, refused)
	}
	return nil
}

// follow forgets what was read of another index than the store has now; c.mu is held. Without an index
// nothing is remembered.
func (c *Catalog) follow() {
	now, err := c.mark()
	if err == nil && c.index == now && max(len(c.images), len(c.names), len(c.absent), len(c.ukis)) < maxKept {
		return
	}
	c.index, c.images, c.names = now, map[ingot.Digest]image.Image{}, map[string]ingot.Digest{}
	c.ukis, c.refused = map[ingot.Digest]ingot.Artifact{}, map[ingot.Digest]error{}
	c.held, c.absent = map[ingot.Digest]map[ingot.KeyUse]ingot.Digest{}, map[string]error{}
}

// mark returns the mark of the store's index as it is now.
func (c *Catalog) mark() (mark, error) {
	st, err := os.Stat(filepath.Join(c.store.Root(), "images", ocispec.ImageIndexFile))
	if err != nil {
		return mark{}, fmt.Errorf("looking at the store's index: %w", err)
	}
	return mark{inode: st.Sys().(*syscall.Stat_t).Ino, size: st.Size(), time: st.ModTime()}, nil
}
