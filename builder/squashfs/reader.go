package squashfs

import (
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Reader reads an image made by any writer of SquashFS 4.0 with zstd or gzip. Several goroutines
// may use it. The image need not be trusted: the memory that reading it takes is bounded by its
// size.
type Reader struct {
	r         io.ReaderAt
	sb        superblock
	zstd      *zstd.Decoder
	ids       []uint32
	fragments []fragment
	sets      []xattrSet
	values    uint64 // where the extended attributes are
	meta      blockCache
	data      blockCache
	hole      []byte // a block of zeros, never written to
}

// Open reads the superblock and the small tables of an image of size bytes.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	img := &Reader{r: r, meta: blockCache{max: 64}, data: blockCache{max: 4}}
	if err := img.open(max(size, 0)); err != nil {
		return nil, fmt.Errorf("opening squashfs: %w", err)
	}
	return img, nil
}

func (r *Reader) open(size int64) error {
	head := make([]byte, superblockSize)
	if err := r.readAt(head, 0); err != nil {
		return err
	}
	if err := r.sb.parse(head); err != nil {
		return err
	}
	if r.sb.Used > uint64(size) {
		return fmt.Errorf("%w: %d bytes; the superblock says %d", ErrFormat, size, r.sb.Used)
	}
	if r.sb.Compression == Zstd.number() {
		var err error
		r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0),
			zstd.WithDecoderMaxMemory(uint64(max(r.sb.BlockSize, metaSize))))
		if err != nil {
			return fmt.Errorf("starting zstd: %w", err)
		}
	}
	r.hole = make([]byte, r.sb.BlockSize)
	room := newBudget(r.sb.Used)
	ids, err := r.lookupTable(r.sb.IDTable, int64(r.sb.IDs), 4, &room)
	if err != nil {
		return fmt.Errorf("reading the owners: %w", err)
	}
	for ; len(ids) > 0; ids = ids[4:] {
		r.ids = append(r.ids, le.Uint32(ids))
	}
	if r.sb.Fragments > 0 {
		table, err := r.lookupTable(r.sb.FragmentTable, int64(r.sb.Fragments), 16, &room)
		if err != nil {
			return fmt.Errorf("reading the fragments: %w", err)
		}
		for ; len(table) > 0; table = table[16:] {
			r.fragments = append(r.fragments, fragment{le.Uint64(table), le.Uint32(table[8:])})
		}
	}
	if err := r.openXattrs(&room); err != nil {
		return fmt.Errorf("reading the extended attributes: %w", err)
	}
	return nil
}

func (r *Reader) readAt(b []byte, at uint64) error {
	if r.sb.Used > 0 && (at > r.sb.Used || uint64(len(b)) > r.sb.Used-at) {
		return fmt.Errorf("%w: an offset is beyond its end", ErrFormat)
	}
	if n, err := r.r.ReadAt(b, int64(at)); n < len(b) {
		if err == io.EOF {
			return fmt.Errorf("%w: it is truncated", ErrFormat)
		}
		return err
	}
	return nil
}
