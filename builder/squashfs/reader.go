package squashfs

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

// ErrFormat: the bytes are no image, or a damaged one.
var ErrFormat = errors.New("not a valid squashfs image")

// Reader reads an image made by any writer of SquashFS 4.0 with zstd or gzip.
// It may be used by several goroutines. The image may be hostile: whatever its
// bytes, what is read of it is bounded by its size, see budget.
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

// budget is how many bytes of memory an image may still make us fill. A few
// bytes of metadata can stand for a thousand, be listed under many names and
// be pointed to from everywhere; so everything that is kept or unpacked is paid for.
type budget int64

// newBudget is generous to honest images: a tree of empty files takes about 30
// times the bytes of its image.
func newBudget(image uint64) budget { return budget(256<<20 + 64*min(image, 1<<50)) }

func (b *budget) take(n int) error {
	if *b -= budget(n); *b < 0 {
		return fmt.Errorf("%w: its metadata takes far more memory than an image of this size should", ErrFormat)
	}
	return nil
}

type xattrSet struct {
	ref   uint64
	count uint32
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
		r.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(uint64(max(r.sb.BlockSize, metaSize))))
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

// parse is the reverse of append, with what this reader can read.
func (s *superblock) parse(b []byte) error {
	if le.Uint32(b) != magic {
		return fmt.Errorf("%w: it does not begin with hsqs", ErrFormat)
	}
	s.Inodes, s.ModTime, s.BlockSize, s.Fragments = le.Uint32(b[4:]), le.Uint32(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:])
	s.Compression, s.Flags, s.IDs = le.Uint16(b[20:]), le.Uint16(b[24:]), le.Uint16(b[26:])
	for i, field := range []*uint64{&s.Root, &s.Used, &s.IDTable, &s.XattrTable, &s.InodeTable, &s.DirTable, &s.FragmentTable, &s.ExportTable} {
		*field = le.Uint64(b[32+8*i:])
	}
	switch {
	case le.Uint16(b[28:]) != 4 || le.Uint16(b[30:]) != 0:
		return fmt.Errorf("%w: version %d.%d; want 4.0", ErrFormat, le.Uint16(b[28:]), le.Uint16(b[30:]))
	case s.BlockSize < 4<<10 || s.BlockSize > 1<<20 || bits.OnesCount32(s.BlockSize) != 1 || int(le.Uint16(b[22:])) != bits.TrailingZeros32(s.BlockSize):
		return fmt.Errorf("%w: blocks of %d bytes", ErrFormat, s.BlockSize)
	case s.Compression != Zstd.number() && s.Compression != Gzip.number():
		return fmt.Errorf("%w: compression %d; this reader knows zstd and gzip", ErrFormat, s.Compression)
	case s.Used < superblockSize || s.Used > 1<<62 || s.InodeTable > s.DirTable || s.DirTable > s.Used:
		return fmt.Errorf("%w: its tables overlap", ErrFormat)
	}
	return nil
}

func (r *Reader) readAt(b []byte, at uint64) error {
	if r.sb.Used > 0 && (at > r.sb.Used || uint64(len(b)) > r.sb.Used-at) {
		return fmt.Errorf("%w: it points behind its end", ErrFormat)
	}
	if n, err := r.r.ReadAt(b, int64(at)); n < len(b) {
		if err == io.EOF {
			return fmt.Errorf("%w: it is cut off", ErrFormat)
		}
		return err
	}
	return nil
}

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

// metaBlock is an unpacked metadata block, and where the next one begins.
type metaBlock struct {
	data []byte
	next uint64
}

func (r *Reader) metaAt(at uint64) (metaBlock, error) {
	if b, ok := r.meta.get(at); ok {
		return b, nil
	}
	var head [2]byte
	if err := r.readAt(head[:], at); err != nil {
		return metaBlock{}, err
	}
	size := le.Uint16(head[:])
	raw := make([]byte, size&^metaStored)
	if len(raw) == 0 || len(raw) > metaSize {
		return metaBlock{}, fmt.Errorf("%w: a metadata block of %d bytes", ErrFormat, len(raw))
	}
	if err := r.readAt(raw, at+2); err != nil {
		return metaBlock{}, err
	}
	b := metaBlock{raw, at + 2 + uint64(len(raw))}
	if size&metaStored == 0 {
		var err error
		if b.data, err = r.unpack(raw, metaSize); err != nil {
			return metaBlock{}, err
		}
	}
	r.meta.put(at, b)
	return b, nil
}

// metaReader reads consecutive metadata.
type metaReader struct {
	r     *Reader
	block metaBlock
}

