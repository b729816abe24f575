package squashfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"
)

// extent is where the content of a file is. Files of equal content share one.
type extent struct {
	start  uint64   // of the first block
	placed bool     // start is set
	blocks []uint32 // sizes of blocks in the format's encoding; zero is a hole
	holes  uint64   // bytes of them
	frag   uint32   // number of the fragment block that holds the end, or noFragment
	offset uint32   // in it
}

// dataResult is what the metadata contains about the data.
type dataResult struct {
	fragments []fragment
}

type fragment struct {
	start uint64
	size  uint32
}

// job is one block to compress and write.
type job struct {
	raw   []byte
	out   []byte // compressed, or raw itself
	size  uint32 // in the format's encoding
	to    *extent
	index int // in to.blocks
	first bool
	done  chan struct{}
	key   cacheKey
	fresh bool // not from the cache
}

// data writes all content: one goroutine reads in the order of the tree, several compress, and one
// writes in the order of reading.
func (w *writer) data(ctx context.Context) (*dataResult, error) {
	workers := w.o.Workers
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	g, ctx := errgroup.WithContext(ctx)
	w.buffers = newBuffers(w.o.BlockSize, 8*workers)
	p := &producer{w: w, ctx: ctx, work: make(chan *job, workers),
		order: make(chan *job, 3*workers), seen: map[contentKey]*extent{}}
	lookup, err := w.o.Cache.begin(w.o)
	if err != nil {
		return nil, err
	}
	defer lookup.abandon()
	g.Go(func() error {
		defer close(p.order)
		defer close(p.work)
		return p.run()
	})
	for range workers {
		g.Go(func() error { return w.compressAll(ctx, lookup, p.work) })
	}
	var d dataResult
	g.Go(func() error { return w.place(ctx, &d, lookup, p.order) })
	if err := g.Wait(); err != nil {
		return nil, err
	}
	w.info.Content, w.info.Duplicates = w.tree.total, p.duplicates
	w.info.Fragments = len(d.fragments)
	w.info.Repaired = lookup.damaged()
	return &d, lookup.commit()
}

// compressAll is one worker.
func (w *writer) compressAll(ctx context.Context, cache *lookup, work <-chan *job) error {
	c, err := newCompressor(w.o)
	if err != nil {
		return err
	}
	for j := range work {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := w.compress(j, c, cache); err != nil {
			return err
		}
		close(j.done)
	}
	return nil
}

// compress sets what is written for the block.
func (w *writer) compress(j *job, c compressor, cache *lookup) error {
	buf := w.buffers.get()
	if cache.on() {
		j.key = cache.names.of(j.raw)
		if out, ok := cache.get(j.key, buf[:len(j.raw)]); ok {
			w.use(j, out)
			return nil
		}
		j.fresh = true
	}
	out, err := c.compress(buf[:0], j.raw)
	if err != nil {
		return fmt.Errorf("compressing: %w", err)
	}
	w.use(j, out)
	return nil
}

// use sets the compressed block, or the raw one when that is not larger.
func (w *writer) use(j *job, out []byte) {
	if len(out) >= len(j.raw) {
		w.buffers.put(out)
		j.out, j.size = j.raw, uint32(len(j.raw))|dataStored
		return
	}
	j.out, j.size = out, uint32(len(out))
}

