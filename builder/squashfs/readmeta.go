package squashfs

import (
	"fmt"
)

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
		return nil, fmt.Errorf("%w: an offset is beyond its end", ErrFormat)
	}
	b, err := r.metaAt(table + ref>>16)
	if err != nil {
		return nil, err
	}
	offset := int(ref & 0xffff)
	if offset > len(b.data) {
		return nil, fmt.Errorf("%w: an offset is beyond a block's end", ErrFormat)
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
	var b []byte // grows only with what is read
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

// lookupTable reads count values of size bytes each, from the blocks in the list at the given
// offset.
func (r *Reader) lookupTable(list uint64, count, size int64, room *budget) ([]byte, error) {
	perBlock := metaSize / size
	blocks := (count + perBlock - 1) / perBlock
	if list > r.sb.Used || uint64(blocks)*8 > r.sb.Used-list {
		return nil, fmt.Errorf("%w: an offset is beyond its end", ErrFormat)
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
