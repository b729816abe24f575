package compare

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"ingot"
	"ingot/builder"
	"ingot/builder/inspect"
	"ingot/builder/lock"
	"ingot/builder/source"
	"ingot/builder/squashfs"
	"ingot/image"
	"ingot/profiles"
)

// Diff is how two images differ.
type Diff struct {
	From      string          `json:"from"`
	To        string          `json:"to"`
	Packages  []PackageChange `json:"packages"`
	Trees     []lock.Change   `json:"trees,omitempty"` // of base and layers, by digest
	Files     []OwnedChange   `json:"files"`
	Sizes     []SizeChange    `json:"sizes"` // by package, the largest change first
	Kernel    *PackageChange  `json:"kernel,omitempty"`
	Modules   ListChange      `json:"modules"`
	Arguments ListChange      `json:"arguments"`
	Artifacts []string        `json:"artifacts,omitempty"` // that differ: "kernel", "initramfs", "root", …
	Settings  []SettingChange `json:"settings,omitempty"`  // of the manifest: volumes, checks, memory, …
	// Accounts whose numbers differ: files on volumes would belong to another account.
	Accounts []ingot.MovedAccount `json:"accounts,omitempty"`
	Root     SizeChange           `json:"root"`   // of the squashfs
	Shared   int64                `json:"shared"` // bytes of the new root in chunks that the old one has, too
	// Lacks says of plans of other versions of ingot what they do not record, a sentence for each image.
	Lacks []string `json:"lacks,omitempty"`
}

// PackageChange is a package that differs, with the entries of its changelog in between.
type PackageChange struct {
	lock.Change
	Older     bool     `json:"older,omitempty"` // the package was downgraded
	Changelog []string `json:"changelog,omitempty"`
	// NoChangelog says why there is none.
	NoChangelog string `json:"noChangelog,omitempty"`
}

// SettingChange is a field of the manifest that differs, as JSON.
type SettingChange struct {
	Name   string          `json:"name"`
	Before json.RawMessage `json:"before,omitempty"` // empty: it was not set
	After  json.RawMessage `json:"after,omitempty"`
}

// OwnedChange is a file that differs, and the package that ships it.
type OwnedChange struct {
	FileChange
	Package string `json:"package,omitempty"`
}

// SizeChange is a size before and after.
type SizeChange struct {
	Package string `json:"package,omitempty"` // empty: files of no package
	Before  int64  `json:"before"`            // bytes
	After   int64  `json:"after"`
}

