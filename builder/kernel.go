package builder

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

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
	tree    *tree.Tree // modules alone, with depmod's indexes
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

// splitKernel reads the kernel image from the kernel's tree and leaves only the modules there.
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
	t.Remove("usr/share")
	return vmlinuz, release, nil
}
