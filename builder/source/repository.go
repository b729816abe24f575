package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"ingot"
	"ingot/internal/scratch"
)

// Repository is a signed archive of Debian packages besides Debian's own.
type Repository struct {
	Name       string       `json:"name"`
	URIs       []string     `json:"uris"`
	Suites     []string     `json:"suites"`
	Components []string     `json:"components,omitempty"`
	Pin        int          `json:"pin,omitempty"` // priority (apt_preferences(5)); 0: what it asks for
	KeyDigest  ingot.Digest `json:"key"`
	Key        []byte       `json:"-"` // OpenPGP, binary or armoured
}

// Release is the signed list of a suite of a repository at the time when packages were resolved.
type Release struct {
	Repository string       `json:"repository"`
	Suite      string       `json:"suite"`
	Digest     ingot.Digest `json:"digest"` // of InRelease, or of Release
}

// base returns a URL without a final slash.
func base(uri string) string { return strings.TrimRight(uri, "/") }

// repositoriesKey names a private apt that sees repositories as well; empty: none.
func (o *AptOptions) repositoriesKey() string {
	if len(o.Repositories) == 0 {
		return ""
	}
	text, err := json.Marshal(o.Repositories)
	if err != nil {
		return "" // cannot happen: they are texts and numbers
	}
	if o.Alone {
		text = append(text, "alone"...)
	}
	return "-" + ingot.DigestOf(text).Hex()[:12]
}

// keyFile returns where the key of a repository is kept. apt tells the forms apart by the suffix.
func (a *Apt) keyFile(r Repository) string {
	suffix := ".asc"
	if len(r.Key) > 0 && r.Key[0]&0x80 != 0 { // RFC 9580 section 4.2
		suffix = ".gpg"
	}
	return filepath.Join(a.dir, "etc/keys", r.Name+suffix)
}

// repositoryLines returns the lines of sources.list(5) of the repositories.
func (a *Apt) repositoryLines(list []Repository) string {
	var text strings.Builder
	for _, r := range list {
		for _, uri := range r.URIs {
			for _, suite := range r.Suites {
				fmt.Fprintf(&text, "deb [signed-by=%s] %s %s %s\n", a.keyFile(r), base(uri), suite,
					strings.Join(r.Components, " "))
			}
		}
	}
	return text.String()
}

// writeKeys writes the keys of the repositories.
func (a *Apt) writeKeys(list []Repository) error {
	if err := os.MkdirAll(filepath.Join(a.dir, "etc/keys"), 0o755); err != nil {
		return fmt.Errorf("preparing apt: %w", err)
	}
	for _, r := range list {
		if err := os.WriteFile(a.keyFile(r), r.Key, 0o644); err != nil {
			return fmt.Errorf("preparing apt: %w", err)
		}
	}
	return nil
}

// target is one list of packages that apt has.
type target struct{ uri, release, origin, label, codename, component, file string }

// targets returns the lists of packages that apt has.
func (a *Apt) targets(ctx context.Context) ([]target, error) {
	const format = "$(REPO_URI)\t$(RELEASE)\t$(ORIGIN)\t$(LABEL)\t$(CODENAME)\t$(COMPONENT)\t$(FILENAME)"
	out, err := a.run(ctx, "apt-get", "indextargets", "--format", format, "Created-By: Packages")
	if err != nil {
		return nil, fmt.Errorf("reading the lists of repositories: %w: %s", err, firstError(string(out)))
	}
	var list []target
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		for i := range f {
			if strings.HasPrefix(f[i], "$(") { // as apt leaves what a Release file does not say
				f[i] = ""
			}
		}
		if len(f) == 7 {
			list = append(list, target{base(f[0]), f[1], f[2], f[3], f[4], f[5], f[6]})
		}
	}
	return list, nil
}

