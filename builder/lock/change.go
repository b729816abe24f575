package lock

import (
	"slices"
	"strings"

	"ingot/builder/source"
)

// Change is one package, tree or account that differs between two locks, images or roots.
type Change struct {
	Package string `json:"package"`          // of a tree or account: its kind and its name in the profile
	Before  string `json:"before,omitempty"` // version, start of the digest, or number; empty: it is new
	After   string `json:"after,omitempty"`  // empty: it is gone
}

// PackageChanges returns the packages that differ between two lists, by name.
func PackageChanges(before, after []source.Package) []Change {
	versions := map[string]Change{}
	for _, p := range before {
		versions[p.Name] = Change{Package: p.Name, Before: p.Version}
	}
	for _, p := range after {
		c := versions[p.Name]
		versions[p.Name] = Change{Package: p.Name, Before: c.Before, After: p.Version}
	}
	var list []Change
	for _, c := range versions {
		if c.Before != c.After {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b Change) int { return strings.Compare(a.Package, b.Package) })
	return list
}

// TreeChanges returns the trees that differ between two lists.
func TreeChanges(before, after []source.Pin) []Change {
	var list []Change
	name := func(p source.Pin) string { return p.Kind + " " + p.From }
	find := func(list []source.Pin, p source.Pin) string {
		i := slices.IndexFunc(list, func(q source.Pin) bool { return name(q) == name(p) })
		if i < 0 {
			return ""
		}
		return list[i].Digest.Short()
	}
	for _, p := range before {
		if find(after, p) == "" {
			list = append(list, Change{Package: name(p), Before: p.Digest.Short()})
		}
	}
	for _, p := range after {
		if old := find(before, p); old != p.Digest.Short() {
			list = append(list, Change{Package: name(p), Before: old, After: p.Digest.Short()})
		}
	}
	return list
}

// changes returns everything that differs between two locks.
func changes(before, after *File) []Change {
	all := func(f *File) []source.Package { return append([]source.Package{f.Kernel, f.Stub}, f.Packages...) }
	return slices.Concat(PackageChanges(all(before), all(after)), TreeChanges(before.Trees, after.Trees),
		accountChanges(before, after))
}
