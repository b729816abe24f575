package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"ingot"
	"ingot/image"
)

// States of an image, the worst first.
const (
	Damaged   = "damaged"   // a file is missing or has another size or content, or the manifest cannot be read
	Untrusted = "untrusted" // no release key that the store trusts signed it for machines of this store
	Complete  = "complete"  // its files are there and have the right sizes; not all of them were read
	Verified  = "verified"  // its files were read, have the content that was built, and have not changed since
)

// Listed is an image of a store and what is known of it.
type Listed struct {
	image.Image // of an image whose manifest or files are damaged: digest, name and tags
	State       string
	Err         error // why it cannot be served
}

// List lists all images of the index, also those that cannot be served, by profile and age. It reads no file
// that machines fetch: it compares sizes, and says what was found when they were read last.
func (c *Catalog) List(ctx context.Context) ([]Listed, error) {
	images, err := c.store.List(ctx)
	if err != nil {
		return nil, err
	}
	broken, err := c.store.Damaged(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]Listed, 0, len(images)+len(broken))
	for _, im := range images {
		list = append(list, c.known(im))
	}
	for _, x := range broken {
		m := ingot.ImageManifest{Profile: x.Name.Profile, Version: x.Name.Version}
		list = append(list, Listed{image.Image{Digest: x.Digest, Name: x.Name, Tags: x.Tags, Manifest: m}, Damaged, x.Err})
	}
	slices.SortStableFunc(list, func(a, b Listed) int { return cmp.Compare(a.Name.Profile, b.Name.Profile) })
	return list, nil
}

// known says what is known of a complete image without reading its files.
func (c *Catalog) known(im image.Image) Listed {
	c.mu.Lock()
	c.follow()
	uki, refused := c.uki(im), c.verified(im)
	c.mu.Unlock()
	unread := 0
	for _, a := range c.artifacts(im, uki) {
		read, err := c.wasRead(a)
		if err != nil {
			return Listed{im, Damaged, fmt.Errorf("image %s: %w", im.Name, err)}
		}
		if !read {
			unread++
		}
	}
	if refused != nil {
		return Listed{im, Untrusted, refused}
	}
	if unread > 0 {
		return Listed{im, Complete, nil}
	}
	return Listed{im, Verified, nil}
}

// wasRead reports whether the file of an artifact, as it is now, was read and has its content.
func (c *Catalog) wasRead(a ingot.Artifact) (bool, error) {
	f, err := c.openUnchecked(a)
	if errors.Is(err, fs.ErrNotExist) {
		return false, damaged(a.Digest, "is missing")
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	is, err := look(f, a)
	if err != nil {
		return false, err
	}
	v, known := c.blobs.verdict(a.Digest)
	if !known || v.of != is {
		return false, nil
	}
	return true, v.err
}
