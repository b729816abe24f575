// Package verity makes dm-verity hash trees: format version 1 with its superblock, SHA-256, blocks
// of 4096 bytes for data and hashes (Linux, Documentation/admin-guide/device-mapper/verity.rst;
// superblock: cryptsetup, "DM-Verity on-disk specification"). It writes the same bytes as
// veritysetup format.
//
// Data is hashed in parallel, and the tree is written while it is computed: memory does not depend
// on the size of the data. Left out: other hash functions and block sizes, forward error
// correction, version 0. The package does not know ingot.
package verity

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

const (
	// BlockSize is the size in bytes of a block, of data as of hashes.
	BlockSize = 4096
	// MaxSalt is the size in bytes of the longest salt that fits into a superblock.
	MaxSalt = 256

	perBlock = BlockSize / sha256.Size // digests in one block of the tree
	strip    = perBlock * BlockSize    // bytes that one block of the tree covers
)

// Errors that callers may test for with errors.Is.
var (
	// ErrSize: there is no data, or it is not a whole number of blocks.
	ErrSize = errors.New("the size is not a positive multiple of 4096 bytes")
	// ErrSalt: the salt is longer than MaxSalt.
	ErrSalt = errors.New("the salt is longer than 256 bytes")
)

// Options of a tree. The zero value means no salt and a UUID of zeros.
type Options struct {
	Salt    []byte   // hashed before each block; at most MaxSalt bytes
	UUID    [16]byte // of the hash device
	Workers int      // hashing goroutines; zero means one per processor. Does not change the tree
}

// Hash is the root hash of a tree. It authenticates all the data.
type Hash [sha256.Size]byte

// String returns the hash as 64 hexadecimal digits, as veritysetup takes it.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Storage is where a tree is written to, and read from while it is computed. *os.File is one.
type Storage interface {
	io.ReaderAt
	io.WriterAt
}

// Write reads size bytes of data, writes superblock and tree to out from offset at on, and returns
// the root hash. It writes Size(size) bytes. at must be a multiple of BlockSize. data and out may
// be the same file if at is at least size.
func Write(ctx context.Context, data io.ReaderAt, size int64, out Storage, at int64, o Options) (Hash, error) {
	if size <= 0 || size%BlockSize != 0 || at%BlockSize != 0 {
		return Hash{}, fmt.Errorf("writing a hash tree: %w", ErrSize)
	}
	if len(o.Salt) > MaxSalt {
		return Hash{}, fmt.Errorf("writing a hash tree: %w", ErrSalt)
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	h, err := o.tree(ctx, data, size, out, at+BlockSize)
	if err != nil {
		return Hash{}, fmt.Errorf("writing a hash tree: %w", err)
	}
	if _, err := out.WriteAt(o.superblock(size), at); err != nil {
		return Hash{}, fmt.Errorf("writing a hash tree: %w", err)
	}
	return h, nil
}

// Size returns the number of bytes that Write writes for size bytes of data: the superblock's block
// and the tree.
func Size(size int64) int64 {
	n := int64(BlockSize)
	for _, level := range levels(size) {
		n += level
	}
	return n
}

// levels returns the sizes in bytes of a tree's levels, the lowest first; the highest has one
// block. A single block of data has no levels: its digest is the root hash.
func levels(size int64) []int64 {
	var list []int64
	for size > BlockSize {
		size = (size + strip - 1) / strip * BlockSize
		list = append(list, size)
	}
	return list
}

// tree writes the levels, the highest first, from offset at on.
func (o Options) tree(ctx context.Context, data io.ReaderAt, size int64, out Storage, at int64) (Hash, error) {
	end := at + Size(size) - BlockSize
	in, from := data, int64(0)
	for _, level := range levels(size) {
		end -= level
		if err := o.level(ctx, in, from, size, out, end); err != nil {
			return Hash{}, err
		}
		in, from, size = out, end, level
	}
	var top [BlockSize]byte
	if err := readFull(in, top[:], from); err != nil {
		return Hash{}, err
	}
	return sha256.Sum256(append(append([]byte{}, o.Salt...), top[:]...)), nil
}

// level hashes the size bytes of in at offset from, and writes the digests to out at offset at.
// Each goroutine takes the next free strip.
func (o Options) level(ctx context.Context, in io.ReaderAt, from, size int64, out io.WriterAt, at int64) error {
	g, ctx := errgroup.WithContext(ctx)
	strips := (size + strip - 1) / strip
	var next atomic.Int64
	for range min(int64(o.Workers), strips) {
		g.Go(func() error {
			data, salted := make([]byte, strip), append(append([]byte{}, o.Salt...), make([]byte, BlockSize)...)
			for i := next.Add(1) - 1; i < strips; i = next.Add(1) - 1 {
				if err := ctx.Err(); err != nil {
					return err
				}
				part := data[:min(strip, size-i*strip)]
				if err := readFull(in, part, from+i*strip); err != nil {
					return err
				}
				if _, err := out.WriteAt(digests(part, salted, len(o.Salt)), at+i*BlockSize); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// digests returns the block of the tree that covers data. salted is scratch space: the salt, and
// room for a block.
func digests(data, salted []byte, salt int) []byte {
	block := make([]byte, 0, BlockSize)
	for ; len(data) > 0; data = data[BlockSize:] {
		copy(salted[salt:], data[:BlockSize])
		sum := sha256.Sum256(salted)
		block = append(block, sum[:]...)
	}
	return block[:BlockSize] // the rest is zero
}

// readFull reads all of b. An io.ReaderAt may return io.EOF with its last bytes.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// superblock is the block before the tree.
func (o Options) superblock(size int64) []byte {
	b := make([]byte, BlockSize)
	le := binary.LittleEndian
	copy(b, "verity\x00\x00")
	le.PutUint32(b[8:], 1)  // version of the superblock
	le.PutUint32(b[12:], 1) // hash type: the salt comes first
	copy(b[16:], o.UUID[:])
	copy(b[32:], "sha256")
	le.PutUint32(b[64:], BlockSize)
	le.PutUint32(b[68:], BlockSize)
	le.PutUint64(b[72:], uint64(size/BlockSize))
	le.PutUint16(b[80:], uint16(len(o.Salt)))
	copy(b[88:], o.Salt)
	return b
}
