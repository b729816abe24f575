package profiles

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ingot"
	"ingot/internal/beneath"
	"ingot/internal/yamlfile"
)

// Listed is a profile that can be built or extended.
type Listed struct {
	Name    string   `json:"name"`
	Ref     string   `json:"ref"`               // what commands take
	Extends []string `json:"extends,omitempty"` // as it is written
	Purpose string   `json:"purpose,omitempty"` // the first sentence of the comment at its beginning
	Shipped bool     `json:"shipped"`
	Broken  string   `json:"broken,omitempty"` // the first fault of the file, if it cannot be read
}

// List returns the shipped profiles and those in the folders of a folder, sorted by name.
func List(folder string) ([]Listed, error) {
	var list []Listed
	for _, name := range Shipped() {
		o, err := findShipped(name)
		if err != nil {
			return nil, err
		}
		l := o.listed(name)
		l.Shipped = true
		list = append(list, l)
	}
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing the profiles of %q: %w", folder, err)
	}
	for _, e := range entries {
		ref := filepath.Join(folder, e.Name())
		at := beneath.Path{Name: ref}
		if !exists(at.Join(fileName)) {
			continue
		}
		if o, err := find(at, ref); err == nil {
			list = append(list, o.listed(ref))
		}
	}
	slices.SortStableFunc(list, func(a, b Listed) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// listed describes one file, without what it extends.
func (o origin) listed(ref string) Listed {
	l := Listed{Name: filepath.Base(ref), Ref: ref}
	f, content, err := o.open()
	if err != nil {
		l.Broken = err.Error()
		return l
	}
	f.parse(content)
	alone := loader{files: []*file{f}} // without what it extends, variables may lack values
	alone.variables(nil).resolve(f)
	f.decode()
	if err := f.d.Faults.Err(); err != nil {
		l.Broken = f.d.Faults[0].String()
	}
	if f.p.Name != "" {
		l.Name = f.p.Name
	}
	l.Extends, l.Purpose = f.p.Extends, purpose(string(content))
	return l
}

// purpose returns the first sentence of the comment at the beginning of a file.
func purpose(content string) string {
	var words []string
	for line := range strings.Lines(content) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "#")
		if !ok {
			break
		}
		if !strings.Contains(text, "yaml-language-server:") {
			words = append(words, strings.Fields(text)...)
		}
	}
	text := strings.Join(words, " ")
	if first, _, ok := strings.Cut(text, ". "); ok {
		return first
	}
	return strings.TrimSuffix(text, ".")
}

// Errors of New.
var (
	// ErrName: the name cannot be that of a profile.
	ErrName = errors.New("this cannot be the name of a profile")
)

// New returns the text of a new profile. extends is a profile as the new one names it.
func New(name, extends string) ([]byte, error) {
	if !ingot.ValidProfileName(name) {
		return nil, fmt.Errorf("%w: %q; write lower-case letters, digits and dashes, at most 63", ErrName, name)
	}
	return fmt.Appendf(nil, `# What this image is for.
name: %s
extends: %s

# All keys: ingot profile reference. Take back what is inherited with a dash: packages: [-htop].
packages: []

# files:
#   - path: /etc/motd
#     content: |
#       Welcome.

# Without a user or a key nobody can log in.
# users:
#   - name: root
#     authorizedKeys: ["ssh-ed25519 …"]

# volumes:
#   - {name: data, mount: /srv}

# checks:
#   - {name: web, http: "http://127.0.0.1/"}
`, name, yamlfile.Scalar(extends)), nil
}
