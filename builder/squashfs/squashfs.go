// Package squashfs writes and reads SquashFS 4.0 images (Linux, fs/squashfs/squashfs_fs.h).
//
// The same entries and options give the same bytes, whatever the order of the entries, the number
// of processors, the host or the clock. Data is compressed in parallel. Memory grows with the
// number of entries, not with their content. An image is laid out so that two versions that differ
// in a few files share most of their bytes, though not at the same offsets: see Info.Cuts.
//
// The writer makes zstd, gzip and stored images; the reader reads zstd and gzip. Left out: other
// compressions, sockets' and pipes' contents, POSIX ACLs, images of earlier versions of the format.
// The package does not know ingot.
package squashfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"
)

// Kind is the type of an entry.
type Kind uint8

// The kinds of entries.
const (
	File Kind = iota
	Dir
	Symlink
	CharDevice
	BlockDevice
	Fifo
	Socket
)

// KindName returns the name of a kind, for people.
func KindName(k Kind) string {
	return [...]string{"file", "folder", "link", "character device", "block device", "fifo", "socket"}[k]
}

// Entry is one name of the tree.
type Entry struct {
	// Path is relative to the root and clean, with names of at most 255 bytes other than NUL and
	// slash. "" is the root itself.
	Path     string
	Kind     Kind
	Mode     uint32 // permission bits with setuid, setgid and sticky: 0o7777
	UID, GID uint32
	ModTime  int64  // seconds since 1970, 0 to 2³²−1
	Size     int64  // bytes of content, of files
	Target   string // of symbolic links, 1 to 4095 bytes
	Hard     string // not empty: a hard link to the entry at this path; other fields than Path are ignored
	Major    uint32 // of devices, 12 bits
	Minor    uint32 // of devices, 20 bits
	// Xattrs are extended attributes of the namespaces user, trusted and security. The format has no
	// place for others, such as POSIX ACLs.
	Xattrs map[string]string
	Open   func() (io.ReadCloser, error) // content of files; may be nil when Size is 0
}

// Compression of data and metadata.
type Compression uint8

// The compressions. An image with None is a gzip image in which every block is stored.
const (
	Zstd Compression = iota
	Gzip
	None
)

// number returns the compression's number in the superblock.
func (c Compression) number() uint16 {
	if c == Zstd {
		return 6
	}
	return 1
}

// DefaultBlockSize is the usual size in bytes of an uncompressed data block.
const DefaultBlockSize = 128 << 10

// Options of an image. The zero value means zstd level 9 in blocks of 128 KiB.
type Options struct {
	Compression Compression
	Level       int                     // zstd 1 to 22, gzip 1 to 9; zero means 9
	BlockSize   int                     // bytes, a power of two from 4 KiB to 1 MiB; zero means DefaultBlockSize
	Epoch       time.Time               // creation time in the superblock; zero means 1970
	Cache       *Cache                  // compressed blocks of earlier images; nil means none
	Workers     int                     // compressing goroutines; zero means one per processor. Does not change the image
	Progress    func(done, total int64) // bytes of content; called from one goroutine at a time
}

// Info describes an image that was written.
type Info struct {
	Size       int64   // bytes, a multiple of 4096
	Inodes     int     // hard links count once
	Content    int64   // bytes of file content, each duplicate counted
	Duplicates int     // files whose content an earlier file has
	Fragments  int     // blocks that hold the ends of several files
	Cached     int     // data blocks that came from the cache
	Blocks     int     // data blocks in all, fragments included
	Repaired   int     // damaged entries of the cache that were made again
	Cuts       []int64 // sizes in bytes of consecutive pieces of the image; they add up to Size
}

// Errors that callers may test for with errors.Is.
var (
	// ErrEntry: the tree or one of its entries cannot be written.
	ErrEntry = errors.New("not a valid entry")
	// ErrContent: a file's content is not as long as its entry says.
	ErrContent = errors.New("content does not have the size of its entry")
	// ErrOptions: the options contradict each other or the format.
	ErrOptions = errors.New("not a valid option")
	// ErrFormat: the bytes are not an image, or the image is damaged.
	ErrFormat = errors.New("not a valid squashfs image")
)