// metaFrom starts at a reference within a table: block start << 16 | offset.
func (r *Reader) metaFrom(table, ref uint64) (*metaReader, error) {
	if ref>>16 > r.sb.Used {
		return nil, fmt.Errorf("%w: it points behind its end", ErrFormat)
	}
	b, err := r.metaAt(table + ref>>16)
	if err != nil {
		return nil, err
	}
	offset := int(ref & 0xffff)
	if offset > len(b.data) {
		return nil, fmt.Errorf("%w: it points behind a block's end", ErrFormat)
	}
	b.data = b.data[offset:]
	return &metaReader{r, b}, nil
}

// read returns the next n bytes.
func (m *metaReader) read(n int) ([]byte, error) {
	if n <= len(m.block.data) {
		b := m.block.data[:n:n]
		m.block.data = m.block.data[n:]
		return b, nil
	}
	var b []byte // grows only as far as there is something to read
	for {
		part := min(n-len(b), len(m.block.data))
		b = append(b, m.block.data[:part]...)
		m.block.data = m.block.data[part:]
		if len(b) == n {
			return b, nil
		}
		var err error
		if m.block, err = m.r.metaAt(m.block.next); err != nil {
			return nil, err
		}
	}
}

// lookupTable reads count values of size bytes whose blocks a list at the
// given place names.
func (r *Reader) lookupTable(list uint64, count, size int64, room *budget) ([]byte, error) {
	perBlock := metaSize / size
	blocks := (count + perBlock - 1) / perBlock
	if list > r.sb.Used || uint64(blocks)*8 > r.sb.Used-list {
		return nil, fmt.Errorf("%w: it points behind its end", ErrFormat)
	}
	starts := make([]byte, blocks*8)
	if err := r.readAt(starts, list); err != nil {
		return nil, err
	}
	var out []byte
	for ; len(starts) > 0; starts = starts[8:] {
		b, err := r.metaAt(le.Uint64(starts))
		if err != nil {
			return nil, err
		}
		if want := min(count*size-int64(len(out)), perBlock*size); int64(len(b.data)) != want {
			return nil, fmt.Errorf("%w: a table's block has %d bytes; want %d", ErrFormat, len(b.data), want)
		}
		if err := room.take(4 * len(b.data)); err != nil { // with what is made of it
			return nil, err
		}
		out = append(out, b.data...)
	}
	return out, nil
}

func (r *Reader) openXattrs(room *budget) error {
	if r.sb.XattrTable == noTable {
		return nil
	}
	head := make([]byte, 16)
	if err := r.readAt(head, r.sb.XattrTable); err != nil {
		return err
	}
	r.values = le.Uint64(head)
	table, err := r.lookupTable(r.sb.XattrTable+16, int64(le.Uint32(head[8:])), 16, room)
	if err != nil {
		return err
	}
	for ; len(table) > 0; table = table[16:] {
		r.sets = append(r.sets, xattrSet{le.Uint64(table), le.Uint32(table[8:])})
	}
	return nil
}

// xattrs reads the set of extended attributes with a number. Entries with the
// same set share it.
func (w *walk) xattrs(number uint32) (map[string]string, error) {
	if number == noXattr {
		return nil, nil
	}
	if attrs, ok := w.sets[number]; ok {
		return attrs, nil
	}
	if int64(number) >= int64(len(w.r.sets)) {
		return nil, fmt.Errorf("%w: extended attributes %d of %d", ErrFormat, number, len(w.r.sets))
	}
	set := w.r.sets[number]
	m, err := w.r.metaFrom(w.r.values, set.ref)
	if err != nil {
		return nil, err
	}
	attrs := map[string]string{}
	for range set.count {
		name, value, err := w.r.xattr(m)
		if err != nil {
			return nil, err
		}
		if err := w.room.take(len(name) + len(value) + 64); err != nil {
			return nil, err
		}
		attrs[name] = value
	}
	w.sets[number] = attrs
	return attrs, nil
}

func (r *Reader) xattr(m *metaReader) (name, value string, err error) {
	head, err := m.read(4)
	if err != nil {
		return "", "", err
	}
	kind, size := le.Uint16(head), int(le.Uint16(head[2:]))
	const elsewhere = 0x100 // SQUASHFS_XATTR_VALUE_OOL
	if int(kind&^elsewhere) >= len(xattrSpaces) || size > 255 {
		return "", "", fmt.Errorf("%w: an extended attribute of type %#x with a name of %d bytes", ErrFormat, kind, size)
	}
	suffix, err := m.read(size)
	if err != nil {
		return "", "", err
	}
	name = xattrSpaces[kind&^elsewhere] + string(suffix)
	b, err := readValue(m)
	if err == nil && kind&elsewhere != 0 {
		if len(b) != 8 {
			return "", "", fmt.Errorf("%w: a place of %d bytes", ErrFormat, len(b))
		}
		var other *metaReader
		if other, err = r.metaFrom(r.values, le.Uint64(b)); err == nil {
			b, err = readValue(other)
		}
	}
	return name, string(b), err
}

