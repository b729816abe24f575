package inspect

import "ingot/builder/tree"

// Size is what the files of a package take in a root: their content, unpacked.
type Size struct {
	Files int
	Bytes int64 // what has several hard links counts once
}

// Sizes sums up the files of a root by the packages that own them, see Owners; "" has those of none. Content
// with several hard links belongs to the first of their paths that a package owns.
func Sizes(root *tree.Tree, owners map[string]string) map[string]Size {
	sizes, linked := map[string]Size{}, map[string]string{} // owners of content, by the path that has it
	entries := root.Entries()
	for _, e := range entries { // in the order of paths
		at := e.Path
		if e.Hard != "" {
			at = e.Hard
		}
		if e.Kind == tree.File && linked[at] == "" {
			linked[at] = owners[e.Path]
		}
	}
	for _, e := range entries {
		if e.Kind == tree.Dir {
			continue
		}
		s := sizes[owners[e.Path]]
		s.Files++
		sizes[owners[e.Path]] = s
		if e.Kind == tree.File && e.Hard == "" {
			s = sizes[linked[e.Path]]
			s.Bytes += e.Size
			sizes[linked[e.Path]] = s
		}
	}
	return sizes
}
