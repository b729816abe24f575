package builder

import (
	"context"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"ingot"
	"ingot/builder/accounts"
	"ingot/builder/lock"
	"ingot/builder/source"
	"ingot/image"
	"ingot/profiles"
)

// PlanFormat is the version of the plan and of what is made of it: it changes when the builder
// makes other bits of the same inputs.
const PlanFormat = 4

// Plan is a profile with every input pinned. Its canonical text is the JSON of this struct, and the
// digest of that text names the build. The version is not part of it: it names an image for people,
// and images of the same plan may have several.
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
	// Accounts are the numbers of users and groups. A build adds those of accounts that it meets for
	// the first time, and the image has the completed plan. Nil: packages choose, as they did for an
	// older ingot.
	Accounts accounts.List `json:"accounts,omitzero"`
}

// Canonical returns the text whose digest Digest returns.
func (p *Plan) Canonical() ([]byte, error) {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding the plan: %w", err)
	}
	return append(b, '\n'), nil
}

// Digest names the build. It is empty for a plan that cannot be encoded.
func (p *Plan) Digest() ingot.Digest {
	b, err := p.Canonical()
	if err != nil {
		return ""
	}
	return ingot.DigestOf(b)
}

// PlanOptions are what Resolve needs besides the profile.
type PlanOptions struct {
	Lock lock.Options
	Init string     // path of the ingot-init binary
	Keys image.Keys // of the boot server and of releases; images hold the public halves
}

// Resolve pins every input of a profile: packages and trees by its lock, the rest by digest. It
// downloads package lists when it has to ask apt, but no packages.
func Resolve(ctx context.Context, env *Env, p *profiles.Profile, o PlanOptions) (*Plan, lock.Result, error) {
	locked, result, err := lock.Resolve(ctx, env, p, o.Lock)
	if err != nil {
		return nil, result, err
	}
	plan, err := newPlan(p, locked, o)
	if err != nil {
		return nil, result, err
	}
	plan.Accounts = result.Accounts
	return plan, result, nil
}

// newPlan joins what is locked with the digests of what is on this host.
func newPlan(p *profiles.Profile, locked *lock.File, o PlanOptions) (*Plan, error) {
	plan := &Plan{Format: PlanFormat, Profile: p, Packages: locked.Packages, Kernel: locked.Kernel, Stub: locked.Stub,
		Trees: locked.Trees, Keys: map[string]ingot.Digest{
			"release": ingot.DigestOf(o.Keys.Release.Public.Text()),
			"server":  ingot.DigestOf(o.Keys.Server.Public.Text()),
		}}
	var err error
	if plan.Sources, err = digestSources(p); err != nil {
		return nil, err
	}
	if plan.Init, err = digestFile(o.Init); err != nil {
		return nil, fmt.Errorf("reading ingot-init: %w", err)
	}
	if err := checkInit(o.Init, p.Arch); err != nil {
		return nil, err
	}
	plan.Skeleton, err = skeletonDigest()
	return plan, err
}

// checkInit refuses an ingot-init that machines of an architecture cannot run.
func checkInit(path string, arch ingot.Arch) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%w: ingot-init, %s, is not an ELF program: %w", ErrNotBootable, path, err)
	}
	defer f.Close()
	if want := map[ingot.Arch]elf.Machine{ingot.AMD64: elf.EM_X86_64,
		ingot.ARM64: elf.EM_AARCH64}[arch]; f.Machine != want {
		return fmt.Errorf("%w: ingot-init, %s, is for another architecture (%s); "+
			"the profile is for %s: build it with CGO_ENABLED=0 GOARCH=%s go build ./cmd/ingot-init and name it with --init",
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

// Existing is an image of a plan that a store has.
type Existing struct {
	Name    ingot.ImageName
	Digest  ingot.Digest
	Image   image.Image // zero if List leaves it out
	Damaged error       // image.ErrDamaged if a build has to make it again
}

// Built returns the image of a version that the store has of a plan, or without a version the newest one;
// nil if it has none. It reads the files of the image. One of that version whose plan cannot be read may
// be of that plan.
func Built(ctx context.Context, s *image.Store, plan *Plan, version string) (*Existing, error) {
	lost, err := s.Damaged(ctx)
	if err != nil {
		return nil, err
	}
	id := plan.Digest()
	wanted := func(n ingot.ImageName) bool {
		return n.Profile == plan.Profile.Name && (version == "" || n.Version == version)
	}
	for _, x := range lost {
		exact := ingot.ImageName{Profile: plan.Profile.Name, Version: version}
		switch {
		case x.Plan == id && wanted(x.Name):
			return &Existing{Name: x.Name, Digest: x.Digest, Damaged: x.Err}, nil
		case x.Plan == "" && version != "" && x.Has(exact):
			return &Existing{Name: exact, Digest: x.Digest, Damaged: x.Err}, nil
		}
	}
	images, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	var found *Existing
	for _, im := range images {
		if wanted(im.Name) && im.Manifest.Plan == id {
			found = &Existing{Name: im.Name, Digest: im.Digest, Image: im}
		}
	}
	if found == nil {
		return nil, nil
	}
	if err := s.Intact(ctx, found.Image); errors.Is(err, image.ErrDamaged) {
		found.Damaged = err
	} else if err != nil {
		return nil, err
	}
	return found, nil
}

// NextVersion returns a version for an image without one: the date and the first free number,
// "2026.11.23-1".
func NextVersion(ctx context.Context, s *image.Store, profile string, now time.Time) (string, error) {
	images, err := s.List(ctx)
	if err != nil {
		return "", err
	}
	lost, err := s.Damaged(ctx)
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, im := range images {
		taken[im.Name.String()] = true
	}
	for _, x := range lost {
		taken[x.Name.String()] = true
		for _, tag := range x.Tags {
			taken[tag] = true
		}
	}
	for n := 1; ; n++ {
		v := fmt.Sprintf("%s-%d", now.Format("2006.01.02"), n)
		if !taken[profile+":"+v] {
			return v, nil
		}
	}
}
