package profiles

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"ingot/internal/beneath"
)

// Repository is an archive of Debian packages besides that of the suite.
type Repository struct {
	// Name of the repository, for the lock and for messages: lower-case letters, digits, dashes.
	Name string `yaml:"name" json:"name" jsonschema:"required"`
	// Base URLs: https://packages.example/debian. Further ones have the same packages.
	URIs OneOrMore `yaml:"uris" json:"uris" jsonschema:"required"`
	// Suites of the repository, or a path that ends with a slash for one without suites.
	Suites OneOrMore `yaml:"suites" json:"suites" jsonschema:"required"`
	// Components of the suites: main, stable, …
	Components OneOrMore `yaml:"components,omitempty" json:"components,omitempty"`
	// OpenPGP public key that signs the repository: a file below the profile's folder, or the text that
	// begins with -----BEGIN PGP PUBLIC KEY BLOCK-----.
	Key string `yaml:"key" json:"key" jsonschema:"required"`
	// Priority of its packages, as apt_preferences(5): 100 takes what the suite does not have, 500 the
	// newest version of both, 990 and more what the repository has. Default: what the repository asks for.
	Pin int `yaml:"pin,omitempty" json:"pin,omitempty" jsonschema:"minimum=1,maximum=1000"`

	Minus string `yaml:"-" json:"-"` // an entry "-NAME": what has that name is taken back
	At    Place  `yaml:"-" json:"-"`
}

// armoured begins a key that is written as text.
const armoured = "-----BEGIN PGP PUBLIC KEY BLOCK-----"

// repositorySuiteRE is a suite of a repository: a path, with a final slash if there are no components.
var repositorySuiteRE = regexp.MustCompile(`^[A-Za-z0-9./][A-Za-z0-9._/+-]*$`)

// checkRepositories checks the repositories of one file.
func (d *decoder) checkRepositories(p *Profile) {
	for _, r := range p.Repositories {
		if nameRE := suiteRE; !nameRE.MatchString(r.Name) || r.Name == "debian" || r.Name == "security" {
			d.Faults.Add(r.At, "write lower-case letters, digits and dashes, and neither debian nor security",
				"%q cannot be the name of a repository", r.Name)
		}
		if len(r.URIs) == 0 {
			d.Faults.Add(r.At, "write uris", "repository %q has no URL", r.Name)
		}
		d.checkURIs(fmt.Sprintf("repository %q", r.Name), r.URIs, r.At)
		for _, s := range r.Suites {
			if flat := strings.HasSuffix(s, "/"); !repositorySuiteRE.MatchString(s) || flat == (len(r.Components) > 0) {
				d.Faults.Add(r.At, "write suites and components, such as trixie and main, or a path that ends with / and no "+
					"components", "repository %q: %q cannot be a suite", r.Name, s)
			}
		}
		for _, c := range r.Components {
			if !repositorySuiteRE.MatchString(c) {
				d.Faults.Add(r.At, "write a word such as main", "repository %q: %q cannot be a component", r.Name, c)
			}
		}
		switch {
		case len(r.Suites) == 0:
			d.Faults.Add(r.At, "write suites", "repository %q has no suite", r.Name)
		case r.Key == "":
			d.Faults.Add(r.At, "write key: FILE, with the OpenPGP key that signs it; there is no way to trust a repository "+
				"without one", "repository %q has no key", r.Name)
		case r.Pin < 0 || r.Pin > 1000:
			d.Faults.Add(r.At, "write a number from 1 to 1000", "repository %q: %d cannot be a priority", r.Name, r.Pin)
		}
	}
}

func (d *decoder) checkURIs(of string, uris []string, at Place) {
	for _, text := range uris {
		u, err := url.Parse(text)
		switch {
		case err != nil || !slices.Contains([]string{"http", "https", "file"}, u.Scheme),
			strings.ContainsAny(text, " \n[]"):
			d.Faults.Add(at, "write a URL such as https://packages.example/debian", "%s: %q is not a URL", of, text)
		case u.User != nil || u.RawQuery != "":
			d.Faults.Add(at, "use a mirror that asks for no credentials",
				"%s: the URL has a user or a query, and would be in every image", of)
		}
	}
}

// BaseArchive is the name of the archive of a suite that is not Debian's, in locks and messages.
const BaseArchive = "base"

// HasArchive reports whether the suite comes from an archive that is not Debian's.
func (b Base) HasArchive() bool { return b.Suite != "" && len(b.Archive.URIs) > 0 }

