package initrd

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"ingot"
	"ingot/rootfs"
)

// ErrChunk: a piece of the root is not what the manifest says.
var ErrChunk = rootfs.NewFailure(ingot.FailureRootChunk, "a chunk of the root does not match the manifest")

// errStalled: the connection is open, but nothing comes.
var errStalled = errors.New("the download stalled")

// download fetches a root into a file, chunk by chunk, each verified before
// the next is asked for. It can be called again to go on where it stopped.
type download struct {
	open     func(ctx context.Context, offset int64) (io.ReadCloser, error)
	chunks   []ingot.Chunk
	file     *os.File
	next     int   // chunk to fetch
	offset   int64 // of that chunk
	bad      int   // times in a row that this chunk did not match
	stall    time.Duration
	progress func(done int64)
}

// badChunks is how often one chunk may fail its digest before the boot stops.
const badChunks = 3

// run fetches until every chunk is there or something fails. After a passing
// failure it can be run again.
func (d *download) run(ctx context.Context) error {
	for d.next < len(d.chunks) {
		err := d.stream(ctx)
		if !errors.Is(err, ErrChunk) {
			if err != nil {
				return err
			}
			continue
		}
		if d.bad++; d.bad >= badChunks {
			return err
		}
	}
	return nil
}

// stream reads chunks from one connection until its end, an error, or a bad chunk.
func (d *download) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	body, err := d.open(ctx, d.offset)
	if err != nil {
		return err
	}
	defer body.Close()
	watchdog := time.AfterFunc(d.stall, func() { cancel(errStalled) })
	defer watchdog.Stop()
	r := watched{body, func() { watchdog.Reset(d.stall) }}
	for d.next < len(d.chunks) {
		if err := d.chunk(r); err != nil {
			if errors.Is(context.Cause(ctx), errStalled) {
				return fmt.Errorf("reading the root at byte %d: %w", d.offset, errStalled)
			}
			return err
		}
	}
	return nil
}

// chunk reads, verifies and writes one chunk.
func (d *download) chunk(r io.Reader) error {
	c := d.chunks[d.next]
	buf := make([]byte, c.Size)
	if _, err := io.ReadFull(r, buf); err != nil {
		return fmt.Errorf("reading the root at byte %d: %w", d.offset, err)
	}
	if ingot.DigestFromSum(sha256.Sum256(buf)) != c.Digest {
		return fmt.Errorf("%w: chunk %d of %d (bytes %d–%d)", ErrChunk, d.next+1, len(d.chunks), d.offset, d.offset+c.Size-1)
	}
	if _, err := d.file.WriteAt(buf, d.offset); err != nil {
		return fmt.Errorf("writing the root to memory: %w", err)
	}
	d.next, d.offset, d.bad = d.next+1, d.offset+c.Size, 0
	if d.progress != nil {
		d.progress(d.offset)
	}
	return nil
}

// watched calls read after every read that returned bytes.
type watched struct {
	r    io.Reader
	read func()
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	if n > 0 {
		w.read()
	}
	return n, err
}
