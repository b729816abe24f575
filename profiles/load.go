package profiles

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"ingot"
	"ingot/internal/beneath"
	"ingot/internal/yamlfile"
)

//go:embed debian/*.yaml node/*.yaml lab/*.yaml rescue/*.yaml
var shipped embed.FS

// Shipped lists the profiles that are built into ingot.
func Shipped() []string { return []string{"debian", "lab", "node", "rescue"} }

// fileName is the profile file of a profile's folder.
const fileName = "profile.yaml"

// origin is one profile file and the folder of its sources.
type origin struct {
	name   string // for people and places
	folder fs.FS
	file   string // inside folder
	disk   string // folder on disk, empty for a shipped profile
}

// ErrNoProfile: there is no profile with that name.
var ErrNoProfile = errors.New("no such profile")

// Load reads the profile that ref names (a YAML file, a folder with a profile.yaml, or a shipped
// profile), merges what it extends and validates the result. It returns all faults together as
// Faults.
func Load(ref string) (*Profile, error) {
	o, err := find(beneath.Path{Name: ref}, ref)
	if err != nil {
		return nil, err
	}
	l := &loader{}
	p := l.load(o, nil)
	if p != nil {
		if o.disk != "" {
			p.File = o.name
		}
		p.complete()
		p.validate(o, &l.faults)
	}
	if err := l.faults.Err(); err != nil {
		return nil, err
	}
	return p, nil
}

// find turns a reference into a file: the one at a path, or a shipped profile.
func find(at beneath.Path, ref string) (origin, error) {
	tries := []beneath.Path{at}
	if at.Root == "" && !strings.ContainsAny(ref, "/.") {
		tries = append(tries, beneath.Path{Name: filepath.Join("profiles", ref)})
	}
	for _, t := range tries {
		st, err := t.Stat()
		if errors.Is(err, beneath.ErrLeaves) {
			return origin{}, err
		}
		if err != nil {
			continue
		}
		if st.IsDir() {
			if t = t.Join(fileName); !exists(t) {
				continue
			}
		}
		dir := filepath.Dir(t.String())
		return origin{name: t.String(), folder: beneath.FS(dir), file: filepath.Base(t.Name), disk: dir}, nil
	}
	return findShipped(ref)
}

// exists reports whether there is a file, or a link that leads out and is refused when it is read.
func exists(p beneath.Path) bool {
	_, err := p.Stat()
	return err == nil || errors.Is(err, beneath.ErrLeaves)
}

func findShipped(ref string) (origin, error) {
	if slices.Contains(Shipped(), ref) {
		folder, err := fs.Sub(shipped, ref)
		if err != nil {
			return origin{}, err
		}
		return origin{name: path.Join("shipped", ref, fileName), folder: folder, file: fileName}, nil
	}
	return origin{}, fmt.Errorf("%w: %q is neither a file, nor a folder with a %s, nor one of the shipped profiles %s",
		ErrNoProfile, ref, fileName, strings.Join(Shipped(), ", "))
}

// loader collects the faults of all files of one profile.
type loader struct{ faults Faults }

// load reads one file and what it extends. chain is the files that led to it. It returns nil when
// the file cannot be read at all.
func (l *loader) load(o origin, chain []string) *Profile {
	content, err := fs.ReadFile(o.folder, o.file)
	if err != nil {
		fix := "check the path and its permissions"
		if errors.Is(err, beneath.ErrLeaves) {
			fix = "name the file that the link points to"
		}
		l.faults.Add(Place{File: o.name}, fix, "cannot read it: %v", err)
		return nil
	}
	p, d := decodeFile(o, content)
	d.checkFile(p)
	l.faults = append(l.faults, d.Faults...)
	chain = append(chain, o.name)
	merged := &Profile{folders: map[string]fs.FS{}}
	for i, ref := range p.Extends {
		at := d.Places[fmt.Sprintf("extends[%d]", i)]
		parent, err := o.parent(ref)
		if errors.Is(err, beneath.ErrLeaves) {
			l.faults.Add(at, "write the path that the link points to", "extends %q: %v", ref, beneath.ErrLeaves)
			continue
		}
		if err != nil {
			l.faults.Add(at, "shipped profiles: "+strings.Join(Shipped(), ", "), "extends %q: no such profile", ref)
			continue
		}
		if slices.Contains(chain, parent.name) {
			l.faults.Add(at, "remove one of these extends", "the profiles extend each other: %s",
				strings.Join(append(chain, parent.name), " → "))
			continue
		}
		if q := l.load(parent, chain); q != nil {
			l.merge(merged, q)
			merged.Parents = slices.Concat(parentsOf(q, parent), merged.Parents) // the last one is the nearest
		}
	}
	p.folders = map[string]fs.FS{o.name: o.folder}
	l.merge(merged, p)
	return merged
}

// parentsOf returns a profile that was read from o, and its parents.
func parentsOf(p *Profile, o origin) []Parent {
	own := Parent{Name: p.Name}
	if o.disk != "" {
		own.File = o.name
	}
	return slices.Insert(slices.Clone(p.Parents), 0, own)
}

// parent finds a profile that o extends. A shipped profile extends shipped ones only.
func (o origin) parent(ref string) (origin, error) {
	if o.disk == "" {
		return findShipped(ref)
	}
	return find(beneath.Split(o.disk, ref), ref)
}

// decoder is one profile file, with its faults.
type decoder struct{ yamlfile.Decoder }

// decodeFile parses one profile file.
func decodeFile(o origin, content []byte) (*Profile, *decoder) {
	d := &decoder{yamlfile.Decoder{File: o.name, What: "the profile", Sample: "name: my-profile"}}
	p := &Profile{}
	d.Decode(content, p)
	return p, d
}

