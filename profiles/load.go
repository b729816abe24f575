package profiles

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

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
//
// The files are merged one after another: the profiles that a file extends go before it, in the order
// in which it lists them, and a profile that several others extend goes once, before the first of them.
// So what a profile says always counts more than what it extends.
func Load(ref string) (*Profile, error) { return LoadWith(ref, nil) }

// LoadWith is like Load and sets variables of the profile, by name.
func LoadWith(ref string, set map[string]string) (*Profile, error) {
	o, err := find(beneath.Path{Name: ref}, ref)
	if err != nil {
		return nil, err
	}
	l := &loader{}
	l.read(o, nil)
	v := l.variables(set)
	for _, f := range l.files {
		v.resolve(f)
		f.decode()
		l.faults = append(l.faults, f.d.Faults...)
	}
	p := l.mergeAll()
	p.Vars = v.vars
	p.renderFiles(v)
	p.readScripts(&l.faults)
	p.complete()
	p.validate(Place{File: o.name, Line: 1, Column: 1}, !l.broken, &l.faults)
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

// loader reads the files of one profile.
type loader struct {
	files  []*file // each once, after those that it extends
	broken bool    // a file cannot be read, so that what is missing may be in it
	faults Faults
}

// file is one profile file, as it is written.
type file struct {
	origin
	info fs.FileInfo
	root *yaml.Node // nil: it is not YAML
	p    *Profile
	d    *decoder
}

// same reports whether two files are one, perhaps by different paths.
func (f *file) same(g *file) bool { return f.name == g.name || os.SameFile(f.info, g.info) }

// read reads one file and what it extends. chain is the files that led to it.
func (l *loader) read(o origin, chain []*file) {
	f, content, err := o.open()
	if err != nil {
		fix := "check the path and its permissions"
		if errors.Is(err, beneath.ErrLeaves) {
			fix = "name the file that the link points to"
		}
		l.faults.Add(Place{File: o.name}, fix, "cannot read it: %v", err)
		l.broken = true
		return
	}
	if !f.parse(content) {
		l.broken = true
	}
	chain = append(slices.Clone(chain), f)
	extends, places := f.extends()
	for i, ref := range extends {
		l.extend(f, ref, places[i], chain)
	}
	l.files = append(l.files, f)
}

// open reads the file.
func (o origin) open() (*file, []byte, error) {
	info, err := fs.Stat(o.folder, o.file)
	if err != nil {
		return nil, nil, err
	}
	content, err := fs.ReadFile(o.folder, o.file)
	return &file{origin: o, info: info}, content, err
}

// extend reads a profile that f extends, unless it was read already.
func (l *loader) extend(f *file, ref string, at Place, chain []*file) {
	parent, err := f.parent(ref)
	if errors.Is(err, beneath.ErrLeaves) {
		f.d.Faults.Add(at, "write the path that the link points to", "extends %q: %v", ref, beneath.ErrLeaves)
		l.broken = true
		return
	}
	if err != nil {
		f.d.Faults.Add(at, "shipped profiles: "+strings.Join(Shipped(), ", "), "extends %q: no such profile", ref)
		l.broken = true
		return
	}
	next := &file{origin: parent}
	if next.info, err = fs.Stat(parent.folder, parent.file); err == nil {
		if i := slices.IndexFunc(chain, next.same); i >= 0 {
			var names []string
			for _, g := range chain {
				names = append(names, g.name)
			}
			f.d.Faults.Add(at, "remove one of these extends", "the profiles extend each other: %s",
				strings.Join(append(names, chain[i].name), " → "))
			return
		}
		if slices.ContainsFunc(l.files, next.same) {
			return
		}
	}
	l.read(parent, chain)
}

// parse parses the file. It reports whether it is YAML.
func (f *file) parse(content []byte) bool {
	f.d = &decoder{Decoder: yamlfile.Decoder{File: f.name, What: "the profile", Sample: "name: my-profile"}}
	f.p = &Profile{}
	f.root = f.d.Parse(content)
	return f.root != nil
}

// extends returns the profiles that the file extends, with their places.
func (f *file) extends() (refs OneOrMore, places []Place) {
	d := yamlfile.Decoder{File: f.name}
	if n := child(f.root, "extends"); n != nil {
		d.DecodeNode(n, &refs) // its faults are found again
	}
	for i := range refs {
		places = append(places, d.Places[fmt.Sprintf("[%d]", i)])
	}
	return refs, places
}

// decode decodes and checks what was parsed.
func (f *file) decode() {
	if f.root != nil {
		f.d.DecodeNode(f.root, f.p)
		f.d.checkFile(f.p)
	}
}

// parent finds a profile that o extends. A shipped profile extends shipped ones only.
func (o origin) parent(ref string) (origin, error) {
	if o.disk == "" {
		return findShipped(ref)
	}
	return find(beneath.Split(o.disk, ref), ref)
}

// decoder is one profile file, with its faults.
type decoder struct {
	yamlfile.Decoder
	back map[string][]takenBack // by list, what the file takes back
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
	if p.Kernel.Suite == "" && p.Kernel.Package != "" && (p.Base.Tree() || p.Base.HasArchive()) {
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
	if f.Template {
		return p.rendered(f, r)
	}
	return r, nil
}
