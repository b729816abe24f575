package squashfs

import (
	"bufio"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Cache keeps compressed blocks between images, so that a new version compresses only what changed.
// Several writers may use it at the same time, and writers may be killed: a pack of blocks gets its
// name when it is complete, and every block is checked when it is read. A damaged block is
// compressed again, and its pack is rewritten without it.
type Cache struct {
	Dir string // made when missing
	Max int64  // bytes; the least recently used packs are removed first. Zero means 4 GiB
}

const (
	packSuffix  = ".pack"
	packMagic   = "ingtpck2"
	packRecord  = tagSize + 8 + 4 + 4
	packFooter  = 4 + 4 + len(packMagic)
	packPartial = ".incoming-" // locked by its writer; one that can be locked belongs to a killed writer
	maxPacks    = 24           // when there are more, the smaller half is merged
)

// cacheKey identifies the raw bytes of a block: their GMAC (NIST SP 800-38D) under a secret of this
// cache. SHA-256 took half of the time of a build with a warm cache; GMAC takes a fifth of that,
// and without the secret nobody can make two blocks with the same key. Keys never leave the cache,
// so one nonce serves for all.
type cacheKey [tagSize]byte

const (
	tagSize    = 16
	secretFile = "secret"
	secretSize = 32
)

// naming computes the keys of blocks.
type naming struct {
	aead  cipher.AEAD
	nonce []byte
}

func newNaming(secret []byte) (*naming, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &naming{aead, make([]byte, aead.NonceSize())}, nil
}

func (n *naming) of(raw []byte) (k cacheKey) {
	n.aead.Seal(k[:0], n.nonce, nil, raw)
	return k
}

// secret reads the cache's secret, or makes one. Of writers that make one at the same time the
// first wins. A truncated secret is replaced, and the packs that used it are removed as they age.
func secret(dir string) ([]byte, error) {
	path := filepath.Join(dir, secretFile)
	for {
		b, err := os.ReadFile(path)
		if err == nil && len(b) == secretSize {
			return b, nil
		}
		if err == nil {
			err = ignoreGone(os.Remove(path))
		}
		if err := ignoreGone(err); err != nil {
			return nil, err
		}
		if err := newSecret(dir, path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
}

func newSecret(dir, path string) error {
	f, err := os.CreateTemp(dir, packPartial) // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	b := make([]byte, secretSize)
	_, _ = rand.Read(b) // never fails: crypto/rand
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

// place is where a block is in a pack.
type packed struct {
	pack *pack
	at   int64
	size uint32 // zero: it does not get smaller
	sum  uint32 // CRC-32C of the compressed bytes
}

type pack struct {
	f       *os.File
	path    string
	size    int64
	used    atomic.Bool
	damaged atomic.Bool
}

// lookup is one writer's view of the cache. That of a nil Cache finds nothing.
type lookup struct {
	dir    string
	max    int64
	names  *naming
	known  map[cacheKey]packed
	packs  []*pack
	broken atomic.Int64

	new   *os.File
	buf   *bufio.Writer
	at    int64
	index []byte
	added map[cacheKey]bool
}

// begin opens the packs that were made with the same options. Packs that cannot be read are
// removed: losing them only costs time.
func (c *Cache) begin(o Options) (*lookup, error) {
	l := &lookup{}
	if c == nil {
		return l, nil
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the block cache: %w", err)
	}
	key, err := secret(c.Dir)
	if err == nil {
		l.names, err = newNaming(key)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the block cache: %w", err)
	}
	id := sha256.Sum256(key)
	l.dir = filepath.Join(c.Dir, fmt.Sprintf("%d-%d-%d-%d-%s-%x", recipe, o.Compression, o.Level,
		o.BlockSize, encoderVersion(), id[:4]))
	l.max = c.Max
	if l.max == 0 {
		l.max = 4 << 30
	}
	l.known, l.added = map[cacheKey]packed{}, map[cacheKey]bool{}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return nil, fmt.Errorf("opening the block cache: %w", err)
	}
	if err := l.sweep(); err != nil {
		return nil, fmt.Errorf("opening the block cache: %w", err)
	}
	names, err := filepath.Glob(filepath.Join(l.dir, "*"+packSuffix))
	if err != nil {
		return nil, fmt.Errorf("opening the block cache: %w", err)
	}
	for _, name := range names {
		p, err := l.open(name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // another writer removed it
		case err != nil:
			l.broken.Add(1)
			if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("removing a damaged pack from the block cache: %w", err)
			}
		default:
			l.packs = append(l.packs, p)
		}
	}
	return l, nil
}

// encoderVersion is part of a pack's path: another version of the library may compress differently,
// and the same input must give the same bytes whether blocks come from the cache or not.
var encoderVersion = sync.OnceValue(func() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/klauspost/compress" {
				return m.Version
			}
		}
	}
	return "unknown"
})

