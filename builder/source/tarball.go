package source

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
)

// pinTar keeps a tarball as it is and looks for its newest file.
func (t *Trees) pinTar(ctx context.Context, o Origin, pin *Pin) error {
	if !o.known() {
		return ErrNoTree
	}
	f, err := o.Path.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	if pin.Digest, pin.Size, err = t.Blobs.Put(ctx, f, ""); err != nil {
		return err
	}
	blob, err := t.Blobs.open(ctx, pin.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	pin.Created, err = newestMember(ctx, blob)
	return err
}

// newestMember returns the Unix time of the newest file of a tarball.
func newestMember(ctx context.Context, r io.Reader) (newest int64, err error) {
	u, err := uncompressed(ctx, r)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrBadTar, err)
	}
	defer u.Close()
	for tr := tar.NewReader(u); ; {
		h, err := tr.Next()
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		if errors.Is(err, io.EOF) {
			return newest, nil
		}
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrBadTar, err)
		}
		newest = max(newest, h.ModTime.Unix())
	}
}

// unpackTar adds a kept tarball, or the canonical tar of a folder, to the tree.
func (t *Trees) unpackTar(ctx context.Context, pin Pin, m *merger) error {
	blob, err := t.Blobs.open(ctx, pin.Digest)
	if err != nil {
		return err
	}
	defer blob.Close()
	_, err = mergeHashed(ctx, blob, m.plain)
	if damage := blob.finish(); damage != nil {
		return damage
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%w: %w", ErrBadTar, err)
	}
	return err
}
