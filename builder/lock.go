package builder

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"

	"ingot"
	"ingot/builder/source"
	"ingot/profiles"
)

// Lock is what apt answered to a profile's request: exact packages, without
// the host name of a mirror. It is kept beside the profile, belongs under
// version control, and makes a build independent of the day it runs.
type Lock struct {
	Format   int              `json:"format"` // lockFormat
	Request  Request          `json:"request"`
	Kernel   source.Package   `json:"kernel"`
	Stub     source.Package   `json:"stub"`            // holds the systemd-stub of the UKI, whatever the suite
	Packages []source.Package `json:"packages"`        // sorted by name
	Trees    []source.Pin     `json:"trees,omitempty"` // of base and layers, in order
}

// Request is the part of a profile that apt answers.
type Request struct {
	Suite      string     `json:"suite"`
	Components []string   `json:"components"`
	Arch       ingot.Arch `json:"arch"`
	Packages   []string   `json:"packages"` // sorted
	Kernel     string     `json:"kernel"`
	// KernelSuite is the suite of the kernel when it is not that of the packages.
	KernelSuite string   `json:"kernelSuite,omitempty"`
	Trees       []string `json:"trees,omitempty"` // base and layers, in order
}

// LockMode says what Resolve does with a lock.
type LockMode int

// The modes of a lock.
const (
	// LockUse uses the lock, and asks apt when there is none or when it answers
	// another request; the answer becomes the lock.
	LockUse LockMode = iota
	// LockUpdate asks apt in any case.
	LockUpdate
	// LockExact refuses to differ from the lock.
	LockExact
)

// Locked tells what happened to the lock.
type Locked struct {
	Path    string   `json:"path,omitempty"` // empty: there is none
	Written bool     `json:"written"`
	Why     string   `json:"why,omitempty"`     // apt was asked; empty: it was not
	Renewed bool     `json:"renewed"`           // there was one before
	Changes []Change `json:"changes,omitempty"` // against it
	// NotKept is why the lock could not be written, which harms nothing today.
	NotKept error `json:"-"`
}

// Change is one package that differs between two locks or images.
type Change struct {
	Package string `json:"package"`
	Before  string `json:"before,omitempty"` // version; empty: it is new
	After   string `json:"after,omitempty"`  // empty: it is gone
}

// Errors of locks that callers may test for with errors.Is.
var (
	// ErrLockStale: the lock answers another request than the profile's.
	ErrLockStale = errors.New("the lock does not fit the profile")
	// ErrNoLock: a lock is demanded and there is none.
	ErrNoLock = errors.New("there is no lock")
)

const lockFormat = 2

// RequestOf is what a profile asks of apt.
func RequestOf(p *profiles.Profile) Request {
	r := Request{Suite: p.Base.Suite, Components: p.Base.Components, Arch: p.Arch, Packages: slices.Clone(p.Packages), Kernel: p.Kernel.Package}
	slices.Sort(r.Packages)
	if p.Kernel.Suite != p.Base.Suite {
		r.KernelSuite = p.Kernel.Suite
	}
	r.Trees = requestTrees(p)
	return r
}

// differs says in words how a request differs from the one before; empty: not at all.
func (r Request) differs(before Request) string {
	var words []string
	for _, f := range []struct{ name, was, is string }{
		{"suite", before.Suite, r.Suite}, {"arch", string(before.Arch), string(r.Arch)}, {"kernel", before.Kernel, r.Kernel},
		{"components", strings.Join(before.Components, " "), strings.Join(r.Components, " ")},
		{"kernel.suite", before.KernelSuite, r.KernelSuite}, {"trees", strings.Join(before.Trees, ", "), strings.Join(r.Trees, ", ")},
	} {
		if f.was != f.is {
			words = append(words, fmt.Sprintf("%s %s instead of %s", f.name, f.is, f.was))
		}
	}
	for _, p := range r.Packages {
		if !slices.Contains(before.Packages, p) {
			words = append(words, "+"+p)
		}
	}
	for _, p := range before.Packages {
		if !slices.Contains(r.Packages, p) {
			words = append(words, "−"+p)
		}
	}
	return strings.Join(words, ", ")
}