// merge merges p into into: scalars replace, lists are appended, files and users of the same name
// replace or complete.
func (l *loader) merge(into, p *Profile) {
	replace(&into.Name, p.Name)
	replace(&into.Arch, p.Arch)
	mergeBase(into, p)
	replace(&into.Hostname, p.Hostname)
	replace(&into.Kernel.Package, p.Kernel.Package)
	replace(&into.Kernel.Suite, p.Kernel.Suite)
	replace(&into.RAM.Budget, p.RAM.Budget)
	replace(&into.RAM.Overlay, p.RAM.Overlay)
	replace(&into.Deadline, p.Deadline)
	replace(&into.RescueShell, p.RescueShell)
	replace(&into.Compression, p.Compression)
	into.Keep = appendNew(into.Keep, p.Keep)
	into.Packages = mergePackages(into.Packages, p.Packages)
	into.Kernel.Modules = appendNew(into.Kernel.Modules, p.Kernel.Modules)
	into.Kernel.Arguments = appendNew(into.Kernel.Arguments, p.Kernel.Arguments)
	into.Scratch = appendNew(into.Scratch, p.Scratch)
	into.Units.Enable = appendNew(into.Units.Enable, p.Units.Enable)
	into.Units.Disable = appendNew(into.Units.Disable, p.Units.Disable)
	into.Units.Mask = appendNew(into.Units.Mask, p.Units.Mask)
	for _, f := range p.Files {
		into.Files = slices.DeleteFunc(into.Files, func(g File) bool { return g.Path == f.Path })
		into.Files = append(into.Files, f)
	}
	for _, u := range p.Users {
		into.Users = mergeUser(into.Users, u)
	}
	for _, g := range p.Groups {
		into.Groups = mergeGroup(into.Groups, g)
	}
	for _, v := range p.Volumes {
		if i := slices.IndexFunc(into.Volumes, func(w Volume) bool { return w.Name == v.Name }); i >= 0 && v.Name != "" {
			if into.Volumes[i].At.File == v.At.File {
				continue // reported by checkTwice
			}
			l.faults.Add(v.At, "choose another name", "the volume %q is defined already at %s", v.Name, into.Volumes[i].At)
			continue
		}
		into.Volumes = append(into.Volumes, v)
	}
	for _, c := range p.Checks {
		into.Checks = slices.DeleteFunc(into.Checks, func(b Check) bool { return b.Name == c.Name })
		into.Checks = append(into.Checks, c)
	}
	for _, a := range p.Secrets.Allow {
		into.Secrets.Allow = slices.DeleteFunc(into.Secrets.Allow, func(b AllowedSecret) bool { return b.Path == a.Path })
		into.Secrets.Allow = append(into.Secrets.Allow, a)
	}
	for name, folder := range p.folders {
		into.folders[name] = folder
	}
}

func replace[T comparable](into *T, v T) {
	var zero T
	if v != zero {
		*into = v
	}
}

func appendNew(list, more []string) []string {
	for _, s := range more {
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func mergePackages(list, more []string) []string {
	for _, s := range more {
		if name, ok := strings.CutPrefix(s, "-"); ok {
			list = slices.DeleteFunc(list, func(p string) bool { return p == name })
		} else if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

func mergeUser(users []User, u User) []User {
	i := slices.IndexFunc(users, func(v User) bool { return v.Name == u.Name })
	if i < 0 {
		return append(users, u)
	}
	v := &users[i]
	replace(&v.UID, u.UID)
	replace(&v.GID, u.GID)
	replace(&v.Comment, u.Comment)
	replace(&v.Shell, u.Shell)
	replace(&v.Home, u.Home)
	replace(&v.PasswordHash, u.PasswordHash)
	v.Groups = appendNew(v.Groups, u.Groups)
	v.AuthorizedKeys = appendNew(v.AuthorizedKeys, u.AuthorizedKeys)
	return users
}

func mergeGroup(groups []Group, g Group) []Group {
	i := slices.IndexFunc(groups, func(h Group) bool { return h.Name == g.Name })
	if i < 0 {
		return append(groups, g)
	}
	replace(&groups[i].GID, g.GID)
	return groups
}

// complete fills in the defaults.
func (p *Profile) complete() {
	p.Extends = nil
	if p.Arch == "" {
		p.Arch = ingot.AMD64
	}
	if p.Compression == "" {
		p.Compression = CompressBalanced
	}
	if len(p.Base.Components) == 0 {
		p.Base.Components = []string{"main"}
	}
	if p.Kernel.Suite == "" && p.Kernel.Package != "" && p.Base.Tree() {
		p.Kernel.Suite = defaultSuite
	}
	if p.Hostname == "" {
		p.Hostname = "{name}"
	}
	if len(p.Volumes) > 0 && !slices.ContainsFunc(p.Volumes, func(v Volume) bool { return v.Identity }) {
		p.Volumes[0].Identity = true
	}
	p.Volumes = parentsFirst(p.Volumes)
}

// Open opens the content of a file of the profile.
func (p *Profile) Open(f File) (io.ReadCloser, error) {
	if f.Source == "" {
		return io.NopCloser(strings.NewReader(f.Content)), nil
	}
	folder := p.folders[f.At.File]
	if folder == nil {
		return nil, fmt.Errorf("opening %q of %s: the profile's folder is not known", f.Source, f.At)
	}
	r, err := folder.Open(f.Source)
	if err != nil {
		return nil, fmt.Errorf("opening %q of %s: %w", f.Source, f.At, err)
	}
	return r, nil
}