func readValue(m *metaReader) ([]byte, error) {
	head, err := m.read(4)
	if err != nil {
		return nil, err
	}
	size := le.Uint32(head)
	if size > maxXattr {
		return nil, fmt.Errorf("%w: an extended attribute of %d bytes", ErrFormat, size)
	}
	return m.read(int(size))
}

// Entries reads the whole tree, sorted by path. Of several names of one file,
// the first in that order is the file and the others are hard links to it.
// Extended attributes are shared between entries and must not be changed.
func (r *Reader) Entries() ([]Entry, error) {
	w := &walk{r: r, dirs: map[uint32]bool{}, sets: map[uint32]map[string]string{}, room: newBudget(r.sb.Used)}
	if err := w.all(); err != nil {
		return nil, fmt.Errorf("reading squashfs: %w", err)
	}
	slices.SortFunc(w.found, func(a, b found) int { return strings.Compare(a.Path, b.Path) })
	for i := 1; i < len(w.found); i++ {
		if w.found[i].Path == w.found[i-1].Path {
			return nil, fmt.Errorf("reading squashfs: %w: %q is there twice", ErrFormat, w.found[i].Path)
		}
	}
	first := map[uint32]string{}
	entries := make([]Entry, len(w.found))
	for i, f := range w.found {
		entries[i] = f.Entry
		if f.Kind == Dir {
			continue
		}
		if path, ok := first[f.number]; ok {
			entries[i] = Entry{Path: f.Path, Hard: path}
			continue
		}
		first[f.number] = f.Path
	}
	return entries, nil
}

// walk is one run through the tree.
type walk struct {
	r     *Reader
	dirs  map[uint32]bool              // that were listed: a tree has no loops
	sets  map[uint32]map[string]string // of extended attributes, by number
	room  budget
	found []found
}

type found struct {
	Entry
	number  uint32
	listing *metaReader // of folders
	size    int64       // of the listing
}

func (w *walk) all() error {
	root, err := w.inode(w.r.sb.Root)
	if err != nil {
		return err
	}
	if root.Kind != Dir {
		return fmt.Errorf("%w: its root is no folder", ErrFormat)
	}
	for queue := []found{root}; len(queue) > 0; {
		dir := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if w.dirs[dir.number] {
			return fmt.Errorf("%w: folder %q is there twice", ErrFormat, dir.Path)
		}
		w.dirs[dir.number] = true
		listing, size := dir.listing, dir.size
		dir.listing = nil
		w.found = append(w.found, dir)
		if queue, err = w.list(dir.Path, listing, size, queue); err != nil {
			return fmt.Errorf("listing %q: %w", dir.Path, err)
		}
	}
	return nil
}

// perEntry is about what an entry takes besides its strings.
const perEntry = 400

// list reads a folder's names; folders among them are added to queue.
func (w *walk) list(path string, m *metaReader, size int64, queue []found) ([]found, error) {
	for size > 0 {
		head, err := m.read(12)
		if err != nil {
			return nil, err
		}
		size -= 12
		count, block := le.Uint32(head), uint64(le.Uint32(head[4:]))
		if count >= runEntries {
			return nil, fmt.Errorf("%w: %d names in a run", ErrFormat, count)
		}
		for range count + 1 {
			b, err := m.read(8)
			if err != nil {
				return nil, err
			}
			offset, length := uint64(le.Uint16(b)), int(le.Uint16(b[6:]))+1
			name, err := m.read(min(length, maxName+1))
			if err != nil {
				return nil, err
			}
			if size -= int64(8 + length); size < 0 || length > maxName || !validName(string(name)) {
				return nil, fmt.Errorf("%w: the name %q", ErrFormat, name)
			}
			f, err := w.inode(block<<16 | offset)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", name, err)
			}
			f.Path = string(name)
			if path != "" {
				f.Path = path + "/" + f.Path
			}
			if err := w.room.take(perEntry + len(f.Path) + len(f.Target)); err != nil {
				return nil, err
			}
			if f.Kind == Dir {
				queue = append(queue, f)
			} else {
				w.found = append(w.found, f)
			}
		}
	}
	return queue, nil
}

func validName(s string) bool {
	return s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}

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

// inode reads the inode at a reference; the path is not in it.
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
	e := found{Entry: Entry{Mode: uint32(mode), UID: w.r.ids[uid], GID: w.r.ids[gid], ModTime: int64(mtime)}, number: number}
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

// dirInode reads what is special to a folder.
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

// fileInode reads what is special to a regular file.
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
		return 0, fmt.Errorf("%w: an end in fragment %d of %d", ErrFormat, x.frag, len(w.r.fragments))
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

// content reads a file block by block.
type content struct {
	r *Reader
	*extent
	left  int64  // bytes of the file that are not in block yet
	next  int    // block
	at    uint64 // where it is
	block []byte // what was not read of the block before
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
			return fmt.Errorf("%w: an end behind its fragment", ErrFormat)
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
