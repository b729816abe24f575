package squashfs

import (
	"fmt"
)

// budget is how many bytes of memory an image may still make us fill. A few
// bytes of metadata can stand for a thousand, be listed under many names and
// be pointed to from everywhere; so everything that is kept or unpacked is paid for.
type budget int64

// newBudget is generous to honest images: a tree of empty files takes about 30
// times the bytes of its image.
func newBudget(image uint64) budget { return budget(256<<20 + 64*min(image, 1<<50)) }

func (b *budget) take(n int) error {
	if *b -= budget(n); *b < 0 {
		return fmt.Errorf("%w: its metadata takes far more memory than an image of this size should", ErrFormat)
	}
	return nil
}