func (o Options) withDefaults() (Options, error) {
	if o.Level == 0 {
		o.Level = 9
	}
	if o.BlockSize == 0 {
		o.BlockSize = DefaultBlockSize
	}
	if o.BlockSize < 4<<10 || o.BlockSize > 1<<20 || o.BlockSize&(o.BlockSize-1) != 0 {
		return o, fmt.Errorf("%w: block size %d; want a power of two from 4096 to 1048576", ErrOptions, o.BlockSize)
	}
	if top := map[Compression]int{Zstd: 22, Gzip: 9, None: 9}[o.Compression]; o.Level < 1 || o.Level > top {
		return o, fmt.Errorf("%w: compression %d at level %d; want zstd from 1 to 22 or gzip from 1 to 9",
			ErrOptions, o.Compression, o.Level)
	}
	if o.Epoch.IsZero() {
		o.Epoch = time.Unix(0, 0)
	}
	if s := o.Epoch.Unix(); s < 0 || s > math.MaxUint32 {
		return o, fmt.Errorf("%w: epoch %v; want 1970 to 2106", ErrOptions, o.Epoch)
	}
	return o, nil
}

// Out is where an image is written to: sequentially, and at the end once at its beginning. *os.File
// is one.
type Out interface {
	io.Writer
	io.WriterAt
}

// Write writes the image of entries to out, from offset 0 on. Every folder of a path must be an
// entry itself; the root may be left out and then belongs to root, with mode 0755. After an error
// the content of out is not an image.
func Write(ctx context.Context, out Out, entries []Entry, o Options) (Info, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Info{}, fmt.Errorf("writing squashfs: %w", err)
	}
	t, err := newTree(entries)
	if err != nil {
		return Info{}, fmt.Errorf("writing squashfs: %w", err)
	}
	w := &writer{o: o, tree: t, out: &output{w: out, cuts: &cutter{}}}
	if err := w.write(ctx); err != nil {
		return Info{}, fmt.Errorf("writing squashfs: %w", err)
	}
	return w.info, nil
}

// writer is one run of Write.
type writer struct {
	o    Options
	tree *fsTree
	out  *output
	sb   superblock
	info Info

	buffers *buffers
}

func (w *writer) write(ctx context.Context) error {
	w.sb = superblock{BlockSize: uint32(w.o.BlockSize), ModTime: uint32(w.o.Epoch.Unix()), Inodes: uint32(w.tree.inodes),
		Compression: w.o.Compression.number(), Flags: flagExportable | flagDuplicates}
	if w.o.Compression == None {
		w.sb.Flags |= flagStoredInodes | flagStoredData | flagStoredFragments | flagStoredXattrs | flagStoredIDs
	}
	if err := w.begin(); err != nil {
		return err
	}
	d, err := w.data(ctx)
	if err != nil {
		return err
	}
	if err := w.metadata(ctx, d); err != nil {
		return err
	}
	return w.end()
}

// begin reserves the place of the superblock and writes the compressor's options.
func (w *writer) begin() error {
	head := make([]byte, superblockSize)
	if opts := compressorOptions(w.o); opts != nil {
		w.sb.Flags |= flagOptions
		head = le.AppendUint16(head, uint16(len(opts))|metaStored)
		head = append(head, opts...)
	}
	return w.out.write(head)
}

// end pads the image to a multiple of 4 KiB, which block devices need, and writes the superblock.
func (w *writer) end() error {
	w.sb.Used = uint64(w.out.n)
	if r := w.out.n % 4096; r != 0 {
		if err := w.out.write(make([]byte, 4096-r)); err != nil {
			return err
		}
	}
	if err := w.out.flush(); err != nil {
		return err
	}
	if _, err := w.out.w.WriteAt(w.sb.append(nil), 0); err != nil {
		return err
	}
	w.info.Size, w.info.Inodes, w.info.Cuts = w.out.n, w.tree.inodes, w.out.cuts.finish(w.out.n)
	return nil
}
