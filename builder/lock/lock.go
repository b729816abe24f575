// Package lock resolves what a profile asks for to exact inputs and keeps them in a lock file:
// packages by version and SHA-256, trees by digest. The file is kept beside the profile and belongs
// under version control; with it a build does not depend on the day it runs. The package leaves out
// what a plan pins besides: files of the profile's folder, ingot-init and keys (package builder).
package lock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"

	"ingot/builder/accounts"
	"ingot/builder/source"
	"ingot/internal/beneath"
)

// Errors that callers may test for with errors.Is.
var (
	// ErrStale: the lock answers another request than the profile's.
	ErrStale = errors.New("the lock does not match the profile")
	// ErrMissing: a lock is required and there is none.
	ErrMissing = errors.New("there is no lock")
)

// The versions of the file's schema: the one that is written, and the oldest that is read. Format 2
// has no accounts.
const (
	format       = 3
	oldestFormat = 2
)

// File is a lock file: what apt answered to a profile's request, as exact packages without the host
// name of a mirror, and the digests of the profile's trees.
type File struct {
	Format   int              `json:"format"`
	Request  Request          `json:"request"`
	Kernel   source.Package   `json:"kernel"`
	Stub     source.Package   `json:"stub"`            // holds the systemd-stub of the UKI, whatever the suite
	Packages []source.Package `json:"packages"`        // sorted by name
	Trees    []source.Pin     `json:"trees,omitempty"` // of base and layers, in order
	// Releases are the signed lists of the request's repositories that the packages were found in.
	Releases []source.Release `json:"releases,omitempty"`
	// Accounts are the numbers of users and groups. A number that was given once stays with its name.
	// Nil: they are not known, because nothing was built from the file, or an older ingot wrote it.
	Accounts accounts.List `json:"accounts,omitzero"`
}

// Read reads a lock file. It returns nil when there is none. A link out of its folder is refused.
func Read(path string) (*File, error) {
	b, err := beneath.Path{Root: filepath.Dir(path), Name: filepath.Base(path)}.ReadFile()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the lock: %w", err)
	}
	var f File
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("reading the lock %s: %w; restore it, or write a new one: ingot plan --update", path, err)
	}
	if f.Format < oldestFormat || f.Format > format {
		return nil, fmt.Errorf("reading the lock %s: it has format %d, and this ingot reads format %d; "+
			"write a new one: ingot plan --update, or use the ingot that wrote it", path, f.Format, format)
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("reading the lock %s: %w; restore it, or write a new one: ingot plan --update", path, err)
	}
	return &f, nil
}

// check reports what is wrong with a lock that somebody may have edited.
func (f *File) check() error {
	seen := map[string]bool{}
	if err := f.Stub.Check(); err != nil {
		return err
	}
	for i, p := range append([]source.Package{f.Kernel}, f.Packages...) {
		if err := p.Check(); err != nil {
			return err
		}
		if p.Arch != string(f.Request.Arch) && p.Arch != "all" {
			return fmt.Errorf("package %s is for %s, the lock for %s", p.Name, p.Arch, f.Request.Arch)
		}
		if i > 0 && seen[p.Name] {
			return fmt.Errorf("package %s is listed twice", p.Name)
		}
		seen[p.Name] = i > 0
		if err := f.checkArchive(p); err != nil {
			return err
		}
	}
	if len(f.Trees) != len(f.Request.Trees) {
		return fmt.Errorf("it pins %d trees of %d", len(f.Trees), len(f.Request.Trees))
	}
	for _, t := range f.Trees {
		if err := t.Check(); err != nil {
			return err
		}
	}
	return f.Accounts.Check()
}

// checkArchive reports a package of a repository that the request does not have.
func (f *File) checkArchive(p source.Package) error {
	if p.Archive == "debian" || p.Archive == "security" ||
		p.Archive == source.LocalArchive && slices.Contains(f.Request.Packages, "./"+p.Path) ||
		slices.ContainsFunc(f.Request.Repositories, func(r source.Repository) bool { return r.Name == p.Archive }) {
		return nil
	}
	return fmt.Errorf("package %s: unknown archive %q", p.Name, p.Archive)
}

// Text is the content of the file: JSON with a line for each package, so that a diff of it shows
// which packages changed.
func (f *File) Text() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n\"format\": %d,\n", f.Format)
	for _, field := range []struct {
		key   string
		value any
	}{{"request", f.Request}, {"kernel", f.Kernel}, {"stub", f.Stub}} {
		line, err := json.Marshal(field.value)
		if err != nil {
			return nil, fmt.Errorf("encoding the lock: %w", err)
		}
		fmt.Fprintf(&b, "%q: %s,\n", field.key, line)
	}
	if len(f.Trees) > 0 {
		if err := writeLines(&b, "trees", f.Trees); err != nil {
			return nil, err
		}
		b.WriteString(",\n")
	}
	if len(f.Releases) > 0 {
		if err := writeLines(&b, "releases", f.Releases); err != nil {
			return nil, err
		}
		b.WriteString(",\n")
	}
	if f.Accounts != nil {
		if err := writeLines(&b, "accounts", f.Accounts); err != nil {
			return nil, err
		}
		b.WriteString(",\n")
	}
	if err := writeLines(&b, "packages", f.Packages); err != nil {
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

func (f *File) write(path string) error {
	text, err := f.Text()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(path, text, 0o644)
}