var errPack = errors.New("not a pack")

func (l *lookup) open(name string) (*pack, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	p := &pack{f: f, path: name}
	if err := l.readIndex(p); err != nil {
		f.Close()
		return nil, err
	}
	return p, nil
}

func (l *lookup) readIndex(p *pack) error {
	st, err := p.f.Stat()
	if err != nil {
		return err
	}
	foot := make([]byte, packFooter)
	p.size = st.Size()
	if st.Size() < int64(packFooter) {
		return errPack
	}
	if _, err := p.f.ReadAt(foot, st.Size()-int64(packFooter)); err != nil {
		return err
	}
	size := int64(le.Uint32(foot)) * int64(packRecord)
	if string(foot[8:]) != packMagic || size > st.Size()-int64(packFooter) {
		return errPack
	}
	index := make([]byte, size)
	data := st.Size() - int64(packFooter) - size
	if _, err := p.f.ReadAt(index, data); err != nil {
		return err
	}
	if crc32.Checksum(index, castagnoli) != le.Uint32(foot[4:]) {
		return errPack
	}
	for ; len(index) > 0; index = index[packRecord:] {
		b := packed{p, int64(le.Uint64(index[tagSize:])), le.Uint32(index[tagSize+8:]), le.Uint32(index[tagSize+12:])}
		if b.at < 0 || b.at+int64(b.size) > data {
			return errPack
		}
		l.known[cacheKey(index[:tagSize])] = b
	}
	return nil
}

func (l *lookup) on() bool { return l.dir != "" }

// get returns the compressed block in dst, whose length is that of the raw block. The result is as
// long as dst when the block is stored uncompressed.
func (l *lookup) get(k cacheKey, dst []byte) ([]byte, bool) {
	b, ok := l.known[k]
	if !ok || int(b.size) > len(dst) {
		return nil, false
	}
	b.pack.used.Store(true)
	if b.size == 0 {
		return dst, true
	}
	out := dst[:b.size]
	if !b.read(out) {
		l.broken.Add(1)
		return nil, false
	}
	return out, true
}

// read reads the compressed block and reports whether it is intact.
func (b packed) read(out []byte) bool {
	if _, err := b.pack.f.ReadAt(out, b.at); err != nil || crc32.Checksum(out, castagnoli) != b.sum {
		b.pack.damaged.Store(true)
		return false
	}
	return true
}

// add keeps a newly compressed block.
func (l *lookup) add(j *job) error {
	if !l.on() || !j.fresh {
		return nil
	}
	if j.size&dataStored != 0 {
		return l.keep(j.key, nil)
	}
	return l.keep(j.key, j.out)
}

// keep adds a block to the new pack. No bytes mean that the block is stored uncompressed.
func (l *lookup) keep(key cacheKey, out []byte) error {
	if l.added[key] {
		return nil
	}
	if l.new == nil {
		f, err := createLocked(l.dir)
		if err != nil {
			return fmt.Errorf("adding to the block cache: %w", err)
		}
		l.new, l.buf = f, bufio.NewWriterSize(f, outputBuffer)
	}
	l.added[key] = true
	l.index = append(l.index, key[:]...)
	l.index = le.AppendUint64(l.index, uint64(l.at))
	l.index = le.AppendUint32(l.index, uint32(len(out)))
	l.index = le.AppendUint32(l.index, crc32.Checksum(out, castagnoli))
	l.at += int64(len(out))
	if _, err := l.buf.Write(out); err != nil {
		return fmt.Errorf("adding to the block cache: %w", err)
	}
	return nil
}

// createLocked makes the file of a new pack. Another writer's sweep may lock and remove it before
// this one locks it; then createLocked tries again.
func createLocked(dir string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(dir, packPartial)
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
			f.Close()
			return nil, err
		}
		if _, err := os.Lstat(f.Name()); err == nil {
			return f, nil
		}
		f.Close()
	}
}

