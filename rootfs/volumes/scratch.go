package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"ingot"
)

// Scratch gives folders of the root a plain filesystem, on which programs can make overlays of their
// own: the root is an overlay, and cannot be the upper layer of another one. A folder is on the
// mounted volume that has it or keeps it, else below memory, a folder of the tmpfs that also bounds
// what is written to the root.
func (m Mounter) Scratch(list []ingot.Scratch, memory string, results []Result) error {
	for _, s := range list {
		if i := slices.IndexFunc(results, func(r Result) bool {
			return r.Mounted() && (s.Path == r.Spec.Mount || below(s.Path, r.Spec.Mount))
		}); i >= 0 {
			m.Log("%s is on volume %s", s.Path, results[i].Volume)
			continue
		}
		base, where := memory, "in memory"
		for _, r := range results {
			if r.Volume != s.Volume || !r.Mounted() {
				continue
			}
			own, err := OwnFolder(filepath.Join(m.Root, r.Spec.Mount))
			if err != nil {
				return fmt.Errorf("making the folder for %s on volume %s: %w", s.Path, r.Volume, err)
			}
			base, where = filepath.Join(own, "scratch"), "on volume "+r.Volume
		}
		source := filepath.Join(base, s.Path)
		if err := m.fill(source, s.Path); err != nil {
			return fmt.Errorf("making the folder for %s %s: %w", s.Path, where, err)
		}
		if err := m.bind(source, s.Path, results); err != nil {
			return fmt.Errorf("mounting %s %s: %w", s.Path, where, err)
		}
		m.Log("%s is %s", s.Path, where)
	}
	return nil
}

// bind mounts a folder at a path of the root. Volumes that are mounted below the path stay visible.
func (m Mounter) bind(source, p string, results []Result) error {
	inside := map[string]*os.File{}
	for _, r := range results {
		at := r.Spec.Mount
		if !r.Mounted() || !below(at, p) || slices.ContainsFunc(results, func(o Result) bool {
			return o.Mounted() && below(o.Spec.Mount, p) && below(at, o.Spec.Mount)
		}) {
			continue // elsewhere, or it moves with the volume that it is in
		}
		f, err := place(m.Root, at)
		if err != nil {
			return err
		}
		defer f.Close()
		inside[at] = f
	}
	if err := m.mountAt(p, source, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	for at, f := range inside {
		if err := m.mountAt(at, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving the volume of %s: %w", at, err)
		}
	}
	return nil
}

// below reports whether a path is in a folder.
func below(p, folder string) bool { return strings.HasPrefix(p, folder+"/") }

// fill makes a folder as the image has it at a path, unless the folder is there.
func (m Mounter) fill(folder, p string) error {
	if _, err := os.Lstat(folder); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(folder), 0o700); err != nil {
		return err
	}
	fresh, from := folder+".new", filepath.Join(m.Image, p)
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if _, err := os.Lstat(from); err != nil {
		return os.Mkdir(folder, 0o711)
	}
	if err := copyTree(from, fresh); err != nil {
		return err
	}
	if err := syncFilesystem(fresh); err != nil {
		return err
	}
	return os.Rename(fresh, folder)
}
