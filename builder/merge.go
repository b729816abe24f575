package builder

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"ingot"
	"ingot/builder/inspect"
	"ingot/builder/secrets"
	"ingot/builder/setup"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/profiles"
	"ingot/rootfs/files"
)

// merge adds everything else to the installed packages, in order: kernel modules, ingot's own
// files, the profile's users, files and units.
func (b *build) merge(ctx context.Context, root, kernel *tree.Tree) (err error) {
	b.Report("merge", 0, 0, "")
	defer func() {
		if err == nil {
			b.Report("merge", 1, 1, fmt.Sprintf("%d entries", root.Len()))
		}
	}()
	if err := root.RemoveMatching(inspect.Purged...); err != nil {
		return err
	}
	if err := root.Merge(kernel); err != nil {
		return err
	}
	if err := linkModules(root); err != nil {
		return err
	}
	// SquashFS has room for user, trusted and security attributes only; POSIX
	// ACLs (in practice: of /var/log/journal) cannot be kept.
	root.DropXattrs("system.")
	if err := setup.Remove(root, b.p); err != nil {
		return err
	}
	if err := skeleton(root, b.init); err != nil {
		return err
	}
	if err := setup.Apply(root, b.p, modulesFolder(kernel)); err != nil {
		return err
	}
	if err := b.runScripts(ctx, root, "configure", b.p.Scripts.Configure); err != nil {
		return err
	}
	if b.accounts, err = addUsers(root, b.p.Users, b.p.Groups, b.accounts); err != nil {
		return err
	}
	if err := b.addFiles(root); err != nil {
		return err
	}
	if err := b.addUnits(root); err != nil {
		return err
	}
	if err := b.runScripts(ctx, root, "finish", b.p.Scripts.Finish); err != nil {
		return err
	}
	if err := b.checkSources(root); err != nil {
		return err
	}
	if err := b.checkMounts(root); err != nil {
		return err
	}
	if err := b.checkSecrets(root); err != nil {
		return err
	}
	return b.checkBootable(root)
}

// leftovers are what scripts may leave, and no image has.
var leftovers = []string{"tmp/*", "run/*", "var/tmp/*", "dev/*"}

// runScripts runs scripts of the profile in the root, which becomes what they leave.
func (b *build) runScripts(ctx context.Context, root *tree.Tree, when string, scripts []profiles.Script) error {
	if len(scripts) == 0 {
		return nil
	}
	b.Report("scripts", 0, 0, when)
	var list []source.Script
	for _, s := range scripts {
		one := source.Script{Name: s.Name, Text: s.Run}
		for _, name := range slices.Sorted(maps.Keys(s.Env)) {
			one.Env = append(one.Env, name+"="+s.Env[name])
		}
		list = append(list, one)
	}
	work, err := os.MkdirTemp(b.work, "scripts-")
	if err != nil {
		return err
	}
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	out := b.at("scripts-" + when + ".tar") // the tree reads it until the image is packed
	err = source.RunScripts(ctx, root, list, out, source.InstallOptions{Arch: string(b.p.Arch), Epoch: b.epoch, Work: work,
		Progress: func(line string) { b.Report("scripts", 0, 0, clip(line)) }})
	if err != nil {
		return fmt.Errorf("running scripts: %s: %w", when, err)
	}
	next, err := tree.FromTar(ctx, out)
	if err != nil {
		return fmt.Errorf("reading what scripts made: %w", err)
	}
	if err := next.RemoveMatching(leftovers...); err != nil {
		return err
	}
	next.DropXattrs("system.")
	*root = *next
	b.Report("scripts", 1, 1, fmt.Sprintf("%d of %s", len(scripts), when))
	return nil
}

// checkSources checks that scripts left the files of the profile's folder alone: verification takes them
// from the image.
func (b *build) checkSources(root *tree.Tree) error {
	if len(b.p.Scripts.Finish) == 0 {
		return nil
	}
	for _, f := range b.p.Files {
		if f.Source == "" {
			continue
		}
		content, err := root.ReadFile(f.Path)
		if err != nil || ingot.DigestOf(content) != b.plan.Sources[f.Path] {
			return at(f.At, fmt.Errorf("%w: it changed or removed %s, which is from the profile's folder, and an image keeps "+
				"such files so that it can be verified; write its content into the profile, or let the script work on a copy",
				source.ErrProfileScript, f.Path))
		}
	}
	return nil
}

// addUnits enables, disables, masks and completes units.
func (b *build) addUnits(root *tree.Tree) error {
	unknown, err := setup.DropIns(root, b.p)
	if err != nil {
		return err
	}
	for _, name := range unknown {
		b.Logger().Warn("the root has no unit of a drop-in; it counts if something makes the unit at boot", "unit", name)
	}
	return setUnits(root, b.p.Units, b.p.Origin)
}

// modulesFolder returns the folder of the modules of a kernel's tree; empty: it has none.
func modulesFolder(kernel *tree.Tree) string {
	for _, e := range kernel.Entries() {
		if path.Base(e.Path) == "modules.dep" {
			return path.Dir(e.Path)
		}
	}
	return ""
}

// skeletonDigest is the digest of the names and contents of the files that ingot puts into every
// root, and of those that it may put in place of secrets.
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
		return "", fmt.Errorf("reading ingot's own files: %w", err)
	}
	fmt.Fprintln(&text, secrets.Digest())
	return ingot.DigestOf(text.Bytes()), nil
}

// skeleton adds what every root has: the agent and its unit, and the empty files that a boot fills.
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
		return fmt.Errorf("adding ingot's own files: %w", err)
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
		if f.Link != "" || f.Directory {
			if err := addOther(root, f); err != nil {
				return fmt.Errorf("adding %s (%s): %w", f.Path, f.At, err)
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
				return fmt.Errorf("adding %s: %w: %s changed since the plan was made; run: ingot plan",
					f.Path, source.ErrDigest, f.Source)
			}
		}
		if err := addFile(root, f, content); err != nil {
			return fmt.Errorf("adding %s (%s): %w", f.Path, f.At, err)
		}
	}
	return nil
}

// addOther adds a link, or a folder. A folder that is there keeps what the profile does not say.
func addOther(root *tree.Tree, f profiles.File) (err error) {
	if f.Link != "" {
		return addExplicit(root, tree.Entry{Path: f.Path, Kind: tree.Symlink, Mode: 0o777, Target: f.Link})
	}
	e := tree.Entry{Path: f.Path, Kind: tree.Dir, Mode: 0o755}
	if old := root.Find(f.Path); old != nil && old.Kind == tree.Dir {
		e = *old
	}
	if f.Mode != 0 {
		e.Mode = uint32(f.Mode)
	}
	if f.Owner != "" {
		if e.UID, err = ownerID(root, "etc/passwd", f.Owner); err != nil {
			return err
		}
	}
	if f.Group != "" {
		if e.GID, err = ownerID(root, "etc/group", f.Group); err != nil {
			return err
		}
	}
	return addExplicit(root, e)
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
	return addExplicit(root, e)
}
