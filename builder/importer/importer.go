// Package importer writes a profile that starts from a container image, a tarball, a folder or the
// root of a running host, and reports what the root lacks to boot and how it differs from Debian's
// packages. It leaves out what source.Excluded lists, and password hashes.
package importer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"ingot"
	"ingot/builder/inspect"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/internal/beneath"
	"ingot/profiles"
)

// ErrExists: the folder that the profile would be written to exists.
var ErrExists = errors.New("it exists already")

// Options say what to import and where the profile goes.
type Options struct {
	Name   string     // of the profile
	Folder string     // that the profile is written to
	Arch   ingot.Arch // which image to take of one for several; empty: amd64
	Kernel profiles.Kernel
	DryRun bool // look and compare, but write nothing

	// Of everything but container images, which are imported as they are:

	Rules   []source.Rule // what to leave out
	Include []string      // paths to keep in spite of the rules
}

// importing is one import.
type importing struct {
	*source.Env
	Options
}

// Result is what an import found and wrote.
type Result struct {
	From         string         `json:"from"`
	Folder       string         `json:"folder,omitempty"` // empty: nothing was written
	Name         string         `json:"name"`
	Arch         ingot.Arch     `json:"arch"`
	Distribution string         `json:"distribution"`
	Packages     int            `json:"packages"` // of dpkg
	Lacks        []string       `json:"lacks,omitempty"`
	Fix          string         `json:"fix,omitempty"` // the command that installs them
	Compared     *Comparison    `json:"compared,omitempty"`
	Mounts       []source.Mount `json:"mounts,omitempty"`    // other filesystems of a host
	Passwords    []string       `json:"passwords,omitempty"` // users whose password hash was left out
	LeftOut      []string       `json:"leftOut,omitempty"`   // paths of a tarball or folder that the rules exclude
	Changed      bool           `json:"changed,omitempty"`   // files changed while they were read
	Bytes        int64          `json:"bytes"`               // of the tree
}

// Image writes a profile that starts from a container image, in a registry or on disk, from a
// tarball or from a folder.
func Image(ctx context.Context, env *source.Env, ref string, options Options) (*Result, error) {
	o := &importing{env, options}
	w, err := o.begin()
	if err != nil {
		return nil, err
	}
	defer w.abandon()
	trees := o.Trees()
	origin, pin, err := o.recognise(ctx, trees, ref)
	if err != nil {
		return nil, err
	}
	err = trees.Fetch(ctx, origin, pin, func(done, total int64) {
		o.Report("fetch", done, max(total, done+1), fmt.Sprintf("%d of %d MiB", done>>20, total>>20))
	})
	if err != nil {
		return nil, err
	}
	o.Report("fetch", 1, 1, "")
	o.Report("unpack", 0, 0, "")
	file := w.scratch + "/tree.tar"
	if err := trees.Unpack(ctx, pin, file); err != nil {
		return nil, err
	}
	root, err := tree.FromTar(ctx, file)
	if err != nil {
		return nil, err
	}
	o.Report("unpack", 1, 1, fmt.Sprintf("%d entries", root.Len()))
	im := &Result{From: ref, Name: o.Name, Arch: o.Arch}
	if origin.Kind != source.KindOCI {
		if im.LeftOut, im.Passwords, err = source.LeaveOut(ctx, root, o.Rules, o.Include); err != nil {
			return nil, err
		}
	}
	if err := o.describe(ctx, im, root); err != nil {
		return nil, err
	}
	if o.DryRun {
		return im, nil
	}
	base := profiles.Base{}
	switch {
	case origin.Kind == source.KindOCI && !origin.Local:
		base.OCI = ref
	case origin.Kind == source.KindOCI:
		base.OCI, err = "./image", writeLayout(ctx, trees, pin, filepath.Join(w.dir, "image"))
	default:
		base.Tar, err = "./root.tar.zst", w.writeTree(ctx, root, pin.Created)
	}
	if err != nil {
		return nil, err
	}
	return im, w.finish(im, base, root)
}

// recognise finds out what kind of tree a reference names, and pins it.
func (o *importing) recognise(ctx context.Context, trees *source.Trees, ref string) (source.Origin, source.Pin, error) {
	o.Report("look", 0, 0, ref)
	origin := source.Origin{Kind: source.KindOCI, Ref: ref, Arch: string(o.Arch), KeepOwners: true}
	file, name, _ := strings.Cut(ref, "#")
	st, err := os.Stat(file)
	if err == nil {
		origin.Local, origin.Path, origin.Image = true, beneath.Path{Name: file}, name
	} else if strings.HasPrefix(ref, ".") || filepath.IsAbs(ref) {
		return origin, source.Pin{}, fmt.Errorf("importing %s: %w", ref, err)
	}
	pin, err := trees.Pin(ctx, origin)
	if errors.Is(err, source.ErrNoImage) && origin.Local && file == ref {
		origin.Kind = source.KindTar
		if st.IsDir() {
			origin.Kind = source.KindDir
		}
		pin, err = trees.Pin(ctx, origin)
	}
	if err != nil {
		return origin, pin, err
	}
	if origin.Kind == source.KindOCI && len(o.Include) > 0 {
		return origin, pin, fmt.Errorf("importing %s: a container image is imported as it is; leave out --include", ref)
	}
	o.Report("look", 1, 1, fmt.Sprintf("%s %s", origin.Kind, pin.Digest.Short()))
	return origin, pin, nil
}

