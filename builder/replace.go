package builder

import (
	"fmt"
	"path"
	"strings"

	"ingot/builder/inspect"
	"ingot/builder/tree"
)

// tree.Put lets any entry replace any other. For what a profile asks for that is too much: a link
// at /etc/ssh would remove a folder of a package with everything in it, and the image would boot
// without. The functions of this file refuse to exchange folders and other entries for each other.

// kindNames are the words for kinds of entries.
var kindNames = map[tree.Kind]string{tree.File: "a file", tree.Dir: "a folder", tree.Symlink: "a link",
	tree.CharDevice: "a device", tree.BlockDevice: "a device", tree.Fifo: "a FIFO"}

// exchanges reports whether e would take the place of a folder, or of a link to one, or is a folder
// that would take the place of something else. what describes what is lost.
func exchanges(root *tree.Tree, e tree.Entry) (what string, lost *tree.Entry) {
	old := root.Get(e.Path)
	if old == nil {
		return "", nil
	}
	target := old
	if old.Kind == tree.Symlink {
		target = root.Find(e.Path)
	}
	wasFolder := target != nil && target.Kind == tree.Dir
	switch {
	case wasFolder == (e.Kind == tree.Dir):
		return "", nil // folders are merged, in links to them too; files replace files
	case e.Kind == tree.Dir && target == nil:
		return "", nil // made where the link points to
	case e.Kind == tree.Dir:
		return kindNames[target.Kind], target
	case old.Kind == tree.Dir:
		return "a folder", old
	case e.Kind == tree.Symlink && sameTarget(root, old, e):
		return "", nil
	}
	return "a link to the folder /" + target.Path, old
}

// sameTarget reports whether two links at the same path lead to the same entry.
func sameTarget(root *tree.Tree, old *tree.Entry, link tree.Entry) bool {
	to := link.Target
	if !path.IsAbs(to) {
		to = path.Join(path.Dir("/"+old.Path), to)
	}
	return root.Find(to) != nil && root.Find(to) == root.Find(old.Path)
}

// addExplicit puts an entry that a profile names by its path. It refuses to exchange a folder for
// something else or the reverse, and to turn a package's link to a folder to another place.
func addExplicit(root *tree.Tree, e tree.Entry) error {
	what, lost := exchanges(root, e)
	if lost == nil {
		return root.Put(e)
	}
	owner := inspect.PackageOf(root, lost.Path)
	if lost.Kind == tree.Symlink && e.Kind == tree.Symlink && owner == "" && strings.Contains(lost.Path, "/") {
		return root.Put(e) // a link of nobody's, such as one of a layer
	}
	if owner != "" {
		what += " of the package " + owner
	}
	fix := "write the paths of the files below it instead"
	if e.Kind == tree.Dir {
		fix = "choose another path"
	}
	return fmt.Errorf("%w: %s would replace %s; %s", ErrReplaces, kindNames[e.Kind], what, fix)
}

// addOver puts an entry of a layer. What a package owns is not exchanged; between trees that no
// package owns, the later one counts, as in container runtimes.
func addOver(root *tree.Tree, e tree.Entry) error {
	if what, lost := exchanges(root, e); lost != nil {
		if owner := inspect.PackageOf(root, lost.Path); owner != "" {
			return fmt.Errorf("%w: its %s /%s would replace %s of the package %s; remove it from the layer, or leave "+
				"the package out", ErrReplaces, strings.TrimPrefix(kindNames[e.Kind], "a "), lost.Path, what, owner)
		}
	}
	return root.Put(e)
}

// addHome adds a user's home. A folder that a package owns stays as it is, as with useradd(8).
func addHome(root *tree.Tree, home string, uid, gid int) error {
	if e := root.Find(home); e != nil && e.Kind == tree.Dir && (e.Path == "" || inspect.PackageOf(root, e.Path) != "") {
		return nil
	}
	return addExplicit(root, tree.Entry{Path: home, Kind: tree.Dir, Mode: 0o700, UID: uid, GID: gid})
}
