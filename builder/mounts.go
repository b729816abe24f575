package builder

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"ingot"
	"ingot/builder/tree"
	"ingot/profiles"
)

// scratchPrograms are programs that make overlays below a folder of theirs, which they cannot on the
// overlay over the root. Where they are is looked up in the finished root, so that it does not matter
// whether a package, a layer or a file of the profile brings them.
var scratchPrograms = []struct{ program, folder string }{
	{"containerd", "/var/lib/containerd"}, // containerd, docker.io; Docker's own containerd.io
	{"dockerd", "/var/lib/docker"},        // docker.io; Docker's own docker-ce
	{"podman", "/var/lib/containers"},     // podman, of containers/storage
	{"buildah", "/var/lib/containers"},    // buildah, likewise
	{"crio", "/var/lib/containers"},       // cri-o, likewise
	{"buildkitd", "/var/lib/buildkit"},    // BuildKit's releases
	{"k3s", "/var/lib/rancher"},           // K3s has a containerd of its own
	{"rke2", "/var/lib/rancher"},          // likewise
}

// programFolders are where programs are looked for.
var programFolders = []string{"usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"}

// scratchFolders returns the folders of a root that need a plain filesystem: what the profile lists, and what
// programs of the root are known to need. None is in another.
func scratchFolders(p *profiles.Profile, root *tree.Tree) []ingot.Scratch {
	var list []ingot.Scratch
	for _, v := range p.Volumes {
		for _, s := range v.Scratch {
			list = append(list, ingot.Scratch{Path: s, Volume: v.Name})
		}
	}
	for _, s := range p.Scratch {
		list = append(list, ingot.Scratch{Path: s})
	}
	for _, s := range scratchPrograms {
		for _, folder := range programFolders {
			if e := root.Find(folder + "/" + s.program); e != nil && e.Kind == tree.File {
				list = append(list, ingot.Scratch{Path: s.folder})
			}
		}
	}
	// A folder of a volume goes before the same one in memory, and a folder before what is in it.
	slices.SortStableFunc(list, func(a, b ingot.Scratch) int { return cmp.Compare(len(a.Path), len(b.Path)) })
	var kept []ingot.Scratch
	for _, s := range list {
		if !slices.ContainsFunc(kept, func(k ingot.Scratch) bool {
			return s.Path == k.Path || strings.HasPrefix(s.Path, k.Path+"/")
		}) {
			kept = append(kept, s)
		}
	}
	slices.SortFunc(kept, func(a, b ingot.Scratch) int { return strings.Compare(a.Path, b.Path) })
	return kept
}

// checkMounts refuses mount points that a machine would not find, and says what an operator may not expect.
func (b *build) checkMounts(root *tree.Tree) error {
	for _, v := range b.p.Volumes {
		if err := checkMount(root, v.Mount); err != nil {
			return fmt.Errorf("volume %q (%s) cannot be mounted at %s: %w", v.Name, v.At, v.Mount, err)
		}
		prefix, files := strings.TrimPrefix(v.Mount, "/")+"/", 0
		for _, e := range root.Entries() {
			if e.Kind != tree.Dir && strings.HasPrefix(e.Path, prefix) {
				files++
			}
		}
		if files > 0 {
			b.Logger().Info("a new volume gets a copy of the image's files at its mount point, and hides those of later "+
				"images", "volume", v.Name, "mount", v.Mount, "files", files)
		}
	}
	for _, s := range scratchFolders(b.p, root) {
		if err := checkMount(root, s.Path); err != nil {
			return fmt.Errorf("the folder %s of scratch cannot be mounted: %w", s.Path, err)
		}
		if s.Volume != "" || slices.ContainsFunc(b.p.Volumes, func(v profiles.Volume) bool {
			return !v.Optional && (s.Path == v.Mount || strings.HasPrefix(s.Path, v.Mount+"/"))
		}) {
			continue
		}
		b.Logger().Info("a folder is in memory, within ram.overlay, unless a volume is mounted there", "folder", s.Path)
	}
	return nil
}

// checkMount refuses a path that leads through a link or a file.
func checkMount(root *tree.Tree, p string) error {
	at := ""
	for part := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		at += "/" + part
		switch e := root.Get(at); {
		case e == nil:
			return nil // it is made at boot
		case e.Kind == tree.Symlink:
			return fmt.Errorf("%w: %s is a link to %s in the root; write the path that it points to", ErrMount, at, e.Target)
		case e.Kind != tree.Dir:
			return fmt.Errorf("%w: %s is a file in the root; choose another path", ErrMount, at)
		}
	}
	return nil
}
