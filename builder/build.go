package builder

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ingot"
	"ingot/builder/initramfs"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/image"
	"ingot/internal/scratch"
	"ingot/profiles"
)

// ErrTooBig: the image does not fit into the memory that its profile allows.
var ErrTooBig = errors.New("the image does not fit its RAM budget")

// runningSystem is the memory in bytes that kernel, systemd and the usual
// daemons take besides root and overlay: measured at "healthy" in the lab,
// rounded up.
const runningSystem = 256 << 20

// BuildOptions are the surroundings of Build.
type BuildOptions struct {
	Store    *image.Store
	Keys     image.Keys
	CacheDir string
	Mirror   string
	Init     string       // path of the ingot-init binary; must be the one that was planned
	Log      *slog.Logger // nil is quiet
	Progress func(Event)  // nil is quiet
}

// build is one run of Build.
type build struct {
	BuildOptions
	plan  *Plan
	p     *profiles.Profile
	cache source.Cache
	work  string
	init  []byte
	epoch time.Time
}

func (b *build) tell(step string, done, total int64, detail string) {
	if b.Progress != nil {
		b.Progress(Event{step, done, total, detail})
	}
}

// Build makes the image of a plan and puts it into the store. When it fails or
// is interrupted, the store is as it was, and scratch folders are removed; the
// ones of builds that were killed are removed by the next build.
func Build(ctx context.Context, plan *Plan, p *profiles.Profile, o BuildOptions) (image.Image, error) {
	if err := source.NeedTools("mmdebstrap", "dpkg-deb", "tar", "depmod"); err != nil {
		return image.Image{}, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := o.Store.Clean(ctx); err != nil {
		return image.Image{}, err
	}
	work, err := scratch.New("ingot-build-")
	if err != nil {
		return image.Image{}, err
	}
	defer work.Remove()
	b := &build{BuildOptions: o, plan: plan, p: p, work: work.Path, cache: source.Cache{Dir: filepath.Join(o.CacheDir, "debs")}}
	if b.init, err = os.ReadFile(o.Init); err != nil {
		return image.Image{}, fmt.Errorf("reading ingot-init: %w", err)
	}
	if ingot.DigestOf(b.init) != plan.Init {
		return image.Image{}, fmt.Errorf("reading ingot-init: %w; plan again", source.ErrDigest)
	}
	if err := b.fetch(ctx); err != nil {
		return image.Image{}, err
	}
	return b.assemble(ctx)
}

// fetch gets every package and learns the epoch from them.
func (b *build) fetch(ctx context.Context) error {
	mirrors, err := source.HostMirrors("/etc/apt", b.Mirror)
	if err != nil {
		return err
	}
	all := append([]source.Package{b.plan.Kernel}, b.plan.Packages...)
	b.tell("fetch", 0, 0, "")
	err = b.cache.Fetch(ctx, mirrors, all, func(done, total int64) {
		b.tell("fetch", done, max(total, done+1), fmt.Sprintf("%d of %d MiB", done>>20, total>>20))
	})
	if err != nil {
		return err
	}
	b.tell("fetch", 1, 1, "")
	b.epoch, err = b.cache.Epoch(all)
	return err
}

// assemble goes from packages to the stored image, step by step.
func (b *build) assemble(ctx context.Context) (image.Image, error) {
	root, err := b.baseTree(ctx)
	if err != nil {
		return image.Image{}, err
	}
	kernel, err := b.kernelTree(ctx)
	if err != nil {
		return image.Image{}, err
	}
	b.tell("merge", 0, 0, "")
	vmlinuz, release, err := takeKernel(kernel)
	if err != nil {
		return image.Image{}, err
	}
	if err := b.layers(root, kernel); err != nil {
		return image.Image{}, err
	}
	b.tell("merge", 1, 1, fmt.Sprintf("%d entries", root.Len()))
	files := image.Files{Kernel: b.at("kernel"), Initramfs: b.at("initramfs"), Root: b.at("root.squashfs"), Plan: b.at("plan.json")}
	if err := os.WriteFile(files.Kernel, vmlinuz, 0o644); err != nil {
		return image.Image{}, fmt.Errorf("writing the kernel: %w", err)
	}
	if files.Chunks, err = b.packRoot(ctx, root, files.Root); err != nil {
		return image.Image{}, err
	}
	if err := b.packInitramfs(kernel, release, files.Initramfs); err != nil {
		return image.Image{}, err
	}
	text, err := b.plan.Canonical()
	if err != nil {
		return image.Image{}, err
	}
	if err := os.WriteFile(files.Plan, text, 0o644); err != nil {
		return image.Image{}, fmt.Errorf("writing the plan: %w", err)
	}
	m := b.manifest(root, release)
	if err := checkBudget(m, files); err != nil {
		return image.Image{}, err
	}
	b.tell("store", 0, 0, "")
	im, err := b.Store.Put(ctx, m, files, b.Keys.Release.Secret)
	if err != nil {
		return image.Image{}, err
	}
	b.tell("store", 1, 1, im.Digest.Short())
	return im, nil
}

func (b *build) at(name string) string { return filepath.Join(b.work, name) }

// baseTree installs the packages, or takes the result of an earlier build of
// the very same packages.
func (b *build) baseTree(ctx context.Context) (*tree.Tree, error) {
	key := sha256.New()
	fmt.Fprintln(key, source.InstallKey(), b.plan.Profile.Base.Suite, b.plan.Profile.Arch, b.epoch.Unix())
	for _, p := range b.plan.Packages {
		fmt.Fprintln(key, p.SHA256)
	}
	dir := filepath.Join(b.CacheDir, "layers")
	tar := filepath.Join(dir, fmt.Sprintf("%x.tar", key.Sum(nil)))
	b.tell("install", 0, 0, "")
	if _, err := os.Stat(tar); err != nil {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("preparing the layer cache: %w", err)
		}
		fresh := b.at("base.tar")
		err := source.Install(ctx, b.cache, b.plan.Packages, fresh, source.InstallOptions{
			Suite: b.plan.Profile.Base.Suite, Arch: string(b.plan.Profile.Arch), Epoch: b.epoch, Work: b.work,
			Progress: func(line string) { b.tell("install", 0, 0, clip(line)) },
		})
		if err != nil {
			return nil, fmt.Errorf("installing packages: %w", err)
		}
		if err := keep(fresh, tar); err != nil {
			return nil, fmt.Errorf("keeping the installed packages: %w", err)
		}
		pruneLayers(dir, tar)
		b.tell("install", 1, 1, fmt.Sprintf("%d packages", len(b.plan.Packages)))
	} else {
		now := time.Now()
		_ = os.Chtimes(tar, now, now) // recently used; the age only decides what is pruned
		b.tell("install", 1, 1, "unchanged, from the cache")
	}
	return tree.FromTar(ctx, tar)
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// keep moves a finished file to its name in the cache, synced, across file
// systems when it must.
func keep(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp, err := os.CreateTemp(filepath.Dir(to), ".incoming-")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := io.Copy(tmp, in); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), to); err != nil {
		return err
	}
	return os.Remove(from)
}

