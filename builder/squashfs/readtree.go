package squashfs

import (
	"fmt"
	"slices"
	"strings"
)

// Entries reads the whole tree, sorted by path. Of several names of a file the first is the file,
// the others are hard links to it. Extended attributes are shared between entries and must not be
// changed.
func (r *Reader) Entries() ([]Entry, error) {
	w := &walk{r: r, dirs: map[uint32]bool{}, sets: map[uint32]map[string]string{}, room: newBudget(r.sb.Used)}
	if err := w.all(); err != nil {
		return nil, fmt.Errorf("reading squashfs: %w", err)
	}
	slices.SortFunc(w.found, func(a, b found) int { return strings.Compare(a.Path, b.Path) })
	for i := 1; i < len(w.found); i++ {
		if w.found[i].Path == w.found[i-1].Path {
			return nil, fmt.Errorf("reading squashfs: %w: %q is listed twice", ErrFormat, w.found[i].Path)
		}
	}
	first := map[uint32]string{}
	entries := make([]Entry, len(w.found))
	for i, f := range w.found {
		entries[i] = f.Entry
		if f.Kind == Dir {
			continue
		}
		if path, ok := first[f.number]; ok {
			entries[i] = Entry{Path: f.Path, Hard: path}
			continue
		}
		first[f.number] = f.Path
	}
	return entries, nil
}

// walk reads the tree once.
type walk struct {
	r     *Reader
	dirs  map[uint32]bool              // that were listed, to find loops
	sets  map[uint32]map[string]string // of extended attributes, by number
	room  budget
	found []found
}

type found struct {
	Entry
	number  uint32
	listing *metaReader // of folders
	size    int64       // of the listing
}

func (w *walk) all() error {
	root, err := w.inode(w.r.sb.Root)
	if err != nil {
		return err
	}
	if root.Kind != Dir {
		return fmt.Errorf("%w: its root is not a folder", ErrFormat)
	}
	for queue := []found{root}; len(queue) > 0; {
		dir := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if w.dirs[dir.number] {
			return fmt.Errorf("%w: folder %q is listed twice", ErrFormat, dir.Path)
		}
		w.dirs[dir.number] = true
		listing, size := dir.listing, dir.size
		dir.listing = nil
		w.found = append(w.found, dir)
		if queue, err = w.list(dir.Path, listing, size, queue); err != nil {
			return fmt.Errorf("listing %q: %w", dir.Path, err)
		}
	}
	return nil
}

// perEntry is about the number of bytes that an entry takes besides its strings.
const perEntry = 400

// list reads a folder's names; folders among them are added to queue.
func (w *walk) list(path string, m *metaReader, size int64, queue []found) ([]found, error) {
	for size > 0 {
		head, err := m.read(12)
		if err != nil {
			return nil, err
		}
		size -= 12
		count, block := le.Uint32(head), uint64(le.Uint32(head[4:]))
		if count >= runEntries {
			return nil, fmt.Errorf("%w: %d names in a run", ErrFormat, count)
		}
		for range count + 1 {
			b, err := m.read(8)
			if err != nil {
				return nil, err
			}
			offset, length := uint64(le.Uint16(b)), int(le.Uint16(b[6:]))+1
			name, err := m.read(min(length, maxName+1))
			if err != nil {
				return nil, err
			}
			if size -= int64(8 + length); size < 0 || length > maxName || !validName(string(name)) {
				return nil, fmt.Errorf("%w: the name %q", ErrFormat, name)
			}
			f, err := w.inode(block<<16 | offset)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", name, err)
			}
			f.Path = string(name)
			if path != "" {
				f.Path = path + "/" + f.Path
			}
			if err := w.room.take(perEntry + len(f.Path) + len(f.Target)); err != nil {
				return nil, err
			}
			if f.Kind == Dir {
				queue = append(queue, f)
			} else {
				w.found = append(w.found, f)
			}
		}
	}
	return queue, nil
}

func validName(s string) bool {
	return s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}
