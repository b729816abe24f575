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

	"ingot"
	"ingot/builder/inspect"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/profiles"
	"ingot/rootfs/files"
)

// ErrNotBootable: something that a boot needs is not in the image.
var ErrNotBootable = errors.New("the image could not boot")

// kernelKey is what the kernel's tree depends on.
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

// unpackKernel unpacks the kernel's package beside the installed ones and runs
// depmod over it, as its own maintainer script would.
func (b *build) unpackKernel(ctx context.Context, out string) error {
	tar := b.at("kernel.tar")
	if err := source.Unpack(ctx, b.cache, b.plan.Kernel, tar); err != nil {
		return err
	}
	dir := b.at("kernel.d")
	if err := os.MkdirAll(filepath.Join(dir, "usr/lib"), 0o755); err != nil {
		return fmt.Errorf("unpacking the kernel: %w", err)
	}
	if err := os.Symlink("usr/lib", filepath.Join(dir, "lib")); err != nil {
		return fmt.Errorf("unpacking the kernel: %w", err)
	}
	unpack := exec.CommandContext(ctx, "tar", "--extract", "--keep-directory-symlink", "--no-same-owner",
		"--file", tar, "--directory", dir)
	if out, err := unpack.CombinedOutput(); err != nil {
		return fmt.Errorf("unpacking the kernel: %w: %s", err, bytes.TrimSpace(out))
	}
	t, err := tree.FromTar(ctx, tar)
	if err != nil {
		return err
	}
	if err := b.indexModules(ctx, t, dir); err != nil {
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

// indexModules runs depmod over the kernel that is unpacked at dir and puts
// its indexes into the tree.
func (b *build) indexModules(ctx context.Context, t *tree.Tree, dir string) error {
	releases, err := filepath.Glob(filepath.Join(dir, "usr/lib/modules/*"))
	if err != nil || len(releases) != 1 {
		return fmt.Errorf("unpacking the kernel %s: %d folders of modules; want 1", b.plan.Kernel.Name, len(releases))
	}
	release := filepath.Base(releases[0])
	if out, err := exec.CommandContext(ctx, "depmod", "--basedir", dir, release).CombinedOutput(); err != nil {
		return fmt.Errorf("running depmod for %s: %w: %s", release, err, bytes.TrimSpace(out))
	}
	indexes, err := filepath.Glob(filepath.Join(releases[0], "modules.*"))
	if err != nil {
		return err
	}
	for _, f := range indexes {
		content, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("reading depmod's indexes: %w", err)
		}
		if err := t.PutFile("usr/lib/modules/"+release+"/"+filepath.Base(f), 0o644, content); err != nil {
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

// takeKernel makes the kernel's tree and writes the kernel image to a file.
func (b *build) takeKernel(ctx context.Context, to string) (kernel, error) {
	t, err := b.kernelTree(ctx)
	if err != nil {
		return kernel{}, err
	}
	vmlinuz, release, err := takeKernel(t)
	if err != nil {
		return kernel{}, err
	}
	if err := os.WriteFile(to, vmlinuz, 0o644); err != nil {
		return kernel{}, fmt.Errorf("writing the kernel: %w", err)
	}
	return kernel{t, vmlinuz, release}, nil
}

// takeKernel reads the kernel image and leaves only the modules in the tree.
func takeKernel(t *tree.Tree) (vmlinuz []byte, release string, err error) {
	for _, e := range t.Entries() {
		if r, ok := strings.CutPrefix(e.Path, "boot/vmlinuz-"); ok && e.Kind == tree.File {
			release = r
		}
	}
	if release == "" {
		return nil, "", fmt.Errorf("%w: the kernel package holds no boot/vmlinuz", ErrNotBootable)
	}
	if vmlinuz, err = t.ReadFile("boot/vmlinuz-" + release); err != nil {
		return nil, "", err
	}
	t.Remove("boot")
	if lib := t.Get("lib"); lib != nil && lib.Kind == tree.Dir && t.Get("lib/modules/"+release) != nil {
		// A kernel of before merged /usr: bring the modules to where everyone looks.
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
		if err := t.Lay(moved); err != nil {
			return nil, "", err
		}
	}
	t.Remove("usr/share")
	return vmlinuz, release, nil
}

// merge lays everything else over the installed packages, in order: kernel
// modules, ingot's skeleton, the profile's files, users, units.
func (b *build) merge(root, kernel *tree.Tree) (err error) {
	b.Report("merge", 0, 0, "")
	defer func() {
		if err == nil {
			b.Report("merge", 1, 1, fmt.Sprintf("%d entries", root.Len()))
		}
	}()
	if err := root.RemoveMatching(inspect.Purged...); err != nil {
		return err
	}
	if err := root.Lay(kernel); err != nil {
		return err
	}
	if err := linkModules(root); err != nil {
		return err
	}
	// SquashFS has room for user, trusted and security attributes only; POSIX
	// ACLs (in practice: of /var/log/journal) cannot be kept.
	root.DropXattrs("system.")
	if err := skeleton(root, b.init); err != nil {
		return err
	}
	if err := addUsers(root, b.p.Users); err != nil {
		return err
	}
	if err := b.addFiles(root); err != nil {
		return err
	}
	if err := setUnits(root, b.p.Units); err != nil {
		return err
	}
	return b.checkBootable(root)
}

// skeletonDigest is of the names and contents of the skeleton.
func skeletonDigest() (ingot.Digest, error) {
	var text bytes.Buffer
	err := fs.WalkDir(files.FS, "skel", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files.FS, p)
		fmt.Fprintln(&text, p, ingot.DigestOf(content))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("reading the skeleton: %w", err)
	}
	return ingot.DigestOf(text.Bytes()), nil
}

// skeleton puts in what every root carries: the agent and its unit, and the
// empty places that a boot fills.
func skeleton(root *tree.Tree, init []byte) error {
	err := fs.WalkDir(files.FS, "skel", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files.FS, p)
		if err != nil {
			return err
		}
		return root.PutFile(strings.TrimPrefix(p, "skel/"), 0o644, content)
	})
	if err != nil {
		return fmt.Errorf("laying the skeleton: %w", err)
	}
	if err := root.PutFile(ingot.AgentPath, 0o755, init); err != nil {
		return err
	}
	if err := root.PutLink("etc/systemd/system/multi-user.target.wants/ingot-agent.service",
		"/etc/systemd/system/ingot-agent.service"); err != nil {
		return err
	}
	// As old as everything else in the image: nothing needs an update at boot,
	// which would rebuild hwdb, linker cache and catalogue on every machine
	// (systemd-update-done.service(8)).
	for _, p := range []string{"etc/.updated", "var/.updated"} {
		if err := root.PutFile(p, 0o644, nil); err != nil {
			return err
		}
	}
	return root.PutFile("etc/machine-id", 0o444, nil) // empty: ingot-init writes it, see machine-id(5)
}

func (b *build) addFiles(root *tree.Tree) error {
	for _, f := range b.p.Files {
		if f.Link != "" {
			if err := root.PutLink(f.Path, f.Link); err != nil {
				return fmt.Errorf("adding %s: %w", f.Path, err)
			}
			continue
		}
		content := []byte(f.Content)
		if f.Source != "" {
			var err error
			if content, err = b.Source(f); err != nil {
				return err
			}
			if ingot.DigestOf(content) != b.plan.Sources[f.Path] {
				return fmt.Errorf("adding %s: %w: %s changed since the plan was made; plan again",
					f.Path, source.ErrDigest, f.Source)
			}
		}
		if err := addFile(root, f, content); err != nil {
			return fmt.Errorf("adding %s (%s): %w", f.Path, f.At, err)
		}
	}
	return nil
}

func addFile(root *tree.Tree, f profiles.File, content []byte) error {
	e := tree.Entry{Path: f.Path, Kind: tree.File, Mode: uint32(f.Mode),
		Size: int64(len(content)), Open: tree.Bytes(content)}
	if e.Mode == 0 {
		e.Mode = 0o644
	}
	var err error
	if e.UID, err = ownerID(root, "etc/passwd", f.Owner); err != nil {
		return err
	}
	if e.GID, err = ownerID(root, "etc/group", f.Group); err != nil {
		return err
	}
	if old := root.Get(path.Clean(f.Path)); old != nil && old.Kind == tree.Dir {
		return fmt.Errorf("it is a folder of the installed packages")
	}
	return root.Put(e)
}
