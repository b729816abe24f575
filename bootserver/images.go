package bootserver

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
	"ingot/image"
)

// shelf keeps the images that machines boot at hand: a storm asks for the same
// one thousands of times, and the store reads every manifest of every image to
// answer. What is kept holds as long as the store's index is the same file, and
// what was said of a signature as long as the same keys are trusted.
type shelf struct {
	mu      sync.Mutex
	index   mark
	images  map[ingot.Digest]image.Image
	trusted []byte // the public keys, as text
	refused map[ingot.Digest]error
}

// mark tells versions of a file apart. The index is replaced, never changed.
type mark struct {
	inode uint64
	size  int64
	time  time.Time
}

// maxShelf bounds what is kept; an image's manifest may have a MB of chunks.
const maxShelf = 64

// get returns an image of the store by its digest.
func (s *shelf) get(store *image.Store, d ingot.Digest) (image.Image, error) {
	now, err := markOf(filepath.Join(store.Root(), "images", ocispec.ImageIndexFile))
	if err != nil {
		return store.Get(context.Background(), string(d)) // which says what is wrong
	}
	s.mu.Lock()
	defer s.mu.Unlock() // who asks for the same image meanwhile need not read it again
	if s.index != now || len(s.images) >= maxShelf {
		s.index, s.images, s.refused = now, map[ingot.Digest]image.Image{}, map[ingot.Digest]error{}
	}
	if im, ok := s.images[d]; ok {
		return im, nil
	}
	im, err := store.Get(context.Background(), string(d))
	if err == nil {
		s.images[d] = im
	}
	return im, err
}

// verify reports whether a release key that the store trusts signed an image.
// The keys are read each time: a few small files, and one that is taken back
// must count at once.
func (s *shelf) verify(store *image.Store, im image.Image) error {
	keys, err := image.TrustedKeys(filepath.Join(store.Root(), "keys"))
	if err != nil {
		return err
	}
	var text []byte
	for _, k := range keys {
		text = append(text, k.Key.Text()...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !bytes.Equal(s.trusted, text) || len(s.refused) >= maxShelf {
		s.trusted, s.refused = text, map[ingot.Digest]error{}
	}
	refused, known := s.refused[im.Digest]
	if !known {
		refused = im.VerifySignature(image.Public(keys)...)
		s.refused[im.Digest] = refused
	}
	return refused
}

func markOf(path string) (mark, error) {
	st, err := os.Stat(path)
	if err != nil {
		return mark{}, fmt.Errorf("looking at the store's index: %w", err)
	}
	return mark{inode: st.Sys().(*syscall.Stat_t).Ino, size: st.Size(), time: st.ModTime()}, nil
}

// image returns a complete image of the store that a release key signed which
// the store trusts now: machines would refuse another one, and start over for
// ever. When its key is trusted later, machines that wait for it go on.
func (b *booter) image(d ingot.Digest) (image.Image, error) {
	im, err := b.shelf.get(b.images, d)
	if err != nil {
		return im, fmt.Errorf("image %s: %w", d.Short(), err)
	}
	if err := b.shelf.verify(b.images, im); err != nil {
		return im, fmt.Errorf("image %s: %w; machines would refuse it", im.Name, err)
	}
	return im, nil
}

// have reports whether an image can be served.
func (b *booter) have(d ingot.Digest) bool {
	_, err := b.image(d)
	return err == nil
}

// uki returns the UKI of an image that has one: signed for Secure Boot when it
// was signed, the last time, since firmware does not say whether it asks for
// that.
func (b *booter) uki(im image.Image) (ingot.Artifact, bool) {
	if im.Manifest.UKI == nil {
		return ingot.Artifact{}, false
	}
	if list, err := b.images.Referrers(context.Background(), im.Digest, ingot.ArtifactSignedUKI); err == nil && len(list) > 0 {
		return list[len(list)-1].Content, true
	}
	return *im.Manifest.UKI, true
}
