package squashfs

import (
	"fmt"
	"io"
)

// content reads a file block by block.
type content struct {
	r *Reader
	*extent
	left  int64  // bytes of the file that are not in block yet
	next  int    // block
	at    uint64 // where it is
	block []byte // the unread rest of the block before
}

func (c *content) Close() error { return nil }

func (c *content) Read(p []byte) (int, error) {
	if len(c.block) == 0 {
		if c.left == 0 {
			return 0, io.EOF
		}
		if err := c.load(); err != nil {
			return 0, fmt.Errorf("reading squashfs: %w", err)
		}
	}
	n := copy(p, c.block)
	c.block = c.block[n:]
	return n, nil
}

// load unpacks the next block.
func (c *content) load() error {
	want := int(min(c.left, int64(c.r.sb.BlockSize)))
	if c.next == len(c.blocks) {
		f := c.r.fragments[c.frag]
		b, err := c.r.dataAt(f.start, f.size, int(c.r.sb.BlockSize))
		if err != nil {
			return err
		}
		if int(c.offset)+want > len(b) {
			return fmt.Errorf("%w: a file ends outside its fragment", ErrFormat)
		}
		c.block = b[c.offset:][:want]
	} else {
		size := c.blocks[c.next]
		b, err := c.r.dataAt(c.at, size, want)
		if err != nil {
			return err
		}
		if len(b) != want {
			return fmt.Errorf("%w: a block of %d bytes; want %d", ErrFormat, len(b), want)
		}
		c.block = b
		c.at += uint64(size &^ dataStored)
		c.next++
	}
	c.left -= int64(want)
	return nil
}

// dataAt unpacks a data block of at most limit bytes. Size zero is a hole.
func (r *Reader) dataAt(at uint64, size uint32, limit int) ([]byte, error) {
	if size == 0 {
		return r.hole[:limit:limit], nil
	}
	if b, ok := r.data.get(at); ok {
		return b.data, nil
	}
	raw := size &^ dataStored
	if raw > r.sb.BlockSize {
		return nil, fmt.Errorf("%w: a block of %d bytes", ErrFormat, raw)
	}
	b := make([]byte, raw)
	if err := r.readAt(b, at); err != nil {
		return nil, err
	}
	if size&dataStored == 0 {
		var err error
		if b, err = r.unpack(b, int(r.sb.BlockSize)); err != nil {
			return nil, err
		}
	}
	r.data.put(at, metaBlock{data: b})
	return b, nil
}
