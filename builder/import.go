package builder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"ingot"
	"ingot/builder/inspect"
	"ingot/builder/source"
	"ingot/builder/tree"
	"ingot/profiles"
)

// ErrExists: there is something already where a profile would be written.
var ErrExists = errors.New("it exists already")

// ImportOptions are the surroundings of an import.
type ImportOptions struct {
	Name     string     // of the profile
	Folder   string     // that the profile is written to
	Arch     ingot.Arch // of an image for several
	Kernel   profiles.Kernel
	CacheDir string
	Mirror   string
	Offline  bool
	DryRun   bool // look, compare, write nothing

	// Of a running host:

	Rules   []source.Rule
	Include []string

	Log      *slog.Logger
	Progress func(Event)
}

// Imported is what an import found and wrote.
type Imported struct {
	From         string         `json:"from"`
	Folder       string         `json:"folder,omitempty"` // empty: nothing was written
	Name         string         `json:"name"`
	Arch         ingot.Arch     `json:"arch"`
	Distribution string         `json:"distribution"`
	Packages     int            `json:"packages"` // of dpkg
	Lacks        []string       `json:"lacks,omitempty"`
	Fix          string         `json:"fix,omitempty"` // the command that would get them
	Compared     *Comparison    `json:"compared,omitempty"`
	Mounts       []source.Mount `json:"mounts,omitempty"`    // other filesystems of a host
	Passwords    []string       `json:"passwords,omitempty"` // users whose password stayed behind
	Changed      bool           `json:"changed,omitempty"`   // files changed while they were read
	Bytes        int64          `json:"bytes"`               // of the tree
}

func (o *ImportOptions) tell(step string, done, total int64, detail string) {
	if o.Progress != nil {
		o.Progress(Event{step, done, total, detail})
	}
}

