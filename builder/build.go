package builder

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot"
	"ingot/builder/accounts"
	"ingot/builder/initramfs"
	"ingot/builder/secrets"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/image"
	"ingot/internal/scratch"
	"ingot/profiles"
)

// runningSystem is the memory in bytes that kernel, systemd and the usual daemons need besides root
// and overlay: measured in the lab when a boot was healthy, rounded up.
const runningSystem = 256 << 20

// BuildOptions are what Build needs besides the plan.
type BuildOptions struct {
	Store   *image.Store
	Version string // of the image
	Keys    image.Keys
	Init    string // path of the ingot-init binary; the plan pins its digest
	// Check runs the package scripts a second time and refuses what differs.
	Check bool
	// Random, if set, gets each path that differs, and nothing is refused for it.
	Random func(RandomPath)
	// Earlier is the CacheDir of earlier builds; empty: that of Env. Results of second runs of package
	// scripts are kept there.
	Earlier string
	// Source reads a file that the profile takes from its folder; nil reads it from there.
	Source func(profiles.File) ([]byte, error)
}

// build is one run of Build.
type build struct {
	*Env
	BuildOptions
	plan   *Plan
	p      *profiles.Profile
	cache  source.Cache
	layers layerCache
	runs   layerCache // what second runs of the package scripts made differently
	work   string
	init   []byte
	epoch  time.Time
	// accounts are those of the plan and, once the root is made, those that the plan did not have.
	accounts accounts.List

	removed []secrets.Removed // from the base
	random  []string          // paths that differ between two runs of the package scripts
}

// Build makes the image of a plan and puts it into the store. When it fails or is interrupted, the
// store is unchanged and scratch folders are removed. Those of a build that was killed are removed
// by the next build.
func Build(ctx context.Context, env *Env, plan *Plan, o BuildOptions) (image.Image, error) {
	if _, err := o.Store.Clean(ctx); err != nil {
		return image.Image{}, err
	}
	b, done, err := newBuild(env, plan, o)
	if err != nil {
		return image.Image{}, err
	}
	defer done()
	m, files, err := b.make(ctx)
	if err != nil {
		return image.Image{}, err
	}
	b.Report("store", 0, 0, "")
	im, err := b.Store.Put(ctx, m, files, b.Keys.Release.Secret)
	if err != nil {
		return image.Image{}, err
	}
	b.Report("store", 1, 1, im.Digest.Short())
	return im, nil
}

// newBuild prepares a build; done removes its scratch folder.
func newBuild(env *Env, plan *Plan, o BuildOptions) (b *build, done func(), err error) {
	if err := source.NeedTools("xz", "tar", "depmod"); err != nil {
		return nil, nil, err
	}
	b = prepare(env, plan, o)
	if b.init, err = os.ReadFile(o.Init); err != nil {
		return nil, nil, fmt.Errorf("reading ingot-init: %w", err)
	}
	if ingot.DigestOf(b.init) != plan.Init {
		return nil, nil, fmt.Errorf("reading ingot-init: %w; run: ingot plan", source.ErrDigest)
	}
	if have, err := skeletonDigest(); err != nil || have != plan.Skeleton {
		return nil, nil, errors.Join(fmt.Errorf("reading the plan: this ingot has other built-in files than the one that "+
			"made it: %w", ErrOtherIngot), err)
	}
	work, err := scratch.New("ingot-build-")
	if err != nil {
		return nil, nil, err
	}
	b.work = work.Path
	release, err := b.layers.hold()
	if err != nil {
		work.Remove()
		return nil, nil, err
	}
	return b, func() { release(); work.Remove() }, nil
}

// prepare fills in the defaults.
func prepare(env *Env, plan *Plan, o BuildOptions) *build {
	if o.Source == nil {
		o.Source = func(f profiles.File) ([]byte, error) { return readSource(plan.Profile, f) }
	}
	b := &build{Env: env, BuildOptions: o, plan: plan, p: plan.Profile, cache: env.PackageCache(),
		accounts: plan.Accounts}
	b.layers = b.layersOf(env.CacheDir, "layers")
	b.runs = b.layersOf(cmp.Or(o.Earlier, env.CacheDir), "runs")
	return b
}

// layersOf returns a cache in a folder of caches.
func (b *build) layersOf(dir, name string) layerCache {
	return layerCache{dir: filepath.Join(dir, name), warn: func(what string) { b.Logger().Warn(what) }}
}

// Fetch downloads every package and tree of a plan into the cache, so that a build needs no mirror
// and no registry.
func Fetch(ctx context.Context, env *Env, plan *Plan) error {
	return prepare(env, plan, BuildOptions{}).fetch(ctx)
}

