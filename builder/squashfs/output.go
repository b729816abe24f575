package squashfs

import (
	"hash/crc32"
)

// output writes the image and counts its bytes.
type output struct {
	w    Out
	n    int64 // bytes so far
	buf  []byte
	cuts *cutter
}

const outputBuffer = 1 << 20

func (o *output) write(b []byte) error {
	o.n += int64(len(b))
	if len(o.buf)+len(b) > outputBuffer {
		if err := o.flush(); err != nil {
			return err
		}
	}
	if len(b) >= outputBuffer {
		_, err := o.w.Write(b)
		return err
	}
	o.buf = append(o.buf, b...)
	return nil
}

func (o *output) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	_, err := o.w.Write(o.buf)
	o.buf = o.buf[:0]
	return err
}

// Bounds in bytes of the pieces that Info.Cuts names. The last may be smaller.
const (
	MinCut = 256 << 10
	MaxCut = 4 << 20

	aimCut = 768 << 10 // from this size on a cut is likely: most pieces have about 1 MiB
)

// cutter decides where an image is cut into pieces of about 1 MiB. It looks only at the blocks near
// a cut, so that two images with the same blocks in the same order are cut in the same places,
// whatever the offsets of the blocks. It prefers the beginning of a file.
type cutter struct {
	from int64 // beginning of the piece
	cuts []int64
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// block is called for each data block, with the offset where it begins.
func (c *cutter) block(at int64, data []byte, first bool) {
	size := at - c.from
	if size < MinCut {
		return
	}
	odds := uint32(32) // one in so many blocks is a cut
	switch {
	case first && size < aimCut:
		odds = 4
	case first:
		odds = 2
	case size >= aimCut:
		odds = 4
	}
	if size+int64(len(data)) > MaxCut || crc32.Checksum(data, castagnoli)%odds == 0 {
		c.cut(at)
	}
}

// cut ends the piece at an offset.
func (c *cutter) cut(at int64) {
	c.cuts = append(c.cuts, at-c.from)
	c.from = at
}

// tables ends the pieces of data: the metadata that follows changes with any file.
func (c *cutter) tables(at int64) {
	if at-c.from >= MinCut {
		c.cut(at)
	}
}

func (c *cutter) finish(end int64) []int64 {
	for end-c.from > MaxCut {
		c.cut(c.from + MaxCut)
	}
	if end > c.from {
		c.cut(end)
	}
	return c.cuts
}
