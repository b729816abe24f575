package builder

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"ingot"
	"ingot/builder/firmware"
	"ingot/builder/initramfs"
	"ingot/builder/setup"
	"ingot/builder/source"
	"ingot/builder/tree"
)

// kernelKey names the kernel's tree in the layer cache.
func (b *build) kernelKey() string { return "kernel-1-" + b.plan.Kernel.SHA256 }

// kernelTree is the kernel's package as a tree, with depmod's indexes.
func (b *build) kernelTree(ctx context.Context) (*tree.Tree, error) {
	b.Report("kernel", 0, 0, "")
	tar, kept, err := b.layers.get(ctx, b.kernelKey(), func(fresh string) error { return b.unpackKernel(ctx, fresh) })
	if err != nil {
		return nil, err
	}
	detail := b.plan.Kernel.Version
	if kept {
		detail += ", unchanged, from the cache"
	}
	b.Report("kernel", 1, 1, detail)
	return tree.FromTar(ctx, tar)
}

// unpackKernel unpacks the kernel's package by itself, not into the installed root, and runs depmod
// over it as the package's maintainer script would.
func (b *build) unpackKernel(ctx context.Context, out string) error {
	tar := b.at("kernel.tar")
	if err := source.Unpack(ctx, b.cache, b.plan.Kernel, tar); err != nil {
		return err
	}
	t, err := tree.FromTar(ctx, tar)
	if err != nil {
		return err
	}
	if err := b.indexModules(ctx, t, b.at("kernel.d")); err != nil {
		return err
	}
	f, err := os.Create(out)
	if err != nil {
		return fmt.Errorf("unpacking the kernel: %w", err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := errors.Join(t.WriteTar(ctx, w, b.epoch), w.Flush(), f.Close()); err != nil {
		return fmt.Errorf("unpacking the kernel: %w", err)
	}
	return nil
}

// indexModules writes the modules of a kernel to the folder dir, runs depmod over them and puts its
// indexes into the tree. Links of the package are not written: depmod would follow them.
func (b *build) indexModules(ctx context.Context, t *tree.Tree, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "usr/lib/modules"), 0o755); err != nil {
		return fmt.Errorf("unpacking the kernel: %w", err)
	}
	if err := os.Symlink("usr/lib", filepath.Join(dir, "lib")); err != nil {
		return fmt.Errorf("unpacking the kernel: %w", err)
	}
	root, err := os.OpenRoot(filepath.Join(dir, "usr/lib/modules"))
	if err != nil {
		return fmt.Errorf("unpacking the kernel: %w", err)
	}
	defer root.Close()
	if err := writeModules(ctx, root, t); err != nil {
		return fmt.Errorf("unpacking the kernel: %w", err)
	}
	releases, err := fs.ReadDir(root.FS(), ".")
	if err != nil || len(releases) != 1 {
		return fmt.Errorf("unpacking the kernel %s: it has %d folders of modules; want 1", b.plan.Kernel.Name, len(releases))
	}
	release := releases[0].Name()
	if out, err := exec.CommandContext(ctx, "depmod", "--basedir", dir, release).CombinedOutput(); err != nil {
		return fmt.Errorf("running depmod for %s: %w: %s", release, err, bytes.TrimSpace(out))
	}
	indexes, err := fs.Glob(root.FS(), release+"/modules.*")
	if err != nil {
		return err
	}
	for _, f := range indexes {
		content, err := root.ReadFile(f)
		if err != nil {
			return fmt.Errorf("reading depmod's indexes: %w", err)
		}
		if err := t.PutFile("usr/lib/modules/"+f, 0o644, content); err != nil {
			return err
		}
	}
	return nil
}

