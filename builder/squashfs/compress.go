package squashfs

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// compressor compresses blocks, one after the other, appending to dst.
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
		// The kernel's window is one block, and squashfs has no use for checksums.
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(o.Level)), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(max(o.BlockSize, metaSize)), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(false))
		if err != nil {
			return nil, fmt.Errorf("starting zstd: %w", err)
		}
		return &zstdCompressor{e}, nil
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

type zstdCompressor struct{ e *zstd.Encoder }

func (z *zstdCompressor) compress(dst, raw []byte) ([]byte, error) {
	return z.e.EncodeAll(raw, dst), nil
}

// compressorOptions is the block behind the superblock that says how the image
// was compressed; the kernel does not need it.
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