// fetch downloads what is missing and sets the epoch: the time of the newest input.
func (b *build) fetch(ctx context.Context) error {
	all := append([]source.Package{b.plan.Kernel}, b.plan.Packages...)
	every := append(slices.Clone(all), b.plan.Stub)
	b.Report("fetch", 0, 0, "")
	damaged, err := b.cache.RemoveDamaged(ctx, every)
	if err != nil {
		return fmt.Errorf("checking the package cache: %w", err)
	}
	for _, p := range damaged {
		b.Logger().Warn("a package in the cache is damaged; fetching it again", "package", p.Name)
	}
	if missing := b.cache.Missing(every); len(missing) > 0 {
		if b.Offline {
			return fmt.Errorf("fetching packages: %w: %d are not in the cache, for example %s %s; leave out --offline",
				source.ErrOffline, len(missing), missing[0].Name, missing[0].Version)
		}
		mirrors, err := b.Mirrors()
		if err != nil {
			return err
		}
		mirrors.Repositories = map[string]string{}
		for _, r := range b.p.Archives() {
			mirrors.Repositories[r.Name] = strings.TrimRight(r.URIs[0], "/")
		}
		err = b.cache.Fetch(ctx, mirrors, missing, func(done, total int64) {
			b.Report("fetch", done, max(total, done+1), fmt.Sprintf("%d of %d MiB", done>>20, total>>20))
		})
		if err != nil {
			return err
		}
	}
	b.Report("fetch", 1, 1, "")
	newest, err := b.fetchTrees(ctx)
	if err != nil {
		return err
	}
	if b.epoch, err = b.cache.Epoch(all); err == nil && b.epoch.Unix() < newest {
		b.epoch = time.Unix(newest, 0).UTC()
	}
	return err
}

// make makes all artifacts. The root, and what is made of the kernel alone, are made at the same
// time: the kernel waits until the packages are unpacked, the root waits for the kernel's modules, and the
// initramfs for the root, of which it takes firmware.
func (b *build) make(ctx context.Context) (*ingot.ImageManifest, image.Files, error) {
	files := image.Files{Kernel: b.at("kernel"), Root: b.at("root.squashfs"), Plan: b.at("plan.json")}
	if err := b.fetch(ctx); err != nil {
		return nil, files, err
	}
	var root *tree.Tree
	var k kernel
	unpacked, modules, merged := make(chan struct{}), make(chan struct{}), make(chan struct{})
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if root, err = b.rootTree(gctx, sync.OnceFunc(func() { close(unpacked) })); err != nil {
			return err
		}
		if err := await(gctx, modules); err != nil {
			return err
		}
		if err := b.merge(gctx, root, k.tree); err != nil {
			return err
		}
		close(merged)
		files.Chunks, err = b.packRoot(gctx, root, files.Root)
		return err
	})
	g.Go(func() (err error) {
		if err := await(gctx, unpacked); err != nil {
			return err
		}
		if k, err = b.makeKernel(gctx, files.Kernel); err != nil {
			return err
		}
		close(modules)
		wanted, err := b.wantedFirmware(gctx, k)
		if err != nil {
			return err
		}
		if err := await(gctx, merged); err != nil {
			return err
		}
		files.Initramfs, err = b.packInitramfs(gctx, k, root, wanted)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, files, err
	}
	return b.finish(ctx, root, k, files)
}

