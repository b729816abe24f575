package squashfs

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

var le = binary.LittleEndian

// Sizes and marks of the format; names follow squashfs_fs.h.
const (
	magic          = 0x73717368 // "hsqs"
	superblockSize = 96
	metaSize       = 8192    // bytes of an uncompressed metadata block
	metaStored     = 1 << 15 // mark in a metadata block's header: stored uncompressed
	dataStored     = 1 << 24 // the same in a data block's size
	noFragment     = 0xffffffff
	noXattr        = 0xffffffff
	noTable        = 0xffffffffffffffff
	maxName        = 256      // bytes; the format's limit, which the reader allows
	maxNewName     = 255      // bytes; NAME_MAX of Linux: a longer name could be mounted, but not copied
	maxTarget      = 4095     // bytes; PATH_MAX of Linux: 6.11 and later refuse longer links of squashfs
	maxXattr       = 64 << 10 // bytes of a value: XATTR_SIZE_MAX of Linux
	runEntries     = 256      // entries below one header of a directory listing
)

// Flags of the superblock.
const (
	flagStoredInodes    = 1 << 0
	flagStoredData      = 1 << 1
	flagStoredFragments = 1 << 3
	flagNoFragments     = 1 << 4
	flagDuplicates      = 1 << 6
	flagExportable      = 1 << 7
	flagStoredXattrs    = 1 << 8
	flagNoXattrs        = 1 << 9
	flagOptions         = 1 << 10
	flagStoredIDs       = 1 << 11
)

// Types of inodes; an extended one is extended higher.
const (
	typeDir     = 1
	typeFile    = 2
	typeSymlink = 3
	typeBlock   = 4
	typeChar    = 5
	typeFifo    = 6
	typeSocket  = 7
	extended    = 7
)

// superblock is struct squashfs_super_block.
type superblock struct {
	Inodes, ModTime, BlockSize, Fragments uint32
	Compression, Flags, IDs               uint16
	Root, Used                            uint64
	IDTable, XattrTable, InodeTable       uint64
	DirTable, FragmentTable, ExportTable  uint64
}

func (s *superblock) append(b []byte) []byte {
	b = le.AppendUint32(b, magic)
	b = le.AppendUint32(b, s.Inodes)
	b = le.AppendUint32(b, s.ModTime)
	b = le.AppendUint32(b, s.BlockSize)
	b = le.AppendUint32(b, s.Fragments)
	b = le.AppendUint16(b, s.Compression)
	b = le.AppendUint16(b, uint16(bits.TrailingZeros32(s.BlockSize)))
	b = le.AppendUint16(b, s.Flags)
	b = le.AppendUint16(b, s.IDs)
	b = le.AppendUint16(b, 4)
	b = le.AppendUint16(b, 0)
	for _, v := range []uint64{s.Root, s.Used, s.IDTable, s.XattrTable, s.InodeTable,
		s.DirTable, s.FragmentTable, s.ExportTable} {
		b = le.AppendUint64(b, v)
	}
	return b
}

// parse is the inverse of append. It refuses what this reader cannot read.
func (s *superblock) parse(b []byte) error {
	if le.Uint32(b) != magic {
		return fmt.Errorf("%w: it does not begin with hsqs", ErrFormat)
	}
	s.Inodes, s.ModTime, s.BlockSize, s.Fragments = le.Uint32(b[4:]), le.Uint32(b[8:]),
		le.Uint32(b[12:]), le.Uint32(b[16:])
	s.Compression, s.Flags, s.IDs = le.Uint16(b[20:]), le.Uint16(b[24:]), le.Uint16(b[26:])
	for i, field := range []*uint64{&s.Root, &s.Used, &s.IDTable, &s.XattrTable, &s.InodeTable, &s.DirTable,
		&s.FragmentTable, &s.ExportTable} {
		*field = le.Uint64(b[32+8*i:])
	}
	switch {
	case le.Uint16(b[28:]) != 4 || le.Uint16(b[30:]) != 0:
		return fmt.Errorf("%w: version %d.%d; want 4.0", ErrFormat, le.Uint16(b[28:]), le.Uint16(b[30:]))
	case s.BlockSize < 4<<10 || s.BlockSize > 1<<20 || bits.OnesCount32(s.BlockSize) != 1 ||
		int(le.Uint16(b[22:])) != bits.TrailingZeros32(s.BlockSize):
		return fmt.Errorf("%w: blocks of %d bytes", ErrFormat, s.BlockSize)
	case s.Compression != Zstd.number() && s.Compression != Gzip.number():
		return fmt.Errorf("%w: compression %d; this reader supports zstd and gzip", ErrFormat, s.Compression)
	case s.Used < superblockSize || s.Used > 1<<62 || s.InodeTable > s.DirTable || s.DirTable > s.Used:
		return fmt.Errorf("%w: its tables overlap", ErrFormat)
	}
	return nil
}

// deviceNumber is new_encode_dev of Linux: 12 bits of major, 20 of minor.
func deviceNumber(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

// deviceOf is the inverse, new_decode_dev.
func deviceOf(n uint32) (major, minor uint32) {
	return n >> 8 & 0xfff, n&0xff | n>>12&^0xff
}