// ReadLock reads a lock; it is nil when there is none.
func ReadLock(path string) (*Lock, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the lock: %w", err)
	}
	var l Lock
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return nil, fmt.Errorf("reading the lock %s: %w; restore it, or make it anew with: ingot plan --update", path, err)
	}
	if l.Format != lockFormat {
		return nil, fmt.Errorf("reading the lock %s: it has format %d, and this ingot knows %d; make it anew with: ingot plan --update, or use the ingot that wrote it", path, l.Format, lockFormat)
	}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("reading the lock %s: %w; restore it, or make it anew with: ingot plan --update", path, err)
	}
	return &l, nil
}

// check tells what is wrong with a lock that somebody may have edited.
func (l *Lock) check() error {
	seen := map[string]bool{}
	if err := l.Stub.Check(); err != nil {
		return err
	}
	for i, p := range append([]source.Package{l.Kernel}, l.Packages...) {
		if err := p.Check(); err != nil {
			return err
		}
		if p.Arch != string(l.Request.Arch) && p.Arch != "all" {
			return fmt.Errorf("package %s is for %s, the lock for %s", p.Name, p.Arch, l.Request.Arch)
		}
		if i > 0 && seen[p.Name] {
			return fmt.Errorf("package %s is in it twice", p.Name)
		}
		seen[p.Name] = i > 0
	}
	if len(l.Trees) != len(l.Request.Trees) {
		return fmt.Errorf("it pins %d trees of %d", len(l.Trees), len(l.Request.Trees))
	}
	for _, t := range l.Trees {
		if err := t.Check(); err != nil {
			return err
		}
	}
	return nil
}

