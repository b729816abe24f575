package profiles

import (
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"

	"ingot/internal/yamlfile"
)

// mergeAll merges the files in their order.
func (l *loader) mergeAll() *Profile {
	into := &Profile{folders: map[string]fs.FS{}, origins: map[string]Place{}}
	for i, f := range l.files {
		l.merge(into, f)
		if i < len(l.files)-1 {
			into.Parents = slices.Insert(into.Parents, 0, Parent{Name: f.p.Name, File: f.profileFile()})
		} else {
			into.File = f.profileFile()
		}
	}
	return into
}

// profileFile returns the file on disk; empty for a shipped profile.
func (o origin) profileFile() string {
	if o.disk == "" {
		return ""
	}
	return o.name
}

// merge merges a file into what the files before it say: scalars replace, lists are appended, files and
// users of the same name replace or complete, and what has a minus before its name is taken back.
func (l *loader) merge(into *Profile, f *file) {
	p := f.p
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
	replace(&into.Recommends, p.Recommends)
	replace(&into.Compression, p.Compression)
	for i, list := range wordLists {
		l.mergeWords(into, f, i, *list.of(p))
	}
	l.mergeUnits(into, p)
	l.mergeSettings(into, f)
	l.takeBack(into, f)
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
	for _, r := range p.Repositories {
		into.Repositories = slices.DeleteFunc(into.Repositories, func(q Repository) bool { return q.Name == r.Name })
		into.Repositories = append(into.Repositories, r)
	}
	mergeScripts(into, p)
	l.mergeVolumes(into, p)
	for _, c := range p.Checks {
		into.Checks = slices.DeleteFunc(into.Checks, func(b Check) bool { return b.Name == c.Name })
		into.Checks = append(into.Checks, c)
	}
	mergeDrain(into, p)
	for _, a := range p.Secrets.Allow {
		into.Secrets.Allow = slices.DeleteFunc(into.Secrets.Allow, func(b AllowedSecret) bool { return b.Path == a.Path })
		into.Secrets.Allow = append(into.Secrets.Allow, a)
	}
	into.folders[f.name] = f.folder
	recordOrigins(into.origins, f)
}

// mergeDrain merges hooks: one of the same name takes the place of the other.
func mergeDrain(into, p *Profile) {
	for _, h := range p.Drain {
		if i := slices.IndexFunc(into.Drain, func(g Hook) bool { return g.Name == h.Name }); i >= 0 {
			into.Drain[i] = h
		} else {
			into.Drain = append(into.Drain, h)
		}
	}
}

// wordLists are the lists of words that profiles append to.
var wordLists = []struct {
	path string
	of   func(*Profile) *[]string
}{
	{"keep", func(p *Profile) *[]string { return &p.Keep }},
	{"packages", func(p *Profile) *[]string { return &p.Packages }},
	{"kernel.modules", func(p *Profile) *[]string { return &p.Kernel.Modules }},
	{"kernel.arguments", func(p *Profile) *[]string { return &p.Kernel.Arguments }},
	{"kernel.load", func(p *Profile) *[]string { return &p.Kernel.Load }},
	{"kernel.blacklist", func(p *Profile) *[]string { return &p.Kernel.Blacklist }},
	{"kernel.initramfs", func(p *Profile) *[]string { return &p.Kernel.Initramfs }},
	{"debconf", func(p *Profile) *[]string { return &p.Debconf }},
	{"remove", func(p *Profile) *[]string { return &p.Remove }},
	{"scratch", func(p *Profile) *[]string { return &p.Scratch }},
	{"units.presets", func(p *Profile) *[]string { return &p.Units.Presets }},
	{"units.enable", func(p *Profile) *[]string { return &p.Units.Enable }},
	{"units.disable", func(p *Profile) *[]string { return &p.Units.Disable }},
	{"units.mask", func(p *Profile) *[]string { return &p.Units.Mask }},
}

