// Package tree holds the file tree of a root as a value: entries with owner, mode, extended
// attributes, links and devices, sorted by path, whose content is read on demand. Trees are read
// from tar files, merged, and written as a canonical tar (POSIX.1-2001 pax, with SCHILY.xattr
// records), so that equal trees have equal bytes.
//
// Left out: times, which are all the same in an image, and sockets. The package does not know
// profiles, packages or squashfs.
package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
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
)

// Entry is one file, folder, link or device.
type Entry struct {
	Path     string // clean, relative to the root, without a leading slash; "" is the root itself
	Kind     Kind
	Mode     uint32 // permission bits with setuid, setgid and sticky: 0o7777
	UID, GID int
	Size     int64  // bytes of content, of files only
	Target   string // of symbolic links
	Hard     string // not empty: a hard link to the file at this path
	Major    int64  // of devices
	Minor    int64
	Xattrs   map[string]string
	Open     func() (io.ReadCloser, error) // content, of files that are not hard links
}

// Tree is a set of entries in which every parent of an entry is a folder.
type Tree struct{ entries map[string]*Entry }

// Errors that callers may test for with errors.Is.
var (
	// ErrNotFolder: an entry would be below something that is not a folder.
	ErrNotFolder = errors.New("not a folder")
	// ErrNoFile: the target of a hard link is not a file of the tree.
	ErrNoFile = errors.New("not a file")
	// ErrPath: a path, a name in it or the target of a link is longer than Linux allows, or too deep.
	ErrPath = errors.New("the path is too long")
	// ErrSparse: the content of a sparse file is not a contiguous part of the tar.
	ErrSparse = errors.New("sparse files are not supported")
)

// New returns a tree that holds only its root, mode 0755, owner 0:0.
func New() *Tree {
	return &Tree{entries: map[string]*Entry{"": {Kind: Dir, Mode: 0o755}}}
}

// Entries returns all entries sorted by path, byte by byte; the root is first.
// The entries must not be changed.
func (t *Tree) Entries() []*Entry {
	list := make([]*Entry, 0, len(t.entries))
	for _, e := range t.entries {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *Entry) int { return strings.Compare(a.Path, b.Path) })
	return list
}

// Len returns the number of entries, including the root.
func (t *Tree) Len() int { return len(t.entries) }

// Get returns the entry at p, or nil. It follows links in the folders of p, but not a link at p
// itself.
func (t *Tree) Get(p string) *Entry {
	r, err := t.resolveParent(p)
	if err != nil {
		return nil
	}
	return t.entries[r]
}

// Find returns the entry at p, or nil. It also follows a link at p itself.
func (t *Tree) Find(p string) *Entry {
	for range maxLinks {
		e := t.Get(p)
		if e == nil || e.Kind != Symlink {
			return e
		}
		p = linkTarget(e)
	}
	return nil
}