// place writes the blocks in order.
func (w *writer) place(ctx context.Context, d *dataResult, cache *lookup, order <-chan *job) error {
	var done int64
	for j := range order {
		select {
		case <-j.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		at := uint64(w.out.n)
		w.out.cuts.block(w.out.n, j.out, j.first)
		if err := w.out.write(j.out); err != nil {
			return err
		}
		w.info.Blocks++
		if !j.fresh && cache.on() {
			w.info.Cached++
		}
		if err := cache.add(j); err != nil {
			return err
		}
		if j.to == nil {
			d.fragments = append(d.fragments, fragment{at, j.size})
		} else {
			if !j.to.placed {
				j.to.start, j.to.placed = at, true
			}
			j.to.blocks[j.index] = j.size
		}
		done += int64(len(j.raw))
		if w.o.Progress != nil {
			w.o.Progress(done, w.tree.total)
		}
		if j.size&dataStored == 0 {
			w.buffers.put(j.out)
		}
		w.buffers.put(j.raw)
	}
	return nil
}

// producer reads the content of all files in the order of the tree.
type producer struct {
	w           *writer
	ctx         context.Context
	work, order chan *job
	seen        map[contentKey]*extent
	sizes       map[int64]int // how many files have that size
	frag        []byte        // the fragment block that is being filled
	frags       uint32        // number of finished ones
	duplicates  int
}

type contentKey struct {
	size int64
	sum  [sha256.Size]byte
}

func (p *producer) run() error {
	p.sizes = map[int64]int{}
	for _, n := range p.w.tree.files {
		if n.e.Kind == File {
			p.sizes[n.e.Size]++
		}
	}
	for _, n := range p.w.tree.files {
		if n.e.Kind != File {
			continue
		}
		if err := p.file(n); err != nil {
			return fmt.Errorf("%q: %w", n.path, err)
		}
	}
	return p.flush()
}

// send hands a block to the compressors. Nil for to is a fragment block.
func (p *producer) send(raw []byte, to *extent, index int, first bool) error {
	j := &job{raw: raw, to: to, index: index, first: first, done: make(chan struct{})}
	select {
	case p.order <- j:
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
	select {
	case p.work <- j:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

func (p *producer) file(n *node) error {
	n.body = &extent{frag: noFragment}
	if n.e.Size == 0 {
		return p.ctx.Err()
	}
	bs := int64(p.w.o.BlockSize)
	twin := p.sizes[n.e.Size] > 1 // another file may have the same content
	if twin && n.e.Size >= bs {
		known, err := p.knownLarge(n)
		if err != nil || known {
			return err
		}
		twin = false
	}
	r, err := n.e.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := p.blocks(n, r); err != nil {
		return err
	}
	if rest := int(n.e.Size % bs); rest > 0 {
		return p.pack(n, r, rest, twin)
	}
	return atEnd(r)
}

// blocks sends the full blocks of a file to the compressors.
func (p *producer) blocks(n *node, r io.Reader) error {
	bs := p.w.o.BlockSize
	n.body.blocks = make([]uint32, n.e.Size/int64(bs))
	first := true
	for i := range n.body.blocks {
		raw := p.w.buffers.get()[:bs]
		if err := readFull(r, raw); err != nil {
			return err
		}
		if isZero(raw) {
			n.body.holes += uint64(bs)
			p.w.buffers.put(raw)
			continue
		}
		if err := p.send(raw, n.body, i, first); err != nil {
			return err
		}
		first = false
	}
	return nil
}

// knownLarge reads a file and reports whether an earlier file has the same content.
func (p *producer) knownLarge(n *node) (bool, error) {
	r, err := n.e.Open()
	if err != nil {
		return false, err
	}
	defer r.Close()
	sum := sha256.New()
	raw := p.w.buffers.get()
	defer p.w.buffers.put(raw)
	read, err := io.CopyBuffer(sum, struct{ io.Reader }{r}, raw[:cap(raw)])
	if err != nil {
		return false, err
	}
	if read != n.e.Size {
		return false, fmt.Errorf("%w: %d bytes; want %d", ErrContent, read, n.e.Size)
	}
	return p.known(n, contentKey{n.e.Size, [sha256.Size]byte(sum.Sum(nil))}), p.ctx.Err()
}

// known shares the extent of an earlier file with the same content, or remembers this file's.
func (p *producer) known(n *node, k contentKey) bool {
	if e, ok := p.seen[k]; ok {
		n.body = e
		p.duplicates++
		return true
	}
	p.seen[k] = n.body
	return false
}

// pack reads the last bytes of a file into the fragment block. The block is closed first when they
// do not fit, or when it is half full and a hash of the file's name says so: the same files then
// share blocks even when other files precede them. When an earlier file has the same content, the
// bytes are dropped.
func (p *producer) pack(n *node, r io.Reader, size int, twin bool) error {
	bs := p.w.o.BlockSize
	block, at := p.frag, len(p.frag)
	if at+size > bs || at >= bs/2 && closes(n.path, size, bs) {
		block, at = nil, 0
	}
	if block == nil {
		block = p.w.buffers.get()
	}
	block = block[:at+size]
	if err := readFull(r, block[at:]); err != nil {
		return err
	}
	if err := atEnd(r); err != nil {
		return err
	}
	if twin && p.known(n, contentKey{n.e.Size, sha256.Sum256(block[at:])}) {
		if at == 0 && len(p.frag) > 0 {
			p.w.buffers.put(block)
		}
		return nil
	}
	if at == 0 {
		if err := p.flush(); err != nil {
			return err
		}
	}
	p.frag = block
	n.body.frag, n.body.offset = p.frags, uint32(at)
	return nil
}

// closes is true for a share of the names that grows with the size of the files: about one in every
// quarter of a block, so that few blocks are closed because they are full.
func closes(path string, size, blockSize int) bool {
	h := fnv.New32a()
	_, _ = io.WriteString(h, path) // a hash never fails
	return int(h.Sum32()>>7)%blockSize < 4*size
}

// flush sends the fragment block to the compressors.
func (p *producer) flush() error {
	if len(p.frag) == 0 {
		return nil
	}
	raw := p.frag
	p.frag = nil
	p.frags++
	return p.send(raw, nil, 0, true)
}

func readFull(r io.Reader, b []byte) error {
	n, err := io.ReadFull(r, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: it is %d bytes too short", ErrContent, len(b)-n)
	}
	return err
}

// atEnd checks that there is no more content than the entry's size.
func atEnd(r io.Reader) error {
	var one [1]byte
	switch n, err := io.ReadFull(r, one[:]); {
	case n > 0:
		return fmt.Errorf("%w: it is too long", ErrContent)
	case err != io.EOF:
		return err
	}
	return nil
}

var zeros [4096]byte

func isZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// buffers reuses buffers of blocks. (A sync.Pool is emptied by every garbage collection, and new
// buffers are most of the garbage.)
type buffers struct {
	size int
	free chan []byte
}

// slack is the number of bytes that zstd may need above the size of a block that does not compress.
const slack = 4096

func newBuffers(blockSize, keep int) *buffers {
	return &buffers{blockSize + slack, make(chan []byte, keep)}
}

// get returns a buffer without length that has room for a block.
func (p *buffers) get() []byte {
	select {
	case b := <-p.free:
		return b
	default:
		return make([]byte, 0, p.size)
	}
}

func (p *buffers) put(b []byte) {
	if cap(b) < p.size {
		return
	}
	select {
	case p.free <- b[:0]:
	default:
	}
}