func (b *build) packInitramfs(kernel *tree.Tree, release, out string) error {
	b.tell("initramfs", 0, 0, "")
	f, err := os.Create(out)
	if err != nil {
		return fmt.Errorf("packing the initramfs: %w", err)
	}
	defer f.Close()
	info, err := initramfs.Write(f, initramfs.Options{
		Init: b.init, Modules: kernel, Release: release, Select: b.p.Kernel.Modules, Epoch: b.epoch,
		Files: map[string][]byte{
			ingot.KeyDir + "/release.pub": b.Keys.Release.Public.Text(),
			ingot.KeyDir + "/server.pub":  b.Keys.Server.Public.Text(),
		},
	})
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("packing the initramfs: %w", err)
	}
	b.tell("initramfs", 1, 1, fmt.Sprintf("%s, %d modules", sizeOf(out), info.Modules))
	return nil
}

func sizeOf(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%.1f MiB", float64(st.Size())/(1<<20))
}

// manifest says what the image is; digests and sizes are filled in by the store.
func (b *build) manifest(root *tree.Tree, release string) *ingot.ImageManifest {
	p := b.p
	m := &ingot.ImageManifest{
		Schema: 1, Profile: p.Name, Version: b.plan.Version, Arch: p.Arch, Plan: b.plan.Digest(), Created: b.epoch,
		KernelRelease: release, Arguments: p.Kernel.Arguments, Packages: len(b.plan.Packages), Hostname: p.Hostname,
		Overlay: int64(p.RAM.Overlay), MinRAM: int64(p.RAM.Budget), Deadline: time.Duration(p.Deadline),
	}
	for _, e := range root.Entries() {
		m.Unpacked += e.Size
	}
	for _, v := range p.Volumes {
		m.Volumes = append(m.Volumes, ingot.Volume{Name: v.Name, Label: v.Label, Serial: v.Serial, Filesystem: v.Filesystem,
			Mount: v.Mount, Options: v.Options, Optional: v.Optional, Identity: v.Identity})
	}
	for _, c := range p.Checks {
		m.Checks = append(m.Checks, ingot.Check{Name: c.Name, Units: c.Units, TCP: c.TCP, HTTP: c.HTTP, Command: c.Command,
			Timeout: time.Duration(c.Timeout), Within: time.Duration(c.Within)})
	}
	return m
}

// checkBudget compares what the image will take with what the profile allows.
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
		return fmt.Errorf("%w: root %d MiB + overlay %d MiB + running system %d MiB = %d MiB, the budget is %d MiB; remove packages, lower ram.overlay or raise ram.budget",
			ErrTooBig, st.Size()>>20, overlay>>20, int64(runningSystem)>>20, need>>20, m.MinRAM>>20)
	}
	return nil
}

// keptLayers is the number of installed package sets that the cache keeps.
const keptLayers = 6

// pruneLayers removes the layers that were used longest ago, and what killed
// builds left half-written a day ago.
func pruneLayers(dir, current string) {
	type aged struct {
		path string
		when time.Time
	}
	var layers []aged
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	hidden, _ := filepath.Glob(filepath.Join(dir, ".incoming-*"))
	for _, f := range append(files, hidden...) {
		st, err := os.Stat(f)
		if err != nil || f == current {
			continue
		}
		if strings.HasPrefix(filepath.Base(f), ".incoming-") {
			if time.Since(st.ModTime()) > 24*time.Hour {
				os.Remove(f)
			}
			continue
		}
		layers = append(layers, aged{f, st.ModTime()})
	}
	for len(layers) >= keptLayers {
		oldest := 0
		for i := range layers {
			if layers[i].when.Before(layers[oldest].when) {
				oldest = i
			}
		}
		os.Remove(layers[oldest].path)
		layers = append(layers[:oldest], layers[oldest+1:]...)
	}
}
