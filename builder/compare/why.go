package compare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"ingot/builder"
	"ingot/builder/squashfs"
	"ingot/builder/uki"
)

// look finds how two files differ: the first difference in words, and the paths in them that differ,
// if they have some.
type look func(ctx context.Context, have, got *os.File) (text string, files []FileChange, err error)

func why(ctx context.Context, have, got string, look look) (text string, files []FileChange, err error) {
	a, err := os.Open(have)
	if err != nil {
		return "", nil, err
	}
	defer a.Close()
	b, err := os.Open(got)
	if err != nil {
		return "", nil, err
	}
	defer b.Close()
	text, files, err = look(ctx, a, b)
	if err != nil || text != "" {
		return text, files, err
	}
	for _, f := range []*os.File{a, b} {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return "", nil, err
		}
	}
	text, _, err = whyBytes(ctx, a, b)
	return "the same files, packed differently: " + text, nil, err
}

func whyBytes(_ context.Context, a, b *os.File) (string, []FileChange, error) {
	at, err := firstDifference(a, b)
	return fmt.Sprintf("from byte %d on", at), nil, err
}

// whyRoot names the files that differ between two squashfs images.
func whyRoot(ctx context.Context, a, b *os.File) (text string, files []FileChange, err error) {
	ca, err := builder.ReadContents(a)
	if err != nil {
		return "", nil, err
	}
	cb, err := builder.ReadContents(b)
	if err != nil {
		return "", nil, err
	}
	return fileChanges(ctx, ca.Entries, cb.Entries)
}

// fileChanges returns the files that differ, and the first in words. If there is none, it names the
// first whose time differs.
func fileChanges(ctx context.Context, a, b []squashfs.Entry) (text string, files []FileChange, err error) {
	err = compareEntries(ctx, a, b, func(c FileChange) bool {
		files = append(files, c)
		return true
	})
	if err != nil {
		return "", nil, err
	}
	if len(files) > 0 {
		return files[0].String(), files, nil
	}
	for i, e := range a { // the paths are the same
		if e.ModTime != b[i].ModTime {
			stamp := func(t int64) string { return time.Unix(t, 0).UTC().Format(time.RFC3339) }
			return fmt.Sprintf("/%s: time %s → %s", e.Path, stamp(e.ModTime), stamp(b[i].ModTime)), nil, nil
		}
	}
	return "", nil, nil
}

// whyInitramfs names the files that differ between two archives.
func whyInitramfs(ctx context.Context, a, b *os.File) (string, []FileChange, error) {
	ea, err := readInitramfs(a)
	if err != nil {
		return "", nil, err
	}
	eb, err := readInitramfs(b)
	if err != nil {
		return "", nil, err
	}
	return fileChanges(ctx, ea, eb)
}

// readInitramfs lists the files of an initramfs that ingot packed.
func readInitramfs(r io.Reader) ([]squashfs.Entry, error) {
	z, err := zstd.NewReader(r)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	var entries []squashfs.Entry
	for c := cpio.NewReader(z); ; {
		h, err := c.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		content, err := io.ReadAll(c)
		if err != nil {
			return nil, err
		}
		e := squashfs.Entry{Path: h.Name, Mode: uint32(h.Mode.Perm()), Size: int64(len(content)), ModTime: h.ModTime.Unix(),
			Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }}
		if h.Mode.IsDir() {
			e.Kind = squashfs.Dir
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b squashfs.Entry) int { return strings.Compare(a.Path, b.Path) })
	return entries, nil
}

// whyUKI names the first section that differs between two UKIs.
func whyUKI(_ context.Context, a, b *os.File) (string, []FileChange, error) {
	sa, err := uki.Read(a)
	if err != nil {
		return "", nil, err
	}
	sb, err := uki.Read(b)
	if err != nil {
		return "", nil, err
	}
	for i, s := range sa {
		if i >= len(sb) || sb[i].Name != s.Name {
			return "it has other sections from " + s.Name + " on", nil, nil
		}
		x, err := io.ReadAll(s.Content)
		if err != nil {
			return "", nil, err
		}
		y, err := io.ReadAll(sb[i].Content)
		if err != nil {
			return "", nil, err
		}
		if !bytes.Equal(x, y) {
			return "its section " + s.Name, nil, nil
		}
	}
	return "", nil, nil
}