// Text is the lock as it is kept: JSON with a line for each package, so that a
// change of it reads like one.
func (l *Lock) Text() ([]byte, error) {
	request, err := json.Marshal(l.Request)
	if err != nil {
		return nil, fmt.Errorf("encoding the lock: %w", err)
	}
	kernel, err := json.Marshal(l.Kernel)
	if err != nil {
		return nil, fmt.Errorf("encoding the lock: %w", err)
	}
	stub, err := json.Marshal(l.Stub)
	if err != nil {
		return nil, fmt.Errorf("encoding the lock: %w", err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n\"format\": %d,\n\"request\": %s,\n\"kernel\": %s,\n\"stub\": %s,\n", l.Format, request, kernel, stub)
	if len(l.Trees) > 0 {
		if err := writeLines(&b, "trees", l.Trees); err != nil {
			return nil, err
		}
		b.WriteString(",\n")
	}
	if err := writeLines(&b, "packages", l.Packages); err != nil {
		return nil, err
	}
	b.WriteString("\n}\n")
	return b.Bytes(), nil
}

// writeLines writes a list with a line for each item.
func writeLines[T any](b *bytes.Buffer, key string, list []T) error {
	fmt.Fprintf(b, "%q: [\n", key)
	for i, item := range list {
		line, err := json.Marshal(item)
		if err != nil {
			return fmt.Errorf("encoding the lock: %w", err)
		}
		b.Write(line)
		if i < len(list)-1 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
	}
	b.WriteString("]")
	return nil
}

func (l *Lock) write(path string) error {
	text, err := l.Text()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(path, text, 0o644)
}

// Changes are the packages that differ between two lists, by name.
func Changes(before, after []source.Package) []Change {
	versions := map[string]Change{}
	for _, p := range before {
		versions[p.Name] = Change{Package: p.Name, Before: p.Version}
	}
	for _, p := range after {
		c := versions[p.Name]
		versions[p.Name] = Change{Package: p.Name, Before: c.Before, After: p.Version}
	}
	var list []Change
	for _, c := range versions {
		if c.Before != c.After {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b Change) int { return strings.Compare(a.Package, b.Package) })
	return list
}

// lock returns the packages to build with.
func (o *PlanOptions) lock(ctx context.Context, p *profiles.Profile) (*Lock, Locked, error) {
	want := RequestOf(p)
	locked := Locked{Path: o.Lock}
	var old *Lock
	if o.Lock != "" {
		var err error
		if old, err = ReadLock(o.Lock); err != nil && o.Mode != LockUpdate {
			return nil, locked, err
		}
	}
	locked.Why = "there was no lock"
	if o.Mode == LockUpdate {
		locked.Why = "an update was asked for"
	}
	if old != nil && o.Mode != LockUpdate {
		how := want.differs(old.Request)
		locked.Why = "the profile asks for something else: " + how
		if how == "" {
			locked.Why = ""
			o.tell(Event{Step: "resolve", Done: 1, Total: 1, Detail: fmt.Sprintf("%d packages, as locked", len(old.Packages))})
			return o.refresh(ctx, p, old, locked)
		}
		if o.Mode == LockExact {
			return nil, locked, fmt.Errorf("%w: %s; run: ingot plan --update", ErrLockStale, how)
		}
	}
	if o.Mode == LockExact {
		return nil, locked, fmt.Errorf("%w at %s; make it with: ingot plan", ErrNoLock, o.Lock)
	}
	l, err := o.ask(ctx, want)
	if err != nil {
		return nil, locked, err
	}
	if l.Trees, err = o.pinTrees(ctx, p, nil); err != nil {
		return nil, locked, err
	}
	if old != nil {
		locked.Renewed = true
		locked.Changes = Changes(append([]source.Package{old.Kernel, old.Stub}, old.Packages...), append([]source.Package{l.Kernel, l.Stub}, l.Packages...))
		locked.Changes = append(locked.Changes, treeChanges(old.Trees, l.Trees)...)
	}
	if o.Lock != "" {
		locked.NotKept = l.write(o.Lock)
		locked.Written = locked.NotKept == nil
	}
	return l, locked, nil
}

// ask lets apt answer a request.
func (o *PlanOptions) ask(ctx context.Context, r Request) (*Lock, error) {
	o.tell(Event{Step: "resolve"})
	var mirrors source.Mirrors
	var err error
	if !o.Offline {
		if mirrors, err = source.HostMirrors("/etc/apt", o.Mirror); err != nil {
			return nil, err
		}
		if mirrors.Security == "" && !source.Rolling(r.Suite) && !strings.Contains(o.Mirror, " ") && o.Log != nil {
			o.Log.Warn("no security archive is known, so the image gets no security updates; name it with --mirror 'URL SECURITY-URL', or say none")
		}
	}
	l := &Lock{Format: lockFormat, Request: r}
	for _, q := range l.questions(ctx) {
		apt, err := source.OpenApt(ctx, source.AptOptions{
			Dir: filepath.Join(o.CacheDir, "apt"), Arch: string(r.Arch), Suite: q.suite,
			Components: r.Components, Mirrors: mirrors, Keyring: o.Keyring, Offline: o.Offline, Log: o.Log,
		})
		if err != nil {
			return nil, err
		}
		for _, a := range q.asks {
			if err = a(apt); err != nil {
				break
			}
		}
		apt.Close()
		if err != nil {
			return nil, err
		}
	}
	o.tell(Event{Step: "resolve", Done: 1, Total: 1, Detail: fmt.Sprintf("%d packages, %s", len(l.Packages), l.Kernel.Name)})
	return l, nil
}

// question is what one suite is asked for.
type question struct {
	suite string
	asks  []func(*source.Apt) error
}

// questions are what the lock is completed by; each suite is asked once.
func (l *Lock) questions(ctx context.Context) (list []question) {
	add := func(suite string, ask func(*source.Apt) error) {
		if suite == "" {
			return // a profile of other sources asks for no packages
		}
		i := slices.IndexFunc(list, func(q question) bool { return q.suite == suite })
		if i < 0 {
			i, list = len(list), append(list, question{suite: suite})
		}
		list[i].asks = append(list[i].asks, ask)
	}
	if l.Request.Suite != "" {
		add(l.Request.Suite, func(apt *source.Apt) (err error) {
			l.Packages, err = apt.Resolve(ctx, l.Request.Packages)
			return err
		})
	}
	add(cmp.Or(l.Request.KernelSuite, l.Request.Suite), func(apt *source.Apt) (err error) {
		l.Kernel, err = apt.Kernel(ctx, l.Request.Kernel)
		return err
	})
	add(stubSuite, func(apt *source.Apt) (err error) {
		if l.Stub, err = apt.Package(ctx, stubPackage); err != nil {
			return fmt.Errorf("finding systemd-stub: %w", err)
		}
		return nil
	})
	return list
}
