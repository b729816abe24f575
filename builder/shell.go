package builder

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"slices"

	"ingot"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/profiles"
)

// shell returns the busybox for the initramfs, of the package profiles.ShellPackage.
func (b *build) shell(ctx context.Context) ([]byte, error) {
	i := slices.IndexFunc(b.plan.Packages, func(p source.Package) bool { return p.Name == profiles.ShellPackage })
	if i < 0 {
		return nil, fmt.Errorf("%w: rescueShell needs the package %s, and the plan has none", ErrNotBootable,
			profiles.ShellPackage)
	}
	p := b.plan.Packages[i]
	path, _, err := b.layers.get(ctx, "shell-1-"+p.SHA256, func(fresh string) error {
		tar := b.at("shell.tar")
		if err := source.Unpack(ctx, b.cache, p, tar); err != nil {
			return err
		}
		t, err := tree.FromTar(ctx, tar)
		if err != nil {
			return err
		}
		content, err := busybox(t)
		if err != nil {
			return fmt.Errorf("%w: %s %s: %w", ErrNotBootable, p.Name, p.Version, err)
		}
		return os.WriteFile(fresh, content, 0o644)
	})
	if err != nil {
		return nil, fmt.Errorf("unpacking the shell of the initramfs: %w", err)
	}
	return os.ReadFile(path)
}

// busybox reads busybox from its package. The initramfs has no libraries.
func busybox(t *tree.Tree) ([]byte, error) {
	at := "usr" + ingot.ShellPath
	if t.Get(at) == nil {
		at = ingot.ShellPath[1:] // packages from before merged /usr
	}
	content, err := t.ReadFile(at)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return nil, fmt.Errorf("reading /%s: %w", at, err)
	}
	if libraries, err := f.ImportedLibraries(); err != nil || len(libraries) > 0 {
		return nil, fmt.Errorf("/%s is not static, it needs %v", at, libraries)
	}
	return content, nil
}