// Host writes a profile that starts from the root of a running host.
func Host(ctx context.Context, env *source.Env, h source.Host, options Options) (*Result, error) {
	o := &importing{env, options}
	w, err := o.begin()
	if err != nil {
		return nil, err
	}
	defer w.abandon()
	o.Report("look", 0, 0, h.String())
	facts, err := h.Look(ctx)
	if err != nil {
		return nil, err
	}
	o.Report("look", 1, 1, inspect.OSRelease(facts.OSRelease, "PRETTY_NAME"))
	im := &Result{From: h.String(), Name: o.Name, Arch: archOf(facts), Distribution: inspect.OSRelease(facts.OSRelease,
		"PRETTY_NAME"), Mounts: facts.Mounts}
	if im.Arch == "" {
		return nil, fmt.Errorf("importing %s: %w: it is a %s; ingot builds for amd64 and arm64", h, source.ErrArch,
			facts.Machine)
	}
	if o.DryRun {
		return im, o.compare(ctx, im, facts.OSRelease, facts.Status, facts.Extended, nil)
	}
	spool, err := os.Create(w.scratch + "/spool")
	if err != nil {
		return nil, fmt.Errorf("importing %s: %w", h, err)
	}
	defer spool.Close()
	c, err := h.Capture(ctx, facts, source.CaptureOptions{Rules: o.Rules, Include: o.Include,
		Spool: spool, Progress: func(n int64) {
			o.Report("capture", n, max(facts.Used, n+1), fmt.Sprintf("%d MiB", n>>20))
		}})
	if err != nil {
		return nil, err
	}
	o.Report("capture", 1, 1, "")
	im.Passwords, im.Changed = c.Passwords, c.Changed
	if err := o.describe(ctx, im, c.Tree); err != nil {
		return nil, err
	}
	if err := w.writeTree(ctx, c.Tree, c.Newest); err != nil {
		return nil, err
	}
	return im, w.finish(im, profiles.Base{Tar: "./root.tar.zst"}, c.Tree)
}

// archOf is a host's architecture by its packages, or by its kernel.
func archOf(f source.HostFacts) ingot.Arch {
	if in := takeInventory(inspect.ParseStatus(f.Status)); in.arch == string(ingot.AMD64) ||
		in.arch == string(ingot.ARM64) {
		return ingot.Arch(in.arch)
	}
	return map[string]ingot.Arch{"x86_64": ingot.AMD64, "aarch64": ingot.ARM64}[f.Machine]
}

// describe says what a root is, and what it lacks.
func (o *importing) describe(ctx context.Context, im *Result, root *tree.Tree) error {
	for _, e := range root.Entries() {
		im.Bytes += e.Size
	}
	missing := inspect.Missing(root)
	im.Lacks, im.Fix = missing.Parts, missing.Fix
	text := func(p string) string { b, _ := root.ReadFile(p); return string(b) }
	release := text("etc/os-release")
	im.Distribution = inspect.OSRelease(release, "PRETTY_NAME")
	return o.compare(ctx, im, release, text("var/lib/dpkg/status"), text("var/lib/apt/extended_states"), root)
}

// compare compares a Debian root with the shipped debian profile and its
// packages. When the mirror is away, only files are compared.
func (o *importing) compare(ctx context.Context, im *Result, release, status, extended string, root *tree.Tree) error {
	if status == "" {
		return nil
	}
	have := takeInventory(inspect.ParseStatus(status))
	im.Packages = len(have.versions)
	c := &Comparison{}
	if suite := inspect.OSRelease(release, "VERSION_CODENAME"); inspect.OSRelease(release, "ID") == "debian" &&
		suite != "" {
		base, err := o.basePackages(ctx, suite, im.Arch)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			o.Logger().Warn("packages are not compared with the Debian base", "suite", suite, "err", err)
		} else {
			c.Suite = suite
			c.comparePackages(have, autoInstalled(extended), base)
		}
	}
	if root != nil {
		o.Report("compare", 0, 0, "")
		if err := c.compareFiles(ctx, root, have); err != nil {
			return err
		}
		o.Report("compare", 1, 1, fmt.Sprintf("%d packages", len(have.versions)))
	}
	im.Compared = c
	return nil
}

// basePackages are the packages that the shipped debian profile would have of
// a suite.
func (o *importing) basePackages(ctx context.Context, suite string, arch ingot.Arch) (map[string]string, error) {
	p, err := profiles.Load("lab") // debian and a kernel
	if err != nil {
		return nil, err
	}
	apt, err := o.Apt(ctx, suite, string(arch), p.Base.Components)
	if err != nil {
		return nil, err
	}
	defer apt.Close()
	list, err := apt.Resolve(ctx, p.Packages, false, source.Cache{})
	if err != nil {
		return nil, err
	}
	versions := map[string]string{}
	for _, p := range list {
		versions[p.Name] = p.Version
	}
	return versions, nil
}
