package squashfs

// metaWriter fills metadata blocks of 8 KiB and compresses each.
type metaWriter struct {
	c      compressor
	store  bool // never compress
	buf    []byte
	out    []byte   // finished blocks with their headers
	starts []uint64 // where each block begins in out
}

func (w *writer) newMeta(c compressor, store bool) *metaWriter {
	return &metaWriter{c: c, store: store, buf: make([]byte, 0, metaSize)}
}

// ref is the place of the next byte: start of its block << 16 | offset in it.
func (m *metaWriter) ref() uint64 { return uint64(len(m.out))<<16 | uint64(len(m.buf)) }

func (m *metaWriter) write(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), metaSize-len(m.buf))
		m.buf = append(m.buf, b[:n]...)
		b = b[n:]
		if len(m.buf) == metaSize {
			if err := m.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush ends the block that is being filled.
func (m *metaWriter) flush() error {
	if len(m.buf) == 0 {
		return nil
	}
	at := len(m.out)
	m.starts = append(m.starts, uint64(at))
	m.out = append(m.out, 0, 0)
	size := uint16(0)
	if !m.store {
		packed, err := m.c.compress(m.out, m.buf)
		if err != nil {
			return err
		}
		m.out, size = packed, uint16(min(len(packed)-at-2, metaSize))
	}
	if m.store || size >= uint16(len(m.buf)) {
		m.out = append(m.out[:at+2], m.buf...)
		size = uint16(len(m.buf)) | metaStored
	}
	le.PutUint16(m.out[at:], size)
	m.buf = m.buf[:0]
	return nil
}

// table writes the blocks and returns where they begin.
func (w *writer) table(m *metaWriter) (uint64, error) {
	if err := m.flush(); err != nil {
		return 0, err
	}
	at := uint64(w.out.n)
	return at, w.out.write(m.out)
}

// indexed writes the blocks and after them a list of where each begins. It returns where the blocks
// and where the list begin. head precedes the list.
func (w *writer) indexed(m *metaWriter, head func(blocks uint64) []byte) (uint64, error) {
	at, err := w.table(m)
	if err != nil {
		return 0, err
	}
	list := uint64(w.out.n)
	var b []byte
	if head != nil {
		b = head(at)
	}
	for _, s := range m.starts {
		b = le.AppendUint64(b, at+s)
	}
	return list, w.out.write(b)
}