// ListChange is what was added to a list and removed from it.
type ListChange struct {
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// Images says how image b differs from image a. Changelogs are read from packages in the cache,
// because images carry none; when a package is no longer there, NoChangelog says so.
func Images(ctx context.Context, env *builder.Env, s *image.Store, a, b image.Image) (*Diff, error) {
	from, err := builder.OpenContents(s, a)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	to, err := builder.OpenContents(s, b)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	d := &Diff{From: a.Name.String(), To: b.Name.String(),
		Root:      SizeChange{Before: a.Manifest.Root.Size, After: b.Manifest.Root.Size},
		Arguments: changesOf(a.Manifest.Arguments, b.Manifest.Arguments), Modules: changesOf(modules(from), modules(to))}
	if d.Artifacts, err = artifactChanges(a, b); err != nil {
		return nil, err
	}
	if d.Settings, err = settingChanges(a, b); err != nil {
		return nil, err
	}
	if d.Accounts, err = builder.MovedBetween(s, a, b); err != nil {
		return nil, err
	}
	known := map[string]bool{}
	for _, c := range a.Manifest.Chunks {
		known[string(c.Digest)] = true
	}
	for _, c := range b.Manifest.Chunks {
		if known[string(c.Digest)] {
			d.Shared += c.Size
		}
	}
	if err := d.packages(ctx, s, from, to, env.PackageCache()); err != nil {
		return nil, err
	}
	return d, d.files(ctx, from, to)
}

// packages compares the packages that the plans pin. Of bases that are trees it compares their
// package databases.
func (d *Diff) packages(ctx context.Context, s *image.Store, from, to *builder.Contents, cache source.Cache) error {
	a, b := from.Image, to.Image
	recorded, err := builder.ReadPlan(s, a)
	if err != nil {
		return err
	}
	then, err := builder.ReadPlan(s, b)
	if err != nil {
		return err
	}
	d.Lacks = append(lacks(recorded, a), lacks(then, b)...)
	before, after := recorded.Plan, then.Plan
	d.Trees = lock.TreeChanges(before.Trees, after.Trees)
	pinned := recorded.Has["packages"] && then.Has["packages"]
	if !pinned || onTree(before.Profile) && onTree(after.Profile) {
		if err := d.listed(ctx, from, to); err != nil {
			return err
		}
	}
	if !pinned {
		before.Packages, after.Packages = nil, nil // all of the other would count as added or removed
	}
	for _, c := range lock.PackageChanges(before.Packages, after.Packages) {
		p := PackageChange{Change: c}
		if c.Before != "" && c.After != "" {
			p.readChanges(ctx, cache, packageNamed(before.Packages, c.Package), packageNamed(after.Packages, c.Package))
		}
		d.Packages = append(d.Packages, p)
	}
	// The name of a kernel's package contains its release, so a newer one is another package.
	switch x, y := before.Kernel, after.Kernel; {
	case x.Name == "" || y.Name == "":
		if a.Manifest.KernelRelease != b.Manifest.KernelRelease {
			d.Kernel = &PackageChange{Change: lock.Change{Package: "kernel",
				Before: a.Manifest.KernelRelease, After: b.Manifest.KernelRelease}}
		}
	case x.Name != y.Name || x.Version != y.Version:
		d.Kernel = &PackageChange{Change: lock.Change{Package: y.Name,
			Before: kernelVersion(x, a), After: kernelVersion(y, b)}}
		d.Kernel.readChanges(ctx, cache, x, y)
	}
	return ctx.Err()
}

// onTree reports whether the base of a profile is a tree. Plans of other versions may have no profile.
func onTree(p *profiles.Profile) bool { return p != nil && p.Base.Tree() }

// lacks says what the plan of another version of ingot does not record, and what is compared instead.
func lacks(r *builder.RecordedPlan, im image.Image) []string {
	if r.Exact {
		return nil
	}
	var list []string
	for _, f := range []struct{ name, instead string }{
		{"packages", "no packages (dpkg's lists in the roots are compared)"},
		{"kernel", "no package of the kernel (its release is compared)"},
		{"accounts", "no numbers of accounts (those in the roots are compared)"},
		{"profile", "no profile"},
	} {
		if !r.Has[f.name] {
			list = append(list, f.instead)
		}
	}
	if len(list) == 0 {
		list = []string{"all that is compared"}
	}
	return []string{fmt.Sprintf("the plan of %s has format %d, and this ingot writes format %d: it records %s", im.Name,
		r.Plan.Format, builder.PlanFormat, strings.Join(list, ", "))}
}

// listed compares the packages in dpkg's status files of two roots.
func (d *Diff) listed(ctx context.Context, from, to *builder.Contents) error {
	var lists [2][]source.Package
	for i, c := range []*builder.Contents{from, to} {
		have, err := inspect.Packages(c.Tree)
		if err != nil {
			return err
		}
		for _, p := range have {
			lists[i] = append(lists[i], source.Package{Name: p.Name, Version: p.Version})
		}
	}
	for _, c := range lock.PackageChanges(lists[0], lists[1]) {
		p := PackageChange{Change: c}
		if c.Before != "" && c.After != "" {
			p.Older, p.NoChangelog = later(ctx, c.Before, c.After), "the package is part of the base"
		}
		d.Packages = append(d.Packages, p)
	}
	return nil
}

func packageNamed(list []source.Package, name string) source.Package {
	i := slices.IndexFunc(list, func(p source.Package) bool { return p.Name == name })
	return list[i] // the name is from this list
}

// kernelVersion returns the kernel's release and the version of its package.
func kernelVersion(p source.Package, im image.Image) string {
	return im.Manifest.KernelRelease + " (" + p.Version + ")"
}

// later reports whether Debian version a is later than b.
func later(ctx context.Context, a, b string) bool {
	return exec.CommandContext(ctx, "dpkg", "--compare-versions", a, "gt", b).Run() == nil
}

// readChanges reads the changes between two versions from the changelog of the newer package, which
// lists both.
func (c *PackageChange) readChanges(ctx context.Context, cache source.Cache, before, after source.Package) {
	newer, since := after, before.Version
	if later(ctx, before.Version, after.Version) {
		c.Older, newer, since = true, before, after.Version
	}
	var text string
	err := cache.Verify(newer)
	if err == nil {
		text, err = readChangelog(ctx, cache.Path(newer), newer.Name)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.NoChangelog = fmt.Sprintf("%s %s is no longer in the package cache", newer.Name, newer.Version)
	case errors.Is(err, io.EOF):
		c.NoChangelog = "the package has none"
	case err != nil:
		c.NoChangelog = err.Error()
	default:
		c.Changelog = sinceVersion(text, since)
	}
}

// artifactChanges returns the names of the artifacts that differ.
func artifactChanges(a, b image.Image) ([]string, error) {
	before, err := builder.Artifacts(a)
	if err != nil {
		return nil, err
	}
	after, err := builder.Artifacts(b)
	if err != nil {
		return nil, err
	}
	digests := map[string][2]string{}
	for side, layers := range [][]ocispec.Descriptor{before, after} {
		for _, l := range layers {
			d := digests[image.PartName(l.MediaType)]
			d[side] = string(l.Digest)
			digests[image.PartName(l.MediaType)] = d
		}
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(digests)) {
		if d := digests[name]; d[0] != d[1] {
			names = append(names, name)
		}
	}
	return names, nil
}

// coveredElsewhere are the fields of a manifest that other parts of a Diff cover, or that differ
// between any two builds.
var coveredElsewhere = append([]string{"version", "plan", "created", "arguments", "users", "groups"}, described...)

// settingChanges returns the other fields of the manifest that differ, by name.
func settingChanges(a, b image.Image) ([]SettingChange, error) {
	x, err := fieldsOf(a)
	if err != nil {
		return nil, err
	}
	y, err := fieldsOf(b)
	if err != nil {
		return nil, err
	}
	var list []SettingChange
	for _, k := range fieldNames(x, y) {
		if !slices.Contains(coveredElsewhere, k) && !bytes.Equal(x[k], y[k]) {
			list = append(list, SettingChange{k, x[k], y[k]})
		}
	}
	return list, nil
}

// fieldsOf returns the fields of a manifest as JSON.
func fieldsOf(im image.Image) (map[string]json.RawMessage, error) {
	text, err := json.Marshal(im.Manifest)
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	return fields, json.Unmarshal(text, &fields)
}

func fieldNames(x, y map[string]json.RawMessage) []string {
	all := maps.Clone(x)
	maps.Copy(all, y)
	return slices.Sorted(maps.Keys(all))
}

// files compares the roots.
func (d *Diff) files(ctx context.Context, from, to *builder.Contents) error {
	ownedFrom, err := from.Owners()
	if err != nil {
		return err
	}
	ownedTo, err := to.Owners()
	if err != nil {
		return err
	}
	sizes := map[string]SizeChange{}
	add := func(list []squashfs.Entry, owners map[string]string, into func(*SizeChange) *int64) {
		for _, e := range list {
			s := sizes[owners[e.Path]]
			s.Package = owners[e.Path]
			*into(&s) += e.Size
			sizes[owners[e.Path]] = s
		}
	}
	add(from.Entries, ownedFrom, func(s *SizeChange) *int64 { return &s.Before })
	add(to.Entries, ownedTo, func(s *SizeChange) *int64 { return &s.After })
	for _, s := range sizes {
		if s.Before != s.After {
			d.Sizes = append(d.Sizes, s)
		}
	}
	abs := func(n int64) int64 { return max(n, -n) }
	slices.SortFunc(d.Sizes, func(a, b SizeChange) int {
		if x, y := abs(a.After-a.Before), abs(b.After-b.Before); x != y {
			return int(min(max(y-x, -1), 1))
		}
		return strings.Compare(a.Package, b.Package)
	})
	return compareEntries(ctx, from.Entries, to.Entries, func(c FileChange) bool {
		owner := ownedTo[c.Path]
		if owner == "" {
			owner = ownedFrom[c.Path]
		}
		d.Files = append(d.Files, OwnedChange{c, owner})
		return true
	})
}

// modules returns the names of the kernel modules of the root.
func modules(c *builder.Contents) []string {
	var names []string
	for _, e := range c.Entries {
		if name, _, ok := strings.Cut(path.Base(e.Path), ".ko"); ok && strings.HasPrefix(e.Path, "usr/lib/modules/") &&
			e.Kind == squashfs.File {
			names = append(names, name)
		}
	}
	return names
}

func changesOf(before, after []string) ListChange {
	var c ListChange
	for _, s := range after {
		if !slices.Contains(before, s) {
			c.Added = append(c.Added, s)
		}
	}
	for _, s := range before {
		if !slices.Contains(after, s) {
			c.Removed = append(c.Removed, s)
		}
	}
	return c
}

// changelogLines is the number of lines that a Diff quotes from the changelog of a package.
const changelogLines = 20

// headRE is the first line of an entry (deb-changelog(5)): "bash (5.2-1) trixie; urgency=…".
var headRE = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+ \(([^)]+)\) `)

// sinceVersion returns the entries above the one of version before, without blank lines and
// signatures.
func sinceVersion(text, before string) []string {
	var lines []string
	for scan := bufio.NewScanner(strings.NewReader(text)); scan.Scan(); {
		line := scan.Text()
		if m := headRE.FindStringSubmatch(line); m != nil {
			if m[1] == before || len(lines) > 0 && strings.HasPrefix(before, m[1]+"+b") { // a binary rebuild of it
				break
			}
			lines = append(lines, strings.TrimSpace(strings.SplitN(line, ";", 2)[0]))
			continue
		}
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, " -- ") {
			continue
		}
		if len(lines) == changelogLines {
			return append(lines, "…")
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return lines
}

func readChangelog(ctx context.Context, deb, name string) (text string, err error) {
	if _, err := os.Stat(deb); err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer func() { cancel(); _ = cmd.Wait() }() // it is stopped once the file is found
	for r := tar.NewReader(out); ; {
		h, err := r.Next()
		if err != nil {
			return "", fmt.Errorf("reading the changelog of %s: %w", name, err)
		}
		dir, base := path.Split(path.Clean(h.Name)) // "./usr/…" in the archive
		if dir != "usr/share/doc/"+name+"/" || !slices.Contains([]string{"changelog.Debian.gz", "changelog.gz"}, base) ||
			h.Typeflag != tar.TypeReg {
			continue
		}
		z, err := gzip.NewReader(r)
		if err != nil {
			return "", err
		}
		b, err := io.ReadAll(io.LimitReader(z, 64<<10))
		if base == "changelog.gz" && !headRE.Match(b) {
			continue // the changelog of upstream
		}
		return string(b), err
	}
}