// sweep removes the packs of writers that were killed.
func (l *lookup) sweep() error {
	names, err := filepath.Glob(filepath.Join(l.dir, packPartial+"*"))
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			if err := ignoreGone(err); err != nil {
				return err
			}
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			err = ignoreGone(os.Remove(name))
		}
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// tidy copies the intact blocks of damaged packs, and of the smaller half of the packs when there
// are too many, into the new pack. It returns the packs that are no longer needed.
func (l *lookup) tidy() ([]*pack, error) {
	byPack := map[*pack][]cacheKey{}
	slices.SortFunc(l.packs, func(a, b *pack) int {
		return cmp.Or(cmp.Compare(a.size, b.size),
			strings.Compare(a.path, b.path))
	})
	for i, p := range l.packs {
		if p.damaged.Load() || len(l.packs) >= maxPacks && i < len(l.packs)/2 {
			byPack[p] = nil
		}
	}
	if len(byPack) == 0 {
		return nil, nil
	}
	for key, b := range l.known {
		if keys, ok := byPack[b.pack]; ok {
			byPack[b.pack] = append(keys, key)
		}
	}
	var done []*pack
	for p, keys := range byPack {
		for _, key := range keys {
			b := l.known[key]
			out := make([]byte, b.size)
			if !b.read(out) {
				continue
			}
			if err := l.keep(key, out); err != nil {
				return nil, err
			}
		}
		done = append(done, p)
	}
	return done, nil
}

// damaged returns how many blocks or packs could not be used.
func (l *lookup) damaged() int { return int(l.broken.Load()) }

// commit gives the new pack its name and removes packs above the limit. The pack is not synced to
// the disk: after a power cut its checksums detect what is missing.
func (l *lookup) commit() error {
	if !l.on() {
		return nil
	}
	obsolete, err := l.tidy()
	if err != nil {
		return err
	}
	if l.new != nil {
		_, _ = l.buf.Write(l.index)
		foot := le.AppendUint32(nil, uint32(len(l.index)/packRecord))
		foot = le.AppendUint32(foot, crc32.Checksum(l.index, castagnoli))
		_, _ = l.buf.Write(append(foot, packMagic...))
		if err := l.buf.Flush(); err != nil { // also reports an earlier failed Write
			return fmt.Errorf("adding to the block cache: %w", err)
		}
		name := filepath.Join(l.dir, fmt.Sprintf("%x", sha256.Sum256(l.index))+packSuffix)
		if err := os.Rename(l.new.Name(), name); err != nil {
			return fmt.Errorf("adding to the block cache: %w", err)
		}
		l.new.Close()
		l.new = nil
	}
	for _, p := range obsolete {
		if err := ignoreGone(os.Remove(p.path)); err != nil {
			return fmt.Errorf("removing an old pack from the block cache: %w", err)
		}
	}
	now := time.Now()
	for _, p := range l.packs {
		if p.used.Load() {
			_ = os.Chtimes(p.path, now, now) // decides only what is removed first
		}
	}
	return l.prune()
}

// prune removes the least recently used packs until the rest fits. Packs of other options and of
// older versions count, too.
func (l *lookup) prune() error {
	type aged struct {
		path string
		size int64
		when time.Time
	}
	var packs []aged
	var sum int64
	err := filepath.WalkDir(filepath.Dir(l.dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return ignoreGone(err)
		}
		st, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		if filepath.Ext(path) != packSuffix {
			return nil
		}
		packs = append(packs, aged{path, st.Size(), st.ModTime()})
		sum += st.Size()
		return nil
	})
	if err != nil {
		return fmt.Errorf("pruning the block cache: %w", err)
	}
	slices.SortFunc(packs, func(a, b aged) int { return a.when.Compare(b.when) })
	for _, p := range packs {
		if sum <= l.max {
			return nil
		}
		if err := ignoreGone(os.Remove(p.path)); err != nil {
			return fmt.Errorf("pruning the block cache: %w", err)
		}
		sum -= p.size
	}
	return nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// abandon closes all packs and removes one that was not committed.
func (l *lookup) abandon() {
	for _, p := range l.packs {
		p.f.Close()
	}
	if l.new != nil {
		l.new.Close()
		os.Remove(l.new.Name())
	}
}
