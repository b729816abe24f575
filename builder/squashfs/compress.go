package squashfs

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// compressor compresses one block at a time, appending to dst.
type compressor interface {
	compress(dst, raw []byte) ([]byte, error)
}

func newCompressor(o Options) (compressor, error) {
	switch o.Compression {
	case None:
		return stored{}, nil
	case Gzip:
		w, err := zlib.NewWriterLevel(nil, o.Level)
		if err != nil {
			return nil, fmt.Errorf("starting gzip: %w", err)
		}
		return &zlibCompressor{w}, nil
	case Zstd:
		return newZstd(o)
	}
	return nil, fmt.Errorf("%w: compression %d", ErrOptions, o.Compression)
}

type stored struct{}

func (stored) compress(dst, raw []byte) ([]byte, error) { return append(dst, raw...), nil }

type zlibCompressor struct{ w *zlib.Writer }

func (z *zlibCompressor) compress(dst, raw []byte) ([]byte, error) {
	buf := bytes.NewBuffer(dst)
	z.w.Reset(buf)
	if _, err := z.w.Write(raw); err != nil {
		return nil, err
	}
	if err := z.w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// recipe is the version of the rules that choose an encoder. It is part of the cache's path, so
// that blocks of older rules are not used.
const recipe = 3

// zstdCompressor chooses between two of the library's four encoders, which compress about as well
// as levels 1, 3, 7 and 11 of the reference implementation.
//
//	level 1 to 3 the first: with blocks of 512 KiB a root is at most 2 % larger than with the
//	             reference's level 3 and blocks of 128 KiB, in the same time; the second
//	             saves 5 % for twice the time
//	level 4, 5   the second
//	level 6 to 9 the third
//	from 10 on   the fourth, or the first for blocks that do not compress
type zstdCompressor struct {
	level      int
	fast, slow *zstd.Encoder // slow is nil up to level 3
}

func newZstd(o Options) (*zstdCompressor, error) {
	z := &zstdCompressor{level: o.Level}
	for at, level := range map[**zstd.Encoder]zstd.EncoderLevel{&z.fast: zstd.SpeedFastest,
		&z.slow: zstd.EncoderLevelFromZstd(o.Level)} {
		if at == &z.slow && o.Level <= 3 {
			continue
		}
		// The kernel's window is one block, and squashfs does not use zstd's checksums.
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(max(o.BlockSize, metaSize)), zstd.WithEncoderCRC(false),
			zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(false))
		if err != nil {
			return nil, fmt.Errorf("starting zstd: %w", err)
		}
		*at = e
	}
	return z, nil
}

func (z *zstdCompressor) compress(dst, raw []byte) ([]byte, error) {
	switch {
	case z.slow == nil:
		return z.fast.EncodeAll(raw, dst), nil
	case z.level >= 10 && len(raw) > 4*probe:
		at := len(raw)/2 - probe/2
		if out := z.fast.EncodeAll(raw[at:at+probe], dst); !hopeless(len(out)-len(dst), probe) {
			break
		}
		if out := z.fast.EncodeAll(raw, dst); hopeless(len(out)-len(dst), len(raw)) {
			return out, nil
		}
	}
	return z.slow.EncodeAll(raw, dst), nil
}

// probe is the number of bytes that decide whether a block is worth the slow encoder.
const probe = 8 << 10

// hopeless reports whether a block hardly got smaller, because its content is compressed already.
func hopeless(packed, raw int) bool { return packed >= raw-raw/64 }

// compressorOptions returns the block after the superblock that describes the compression. The
// kernel does not need it.
func compressorOptions(o Options) []byte {
	switch o.Compression {
	case Zstd:
		return le.AppendUint32(nil, uint32(o.Level))
	case Gzip:
		b := le.AppendUint32(nil, uint32(o.Level))
		b = le.AppendUint16(b, 15) // window, as log2 of bytes
		return le.AppendUint16(b, 0)
	}
	return nil
}
