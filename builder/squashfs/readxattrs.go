package squashfs

import (
	"fmt"
)

type xattrSet struct {
	ref   uint64
	count uint32
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