// await waits for a channel to close.
func await(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// finish writes the plan and the manifest and seals the image.
func (b *build) finish(ctx context.Context, root *tree.Tree, k kernel,
	files image.Files) (*ingot.ImageManifest, image.Files, error) {
	if b.plan.Accounts != nil {
		completed := *b.plan
		completed.Accounts = b.accounts
		b.plan = &completed
	}
	text, err := b.plan.Canonical()
	if err != nil {
		return nil, files, err
	}
	if err := os.WriteFile(files.Plan, text, 0o644); err != nil {
		return nil, files, fmt.Errorf("writing the plan: %w", err)
	}
	m := b.manifest(root, k.release)
	if b.plan.Accounts != nil {
		if m.Users, m.Groups, err = accountsOf(root); err != nil {
			return nil, files, err
		}
	}
	if err := b.seal(ctx, root, k.vmlinuz, m, &files); err != nil {
		return nil, files, err
	}
	return m, files, checkBudget(m, files)
}

func (b *build) at(name string) string { return filepath.Join(b.work, name) }

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// packInitramfs packs the initramfs, or takes it from the cache when an earlier build had the same
// inputs.
func (b *build) packInitramfs(ctx context.Context, k kernel, root *tree.Tree, wanted []initramfs.Wanted) (string,
	error) {
	b.Report("initramfs", 0, 0, "")
	o := initramfs.Options{
		Init: b.init, Modules: k.tree, Release: k.release, Select: b.p.Kernel.Modules, Epoch: b.epoch,
		Small: b.p.Compression == profiles.CompressSmall, Blacklist: b.p.Kernel.Blacklist,
		Files: map[string][]byte{
			ingot.KeyDir + "/release.pub": b.Keys.Release.Public.Text(),
			ingot.KeyDir + "/server.pub":  b.Keys.Server.Public.Text(),
		},
	}
	key := sha256.New()
	fmt.Fprintln(key, initramfs.Format, b.plan.Init, b.kernelKey(), k.release, o.Select,
		o.Small, b.epoch.Unix(), b.plan.Keys)
	if len(o.Blacklist) > 0 {
		fmt.Fprintln(key, "blacklist", o.Blacklist)
	}
	if b.p.PermitsShell() {
		shell, err := b.shell(ctx)
		if err != nil {
			return "", err
		}
		o.Programs = map[string][]byte{ingot.ShellPath: shell}
		fmt.Fprintln(key, "shell", ingot.DigestOf(shell))
	}
	missing, err := b.addOfRoot(&o, root, wanted, key)
	if err != nil {
		return "", err
	}
	path, kept, err := b.layers.get(ctx, fmt.Sprintf("initramfs-%x", key.Sum(nil)), func(fresh string) error {
		f, err := os.Create(fresh)
		if err != nil {
			return fmt.Errorf("packing the initramfs: %w", err)
		}
		defer f.Close()
		if _, err := initramfs.Write(f, o); err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("packing the initramfs: %w", err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	b.warnOfFirmware(wanted, missing)
	detail := sizeOf(path)
	if kept {
		detail += ", unchanged, from the cache"
	}
	b.Report("initramfs", 1, 1, detail)
	return path, nil
}

func sizeOf(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%.1f MiB", float64(st.Size())/(1<<20))
}

// manifest describes the image. The store fills in digests and sizes.
func (b *build) manifest(root *tree.Tree, release string) *ingot.ImageManifest {
	p := b.p
	m := &ingot.ImageManifest{
		Schema: 1, Profile: p.Name, Version: b.Version, Arch: p.Arch, Plan: b.plan.Digest(), Created: b.epoch,
		KernelRelease: release, Arguments: p.Kernel.Arguments, Packages: len(b.plan.Packages), Hostname: p.Hostname,
		Overlay: int64(p.RAM.Overlay), MinRAM: int64(p.RAM.Budget), Deadline: time.Duration(p.Deadline),
	}
	m.Features = b.features()
	for _, e := range root.Entries() {
		m.Unpacked += e.Size
	}
	for _, v := range p.Volumes {
		m.Volumes = append(m.Volumes, ingot.Volume{Name: v.Name, Label: v.Label, Serial: v.Serial, Filesystem: v.Filesystem,
			Mount: v.Mount, Options: v.Options, Optional: v.Optional, Identity: v.Identity})
	}
	m.Scratch = scratchFolders(p, root)
	for _, c := range p.Checks {
		m.Checks = append(m.Checks, ingot.Check{Name: c.Name, Units: c.Units, TCP: c.TCP, HTTP: c.HTTP, Command: c.Command,
			Timeout: time.Duration(c.Timeout), Within: time.Duration(c.Within)})
	}
	for _, h := range p.Drain {
		m.Drain = append(m.Drain, ingot.Hook{Name: h.Name, Command: h.Command, Within: time.Duration(h.Within)})
	}
	return m
}

// features returns what the image can do. What its ingot-init can do is text in that program.
func (b *build) features() (list []ingot.Feature) {
	for _, f := range []struct {
		mark    string
		feature ingot.Feature
		is      bool
	}{
		{ingot.MarkAuthenticated, ingot.FeatureAuthenticated, true},
		{ingot.MarkSuccessors, ingot.FeatureSuccessors, true},
		{ingot.MarkArguments, ingot.FeatureArguments, true},
		{ingot.MarkShell, ingot.FeatureShell, b.p.PermitsShell()},
		{ingot.MarkOrders, ingot.FeatureOrders, true},
	} {
		if f.is && bytes.Contains(b.init, []byte(f.mark)) {
			list = append(list, f.feature)
		}
	}
	return list
}

// checkBudget compares the memory that the image needs with what the profile allows.
func checkBudget(m *ingot.ImageManifest, f image.Files) error {
	if m.MinRAM == 0 {
		return nil
	}
	st, err := os.Stat(f.Root)
	if err != nil {
		return fmt.Errorf("measuring the root: %w", err)
	}
	overlay := m.Overlay
	if overlay == 0 {
		overlay = m.MinRAM / 4
	}
	if need := st.Size() + overlay + runningSystem; need > m.MinRAM {
		return fmt.Errorf("%w: root %d MiB + overlay %d MiB + running system %d MiB = %d MiB, the budget is %d MiB; "+
			"remove packages, lower ram.overlay or raise ram.budget",
			ErrTooBig, st.Size()>>20, overlay>>20, int64(runningSystem)>>20, need>>20, m.MinRAM>>20)
	}
	return nil
}