// ReadFile returns the content of the file at p. It follows links.
func (t *Tree) ReadFile(p string) ([]byte, error) {
	e := t.Find(p)
	for e != nil && e.Hard != "" {
		e = t.entries[e.Hard]
	}
	if e == nil || e.Kind != File {
		return nil, fmt.Errorf("reading %q from the tree: no such file", p)
	}
	r, err := e.Open()
	if err != nil {
		return nil, fmt.Errorf("reading %q from the tree: %w", p, err)
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Put adds e, or replaces the entry at its path. Missing folders of the path are added with mode
// 0755, and links in it are followed, so that lib/x becomes usr/lib/x in a merged-/usr system. A
// folder that replaces a folder keeps its children; any other entry removes them.
func (t *Tree) Put(e Entry) error {
	if len(e.Target) > maxPath {
		return fmt.Errorf("putting the link %.60q…: %w: its target has %d bytes; at most %d", e.Path, ErrPath, len(e.Target),
			maxPath)
	}
	for _, p := range []string{e.Path, e.Hard} {
		if err := checkPath(p); err != nil {
			return err
		}
	}
	p, err := t.resolveParent(e.Path)
	if err != nil {
		return err
	}
	if err := checkPath(p); err != nil {
		return err
	}
	if p == "" && e.Kind != Dir {
		return fmt.Errorf("replacing the root by %q: %w", e.Path, ErrNotFolder)
	}
	if err := t.makeParents(p); err != nil {
		return err
	}
	old := t.entries[p]
	if old != nil && old.Kind == Symlink && e.Kind == Dir {
		// a layer that has /lib as a folder means the target of the link
		e.Path = linkTarget(old)
		return t.Put(e)
	}
	if e.Hard != "" {
		if e.Hard, err = t.linked(p, e.Hard); err != nil {
			return err
		}
		if e.Hard == p {
			return nil // the same file, by another name of its folder
		}
	}
	if old != nil && old.Kind == Dir && e.Kind != Dir {
		t.Remove(p)
	}
	e.Path = p
	if old != nil && old.Kind == File && old.Hard == "" {
		t.promote(p)
	}
	t.entries[p] = &e
	return nil
}

// Bounds of paths: PATH_MAX and NAME_MAX of Linux, and a depth that no system has, because the work for
// one path grows with its depth.
const (
	maxPath  = 4095
	maxName  = 255
	maxDepth = 256
)

func checkPath(p string) error {
	if len(p) > maxPath {
		return fmt.Errorf("putting %.60q…: %w: %d bytes; at most %d", p, ErrPath, len(p), maxPath)
	}
	depth := 0
	for part := range strings.SplitSeq(p, "/") {
		if depth++; depth > maxDepth {
			return fmt.Errorf("putting %.60q…: %w: more than %d folders in each other", p, ErrPath, maxDepth)
		}
		if len(part) > maxName {
			return fmt.Errorf("putting %.60q…: %w: a name has %d bytes; at most %d", p, ErrPath, len(part), maxName)
		}
	}
	return nil
}

// linked returns the path of the file of a hard link at p to target.
func (t *Tree) linked(p, target string) (string, error) {
	target, err := t.resolveParent(target)
	if err != nil {
		return "", err
	}
	f := t.entries[target]
	if f != nil && f.Hard != "" {
		f = t.entries[f.Hard]
	}
	if f == nil || f.Kind != File || strings.HasPrefix(f.Path, p+"/") { // what is below p is removed when p becomes a link
		return "", fmt.Errorf("linking %q to %q: %w", p, target, ErrNoFile)
	}
	return f.Path, nil
}

// promote moves the content of the file at p, which is about to be removed, to the first of its
// hard links.
func (t *Tree) promote(p string) {
	var heir string
	for _, e := range t.entries {
		if e.Hard == p && (heir == "" || e.Path < heir) {
			heir = e.Path
		}
	}
	if heir == "" {
		return
	}
	file := *t.entries[p]
	file.Path = heir
	t.entries[heir] = &file
	for _, e := range t.entries {
		if e.Hard == p {
			e.Hard = heir
		}
	}
}

// PutFile adds a regular file that belongs to root:root.
func (t *Tree) PutFile(p string, mode uint32, content []byte) error {
	return t.Put(Entry{Path: p, Kind: File, Mode: mode, Size: int64(len(content)), Open: Bytes(content)})
}

// PutLink adds a symbolic link that belongs to root:root.
func (t *Tree) PutLink(p, target string) error {
	return t.Put(Entry{Path: p, Kind: Symlink, Mode: 0o777, Target: target})
}

// Bytes returns an Open for content in memory.
func Bytes(content []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
}

// Remove removes the entry at p, if there is one, and everything below it.
func (t *Tree) Remove(p string) {
	r, err := t.resolveParent(p)
	if err != nil || r == "" {
		return
	}
	var gone []string
	for q := range t.entries {
		if q == r || strings.HasPrefix(q, r+"/") {
			gone = append(gone, q)
		}
	}
	slices.Sort(gone)
	inside := func(q string) bool { return q == r || strings.HasPrefix(q, r+"/") }
	for _, q := range gone { // hard links inside first, so that none of them is promoted
		if h := t.entries[q].Hard; h != "" && inside(h) {
			delete(t.entries, q)
		}
	}
	for _, q := range gone {
		if e := t.entries[q]; e != nil && e.Kind == File && e.Hard == "" {
			t.promote(q)
		}
		delete(t.entries, q)
	}
}

// RemoveMatching removes the entries that match any of the patterns (path.Match), and everything
// below them.
func (t *Tree) RemoveMatching(patterns ...string) error {
	for _, pattern := range patterns {
		var hits []string
		for p := range t.entries {
			ok, err := path.Match(pattern, p)
			if err != nil {
				return fmt.Errorf("removing %q from the tree: %w", pattern, err)
			}
			if ok {
				hits = append(hits, p)
			}
		}
		slices.Sort(hits)
		for _, p := range hits {
			t.Remove(p)
		}
	}
	return nil
}

// DropXattrs removes the extended attributes whose names begin with prefix, and returns how many
// entries had one.
func (t *Tree) DropXattrs(prefix string) int {
	n := 0
	for _, e := range t.entries {
		kept := map[string]string{}
		for k, v := range e.Xattrs {
			if !strings.HasPrefix(k, prefix) {
				kept[k] = v
			}
		}
		if len(kept) != len(e.Xattrs) {
			e.Xattrs = kept
			n++
		}
	}
	return n
}

// Merge puts every entry of over into t, as Put does.
func (t *Tree) Merge(over *Tree) error {
	for _, hard := range []bool{false, true} { // a hard link needs its file
		for _, e := range over.Entries() {
			if (e.Hard != "") != hard {
				continue
			}
			if err := t.Put(*e); err != nil {
				return fmt.Errorf("merging %q: %w", e.Path, err)
			}
		}
	}
	return nil
}

// maxLinks bounds a chain of symbolic links, as Linux does (ELOOP, path_resolution(7)).
const maxLinks = 40

// resolveParent cleans p and follows links in its folders.
func (t *Tree) resolveParent(p string) (string, error) {
	p = clean(p)
	for range maxLinks {
		next, followed := t.followFirst(p)
		if !followed {
			return next, nil
		}
		p = next
	}
	return "", fmt.Errorf("following %q: too many symbolic links", p)
}

// followFirst replaces the first folder of p that is a link.
func (t *Tree) followFirst(p string) (string, bool) {
	for i := 0; i < len(p); i++ {
		if p[i] != '/' {
			continue
		}
		if e := t.entries[p[:i]]; e != nil && e.Kind == Symlink {
			return clean(linkTarget(e) + p[i:]), true
		}
	}
	return p, false
}

func (t *Tree) makeParents(p string) error {
	for i := 0; i < len(p); i++ {
		if p[i] != '/' {
			continue
		}
		dir := p[:i]
		switch e := t.entries[dir]; {
		case e == nil:
			t.entries[dir] = &Entry{Path: dir, Kind: Dir, Mode: 0o755}
		case e.Kind != Dir:
			return fmt.Errorf("putting %q: %q is %w", p, dir, ErrNotFolder)
		}
	}
	return nil
}

// linkTarget returns the path in the tree that a link points to.
func linkTarget(e *Entry) string {
	if path.IsAbs(e.Target) {
		return clean(e.Target)
	}
	return clean(path.Join(path.Dir(e.Path), e.Target))
}

// clean makes a path relative to the root. ".." does not leave the root.
func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }
