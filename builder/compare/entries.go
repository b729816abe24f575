package compare

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"

	"ingot/builder/squashfs"
)

// FileChange is one path that differs between two trees.
type FileChange struct {
	Path   string `json:"path"`
	How    string `json:"how"`    // "added", "removed", or what differs: "mode 0755 → 0644", "content, from byte 77 on"
	Before int64  `json:"before"` // bytes
	After  int64  `json:"after"`
}

// String is the change in words: "/etc/a: mode 0755 → 0644".
func (c FileChange) String() string { return fmt.Sprintf("/%s: %s", c.Path, c.How) }

// compareEntries calls each for every path that differs, in order, until it returns false. Both
// lists are sorted by path.
func compareEntries(ctx context.Context, a, b []squashfs.Entry, each func(FileChange) bool) error {
	from := [2]map[string]squashfs.Entry{byPath(a), byPath(b)}
	for len(a) > 0 || len(b) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		var change FileChange
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].Path < b[0].Path:
			change = FileChange{Path: a[0].Path, How: "removed", Before: a[0].Size}
			a = a[1:]
		case len(a) == 0 || b[0].Path < a[0].Path:
			change = FileChange{Path: b[0].Path, How: "added", After: b[0].Size}
			b = b[1:]
		default:
			how, err := compareEntry(follow(from[0], a[0]), follow(from[1], b[0]))
			if err != nil {
				return fmt.Errorf("comparing %q: %w", a[0].Path, err)
			}
			change = FileChange{Path: a[0].Path, How: how, Before: a[0].Size, After: b[0].Size}
			a, b = a[1:], b[1:]
		}
		if change.How != "" && !each(change) {
			return nil
		}
	}
	return nil
}

func byPath(list []squashfs.Entry) map[string]squashfs.Entry {
	m := make(map[string]squashfs.Entry, len(list))
	for _, e := range list {
		m[e.Path] = e
	}
	return m
}

// follow returns the file of a hard link, under the link's name.
func follow(m map[string]squashfs.Entry, e squashfs.Entry) squashfs.Entry {
	if e.Hard == "" {
		return e
	}
	f := m[e.Hard]
	f.Path, f.Hard = e.Path, e.Hard
	return f
}

// compareEntry describes how two entries of one path differ; empty: not at all.
func compareEntry(a, b squashfs.Entry) (string, error) {
	change := func(what, from, to string) string { return what + " " + from + " → " + to }
	switch {
	case a.Kind != b.Kind:
		return change("kind", squashfs.KindName(a.Kind), squashfs.KindName(b.Kind)), nil
	case a.Mode != b.Mode:
		return change("mode", fmt.Sprintf("%04o", a.Mode), fmt.Sprintf("%04o", b.Mode)), nil
	case a.UID != b.UID || a.GID != b.GID:
		return change("owner", fmt.Sprintf("%d:%d", a.UID, a.GID), fmt.Sprintf("%d:%d", b.UID, b.GID)), nil
	case a.Target != b.Target:
		return change("target", a.Target, b.Target), nil
	case a.Major != b.Major || a.Minor != b.Minor:
		return change("device", fmt.Sprintf("%d:%d", a.Major, a.Minor), fmt.Sprintf("%d:%d", b.Major, b.Minor)), nil
	case a.Hard != b.Hard:
		return change("hard link", cmp.Or(a.Hard, "none"), cmp.Or(b.Hard, "none")), nil
	case !maps.Equal(a.Xattrs, b.Xattrs):
		return "extended attributes", nil
	case a.Kind == squashfs.File && a.Hard == "":
		return compareContent(a, b)
	}
	return "", nil
}

func compareContent(a, b squashfs.Entry) (string, error) {
	if a.Size == 0 && b.Size == 0 {
		return "", nil
	}
	ra, err := openEntry(a)
	if err != nil {
		return "", err
	}
	defer ra.Close()
	rb, err := openEntry(b)
	if err != nil {
		return "", err
	}
	defer rb.Close()
	at, err := firstDifference(ra, rb)
	switch {
	case err != nil:
		return "", err
	case at < 0:
		return "", nil
	case a.Size != b.Size:
		return fmt.Sprintf("size %d → %d, from byte %d on", a.Size, b.Size, at), nil
	}
	return fmt.Sprintf("content, from byte %d on", at), nil
}

func openEntry(e squashfs.Entry) (io.ReadCloser, error) {
	if e.Open == nil {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	return e.Open()
}

// firstDifference returns the offset of the first byte that differs, or −1.
func firstDifference(a, b io.Reader) (int64, error) {
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, err := io.ReadFull(a, x)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return 0, err
		}
		m, err := io.ReadFull(b, y)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			return 0, err
		}
		if !bytes.Equal(x[:n], y[:m]) {
			i := 0
			for i < min(n, m) && x[i] == y[i] {
				i++
			}
			return at + int64(i), nil
		}
		if n < len(x) {
			return -1, nil
		}
		at += int64(n)
	}
}