// of returns the repository that a URL is of; nil: none.
func (a *Apt) of(uri string) *Repository {
	var found *Repository
	longest := 0
	for i, r := range a.repositories {
		for _, u := range r.URIs {
			if u = base(u); (uri == u || strings.HasPrefix(uri, u+"/")) && len(u) > longest {
				found, longest = &a.repositories[i], len(u)
			}
		}
	}
	return found
}

// prefer writes the priorities of the repositories (apt_preferences(5)).
func (a *Apt) prefer(ctx context.Context) error {
	var text strings.Builder
	targets, err := a.targets(ctx)
	if err != nil {
		return err
	}
	written := map[string]string{}
	for _, t := range targets {
		r := a.of(t.uri)
		if r == nil || r.Pin == 0 {
			continue
		}
		if t.origin == "" && t.label == "" {
			return fmt.Errorf("reading the lists of repositories: %w: the Release file of repository %q has neither Origin "+
				"nor Label, so that it cannot be preferred; leave pin out", ErrNoSuite, r.Name)
		}
		var words []string
		for _, w := range []struct{ key, value string }{{"o", t.origin}, {"l", t.label}, {"n", t.codename}} {
			if w.value != "" {
				words = append(words, w.key+"="+w.value)
			}
		}
		pin := "release " + strings.Join(words, ",")
		if written[pin] == "" {
			fmt.Fprintf(&text, "Package: *\nPin: %s\nPin-Priority: %d\n\n", pin, r.Pin)
		} else if written[pin] != r.Name {
			return fmt.Errorf("reading the lists of repositories: %w: %q and %q say the same about themselves, so that they "+
				"cannot have priorities; leave pin out", ErrConflict, written[pin], r.Name)
		}
		written[pin] = r.Name
	}
	return os.WriteFile(filepath.Join(a.dir, "etc/preferences.d/repositories"), []byte(text.String()), 0o644)
}

// Releases returns the signed lists of the repositories, as they are.
func (a *Apt) Releases(ctx context.Context) ([]Release, error) {
	if len(a.repositories) == 0 {
		return nil, nil
	}
	targets, err := a.targets(ctx)
	if err != nil {
		return nil, err
	}
	var list []Release
	for _, t := range targets {
		r := a.of(t.uri)
		if r == nil {
			continue
		}
		stem := t.file[:max(strings.LastIndex(t.file, "_Packages"), 0)]
		if i := strings.LastIndex(stem, "_"+t.component+"_binary-"); t.component != "" && i > 0 {
			stem = stem[:i]
		}
		for _, name := range []string{"_InRelease", "_Release"} {
			text, err := os.ReadFile(stem + name)
			if err != nil {
				continue
			}
			item := Release{Repository: r.Name, Suite: t.release, Digest: ingot.DigestOf(text)}
			if !slices.Contains(list, item) {
				list = append(list, item)
			}
			break
		}
	}
	slices.SortFunc(list, func(x, y Release) int {
		return strings.Compare(x.Repository+" "+x.Suite, y.Repository+" "+y.Suite)
	})
	return list, nil
}

// uriRE is a line of apt-get download --print-uris. The digest after it is the longest that the archive
// has, which need not be SHA-256.
var uriRE = regexp.MustCompile(`^'([^']+)' (\S+) [0-9]+ `)

// locate finds the repository of each package: apt fetches a version that several archives have from
// the one that it prefers. records are all records of the packages.
func (a *Apt) locate(ctx context.Context, list, records []Package) error {
	if len(a.repositories) == 0 || len(list) == 0 {
		return nil
	}
	args := []string{"download", "--print-uris"}
	for _, p := range list {
		args = append(args, p.Name+"="+p.Version)
	}
	out, err := a.run(ctx, "apt-get", args...)
	if err != nil {
		return fmt.Errorf("finding the repositories of packages: %w: %s", err, firstError(string(out)))
	}
	for line := range strings.Lines(string(out)) {
		m := uriRE.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		name, _, _ := strings.Cut(m[2], "_")
		i := slices.IndexFunc(list, func(p Package) bool { return p.Name == name })
		if r := a.of(m[1]); r != nil && i >= 0 {
			if err := list[i].in(r, m[1], records); err != nil {
				return fmt.Errorf("finding the repositories of packages: %w", err)
			}
		}
	}
	return nil
}

