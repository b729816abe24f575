package lock

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"ingot"
	"ingot/builder/accounts"
	"ingot/builder/source"
	"ingot/profiles"
)

// StubPackage is the Debian package that holds systemd-stub.
const StubPackage = "systemd-boot-efi"

// stubSuite is the Debian release that systemd-stub comes from, whatever the suite of the profile:
// images of all suites are measured in one way. The stub of the release before leaves out what
// sbsign and sbverify disagree about.
const stubSuite = "trixie"

// Mode says what Resolve does with a lock.
type Mode int

// The modes.
const (
	// Use uses the lock, and asks apt when there is none or when it answers another request. The
	// answer becomes the lock.
	Use Mode = iota
	// Update asks apt in any case.
	Update
	// Exact refuses to differ from the lock.
	Exact
)

// Options say which lock Resolve uses, and how.
type Options struct {
	Path string // of the lock file; empty: none is read or written
	Mode Mode
	Dir  string // of the locks of shipped profiles, which other profiles extend; empty: there are none
	// Accounts returns the accounts of the newest image of a profile, an empty list without an image;
	// nil: there are no images.
	Accounts func(ctx context.Context, profile string) (accounts.List, error)
}

// Result reports what happened to the lock.
type Result struct {
	Path    string   `json:"path,omitempty"` // empty: there is none
	Written bool     `json:"written"`
	Why     string   `json:"why,omitempty"`     // why it was written; empty: it was not
	Renewed bool     `json:"renewed"`           // it replaced an earlier one
	Changes []Change `json:"changes,omitempty"` // against the earlier one
	// Accounts are the numbers of accounts that are known before a build.
	Accounts accounts.List `json:"-"`
	// NotKept is why the lock could not be written. The plan is valid all the same.
	NotKept error `json:"-"`
}

// Resolve returns the exact inputs of a profile: from its lock when that matches, otherwise from
// apt and from where the trees are. A lock that changes is written. Trees on this host are looked
// at each time; trees in a registry only when apt is asked, too.
func Resolve(ctx context.Context, env *source.Env, p *profiles.Profile, o Options) (*File, Result, error) {
	r := Result{Path: o.Path}
	request := RequestOf(p)
	old, err := o.read()
	if err != nil {
		return nil, r, err
	}
	local, err := keepLocal(ctx, env, p)
	if err != nil {
		return nil, r, err
	}
	if r.Why, err = o.reasonToAsk(request, old, local); err != nil {
		return nil, r, err
	}
	var next *File
	var pinned []source.Pin // trees that need not be looked up in a registry
	if r.Why == "" {
		kept := *old
		next, pinned = &kept, old.Trees
		env.Report("resolve", 1, 1, fmt.Sprintf("%d packages, as locked", len(old.Packages)))
	} else if next, err = askApt(ctx, env, request, local); err != nil {
		return nil, r, err
	}
	if next.Trees, err = pinTrees(ctx, env, p, pinned); err != nil {
		return nil, r, err
	}
	var kept bool
	if r.Accounts, kept, err = o.numbers(ctx, p, old); err != nil {
		return nil, r, err
	}
	if next.Format = format; kept { // else the numbers are kept after the first build
		next.Accounts = r.Accounts
	}
	if old != nil {
		r.Changes = changes(old, next)
	}
	if r.Why == "" {
		if r.Why, err = o.reasonToWrite(old, next, r.Changes); err != nil {
			return nil, r, err
		}
	}
	if r.Why != "" && o.Path != "" {
		r.Renewed = old != nil
		r.NotKept = next.write(o.Path)
		r.Written = r.NotKept == nil
	}
	return next, r, nil
}

// read reads the lock, if there is one. One that cannot be read is an error, except that an update
// replaces it.
func (o Options) read() (*File, error) {
	if o.Path == "" {
		return nil, nil
	}
	f, err := Read(o.Path)
	if err != nil && o.Mode == Update {
		return nil, nil // it is replaced
	}
	return f, err
}

// reasonToAsk returns why apt has to be asked; empty: the lock answers the request.
func (o Options) reasonToAsk(request Request, old *File, local []source.Package) (string, error) {
	switch {
	case o.Mode == Update:
		return "an update was requested", nil
	case old == nil && o.Mode == Exact:
		return "", fmt.Errorf("%w at %s; write one: ingot plan", ErrMissing, o.Path)
	case old == nil:
		return "there was no lock", nil
	}
	difference := request.differenceFrom(old.Request)
	for _, p := range local {
		if difference == "" && !slices.Contains(old.Packages, p) {
			difference = "the file ./" + p.Path + " is another one"
		}
	}
	if difference == "" {
		return "", nil
	}
	if o.Mode == Exact {
		return "", fmt.Errorf("%w: %s; run: ingot plan --update", ErrStale, difference)
	}
	return "the profile's request changed: " + difference, nil
}

// reasonToWrite returns why a lock that answers the request is written all the same; empty: it is as
// it was, or must not be written.
func (o Options) reasonToWrite(old, next *File, changed []Change) (string, error) {
	switch {
	case len(changed) > 0 && o.Mode == Exact:
		c := changed[0]
		return "", fmt.Errorf("%w: %s is %s, locked is %s; run: ingot plan --update", ErrStale, c.Package, c.After,
			c.Before)
	case o.Mode == Exact:
		return "", nil // more numbers than the lock has are no contradiction
	case len(accountChanges(old, next)) > 0:
		return "accounts got other numbers", nil
	case len(changed) > 0:
		return "files of this host changed", nil
	case !slices.Equal(old.Accounts, next.Accounts):
		return "it keeps the numbers of accounts from now on", nil
	}
	return "", nil
}

