package squashfs

import (
	"context"
	"fmt"
	"math"
)

// metadata writes everything after the data: inodes, listings and tables.
func (w *writer) metadata(ctx context.Context, d *dataResult) error {
	w.out.cuts.tables(w.out.n)
	c, err := newCompressor(w.o)
	if err != nil {
		return err
	}
	store := w.o.Compression == None
	x := newXattrs(w.newMeta(c, store))
	if err := x.collect(w.tree); err != nil {
		return err
	}
	inodes, listings := w.newMeta(c, store), w.newMeta(c, store)
	t := &tables{w: w, inodes: inodes, listings: listings, refs: make([]uint64, w.tree.inodes), ids: map[uint32]uint16{}}
	for _, n := range w.tree.files {
		if err := t.file(n); err != nil {
			return fmt.Errorf("%q: %w", n.path, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// Backwards: the entries of a folder are written before it, so that their inodes are known.
	for i := len(w.tree.dirs) - 1; i >= 0; i-- {
		if err := t.dir(w.tree.dirs[i]); err != nil {
			return fmt.Errorf("%q: %w", w.tree.dirs[i].path, err)
		}
	}
	if w.sb.InodeTable, err = w.table(inodes); err != nil {
		return err
	}
	if w.sb.DirTable, err = w.table(listings); err != nil {
		return err
	}
	w.sb.Root = w.tree.root.ref
	return w.lookupTables(c, store, d, t, x)
}

// lookupTables writes the tables of what the kernel finds by number: fragments, inodes for NFS,
// owners, extended attributes.
func (w *writer) lookupTables(c compressor, store bool, d *dataResult, t *tables, x *xattrs) (err error) {
	w.sb.FragmentTable, w.sb.XattrTable = noTable, noTable
	if len(d.fragments) > 0 {
		m := w.newMeta(c, store)
		for _, f := range d.fragments {
			b := le.AppendUint64(nil, f.start)
			b = le.AppendUint32(b, f.size)
			if err := m.write(le.AppendUint32(b, 0)); err != nil {
				return err
			}
		}
		if w.sb.FragmentTable, err = w.indexed(m, nil); err != nil {
			return err
		}
		w.sb.Fragments = uint32(len(d.fragments))
	} else {
		w.sb.Flags |= flagNoFragments
	}
	m := w.newMeta(c, store)
	for _, ref := range t.refs {
		if err := m.write(le.AppendUint64(nil, ref)); err != nil {
			return err
		}
	}
	if w.sb.ExportTable, err = w.indexed(m, nil); err != nil {
		return err
	}
	m = w.newMeta(c, store)
	for _, id := range t.idList {
		if err := m.write(le.AppendUint32(nil, id)); err != nil {
			return err
		}
	}
	if w.sb.IDTable, err = w.indexed(m, nil); err != nil {
		return err
	}
	w.sb.IDs = uint16(len(t.idList)) // more are refused earlier
	return x.write(w, c, store)
}

// tables are filled while inodes are written.
type tables struct {
	w                *writer
	inodes, listings *metaWriter
	refs             []uint64 // of inodes, by number − 1
	ids              map[uint32]uint16
	idList           []uint32
}

// id returns the index of a user or group number.
func (t *tables) id(n uint32) (uint16, error) {
	if i, ok := t.ids[n]; ok {
		return i, nil
	}
	if len(t.idList) == math.MaxUint16 {
		return 0, fmt.Errorf("%w: more than 65535 different users and groups", ErrEntry)
	}
	i := uint16(len(t.idList))
	t.ids[n] = i
	t.idList = append(t.idList, n)
	return i, nil
}

// put writes one inode of type kind, extended or not.
func (t *tables) put(n *node, kind int, ext bool, body []byte) error {
	uid, err := t.id(n.e.UID)
	if err != nil {
		return err
	}
	gid, err := t.id(n.e.GID)
	if err != nil {
		return err
	}
	if ext {
		kind += extended
	}
	b := le.AppendUint16(make([]byte, 0, 16+len(body)), uint16(kind))
	b = le.AppendUint16(b, uint16(n.e.Mode))
	b = le.AppendUint16(b, uid)
	b = le.AppendUint16(b, gid)
	b = le.AppendUint32(b, uint32(n.e.ModTime))
	b = le.AppendUint32(b, n.number)
	n.ref = t.inodes.ref()
	t.refs[n.number-1] = n.ref
	return t.inodes.write(append(b, body...))
}

// inodeType returns the basic type of an entry's inode.
func inodeType(k Kind) int {
	return [...]int{File: typeFile, Dir: typeDir, Symlink: typeSymlink, CharDevice: typeChar, BlockDevice: typeBlock,
		Fifo: typeFifo, Socket: typeSocket}[k]
}

// file writes an inode that is not a folder.
func (t *tables) file(n *node) error {
	if n.e.Kind == File {
		return t.regular(n)
	}
	b := le.AppendUint32(nil, n.links)
	switch n.e.Kind {
	case Symlink:
		b = le.AppendUint32(b, uint32(len(n.e.Target)))
		b = append(b, n.e.Target...)
	case CharDevice, BlockDevice:
		b = le.AppendUint32(b, deviceNumber(n.e.Major, n.e.Minor))
	}
	ext := n.xattr != noXattr
	if ext {
		b = le.AppendUint32(b, n.xattr)
	}
	return t.put(n, inodeType(n.e.Kind), ext, b)
}

func (t *tables) regular(n *node) error {
	x := n.body
	ext := n.xattr != noXattr || n.links > 1 || n.e.Size > math.MaxUint32 || x.start > math.MaxUint32 || x.holes > 0
	var b []byte
	if ext {
		b = le.AppendUint64(b, x.start)
		b = le.AppendUint64(b, uint64(n.e.Size))
		b = le.AppendUint64(b, x.holes)
		b = le.AppendUint32(b, n.links)
		b = le.AppendUint32(b, x.frag)
		b = le.AppendUint32(b, x.offset)
		b = le.AppendUint32(b, n.xattr)
	} else {
		b = le.AppendUint32(b, uint32(x.start))
		b = le.AppendUint32(b, x.frag)
		b = le.AppendUint32(b, x.offset)
		b = le.AppendUint32(b, uint32(n.e.Size))
	}
	for _, s := range x.blocks {
		b = le.AppendUint32(b, s)
	}
	return t.put(n, typeFile, ext, b)
}

// dirIndex lets the kernel seek in a long listing.
type dirIndex struct {
	at    uint32 // bytes of the listing before it
	block uint32 // metadata block that it is in
	name  string
}

// dir writes a folder's listing and inode.
func (t *tables) dir(n *node) error {
	start := t.listings.ref()
	size, index, err := t.listing(n)
	if err != nil {
		return err
	}
	parent := uint32(t.w.tree.inodes + 1) // the root's, as mksquashfs has it
	if n.parent != nil {
		parent = n.parent.number
	}
	size += 3 // "." and "..", which are not written
	links := n.subdirs + 2
	ext := n.xattr != noXattr || size > math.MaxUint16 || len(index) > 0
	var b []byte
	if !ext {
		b = le.AppendUint32(b, uint32(start>>16))
		b = le.AppendUint32(b, links)
		b = le.AppendUint16(b, uint16(size))
		b = le.AppendUint16(b, uint16(start))
		b = le.AppendUint32(b, parent)
		return t.put(n, typeDir, false, b)
	}
	b = le.AppendUint32(b, links)
	b = le.AppendUint32(b, size)
	b = le.AppendUint32(b, uint32(start>>16))
	b = le.AppendUint32(b, parent)
	b = le.AppendUint16(b, uint16(len(index)))
	b = le.AppendUint16(b, uint16(start))
	b = le.AppendUint32(b, n.xattr)
	for _, i := range index {
		b = le.AppendUint32(b, i.at)
		b = le.AppendUint32(b, i.block)
		b = le.AppendUint32(b, uint32(len(i.name)-1))
		b = append(b, i.name...)
	}
	return t.put(n, typeDir, true, b)
}

// listing writes a folder's names in runs. The inodes of a run are in one metadata block, with
// numbers close to each other. The first run that begins in a metadata block of the listing gets an
// index.
func (t *tables) listing(n *node) (size uint32, index []dirIndex, err error) {
	rest := n.children
	block := t.listings.ref() >> 16
	for len(rest) > 0 {
		first := rest[0].node
		count := 0
		var run []byte
		for count < len(rest) && count < runEntries {
			c := rest[count]
			delta := int64(c.node.number) - int64(first.number)
			if c.node.ref>>16 != first.ref>>16 || delta != int64(int16(delta)) {
				break
			}
			run = le.AppendUint16(run, uint16(c.node.ref))
			run = le.AppendUint16(run, uint16(delta))
			run = le.AppendUint16(run, uint16(inodeType(c.node.e.Kind)))
			run = le.AppendUint16(run, uint16(len(c.name)-1))
			run = append(run, c.name...)
			count++
			if len(run) > metaSize { // so that indexes are not far apart
				break
			}
		}
		if at := t.listings.ref() >> 16; at != block && len(index) < math.MaxUint16 {
			block = at
			index = append(index, dirIndex{size, uint32(at), rest[0].name})
		}
		head := le.AppendUint32(nil, uint32(count-1))
		head = le.AppendUint32(head, uint32(first.ref>>16))
		head = le.AppendUint32(head, first.number)
		if err := t.listings.write(append(head, run...)); err != nil {
			return 0, nil, err
		}
		if uint64(size)+uint64(len(head)+len(run)) > math.MaxUint32-3 {
			return 0, nil, fmt.Errorf("%w: its names take more than 4 GiB", ErrEntry)
		}
		size += uint32(len(head) + len(run))
		rest = rest[count:]
	}
	return size, index, nil
}