// minus returns the word that an entry of a list takes back. Units have names that begin with a dash
// (-.mount, systemd.unit(5)), and -- is a kernel argument.
func minus(word string) (name string, ok bool) {
	name, ok = strings.CutPrefix(word, "-")
	if unit := strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "./"); !ok || name == "" || name == "-" || unit {
		return word, false
	}
	return name, true
}

// mergeWords appends words to a list, or takes them back from it.
func (l *loader) mergeWords(into *Profile, f *file, index int, words []string) {
	path, list := wordLists[index].path, wordLists[index].of(into)
	inherited := slices.Clone(*list)
	if path == "units.presets" { // the first rule counts, so those of a later profile go first
		*list = nil
		defer func() { *list = appendNew(*list, inherited) }()
	}
	for i, w := range words {
		name, back := minus(w)
		if !back {
			if !slices.Contains(*list, w) { // another answer or version replaces the earlier one
				*list = slices.DeleteFunc(*list, func(have string) bool { return subject(path, have) == subject(path, w) })
				*list = append(*list, w)
			}
			continue
		}
		is := func(have string) bool {
			return have == name || subject(path, have) == subject(path, name) || isArgument(path, have, name)
		}
		if !slices.ContainsFunc(inherited, is) {
			l.notInherited(f.d.Places[fmt.Sprintf("%s[%d]", path, i)], path, name, inherited)
		}
		*list, inherited = slices.DeleteFunc(*list, is), slices.DeleteFunc(inherited, is)
	}
}

// subject returns what an entry of a list is about: the question that it answers, the package whose
// version it chooses, or the entry itself.
func subject(path, entry string) string {
	switch path {
	case "debconf":
		return question(entry)
	case "packages":
		return packageName(entry)
	}
	return entry
}

// isArgument reports whether name is that of the kernel argument have, so that -console takes back all
// consoles.
func isArgument(path, have, name string) bool {
	key, _, _ := strings.Cut(have, "=")
	return path == "kernel.arguments" && key == name
}

// notInherited reports that a file takes back what is not there.
func (l *loader) notInherited(at Place, path, name string, have []string) {
	if l.broken {
		return // it may be in a file that cannot be read
	}
	fix := "leave -" + name + " out"
	if near := yamlfile.Nearest(name, have); near != "" {
		fix = fmt.Sprintf("write -%s, or leave it out", near)
	}
	l.faults.Add(at, fix, "%s: no profile that this one extends has %q", path, name)
}

// mergeUnits lets what a file enables start again, although an earlier one masks or disables it.
func (l *loader) mergeUnits(into, p *Profile) {
	for _, list := range []*[]string{&into.Units.Mask, &into.Units.Disable} {
		*list = slices.DeleteFunc(*list, func(u string) bool {
			return slices.Contains(p.Units.Enable, u) && !slices.Contains(p.Units.Mask, u) &&
				!slices.Contains(p.Units.Disable, u)
		})
	}
}

// takenBack is an item of a list that a file takes back.
type takenBack struct {
	name string
	at   Place
}

// namedLists are the lists of structs with names. back removes what has a name and returns all names
// before that.
var namedLists = []struct {
	path string
	back func(p *Profile, name string) []string
}{
	{"files", func(p *Profile, n string) []string {
		return removeNamed(&p.Files, n, func(f File) string { return f.Path })
	}},
	{"users", func(p *Profile, n string) []string {
		return removeNamed(&p.Users, n, func(u User) string { return u.Name })
	}},
	{"groups", func(p *Profile, n string) []string {
		return removeNamed(&p.Groups, n, func(g Group) string { return g.Name })
	}},
	{"volumes", func(p *Profile, n string) []string {
		return removeNamed(&p.Volumes, n, func(v Volume) string { return v.Name })
	}},
	{"scripts.configure", func(p *Profile, n string) []string {
		return removeNamed(&p.Scripts.Configure, n, func(s Script) string { return s.Name })
	}},
	{"scripts.finish", func(p *Profile, n string) []string {
		return removeNamed(&p.Scripts.Finish, n, func(s Script) string { return s.Name })
	}},
	{"repositories", func(p *Profile, n string) []string {
		return removeNamed(&p.Repositories, n, func(r Repository) string { return r.Name })
	}},
	{"checks", func(p *Profile, n string) []string {
		return removeNamed(&p.Checks, n, func(c Check) string { return c.Name })
	}},
	{"drain", func(p *Profile, n string) []string {
		return removeNamed(&p.Drain, n, func(h Hook) string { return h.Name })
	}},
	{"secrets.allow", func(p *Profile, n string) []string {
		return removeNamed(&p.Secrets.Allow, n, func(a AllowedSecret) string { return a.Path })
	}},
}