// Archives returns the archives besides Debian's: that of the suite, if it is another one, and the
// repositories.
func (p *Profile) Archives() []Repository {
	if !p.Base.HasArchive() {
		return p.Repositories
	}
	a := p.Base.Archive
	base := Repository{Name: BaseArchive, URIs: a.URIs, Suites: OneOrMore{p.Base.Suite}, Key: a.Key, At: a.At,
		Components: p.Base.Components}
	add := func(suite string) {
		if !slices.Contains(base.Suites, suite) {
			base.Suites = append(base.Suites, suite)
		}
	}
	for _, s := range a.Updates {
		add(s)
	}
	for _, entry := range p.Packages {
		if _, suite, ok := strings.Cut(entry, "/"); ok && !IsLocalPackage(entry) && !p.ofRepository(suite) {
			add(suite)
		}
	}
	return append([]Repository{base}, p.Repositories...)
}

// ofRepository reports whether a repository has a suite.
func (p *Profile) ofRepository(suite string) bool {
	return slices.ContainsFunc(p.Repositories, func(r Repository) bool { return slices.Contains(r.Suites, suite) })
}

// validateArchive checks that nothing of the archive of the suite is missing.
func (p *Profile) validateArchive(faults *Faults) {
	a := p.Base.Archive
	given := len(a.URIs) > 0 || len(a.Updates) > 0 || a.Key != ""
	switch {
	case given && p.Base.Tree():
		faults.Add(a.At, "leave it out", "base.archive: the base is a tree, which comes from no archive")
	case given && len(a.URIs) == 0:
		faults.Add(a.At, "write uris", "base.archive has no URL")
	case given && a.Key == "":
		faults.Add(a.At, "write key: FILE, with the OpenPGP key that signs it; there is no way to trust an archive without "+
			"one", "base.archive has no key")
	}
	for _, r := range p.Repositories {
		if given && r.Name == BaseArchive {
			faults.Add(r.At, "choose another name", "the repository %q has the name of the archive of the suite", r.Name)
		}
	}
}

// RepositoryKey returns the key of a repository.
func (p *Profile) RepositoryKey(r Repository) ([]byte, error) {
	if strings.HasPrefix(r.Key, armoured) {
		return []byte(r.Key), nil
	}
	folder := p.folders[r.At.File]
	if folder == nil {
		return nil, fmt.Errorf("reading the key of %q: the profile's folder is not known", r.Name)
	}
	return fs.ReadFile(folder, r.Key)
}

// validateRepositories checks the keys, which are files of the profiles' folders.
func (p *Profile) validateRepositories(faults *Faults) {
	p.validateArchive(faults)
	for _, r := range p.Archives() {
		if r.Key == "" {
			continue // reported already
		}
		switch key, err := p.RepositoryKey(r); {
		case errors.Is(err, beneath.ErrLeaves):
			faults.Add(r.At, "put the file itself there", "the key %q of repository %q: %v", r.Key, r.Name, beneath.ErrLeaves)
		case err != nil:
			faults.Add(r.At, "put it beside the profile", "the key %q of repository %q does not exist", clip(r.Key), r.Name)
		case len(key) == 0 || key[0]&0x80 == 0 && !strings.Contains(string(key), armoured):
			faults.Add(r.At, "write a file that gpg --export makes, or gpg --export --armor", "the key %q of repository %q is "+
				"not an OpenPGP public key", clip(r.Key), r.Name)
		}
	}
}

// packageName returns the name of an entry of packages: without a version or suite.
func packageName(entry string) string {
	if IsLocalPackage(entry) {
		return entry
	}
	if i := strings.IndexAny(entry, "=/"); i >= 0 {
		return entry[:i]
	}
	return entry
}

// IsLocalPackage reports whether an entry of packages is a file of the profile's folder.
func IsLocalPackage(entry string) bool { return strings.HasPrefix(entry, "./") }

// OpenPackage opens a package that is a file of the profile's folder.
func (p *Profile) OpenPackage(entry string) (fs.File, error) {
	folder := p.folders[p.Origin("packages="+entry).File]
	if folder == nil {
		return nil, fmt.Errorf("opening the package %q: the profile's folder is not known", entry)
	}
	return folder.Open(strings.TrimPrefix(entry, "./"))
}

// validateLocalPackages checks that the packages of the profile's folder are there.
func (p *Profile) validateLocalPackages(faults *Faults) {
	for _, entry := range p.Packages {
		if !IsLocalPackage(entry) {
			continue
		}
		at := p.Origin("packages=" + entry)
		f, err := p.OpenPackage(entry)
		if err != nil {
			faults.Add(at, "put it beside the profile", "the package %q cannot be read", entry)
			continue
		}
		if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
			faults.Add(at, "name one file", "the package %q is not a file", entry)
		}
		f.Close()
	}
}

// HasPackage reports whether the profile asks for a package.
func (p *Profile) HasPackage(name string) bool {
	return slices.ContainsFunc(p.Packages, func(e string) bool { return packageName(e) == name })
}