// in makes p the package of a repository that has this URL.
func (p *Package) in(r *Repository, uri string, records []Package) error {
	for _, u := range r.URIs {
		rest, ok := strings.CutPrefix(uri, base(u)+"/")
		if !ok {
			continue
		}
		rest, err := url.PathUnescape(rest)
		if err != nil {
			return err
		}
		rest = path.Clean(rest) // "./x.deb" in an archive without suites
		i := slices.IndexFunc(records, func(q Package) bool {
			return q.Name == p.Name && q.Version == p.Version && path.Clean(q.Path) == rest
		})
		if i < 0 {
			return fmt.Errorf("%w: several archives have a package %s %s, and they differ; choose another version",
				ErrConflict, p.Name, p.Version)
		}
		*p = records[i]
		p.Archive, p.Path = r.Name, rest
		return nil
	}
	return nil
}

// blame names the repository that a message of apt is about; empty: Debian's own archive.
func (a *Apt) blame(text string) string {
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "E: ") && !strings.HasPrefix(line, "W: ") && !strings.HasPrefix(line, "Err:") {
			continue
		}
		if uri := urlRE.FindString(line); uri == "" {
			continue
		} else if r := a.of(uri); r != nil {
			return fmt.Sprintf("repository %q: ", r.Name)
		}
		return "" // what fails first explains the rest
	}
	return ""
}

// LocalArchive is the archive of packages that are files of the profile's folder.
const LocalArchive = "local"

// Keep puts the file of a package, which the profile names as entry, into the cache, and returns what it is.
func (c Cache) Keep(ctx context.Context, entry string, file io.Reader) (Package, error) {
	p := Package{Archive: LocalArchive, Path: strings.TrimPrefix(entry, "./")}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return p, fmt.Errorf("preparing the package cache: %w", err)
	}
	incoming, err := scratch.In(c.Dir, ".incoming-")
	if err != nil {
		return p, fmt.Errorf("preparing the package cache: %w", err)
	}
	defer incoming.Remove()
	tmp, err := os.Create(filepath.Join(incoming.Path, "package.deb"))
	if err != nil {
		return p, err
	}
	defer tmp.Close()
	sum := sha256.New()
	if p.Size, err = io.Copy(io.MultiWriter(tmp, sum), file); err != nil {
		return p, fmt.Errorf("reading %q: %w", entry, err)
	}
	p.SHA256 = hex.EncodeToString(sum.Sum(nil))
	if err := errors.Join(tmp.Chmod(0o644), tmp.Sync()); err != nil {
		return p, err
	}
	out, err := exec.CommandContext(ctx, "dpkg-deb", "--field", tmp.Name(), "Package", "Version", "Architecture").Output()
	if err != nil {
		return p, fmt.Errorf("reading %q: %w: dpkg-deb cannot read it; it may be damaged", entry, ErrNoPackage)
	}
	control := string(out)
	p.Name, p.Version, p.Arch = field(control, "Package"), field(control, "Version"), field(control, "Architecture")
	if err := p.Check(); err != nil {
		return p, fmt.Errorf("reading %q: %w", entry, err)
	}
	return p, os.Rename(tmp.Name(), c.Path(p))
}

// archiveRE is the name of an archive in a lock.
var archiveRE = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// repositoryPathRE is a path of a package in a repository.
var repositoryPathRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+.~_/:%@-]*\.deb$`)

// backportsOf splits a suite of Debian that is on top of another: "trixie-backports".
func backportsOf(suite string) (on string, ok bool) {
	for _, suffix := range []string{"-backports-sloppy", "-backports", "-proposed-updates", "-updates", "-security"} {
		if on, ok = strings.CutSuffix(suite, suffix); ok {
			return on, true
		}
	}
	return suite, false
}
