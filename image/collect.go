package image

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
)

// ErrInUse: a machine runs the image, should run it, or may fall back to it.
var ErrInUse = errors.New("the image is in use")

// Guard decides which of the images that are to leave the store may do so. stay says of those that
// must not, why, by digest. Nothing begins to need one of the others until done is called, with the
// images that left the index; none left when the removal failed. The store's lock is held meanwhile:
// a guard must not change the store.
type Guard func(candidates []Image) (stay map[ingot.Digest]string, done func(left []Image) error, err error)

// Fixed returns the guard of a store whose needs do not change meanwhile.
func Fixed(inUse map[ingot.Digest]string) Guard {
	return func([]Image) (map[ingot.Digest]string, func([]Image) error, error) {
		return inUse, func([]Image) error { return nil }, nil
	}
}

// Remove takes an image, its tags and its referrers out of the index. The next GC frees their
// bytes. inUse has the reasons why images must stay, by digest.
func (s *Store) Remove(ctx context.Context, ref string, inUse map[ingot.Digest]string) (Image, error) {
	return s.RemoveUnder(ctx, ref, Fixed(inUse))
}

// RemoveUnder is Remove for a store whose images in use may change meanwhile. It removes only what ref
// names exactly, see InexactError.
func (s *Store) RemoveUnder(ctx context.Context, ref string, guard Guard) (im Image, err error) {
	unlock, err := s.lock()
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	images, err := s.List(ctx)
	if err != nil {
		return Image{}, err
	}
	if im, err = Exact(images, ref); err != nil {
		return im, err
	}
	stay, done, err := guard([]Image{im})
	if err != nil {
		return im, err
	}
	if why := stay[im.Digest]; why != "" {
		return im, errors.Join(fmt.Errorf("removing %s: %w: %s", im.Name, ErrInUse, why), done(nil))
	}
	return im, s.dropCleared([]Image{im}, done)
}

// dropCleared takes images out of the index that a guard let go, and tells it.
func (s *Store) dropCleared(images []Image, done func([]Image) error) error {
	err := s.drop(images)
	if err != nil {
		images = nil
	}
	return errors.Join(err, done(images))
}

// drop takes images and their referrers out of the index. The caller holds the store's lock.
func (s *Store) drop(images []Image) error {
	if len(images) == 0 {
		return nil
	}
	return s.change(func(index *ocispec.Index) error {
		removed := s.withReferrers(*index, digests(images))
		index.Manifests = slices.DeleteFunc(index.Manifests, func(m ocispec.Descriptor) bool {
			return removed[ingot.Digest(m.Digest)]
		})
		return nil
	})
}

func digests(images []Image) map[ingot.Digest]bool {
	set := map[ingot.Digest]bool{}
	for _, im := range images {
		set[im.Digest] = true
	}
	return set
}

// withReferrers adds to a set of manifests their referrers, and the referrers of those: the
// signature of an SBOM is removed with its image. It reads each manifest once, since machines may
// be waiting.
func (s *Store) withReferrers(index ocispec.Index, set map[ingot.Digest]bool) map[ingot.Digest]bool {
	if len(set) == 0 {
		return set
	}
	subjects := map[ingot.Digest]ingot.Digest{} // by referrer
	for _, m := range index.Manifests {
		if subject, refers := s.subject(m); refers {
			subjects[ingot.Digest(m.Digest)] = subject
		}
	}
	for grew := true; grew; {
		grew = false
		for m, subject := range subjects {
			if !set[m] && (set[subject] || subject == "") {
				set[m], grew = true, true
			}
		}
	}
	return set
}

// GCOptions are the options of GC.
type GCOptions struct {
	// Keep is the number of images of each profile to keep, the newest ones. Zero keeps all.
	Keep int
	// InUse has the reasons why images must stay, by digest. Images with a tag stay, too.
	InUse map[ingot.Digest]string
	// Guard replaces InUse where that may change meanwhile; it may be nil.
	Guard Guard
	// DryRun changes nothing.
	DryRun bool
}