// writeModules writes the files below lib/modules and usr/lib/modules of a package.
func writeModules(ctx context.Context, root *os.Root, t *tree.Tree) error {
	for _, e := range t.Entries() {
		p, ok := strings.CutPrefix(strings.TrimPrefix(e.Path, "usr/"), "lib/modules/")
		if !ok || e.Kind != tree.File {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		content, err := t.ReadFile(e.Path)
		if err != nil {
			return err
		}
		if err := root.MkdirAll(path.Dir(p), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(p, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// kernel is what an image takes of the kernel's package.
type kernel struct {
	tree    *tree.Tree // modules with depmod's indexes, and the copyright
	vmlinuz []byte
	release string
}

// makeKernel makes the kernel's tree and writes the kernel image to a file.
func (b *build) makeKernel(ctx context.Context, to string) (kernel, error) {
	t, err := b.kernelTree(ctx)
	if err != nil {
		return kernel{}, err
	}
	vmlinuz, release, err := splitKernel(t)
	if err != nil {
		return kernel{}, err
	}
	if err := os.WriteFile(to, vmlinuz, 0o644); err != nil {
		return kernel{}, fmt.Errorf("writing the kernel: %w", err)
	}
	return kernel{t, vmlinuz, release}, nil
}

// splitKernel reads the kernel image from the kernel's tree and leaves only the modules and the copyright there.
func splitKernel(t *tree.Tree) (vmlinuz []byte, release string, err error) {
	for _, e := range t.Entries() {
		if r, ok := strings.CutPrefix(e.Path, "boot/vmlinuz-"); ok && e.Kind == tree.File {
			release = r
		}
	}
	if release == "" {
		return nil, "", fmt.Errorf("%w: the kernel package has no /boot/vmlinuz", ErrNotBootable)
	}
	if vmlinuz, err = t.ReadFile("boot/vmlinuz-" + release); err != nil {
		return nil, "", err
	}
	t.Remove("boot")
	if lib := t.Get("lib"); lib != nil && lib.Kind == tree.Dir && t.Get("lib/modules/"+release) != nil {
		// The package predates merged /usr: move the modules to /usr/lib.
		moved := tree.New()
		for _, e := range t.Entries() {
			if rest, ok := strings.CutPrefix(e.Path, "lib/"); ok {
				c := *e
				c.Path = "usr/lib/" + rest
				if err := moved.Put(c); err != nil {
					return nil, "", err
				}
			}
		}
		t.Remove("lib")
		if err := t.Merge(moved); err != nil {
			return nil, "", err
		}
	}
	for _, e := range t.Entries() {
		if strings.HasPrefix(e.Path, "usr/share/") && e.Kind != tree.Dir && path.Base(e.Path) != "copyright" {
			t.Remove(e.Path)
		}
	}
	return vmlinuz, release, nil
}

// wantedFirmware returns what the modules of the initramfs may load. It is kept: it takes unpacking them all.
func (b *build) wantedFirmware(ctx context.Context, k kernel) (wanted []initramfs.Wanted, err error) {
	key := sha256.Sum256(fmt.Appendln(nil, b.kernelKey(), k.release, b.p.Kernel.Modules))
	path, _, err := b.layers.get(ctx, fmt.Sprintf("firmware-1-%x", key), func(fresh string) error {
		list, err := initramfs.Firmware(k.tree, k.release, b.p.Kernel.Modules)
		if err != nil {
			return err
		}
		text, err := json.Marshal(list)
		if err != nil {
			return err
		}
		return os.WriteFile(fresh, text, 0o644)
	})
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading which firmware the kernel's modules load: %w", err)
	}
	return wanted, json.Unmarshal(text, &wanted)
}

// addOfRoot adds what the initramfs takes of the merged root: firmware of its modules, microcode, settings of
// modprobe.d and the files that the profile names. All of it goes into the key of the cache; the key of an initramfs
// that takes nothing is what it was. It returns the firmware that the root lacks.
func (b *build) addOfRoot(o *initramfs.Options, root *tree.Tree, wanted []initramfs.Wanted,
	key io.Writer) (missing []string, err error) {
	files, missing, err := firmware.Find(root, namesOf(wanted))
	if err != nil {
		return nil, err
	}
	own := maps.Clone(o.Files)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		o.Files["/"+firmware.Dir+"/"+name] = files[name]
	}
	if b.p.Arch == ingot.AMD64 {
		if o.Early, err = firmware.Microcode(root); err != nil {
			return nil, err
		}
	}
	settings, err := setup.ReadModprobe(root)
	if err != nil {
		return nil, err
	}
	o.Parameters = settings.Parameters
	o.Blacklist = append(slices.Clone(o.Blacklist), settings.Blacklist...)
	slices.Sort(o.Blacklist)
	o.Blacklist = slices.Compact(o.Blacklist)
	if err := b.addWished(o, root); err != nil {
		return nil, err
	}
	for _, set := range []map[string][]byte{o.Files, o.Early, o.Programs} {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			if own[name] == nil && name != ingot.ShellPath {
				fmt.Fprintf(key, "file %q %s\n", name, ingot.DigestOf(set[name]))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Parameters)) {
		fmt.Fprintf(key, "options %s %q\n", name, o.Parameters[name])
	}
	for _, name := range settings.Blacklist {
		if !slices.Contains(b.p.Kernel.Blacklist, name) {
			fmt.Fprintln(key, "blacklist of the root", name)
		}
	}
	return missing, nil
}

func namesOf(wanted []initramfs.Wanted) (names []string) {
	for _, w := range wanted {
		names = append(names, w.File)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// reserved are the paths of an initramfs that are ingot's own: what starts, what it trusts, and the modules.
var reserved = []string{"/init/", ingot.KeyDir + "/", ingot.ShellPath + "/", "/usr/lib/modules/",
	initramfs.ParametersFile + "/"}

// addWished adds the files of the root that the profile wants in the initramfs.
func (b *build) addWished(o *initramfs.Options, root *tree.Tree) error {
	for _, name := range b.p.Kernel.Initramfs {
		fault := func(format string, args ...any) error {
			err := fmt.Errorf(format, args...)
			if at := b.p.Origin("kernel.initramfs=" + name); at.File != "" {
				err = fmt.Errorf("%s: %w", at, err)
			}
			return err
		}
		e, target := root.Get(name), root.Find(name)
		if e == nil || target == nil || target.Kind != tree.File {
			return fault("%w: the file %s for the initramfs; add its package or the file, or leave it out of "+
				"kernel.initramfs", setup.ErrMissing, name)
		}
		into := "/" + e.Path
		if slices.ContainsFunc(reserved, func(p string) bool { return strings.HasPrefix(into+"/", p) }) {
			return fault("%w: %s in the initramfs is ingot's own; leave it out of kernel.initramfs", ErrNotBootable, into)
		}
		content, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		if target.Mode&0o111 == 0 {
			o.Files[into] = content
			continue
		}
		if o.Programs == nil {
			o.Programs = map[string][]byte{}
		}
		o.Programs[into] = content
		delete(o.Files, into)
	}
	return nil
}

// warnOfFirmware names the firmware that the root lacks: one by one for modules that the profile names, and by packages
// for those of presets, which are drivers of devices that the machines may not have.
func (b *build) warnOfFirmware(wanted []initramfs.Wanted, missing []string) {
	named, others := map[string]bool{}, map[string]bool{}
	for _, w := range wanted {
		if !slices.Contains(missing, w.File) {
			continue
		}
		pkg := firmware.Package(w.File)
		if w.Named {
			if !named[w.File] {
				b.Logger().Warn("the image has no firmware for a module of the initramfs", "module", w.Module, "file", w.File,
					"package", cmp.Or(pkg, "unknown"))
			}
			named[w.File] = true
			continue
		}
		others[cmp.Or(pkg, w.File)] = true
	}
	if len(others) > 0 {
		b.Logger().Warn("the image has no firmware for some drivers of the presets in kernel.modules; machines with such "+
			"devices need these packages or files", "missing", strings.Join(slices.Sorted(maps.Keys(others)), " "))
	}
}
