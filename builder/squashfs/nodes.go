package squashfs

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// node is an inode and, for folders, its entries.
type node struct {
	e        *Entry
	path     string  // the first of its names, in the order of the tree
	children []child // of folders, sorted by name
	links    uint32
	subdirs  uint32
	number   uint32 // inode number, from 1 on
	parent   *node  // of folders
	ref      uint64 // where its inode is: block start << 16 | offset
	xattr    uint32 // index of its set, or noXattr
	body     *extent
}

type child struct {
	name string
	node *node
}

// fsTree is the tree of all entries.
type fsTree struct {
	root   *node
	dirs   []*node // every folder before what is in it, in the order of the names
	files  []*node // all other inodes, folder by folder
	inodes int
	total  int64 // bytes of content
}

// newTree checks the entries and links them up.
func newTree(entries []Entry) (*fsTree, error) {
	nodes := make(map[string]*node, len(entries)+1)
	for i := range entries {
		e := &entries[i]
		if err := check(e); err != nil {
			return nil, fmt.Errorf("%q: %w", e.Path, err)
		}
		if nodes[e.Path] != nil {
			return nil, fmt.Errorf("%q: %w: it is listed twice", e.Path, ErrEntry)
		}
		nodes[e.Path] = &node{e: e, xattr: noXattr}
	}
	root := nodes[""]
	if root == nil {
		root = &node{e: &Entry{Kind: Dir, Mode: 0o755}, xattr: noXattr}
		nodes[""] = root
	}
	if root.e.Kind != Dir || root.e.Hard != "" {
		return nil, fmt.Errorf("the root: %w: it is not a folder", ErrEntry)
	}
	for i := range entries {
		e := &entries[i]
		if e.Path == "" {
			continue
		}
		dir, name := "", e.Path
		if at := strings.LastIndexByte(e.Path, '/'); at >= 0 {
			dir, name = e.Path[:at], e.Path[at+1:]
		}
		parent := nodes[dir]
		if parent == nil || parent.e.Kind != Dir || parent.e.Hard != "" {
			return nil, fmt.Errorf("%q: %w: %q is not a folder of the tree", e.Path, ErrEntry, dir)
		}
		n := nodes[e.Path]
		if e.Hard != "" {
			n = nodes[e.Hard]
			if n == nil || n.e.Hard != "" || n.e.Kind == Dir {
				return nil, fmt.Errorf("%q: %w: it is a hard link to %q, which is not a file of the tree", e.Path, ErrEntry, e.Hard)
			}
		}
		if n.e.Kind == Dir {
			n.parent = parent
			parent.subdirs++
		}
		n.links++
		parent.children = append(parent.children, child{name, n})
	}
	t := &fsTree{root: root}
	t.number(root)
	return t, nil
}

// number sorts the names and gives inode numbers: what is in one folder gets
// consecutive ones, because listings hold small differences.
func (t *fsTree) number(root *node) {
	t.inodes++
	root.number = uint32(t.inodes)
	stack := []*node{root}
	for len(stack) > 0 {
		dir := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		t.dirs = append(t.dirs, dir)
		slices.SortFunc(dir.children, func(a, b child) int { return strings.Compare(a.name, b.name) })
		for _, c := range dir.children {
			if c.node.number == 0 {
				t.inodes++
				c.node.number = uint32(t.inodes)
				c.node.path = strings.TrimPrefix(dir.path+"/"+c.name, "/")
				if c.node.e.Kind != Dir {
					t.files = append(t.files, c.node)
				}
				if c.node.e.Kind == File {
					t.total += c.node.e.Size
				}
			}
		}
		for _, c := range slices.Backward(dir.children) {
			if c.node.e.Kind == Dir {
				stack = append(stack, c.node)
			}
		}
	}
}

// check refuses what the format cannot hold.
func check(e *Entry) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrEntry, fmt.Sprintf(format, args...))
	}
	if strings.IndexByte(e.Path, 0) >= 0 {
		return bad("a name with a NUL byte")
	}
	if e.Path != "" {
		for part := range strings.SplitSeq(e.Path, "/") {
			if part == "" || part == "." || part == ".." {
				return bad("the path is not clean")
			}
			if len(part) > maxNewName {
				return bad("a name of %d bytes; at most %d fit", len(part), maxNewName)
			}
		}
	}
	if e.Hard != "" {
		return nil
	}
	switch {
	case e.Kind > Socket:
		return bad("kind %d", e.Kind)
	case e.Mode&^0o7777 != 0:
		return bad("mode %#o", e.Mode)
	case e.ModTime < 0 || e.ModTime > math.MaxUint32:
		return bad("a modification time that does not fit into 32 bits: %d", e.ModTime)
	case e.Size < 0:
		return bad("%d bytes", e.Size)
	case e.Kind == File && e.Size > 0 && e.Open == nil:
		return bad("content, but no Open")
	case e.Kind == Symlink && (e.Target == "" || len(e.Target) > maxTarget):
		return bad("a link to %d bytes; 1 to %d fit", len(e.Target), maxTarget)
	case (e.Kind == CharDevice || e.Kind == BlockDevice) && (e.Major >= 1<<12 || e.Minor >= 1<<20):
		return bad("device %d:%d; at most 4095:1048575 fits", e.Major, e.Minor)
	}
	for name, value := range e.Xattrs {
		if _, suffix, ok := xattrType(name); !ok || suffix == "" {
			return bad("extended attribute %q; only user.*, trusted.* and security.* can be kept", name)
		}
		if len(name) > 255 || len(value) > maxXattr { // XATTR_NAME_MAX
			return bad("extended attribute %q with a name of %d and a value of %d bytes", name, len(name), len(value))
		}
	}
	return nil
}