func removeNamed[T any](list *[]T, name string, of func(T) string) (before []string) {
	for _, item := range *list {
		before = append(before, of(item))
	}
	*list = slices.DeleteFunc(*list, func(item T) bool { return of(item) == name })
	return before
}

// splitTaken moves the items that a file takes back out of its lists.
func (d *decoder) splitTaken(p *Profile) {
	d.back = map[string][]takenBack{}
	d.split("files", &p.Files, func(i int) (string, Place) { return p.Files[i].Minus, p.Files[i].At })
	d.split("users", &p.Users, func(i int) (string, Place) { return p.Users[i].Minus, p.Users[i].At })
	d.split("groups", &p.Groups, func(i int) (string, Place) { return p.Groups[i].Minus, p.Groups[i].At })
	d.split("volumes", &p.Volumes, func(i int) (string, Place) { return p.Volumes[i].Minus, p.Volumes[i].At })
	for _, list := range scriptLists {
		scripts := list.of(p)
		d.split(list.path, scripts, func(i int) (string, Place) { return (*scripts)[i].Minus, (*scripts)[i].At })
	}
	d.split("repositories", &p.Repositories, func(i int) (string, Place) {
		return p.Repositories[i].Minus, p.Repositories[i].At
	})
	d.split("checks", &p.Checks, func(i int) (string, Place) { return p.Checks[i].Minus, p.Checks[i].At })
	d.split("drain", &p.Drain, func(i int) (string, Place) { return p.Drain[i].Minus, p.Drain[i].At })
	d.split("secrets.allow", &p.Secrets.Allow, func(i int) (string, Place) {
		return p.Secrets.Allow[i].Minus, p.Secrets.Allow[i].At
	})
}

func (d *decoder) split(path string, list any, of func(i int) (string, Place)) {
	v := reflect.ValueOf(list).Elem()
	kept := reflect.MakeSlice(v.Type(), 0, v.Len())
	for i := range v.Len() {
		if name, at := of(i); name != "" {
			d.back[path] = append(d.back[path], takenBack{name, at})
		} else {
			kept = reflect.Append(kept, v.Index(i))
		}
	}
	if kept.Len() < v.Len() {
		v.Set(kept)
	}
}

// takeBack takes back what earlier files have.
func (l *loader) takeBack(into *Profile, f *file) {
	for _, list := range namedLists {
		for _, t := range f.d.back[list.path] {
			if names := list.back(into, t.name); !slices.Contains(names, t.name) {
				l.notInherited(t.at, list.path, t.name, names)
			}
		}
	}
}

func (l *loader) mergeVolumes(into, p *Profile) {
	for _, v := range p.Volumes {
		i := slices.IndexFunc(into.Volumes, func(w Volume) bool { return w.Name == v.Name })
		switch {
		case i < 0 || v.Name == "":
			into.Volumes = append(into.Volumes, v)
		case into.Volumes[i].At.File != v.At.File: // else reported by checkTwice
			l.faults.Add(v.At, fmt.Sprintf("choose another name, or take that one back first with the entry -%s", v.Name),
				"the volume %q is defined already at %s", v.Name, into.Volumes[i].At)
		}
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