// keepLocal puts the packages that are files of the profile's folder into the cache.
func keepLocal(ctx context.Context, env *source.Env, p *profiles.Profile) ([]source.Package, error) {
	var list []source.Package
	for _, entry := range p.Packages {
		if !profiles.IsLocalPackage(entry) {
			continue
		}
		f, err := p.OpenPackage(entry)
		if err != nil {
			return nil, err
		}
		kept, err := env.PackageCache().Keep(ctx, entry, f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Origin("packages="+entry), err)
		}
		if kept.Arch != string(p.Arch) && kept.Arch != "all" {
			return nil, fmt.Errorf("%s: reading %q: %w: it is for %s, the profile for %s", p.Origin("packages="+entry), entry,
				source.ErrNoPackage, kept.Arch, p.Arch)
		}
		list = append(list, kept)
	}
	return list, nil
}

// askApt lets apt answer a request, with packages that are files. Each suite is opened once.
func askApt(ctx context.Context, env *source.Env, r Request, local []source.Package) (*File, error) {
	env.Report("resolve", 0, 0, "")
	if mirrors, err := env.Mirrors(); err != nil {
		return nil, err
	} else if !env.Offline && !r.Alone && mirrors.Security == "" && !source.Rolling(r.Suite) &&
		!strings.Contains(env.Mirror, " ") {
		env.Logger().Warn("no security archive is known, so the image gets no security updates; " +
			"name one with --mirror 'URL SECURITY-URL', or say none")
	}
	f := &File{Format: format, Request: r}
	for _, q := range f.questions(ctx, env.PackageCache(), local) {
		if err := q.ask(ctx, env, r); err != nil {
			return nil, err
		}
	}
	env.Report("resolve", 1, 1, fmt.Sprintf("%d packages, %s", len(f.Packages), f.Kernel.Name))
	return f, nil
}

// question is what one suite is asked for.
type question struct {
	suite string
	parts []func(*source.Apt) error // each fills in a part of the lock
}

// questions fill in the packages of the lock, a question for each suite.
func (f *File) questions(ctx context.Context, c source.Cache, local []source.Package) (list []question) {
	add := func(suite string, part func(*source.Apt) error) {
		if suite == "" {
			return // a profile of other sources asks for no packages
		}
		i := slices.IndexFunc(list, func(q question) bool { return q.suite == suite })
		if i < 0 {
			i, list = len(list), append(list, question{suite: suite})
		}
		list[i].parts = append(list[i].parts, part)
	}
	add(f.Request.Suite, func(apt *source.Apt) (err error) {
		names := slices.DeleteFunc(slices.Clone(f.Request.Packages), profiles.IsLocalPackage)
		if f.Packages, err = apt.Resolve(ctx, names, f.Request.Recommends, c, local...); err != nil {
			return err
		}
		f.Releases, err = apt.Releases(ctx)
		return err
	})
	add(cmp.Or(f.Request.KernelSuite, f.Request.Suite), func(apt *source.Apt) (err error) {
		f.Kernel, err = apt.Kernel(ctx, f.Request.Kernel)
		return err
	})
	add(stubSuite, func(apt *source.Apt) (err error) {
		if f.Stub, err = apt.Package(ctx, StubPackage); err != nil {
			return fmt.Errorf("finding systemd-stub: %w", err)
		}
		return nil
	})
	return list
}

func (q question) ask(ctx context.Context, env *source.Env, r Request) error {
	o := source.AptOptions{Suite: q.suite, Arch: string(r.Arch), Components: r.Components}
	if q.suite == r.Suite || q.suite == r.KernelSuite && !r.Alone {
		o.Repositories = r.Repositories
	}
	switch {
	case q.suite == r.Suite:
		o.Also, o.Alone = r.alsoSuites(), r.Alone
	case r.Alone: // kernel and stub are Debian's
		o.Components = []string{"main"}
	}
	apt, err := env.AptWith(ctx, o)
	if err != nil {
		return err
	}
	defer apt.Close()
	for _, part := range q.parts {
		if err := part(apt); err != nil {
			return err
		}
	}
	return nil
}

// Origin returns where the tree of a layer comes from.
func Origin(arch ingot.Arch, l profiles.Layer) source.Origin {
	o := source.Origin{Local: l.Local(), Arch: string(arch), KeepOwners: l.KeepsOwners()}
	o.Kind, o.Ref = l.From()
	if o.Local {
		o.Path, o.Image = l.Path()
	}
	return o
}

// pinTrees pins the trees of a profile. Trees in a registry are taken from pinned, unless that is
// nil; files and folders of this host are looked at.
func pinTrees(ctx context.Context, env *source.Env, p *profiles.Profile, pinned []source.Pin) ([]source.Pin, error) {
	trees, layers := env.Trees(), p.Trees()
	var pins []source.Pin
	for i, l := range layers {
		origin := Origin(p.Arch, l)
		if pinned != nil && !origin.Local {
			pins = append(pins, pinned[i])
			continue
		}
		env.Report("pin trees", int64(i), int64(len(layers)), l.String())
		pin, err := trees.Pin(ctx, origin)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", l.At, err)
		}
		pins = append(pins, pin)
	}
	if n := int64(len(pins)); n > 0 {
		env.Report("pin trees", n, n, fmt.Sprintf("%d", n))
	}
	return pins, nil
}
