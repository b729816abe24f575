package squashfs

import (
	"cmp"
	"fmt"
	"io"
	"math"
)

// fields takes little-endian numbers from the front of metadata.
type fields struct {
	m   *metaReader
	err error
}

func (f *fields) bytes(n int) []byte {
	if f.err != nil {
		return make([]byte, min(n, 8))
	}
	b, err := f.m.read(n)
	if err != nil {
		f.err = err
		return make([]byte, min(n, 8))
	}
	return b
}

func (f *fields) u16() uint16 { return le.Uint16(f.bytes(2)) }
func (f *fields) u32() uint32 { return le.Uint32(f.bytes(4)) }
func (f *fields) u64() uint64 { return le.Uint64(f.bytes(8)) }

// inode reads the inode at a reference. An inode has no path.
func (w *walk) inode(ref uint64) (found, error) {
	m, err := w.r.metaFrom(w.r.sb.InodeTable, ref)
	if err != nil {
		return found{}, err
	}
	f := &fields{m: m}
	kind, mode, uid, gid, mtime, number := int(f.u16()), f.u16(), f.u16(), f.u16(), f.u32(), f.u32()
	if f.err != nil {
		return found{}, f.err
	}
	if int(uid) >= len(w.r.ids) || int(gid) >= len(w.r.ids) || mode&^0o7777 != 0 {
		return found{}, fmt.Errorf("%w: owner %d:%d, mode %#o", ErrFormat, uid, gid, mode)
	}
	e := found{Entry: Entry{Mode: uint32(mode), UID: w.r.ids[uid], GID: w.r.ids[gid], ModTime: int64(mtime)},
		number: number}
	ext := kind > extended
	if ext {
		kind -= extended
	}
	xattr := uint32(noXattr)
	switch kind {
	case typeDir:
		xattr, err = w.dirInode(f, &e, ext)
	case typeFile:
		xattr, err = w.fileInode(f, &e, ext)
	case typeSymlink:
		e.Kind = Symlink
		f.u32() // links
		if n := f.u32(); n <= math.MaxUint16 {
			e.Target = string(f.bytes(int(n)))
		} else {
			return e, fmt.Errorf("%w: a link to %d bytes", ErrFormat, n)
		}
	case typeBlock, typeChar:
		e.Kind = map[int]Kind{typeBlock: BlockDevice, typeChar: CharDevice}[kind]
		f.u32()
		e.Major, e.Minor = deviceOf(f.u32())
	case typeFifo, typeSocket:
		e.Kind = map[int]Kind{typeFifo: Fifo, typeSocket: Socket}[kind]
		f.u32()
	default:
		return e, fmt.Errorf("%w: an inode of type %d", ErrFormat, kind)
	}
	if ext && kind != typeDir && kind != typeFile {
		xattr = f.u32()
	}
	if err := cmp.Or(err, f.err); err != nil {
		return e, err
	}
	e.Xattrs, err = w.xattrs(xattr)
	return e, err
}

// dirInode reads the fields of a folder.
func (w *walk) dirInode(f *fields, e *found, ext bool) (xattr uint32, err error) {
	e.Kind, xattr = Dir, noXattr
	var block, size uint32
	var offset uint16
	if ext {
		f.u32() // links
		size, block = f.u32(), f.u32()
		f.u32() // parent
		f.u16() // indexes
		offset, xattr = f.u16(), f.u32()
	} else {
		block = f.u32()
		f.u32()
		size, offset = uint32(f.u16()), f.u16()
		f.u32()
	}
	if f.err != nil {
		return 0, f.err
	}
	if e.size = max(0, int64(size)-3); e.size == 0 {
		return xattr, nil
	}
	e.listing, err = w.r.metaFrom(w.r.sb.DirTable, uint64(block)<<16|uint64(offset))
	return xattr, err
}

// fileInode reads the fields of a regular file.
func (w *walk) fileInode(f *fields, e *found, ext bool) (xattr uint32, err error) {
	e.Kind, xattr = File, noXattr
	x := &extent{}
	var size uint64
	if ext {
		x.start, size = f.u64(), f.u64()
		f.u64() // holes
		f.u32() // links
		x.frag, x.offset, xattr = f.u32(), f.u32(), f.u32()
	} else {
		x.start = uint64(f.u32())
		x.frag, x.offset = f.u32(), f.u32()
		size = uint64(f.u32())
	}
	if f.err != nil {
		return 0, f.err
	}
	if size > 1<<62 {
		return 0, fmt.Errorf("%w: a file of %d bytes", ErrFormat, size)
	}
	e.Size = int64(size)
	bs := uint64(w.r.sb.BlockSize)
	blocks := size / bs
	if rest := size % bs; rest > 0 && x.frag == noFragment {
		blocks++
	} else if rest > 0 && (int64(x.frag) >= int64(len(w.r.fragments)) || uint64(x.offset)+rest > bs) {
		return 0, fmt.Errorf("%w: a file ends in fragment %d of %d", ErrFormat, x.frag, len(w.r.fragments))
	}
	for blocks > 0 { // a wrong size ends with the table
		n := int(min(blocks, 1024))
		if err := w.room.take(4 * n); err != nil {
			return 0, err
		}
		b, err := f.m.read(4 * n)
		if err != nil {
			return 0, err
		}
		for ; len(b) > 0; b = b[4:] {
			x.blocks = append(x.blocks, le.Uint32(b))
		}
		blocks -= uint64(n)
	}
	e.Open = func() (io.ReadCloser, error) { return &content{r: w.r, extent: x, left: e.Size, at: x.start}, nil }
	return xattr, nil
}
