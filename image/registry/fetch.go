package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
)

// Fetch opens a manifest or blob. When a connection breaks, or nothing arrives for a while, it
// continues on a new one from where it stopped, with growing pauses.
func (r *Repository) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	b := &blob{r: r, d: d, ctx: ctx}
	if err := r.retry(ctx, b.open); err != nil {
		return nil, err
	}
	return b, nil
}

// blob is a blob that is being fetched.
type blob struct {
	r      *Repository
	d      ocispec.Descriptor
	ctx    context.Context // of the Fetch that this is the result of
	offset int64           // bytes read so far
	in     io.ReadCloser
	watch  *watch
	failed int // attempts since the last byte
}

// open asks for the blob from the offset.
func (b *blob) open() error {
	b.disconnect()
	b.watch = newWatch(b.ctx, b.r.stall)
	in, err := b.r.repo.Fetch(b.watch.ctx, b.d)
	if err != nil {
		err = b.watch.cause(err)
		b.disconnect()
		return b.r.explain(err, "fetching %s", ingot.Digest(b.d.Digest).Short())
	}
	b.in = in
	if err := b.skip(); err != nil {
		err = b.watch.cause(err)
		b.disconnect()
		return b.r.explain(err, "fetching %s from byte %d", ingot.Digest(b.d.Digest).Short(), b.offset)
	}
	return nil
}

// skip continues at the offset: by a range if the registry supports them.
func (b *blob) skip() error {
	if b.offset == 0 {
		return nil
	}
	if s, ok := b.in.(io.Seeker); ok {
		_, err := s.Seek(b.offset, io.SeekStart)
		return err
	}
	for left := b.offset; left > 0; {
		n, err := io.CopyN(io.Discard, b.in, min(left, 1<<20))
		if err != nil {
			return err
		}
		b.watch.reset()
		left -= n
	}
	return nil
}

func (b *blob) Read(p []byte) (int, error) {
	for {
		if b.in == nil {
			if err := b.r.retry(b.ctx, b.open); err != nil {
				return 0, err
			}
		}
		n, err := b.in.Read(p)
		b.offset += int64(n)
		if n > 0 {
			b.watch.reset()
			b.failed = 0
		}
		switch {
		case err == nil || n > 0:
			return n, nil // an error behind these bytes is that of the next Read
		case errors.Is(err, io.EOF) && b.offset >= b.d.Size:
			return 0, io.EOF
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF
		}
		err = b.r.explain(b.watch.cause(err), "fetching %s from byte %d", ingot.Digest(b.d.Digest).Short(), b.offset)
		if b.failed++; b.failed == attempts || b.ctx.Err() != nil || !temporary(err) {
			return 0, err
		}
		b.disconnect()
	}
}

func (b *blob) disconnect() {
	if b.in != nil {
		b.in.Close()
		b.in = nil
	}
	if b.watch != nil {
		b.watch.stop()
		b.watch = nil
	}
}

// Close closes the connection or makes it available for the next request.
func (b *blob) Close() error {
	b.disconnect()
	return nil
}

// watch cancels a context when nothing has moved for a while.
type watch struct {
	ctx    context.Context // the context that it cancels
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

func newWatch(ctx context.Context, limit time.Duration) *watch {
	w := &watch{limit: limit}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = time.AfterFunc(limit, func() { w.cancel(fmt.Errorf("%w for %s", errStalled, limit)) })
	return w
}

// reset starts the time anew: something has moved.
func (w *watch) reset() { w.timer.Reset(w.limit) }

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// cause replaces the error of a canceled context by the reason.
func (w *watch) cause(err error) error {
	if cause := context.Cause(w.ctx); cause != nil && errors.Is(cause, errStalled) {
		return cause
	}
	return err
}
