package squashfs

import (
	"maps"
	"math"
	"slices"
	"strings"
)

// xattrs are the sets of extended attributes, each once.
type xattrs struct {
	values *metaWriter
	sets   map[string]uint32
	ids    []byte // per set: place, number of attributes, bytes
}

func newXattrs(m *metaWriter) *xattrs { return &xattrs{values: m, sets: map[string]uint32{}} }

// xattrSpaces are the namespaces, by their numbers in the format.
var xattrSpaces = []string{"user.", "trusted.", "security."}

// xattrType returns the number of a name's namespace, and the name without it.
func xattrType(name string) (uint16, string, bool) {
	for i, space := range xattrSpaces {
		if suffix, ok := strings.CutPrefix(name, space); ok {
			return uint16(i), suffix, true
		}
	}
	return 0, "", false
}

// collect sets the number of every node's set.
func (x *xattrs) collect(t *fsTree) error {
	for _, list := range [][]*node{t.files, t.dirs} {
		for _, n := range list {
			if len(n.e.Xattrs) == 0 {
				continue
			}
			var err error
			if n.xattr, err = x.set(n.e.Xattrs); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *xattrs) set(attrs map[string]string) (uint32, error) {
	var b []byte
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		kind, suffix, _ := xattrType(name) // checked before
		b = le.AppendUint16(b, kind)
		b = le.AppendUint16(b, uint16(len(suffix)))
		b = append(b, suffix...)
		b = le.AppendUint32(b, uint32(len(attrs[name])))
		b = append(b, attrs[name]...)
	}
	if i, ok := x.sets[string(b)]; ok {
		return i, nil
	}
	i := uint32(len(x.sets))
	x.sets[string(b)] = i
	x.ids = le.AppendUint64(x.ids, x.values.ref())
	x.ids = le.AppendUint32(x.ids, uint32(len(attrs)))
	x.ids = le.AppendUint32(x.ids, uint32(min(len(b), math.MaxUint32)))
	return i, x.values.write(b)
}

// write writes the sets and their table.
func (x *xattrs) write(w *writer, c compressor, store bool) error {
	if len(x.sets) == 0 {
		w.sb.Flags |= flagNoXattrs
		return nil
	}
	values, err := w.table(x.values)
	if err != nil {
		return err
	}
	m := w.newMeta(c, store)
	if err := m.write(x.ids); err != nil {
		return err
	}
	w.sb.XattrTable, err = w.indexed(m, func(uint64) []byte {
		head := le.AppendUint64(nil, values)
		head = le.AppendUint32(head, uint32(len(x.sets)))
		return le.AppendUint32(head, 0)
	})
	return err
}