// Collected is what GC removed, or would remove in a dry run.
type Collected struct {
	Images []Image `json:"-"`
	Blobs  int     `json:"blobs"`
	Bytes  int64   `json:"bytes"`
}

// GC removes old images and the blobs that no image needs. While an image is being received, it
// fails with ErrBusy.
func (s *Store) GC(ctx context.Context, o GCOptions) (c Collected, err error) {
	if o.Guard == nil {
		o.Guard = Fixed(o.InUse)
	}
	release, err := s.lockTransfers()
	if err != nil {
		return c, err
	}
	defer release()
	unlock, err := s.lock()
	if err != nil {
		return c, err
	}
	defer unlock()
	images, err := s.List(ctx)
	if err != nil {
		return c, err
	}
	c.Images = old(images, o.Keep)
	stay, done, err := o.Guard(c.Images)
	if err != nil {
		return c, err
	}
	c.Images = slices.DeleteFunc(c.Images, func(im Image) bool { return stay[im.Digest] != "" })
	if o.DryRun {
		err = done(nil)
	} else {
		err = s.dropCleared(c.Images, done)
	}
	if err != nil {
		return c, err
	}
	index, err := s.readIndex()
	if err != nil {
		return c, err
	}
	needed, err := s.needed(index, s.withReferrers(index, digests(c.Images)))
	if err != nil {
		return c, err
	}
	return c, s.sweep(needed, o.DryRun, &c)
}

// old returns the images that may go if nothing needs them: those without a tag that are not among
// the newest of their profile.
func old(images []Image, keep int) []Image {
	if keep == 0 {
		return nil
	}
	byProfile := map[string][]Image{}
	for _, im := range images {
		byProfile[im.Name.Profile] = append(byProfile[im.Name.Profile], im)
	}
	var list []Image
	for _, of := range byProfile {
		for _, im := range of[:max(0, len(of)-keep)] { // the newest are last
			if len(im.Tags) == 0 {
				list = append(list, im)
			}
		}
	}
	slices.SortFunc(list, func(a, b Image) int {
		return cmp.Or(strings.Compare(a.Name.Profile, b.Name.Profile), a.Stored.Compare(b.Stored))
	})
	return list
}

// needed returns the blobs that the index references, without those of removed manifests.
func (s *Store) needed(index ocispec.Index, removed map[ingot.Digest]bool) (map[string]bool, error) {
	needed := map[string]bool{}
	for _, d := range index.Manifests {
		id := ingot.Digest(d.Digest)
		if removed[id] {
			continue
		}
		b, err := s.readBlob(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // an incomplete image: there is nothing to keep
		}
		if err != nil {
			return nil, fmt.Errorf("%w; nothing was removed: repair or remove that image first", err)
		}
		var m ocispec.Manifest
		if err := json.Unmarshal(b, &m); err != nil {
			return nil, fmt.Errorf("reading manifest %s: %w", id.Short(), err)
		}
		needed[id.Hex()] = true
		for _, l := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			needed[ingot.Digest(l.Digest).Hex()] = true
		}
	}
	return needed, nil
}

// sweep removes the blobs that are not needed. The caller holds the store's lock, so no image is
// being put meanwhile.
func (s *Store) sweep(needed map[string]bool, dry bool, c *Collected) error {
	entries, err := os.ReadDir(s.dir("blobs", "sha256"))
	if err != nil {
		return fmt.Errorf("collecting garbage: %w", err)
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil || needed[e.Name()] || strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		if !dry {
			if err := os.Remove(s.dir("blobs", "sha256", e.Name())); err != nil {
				return fmt.Errorf("collecting garbage: %w", err)
			}
		}
		c.Blobs++
		c.Bytes += st.Size()
	}
	return nil
}
