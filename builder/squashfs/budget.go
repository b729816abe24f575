package squashfs

import (
	"fmt"
)

// budget is the number of bytes of memory that reading an image may still use. A few bytes of
// metadata can expand to thousands and be referred to many times, so everything that is kept or
// unpacked counts.
type budget int64

// newBudget allows what a valid image can need: a tree of empty files takes about 30 times the
// bytes of its image.
func newBudget(image uint64) budget { return budget(256<<20 + 64*min(image, 1<<50)) }

func (b *budget) take(n int) error {
	if *b -= budget(n); *b < 0 {
		return fmt.Errorf("%w: its metadata takes far more memory than that of an image of this size can", ErrFormat)
	}
	return nil
}
