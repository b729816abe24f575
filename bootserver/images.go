package bootserver

import (
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
// answer. What is kept holds as long as the store's index is the same file.
type shelf struct {
	mu     sync.Mutex
	index  mark
	images map[ingot.Digest]image.Image
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
		s.index, s.images = now, map[ingot.Digest]image.Image{}
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

func markOf(path string) (mark, error) {
	st, err := os.Stat(path)
	if err != nil {
		return mark{}, fmt.Errorf("looking at the store's index: %w", err)
	}
	return mark{inode: st.Sys().(*syscall.Stat_t).Ino, size: st.Size(), time: st.ModTime()}, nil
}