// ImportImage writes a profile that starts from a container image, in a
// registry or on disk, from a tarball or from a folder.
func ImportImage(ctx context.Context, ref string, o ImportOptions) (*Imported, error) {
	w, err := o.begin()
	if err != nil {
		return nil, err
	}
	defer w.abandon()
	trees := &source.Trees{Blobs: source.Blobs{Dir: filepath.Join(o.CacheDir, "blobs")}, Offline: o.Offline, Log: o.Log}
	origin, pin, err := o.recognise(ctx, trees, ref)
	if err != nil {
		return nil, err
	}
	err = trees.Fetch(ctx, origin, pin, func(done, total int64) {
		o.tell("fetch", done, max(total, done+1), fmt.Sprintf("%d of %d MiB", done>>20, total>>20))
	})
	if err != nil {
		return nil, err
	}
	o.tell("fetch", 1, 1, "")
	o.tell("unpack", 0, 0, "")
	file := w.scratch + "/tree.tar"
	if err := trees.Unpack(ctx, pin, file); err != nil {
		return nil, err
	}
	root, err := tree.FromTar(ctx, file)
	if err != nil {
		return nil, err
	}
	o.tell("unpack", 1, 1, fmt.Sprintf("%d entries", root.Len()))
	im := &Imported{From: ref, Name: o.Name, Arch: o.Arch}
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

// recognise finds out what a reference names, and pins it.
func (o *ImportOptions) recognise(ctx context.Context, trees *source.Trees, ref string) (source.Origin, source.Pin, error) {
	o.tell("look", 0, 0, ref)
	origin := source.Origin{Kind: source.KindOCI, Ref: ref, Arch: string(o.Arch), KeepOwners: true}
	file, _, _ := strings.Cut(ref, "#")
	st, err := os.Stat(file)
	if err == nil {
		origin.Local, origin.Path = true, ref
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
	o.tell("look", 1, 1, fmt.Sprintf("%s %s", origin.Kind, pin.Digest.Short()))
	return origin, pin, nil
}

// ImportHost writes a profile that starts from the root of a running host.
func ImportHost(ctx context.Context, h source.Host, o ImportOptions) (*Imported, error) {
	w, err := o.begin()
	if err != nil {
		return nil, err
	}
	defer w.abandon()
	o.tell("look", 0, 0, h.String())
	facts, err := h.Look(ctx)
	if err != nil {
		return nil, err
	}
	o.tell("look", 1, 1, inspect.OSRelease(facts.OSRelease, "PRETTY_NAME"))
	im := &Imported{From: h.String(), Name: o.Name, Arch: archOf(facts), Distribution: inspect.OSRelease(facts.OSRelease, "PRETTY_NAME"), Mounts: facts.Mounts}
	if im.Arch == "" {
		return nil, fmt.Errorf("importing %s: %w: it is a %s; ingot builds for amd64 and arm64", h, source.ErrArch, facts.Machine)
	}
	if o.DryRun {
		return im, o.compare(ctx, im, facts.OSRelease, facts.Status, facts.Extended, nil)
	}
	spool, err := os.Create(w.scratch + "/spool")
	if err != nil {
		return nil, fmt.Errorf("importing %s: %w", h, err)
	}
	defer spool.Close()
	c, err := h.Capture(ctx, facts, source.CaptureOptions{Rules: o.Rules, Include: o.Include, Spool: spool, Progress: func(n int64) {
		o.tell("capture", n, max(facts.Used, n+1), fmt.Sprintf("%d MiB", n>>20))
	}})
	if err != nil {
		return nil, err
	}
	o.tell("capture", 1, 1, "")
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
	if in := takeInventory(inspect.ParseStatus(f.Status)); in.arch == string(ingot.AMD64) || in.arch == string(ingot.ARM64) {
		return ingot.Arch(in.arch)
	}
	return map[string]ingot.Arch{"x86_64": ingot.AMD64, "aarch64": ingot.ARM64}[f.Machine]
}

// describe says what a root is, and what it lacks.
func (o *ImportOptions) describe(ctx context.Context, im *Imported, root *tree.Tree) error {
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

// compare sets a Debian root beside the shipped debian profile and its
// packages. When the mirror is away, only files are compared.
func (o *ImportOptions) compare(ctx context.Context, im *Imported, release, status, extended string, root *tree.Tree) error {
	if status == "" {
		return nil
	}
	have := takeInventory(inspect.ParseStatus(status))
	im.Packages = len(have.versions)
	c := &Comparison{}
	if suite := inspect.OSRelease(release, "VERSION_CODENAME"); inspect.OSRelease(release, "ID") == "debian" && suite != "" {
		base, err := o.basePackages(ctx, suite, im.Arch)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			o.Log.Warn("packages are not compared with the Debian base", "suite", suite, "err", err)
		} else {
			c.Suite = suite
			c.comparePackages(have, autoInstalled(extended), base)
		}
	}
	if root != nil {
		o.tell("compare", 0, 0, "")
		if err := c.compareFiles(ctx, root, have); err != nil {
			return err
		}
		o.tell("compare", 1, 1, fmt.Sprintf("%d packages", len(have.versions)))
	}
	im.Compared = c
	return nil
}

// basePackages are the packages that the shipped debian profile would have of
// a suite.
func (o *ImportOptions) basePackages(ctx context.Context, suite string, arch ingot.Arch) (map[string]string, error) {
	p, err := profiles.Load("lab") // debian and a kernel
	if err != nil {
		return nil, err
	}
	var mirrors source.Mirrors
	if !o.Offline {
		if mirrors, err = source.HostMirrors("/etc/apt", o.Mirror); err != nil {
			return nil, err
		}
	}
	apt, err := source.OpenApt(ctx, source.AptOptions{Dir: filepath.Join(o.CacheDir, "apt"), Arch: string(arch), Suite: suite,
		Components: p.Base.Components, Mirrors: mirrors, Offline: o.Offline, Log: o.Log})
	if err != nil {
		return nil, err
	}
	defer apt.Close()
	list, err := apt.Resolve(ctx, p.Packages)
	if err != nil {
		return nil, err
	}
	versions := map[string]string{}
	for _, p := range list {
		versions[p.Name] = p.Version
	}
	return versions, nil
}

// writeLayout copies a kept container image into an OCI layout.
func writeLayout(ctx context.Context, trees *source.Trees, pin source.Pin, dir string) error {
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	raw, err := trees.Blobs.Read(pin.Digest)
	if err != nil {
		return err
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	digests := []ingot.Digest{pin.Digest, ingot.Digest(m.Config.Digest.String())}
	for _, l := range m.Layers {
		digests = append(digests, ingot.Digest(l.Digest.String()))
	}
	for _, d := range digests {
		if err := copyFile(ctx, trees.Blobs.Path(d), filepath.Join(blobs, d.Hex())); err != nil {
			return fmt.Errorf("writing the image: %w", err)
		}
	}
	mediaType := m.MediaType
	if mediaType == "" {
		mediaType = "application/vnd.oci.image.manifest.v1+json"
	}
	index, err := json.MarshalIndent(v1.IndexManifest{SchemaVersion: 2, MediaType: "application/vnd.oci.image.index.v1+json",
		Manifests: []v1.Descriptor{{MediaType: mediaType, Digest: v1.Hash{Algorithm: "sha256", Hex: pin.Digest.Hex()}, Size: int64(len(raw))}}}, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the image: %w", err)
	}
	return errors.Join(os.WriteFile(filepath.Join(dir, "index.json"), append(index, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "oci-layout"), []byte("{\"imageLayoutVersion\": \"1.0.0\"}\n"), 0o644))
}

func copyFile(ctx context.Context, from, to string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

// folderWriter writes a profile's folder under a hidden name beside it, and
// gives it its name at the end.
type folderWriter struct {
	o       *ImportOptions
	dir     string // being written
	scratch string // for what is not kept
	lock    *os.File
}

// begin prepares the folder. What an import that was killed has left there is
// removed.
func (o *ImportOptions) begin() (*folderWriter, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Arch == "" {
		o.Arch = ingot.AMD64
	}
	if !ingot.ValidProfileName(o.Name) {
		return nil, fmt.Errorf("%q cannot be the name of a profile; write lower-case letters, digits and dashes, at most 63", o.Name)
	}
	o.Folder = filepath.Clean(o.Folder)
	if _, err := os.Lstat(o.Folder); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("writing %s: %w; choose another --name or --into, or remove it", o.Folder, ErrExists)
	}
	dir := filepath.Join(filepath.Dir(o.Folder), "."+filepath.Base(o.Folder)+".importing")
	w := &folderWriter{o: o, dir: dir, scratch: filepath.Join(dir, ".scratch")}
	if left, err := os.Open(filepath.Join(w.scratch, "lock")); err == nil {
		err = unix.Flock(int(left.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		left.Close()
		if err != nil {
			return nil, fmt.Errorf("writing %s: %w: another import is writing it", o.Folder, ErrExists)
		}
	}
	err := errors.Join(os.RemoveAll(dir), os.MkdirAll(w.scratch, 0o755))
	if err == nil {
		w.lock, err = os.Create(filepath.Join(w.scratch, "lock"))
	}
	if err == nil {
		err = unix.Flock(int(w.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", o.Folder, err)
	}
	return w, nil
}

func (w *folderWriter) abandon() {
	os.RemoveAll(w.dir)
	w.lock.Close()
}

// writeTree keeps a root in the folder, as root.tar.zst.
func (w *folderWriter) writeTree(ctx context.Context, root *tree.Tree, newest int64) error {
	w.o.tell("pack", 0, 0, "")
	f, err := os.Create(filepath.Join(w.dir, "root.tar.zst"))
	if err != nil {
		return fmt.Errorf("writing the root: %w", err)
	}
	defer f.Close()
	if err := source.WriteTarZstd(ctx, f, root, newest); err != nil {
		return fmt.Errorf("writing the root: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("writing the root: %w", err)
	}
	w.o.tell("pack", 1, 1, sizeOf(f.Name()))
	return nil
}

// finish writes profile and report, and gives the folder its name.
func (w *folderWriter) finish(im *Imported, base profiles.Base, root *tree.Tree) error {
	im.Folder = w.o.Folder
	report, err := json.MarshalIndent(im, "", "  ")
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	text := startingProfile(im, base, w.o.Kernel, root)
	if err := errors.Join(os.WriteFile(filepath.Join(w.dir, "profile.yaml"), []byte(text), 0o644),
		os.WriteFile(filepath.Join(w.dir, "import.json"), append(report, '\n'), 0o644), os.RemoveAll(w.scratch)); err != nil {
		return fmt.Errorf("writing %s: %w", w.o.Folder, err)
	}
	if err := os.Rename(w.dir, w.o.Folder); err != nil {
		return fmt.Errorf("writing %s: %w", w.o.Folder, err)
	}
	return nil
}

// clipped is the first of a list, and how many more there are.
func clipped(list []string, n int) string {
	if len(list) <= n {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(slices.Clone(list[:n]), ", "), len(list)-n)
}
