package squashfs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zlib"
)

// unpack decompresses a block of at most limit bytes.
func (r *Reader) unpack(b []byte, limit int) ([]byte, error) {
	if r.zstd != nil {
		out, err := r.zstd.DecodeAll(b, make([]byte, 0, limit))
		if err != nil || len(out) > limit {
			return nil, fmt.Errorf("%w: a block does not unpack: %w", ErrFormat, cmp.Or(err, errors.New("it is too long")))
		}
		return out, nil
	}
	z, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("%w: a block does not unpack: %w", ErrFormat, err)
	}
	out := make([]byte, limit+1)
	n, err := io.ReadFull(z, out)
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || n > limit {
		return nil, fmt.Errorf("%w: a block does not unpack: %w", ErrFormat, cmp.Or(err, errors.New("it is too long")))
	}
	return out[:n], nil
}

// blockCache keeps the blocks that were unpacked last.
type blockCache struct {
	max   int
	mu    sync.Mutex
	known map[uint64]metaBlock
	order []uint64
}

func (c *blockCache) get(at uint64) (metaBlock, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, ok := c.known[at]
	return b, ok
}

func (c *blockCache) put(at uint64, b metaBlock) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[uint64]metaBlock{}
	}
	if _, ok := c.known[at]; ok {
		return
	}
	if len(c.order) == c.max {
		delete(c.known, c.order[0])
		c.order = append(c.order[:0], c.order[1:]...)
	}
	c.known[at] = b
	c.order = append(c.order, at)
}
