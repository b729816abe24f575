// Package builder turns a Profile into a Plan, in which every input is pinned
// by digest, and a Plan into an Image: packages installed, layers merged, root
// and initramfs packed, everything signed and put into the store. The same
// plan gives the same bits.
package builder

import (
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"ingot"
	"ingot/builder/source"
	"ingot/image"
	"ingot/profiles"
)

// format is bumped when the builder makes other bits of the same inputs.
const format = 3

// Plan is a profile with every input pinned. Its canonical text is the JSON of
// this struct, and the digest of that text names the build. The version is not
// in it: it names an image for people, and the same plan may have several.
type Plan struct {
	Format   int                     `json:"format"`
	Profile  *profiles.Profile       `json:"profile"`
	Packages []source.Package        `json:"packages"`
	Kernel   source.Package          `json:"kernel"`
	Trees    []source.Pin            `json:"trees,omitempty"`   // of the profile's base and layers, in order
	Stub     source.Package          `json:"stub"`              // holds the systemd-stub of the UKI
	Sources  map[string]ingot.Digest `json:"sources,omitempty"` // files of the profile's folder, by path in the root
	Init     ingot.Digest            `json:"init"`              // the ingot-init binary
	Keys     map[string]ingot.Digest `json:"keys"`              // public keys in the initramfs
	Skeleton ingot.Digest            `json:"skeleton"`          // what ingot puts into every root
}

// Canonical is the text that Digest is about.
func (p *Plan) Canonical() ([]byte, error) {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the plan: %w", err)
	}
	return append(b, '\n'), nil
}

// Digest names the build; it is empty for a plan that cannot be encoded.
func (p *Plan) Digest() ingot.Digest {
	b, err := p.Canonical()
	if err != nil {
		return ""
	}
	return ingot.DigestOf(b)
}

// Event tells how far a step is; Total 0 means not known.
type Event struct {
	Step        string
	Done, Total int64
	Detail      string
}

// PlanOptions are the surroundings of Resolve.
type PlanOptions struct {
	CacheDir string
	Blobs    string // cache of trees; empty: below CacheDir
	Mirror   string // URL, or "URL SECURITY-URL"; empty: the host's own apt sources
	Keyring  string // keys that sign the mirror's lists, absolute path; empty: Debian's
	Init     string // path of the ingot-init binary
	Keys     image.Keys
	Lock     string       // path of the lock; empty: none is read or written
	Mode     LockMode     // what to do with it
	Offline  bool         // use what is cached, ask no mirror
	Log      *slog.Logger // nil is quiet
	Progress func(Event)  // nil is quiet
}

func (o *PlanOptions) blobs() string {
	if o.Blobs != "" {
		return o.Blobs
	}
	return filepath.Join(o.CacheDir, "blobs")
}

func (o *PlanOptions) tell(e Event) {
	if o.Progress != nil {
		o.Progress(e)
	}
}

// Resolve pins every input of a profile: packages by its lock, or by apt when
// there is none, and writes the lock; the rest by digest. It downloads package
// lists when it has to ask apt, but no packages.
func Resolve(ctx context.Context, p *profiles.Profile, o PlanOptions) (*Plan, Locked, error) {
	lock, locked, err := o.lock(ctx, p)
	if err != nil {
		return nil, locked, err
	}
	plan := &Plan{Format: format, Profile: p, Packages: lock.Packages, Kernel: lock.Kernel, Stub: lock.Stub, Trees: lock.Trees, Keys: map[string]ingot.Digest{
		"release": ingot.DigestOf(o.Keys.Release.Public.Text()),
		"server":  ingot.DigestOf(o.Keys.Server.Public.Text()),
	}}
	if plan.Sources, err = digestSources(p); err != nil {
		return nil, locked, err
	}
	if plan.Init, err = digestFile(o.Init); err != nil {
		return nil, locked, fmt.Errorf("reading ingot-init: %w", err)
	}
	if err := checkInit(o.Init, p.Arch); err != nil {
		return nil, locked, err
	}
	if plan.Skeleton, err = skeletonDigest(); err != nil {
		return nil, locked, err
	}
	return plan, locked, nil
}

// checkInit refuses an ingot-init that machines of an architecture cannot run.
func checkInit(path string, arch ingot.Arch) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%w: ingot-init, %s, is no program: %w", ErrNotBootable, path, err)
	}
	defer f.Close()
	if want := map[ingot.Arch]elf.Machine{ingot.AMD64: elf.EM_X86_64, ingot.ARM64: elf.EM_AARCH64}[arch]; f.Machine != want {
		return fmt.Errorf("%w: ingot-init, %s, is for another architecture (%s); the profile is for %s: CGO_ENABLED=0 GOARCH=%s go build ./cmd/ingot-init, and name it with --init",
			ErrNotBootable, path, f.Machine, arch, arch)
	}
	return nil
}

func digestSources(p *profiles.Profile) (map[string]ingot.Digest, error) {
	digests := map[string]ingot.Digest{}
	for _, f := range p.Files {
		if f.Source == "" {
			continue
		}
		b, err := readSource(p, f)
		if err != nil {
			return nil, err
		}
		digests[f.Path] = ingot.DigestOf(b)
	}
	return digests, nil
}

func readSource(p *profiles.Profile, f profiles.File) ([]byte, error) {
	r, err := p.Open(f)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("reading %q: %w", f.Source, err)
	}
	return b, nil
}

func digestFile(path string) (ingot.Digest, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return ingot.DigestOf(b), nil
}

// Built returns the image that was built from a plan already, the newest one.
func Built(ctx context.Context, s *image.Store, plan *Plan) (im image.Image, found bool, err error) {
	images, err := s.List(ctx)
	if err != nil {
		return im, false, err
	}
	for _, i := range images {
		if i.Manifest.Profile == plan.Profile.Name && i.Manifest.Plan == plan.Digest() {
			im, found = i, true
		}
	}
	return im, found, nil
}

// NextVersion is the version of an image that nobody named: the date and the
// first number that is free, "2026.11.23-1".
func NextVersion(ctx context.Context, s *image.Store, profile string, now time.Time) (string, error) {
	images, err := s.List(ctx)
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, im := range images {
		taken[im.Name.String()] = true
	}
	for n := 1; ; n++ {
		v := fmt.Sprintf("%s-%d", now.Format("2006.01.02"), n)
		if !taken[profile+":"+v] {
			return v, nil
		}
	}
}
