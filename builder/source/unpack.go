package source

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// readDebs reads and verifies all packages, as many at a time as there are processors. report is
// called with the number of packages done.
func readDebs(ctx context.Context, c Cache, list []Package, dir string, report func(done int)) ([]*deb, error) {
	debs, done := make([]*deb, len(list)), make(chan struct{}, len(list))
	// Large packages first, so that all processors are busy until the end.
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return int(list[b].Size - list[a].Size) })
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0) + 1)
	for _, i := range order {
		g.Go(func() (err error) {
			debs[i], err = readDeb(ctx, c, list[i], filepath.Join(dir, list[i].SHA256+".tar"))
			done <- struct{}{}
			report(len(done))
			return err
		})
	}
	return debs, g.Wait()
}

// The words of a profile's key keep: files of packages that an image has only on request.
const (
	KeepDocs    = "docs"
	KeepMan     = "man"
	KeepLocales = "locales"
)

// keeps are the folders of each word.
var keeps = []struct {
	name string
	dirs []string
}{
	{KeepDocs, []string{"/usr/share/doc", "/usr/share/info", "/usr/share/lintian", "/usr/share/bug"}},
	{KeepMan, []string{"/usr/share/man"}},
	{KeepLocales, []string{"/usr/share/locale"}},
}

// filter decides which files of the packages are left out.
type filter []string

func newFilter(keep []string) filter {
	var f filter
	for _, k := range keeps {
		if !slices.Contains(keep, k.name) {
			f = append(f, k.dirs...)
		}
	}
	return f
}

// skips reports whether a file of a package is left out. Copyright files stay, because licences
// require it, and with them their folders and the links among those, as with dpkg's path-include
// (dpkg(1)).
func (f filter) skips(name string, kind byte) bool {
	for _, dir := range f {
		rest, ok := strings.CutPrefix(name, dir+"/")
		if !ok {
			continue
		}
		switch dir {
		case "/usr/share/doc":
			return kind != tar.TypeDir && kind != tar.TypeSymlink &&
				!(strings.Contains(rest, "/") && path.Base(rest) == "copyright")
		case "/usr/share/locale":
			return rest != "locale.alias"
		}
		return true
	}
	return false
}

// unpacked is the files of all packages as one tree.
type unpacked struct {
	debs    []*deb
	aliases map[string]string // folders of the root that are links: bin → usr/bin
	owner   map[string]owned  // by path in the tree
	taken   map[*deb]map[string]bool
	late    map[*deb]bool // to be unpacked by dpkg itself
	bytes   int64
	filter  filter
}

type owned struct {
	by   *deb
	file debFile
}

// place returns the path of a package's file with the links of the root followed.
func (u *unpacked) place(name string) string {
	if name == "/." {
		return ""
	}
	first, rest, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	if to, ok := u.aliases[first]; ok && rest != "" {
		return to + "/" + rest
	}
	return strings.TrimPrefix(name, "/")
}

// mergedUsr are the links that a root of Debian 12 must have before the first package. In later
// releases base-files has them.
var mergedUsr = map[string]string{"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib"}

// layOut decides which package each path comes from. A file of two packages is an error, unless one
// of them replaces the other's files (Debian policy 7.6).
func layOut(debs []*deb, keep []string) (*unpacked, error) {
	u := &unpacked{debs: debs, aliases: map[string]string{}, owner: map[string]owned{}, taken: map[*deb]map[string]bool{},
		late: map[*deb]bool{}, filter: newFilter(keep)}
	for _, d := range debs {
		for _, f := range d.files {
			if dir, ok := strings.CutPrefix(f.name, "/"); ok && f.Typeflag == tar.TypeSymlink && !strings.Contains(dir, "/") &&
				strings.HasPrefix(f.Linkname, "usr/") {
				u.aliases[dir] = f.Linkname
			}
		}
	}
	if len(u.aliases) == 0 {
		for from, to := range mergedUsr {
			u.aliases[from] = to
		}
		if len(debs) > 0 && slices.ContainsFunc(debs, func(d *deb) bool { return d.Arch == "amd64" }) {
			u.aliases["lib64"] = "usr/lib64"
		}
	}
	for _, d := range debs {
		for _, f := range d.files {
			if err := u.claim(d, f); err != nil {
				return nil, err
			}
		}
	}
	for _, o := range u.owner {
		if o.file.Typeflag == tar.TypeReg {
			u.bytes += o.file.Size
		}
	}
	return u, nil
}

// claim gives a path to a package.
func (u *unpacked) claim(d *deb, f debFile) error {
	at := u.place(f.name)
	old, there := u.owner[at]
	switch {
	case !there:
		u.owner[at] = owned{d, f}
		return nil
	case f.Typeflag == tar.TypeDir: // a folder, or a link to one, is there already
		return nil
	case old.file.Typeflag == tar.TypeDir && f.Typeflag == tar.TypeSymlink:
		return nil // dpkg keeps the folder, too
	case f.Typeflag == tar.TypeSymlink && old.file.Typeflag == tar.TypeSymlink && f.Linkname == old.file.Linkname:
		return nil
	case d.replaces(old.by):
		u.give(at, owned{d, f}, old.by)
		return nil
	case old.by.replaces(d):
		u.give(at, old, d)
		return nil
	case diverts(d), diverts(old.by):
		// One of them moves the other's file away before its own is unpacked.
		if diverts(d) {
			u.late[d] = true
		} else {
			u.late[old.by] = true
			u.owner[at] = owned{d, f}
		}
		return nil
	}
	return fmt.Errorf("%w: /%s is in both %s %s and %s %s, and neither replaces the other; "+
		"leave one of them out of the profile",
		ErrConflict, at, old.by.Name, old.by.Version, d.Name, d.Version)
}

func (u *unpacked) give(at string, to owned, from *deb) {
	u.owner[at] = to
	if u.taken[from] == nil {
		u.taken[from] = map[string]bool{}
	}
	u.taken[from][at] = true
}

func diverts(d *deb) bool { return bytes.Contains(d.script("preinst"), []byte("dpkg-divert")) }

// versionRE is what a version can be (Debian policy 5.6.12).
var versionRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.+:~-]*$`)

// replaces reports whether d takes over files of e.
func (d *deb) replaces(e *deb) bool {
	for _, group := range d.relations("Replaces") {
		for _, r := range group {
			if r.name != e.Name {
				continue
			}
			op, ok := map[string]string{"<<": "lt", "<=": "le", "=": "eq", ">=": "ge", ">>": "gt"}[r.op]
			if ok && !versionRE.MatchString(r.version) {
				continue // dpkg could take it for an option
			}
			// Only dpkg compares versions; this happens for a handful of files.
			if !ok || exec.Command("dpkg", "--compare-versions", e.Version, op, r.version).Run() == nil {
				return true
			}
		}
	}
	return false
}

// writeTo writes all files as a tar, in the order of the packages, each file once.
func (u *unpacked) writeTo(ctx context.Context, w io.Writer, epoch time.Time) error {
	t := tar.NewWriter(w)
	made := map[string]bool{}
	for _, from := range sortedNames(u.aliases) {
		to := u.aliases[from]
		for _, h := range []*tar.Header{{Typeflag: tar.TypeDir, Name: "./" + to, Mode: 0o755, ModTime: epoch},
			{Typeflag: tar.TypeSymlink, Name: "./" + from, Linkname: to, Mode: 0o777, ModTime: epoch}} {
			if err := t.WriteHeader(h); err != nil {
				return err
			}
		}
		made[from] = true
	}
	for _, hard := range []bool{false, true} { // a hard link needs its file, which may belong to another package
		for _, d := range u.debs {
			if u.late[d] {
				continue
			}
			if err := u.writeDeb(ctx, t, d, hard, made); err != nil {
				return fmt.Errorf("unpacking %s: %w", d.Name, err)
			}
		}
	}
	return t.Flush() // the database follows
}

func (u *unpacked) writeDeb(ctx context.Context, t *tar.Writer, d *deb, hard bool, made map[string]bool) error {
	spool, err := os.Open(d.tar)
	if err != nil {
		return err
	}
	defer spool.Close()
	for _, f := range d.files {
		at := u.place(f.name)
		if (f.Typeflag == tar.TypeLink) != hard || made[at] || u.owner[at].by != d || u.filter.skips(f.name, f.Typeflag) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		made[at] = true
		h := &tar.Header{Typeflag: f.Typeflag, Name: "./" + at, Linkname: f.Linkname, Size: f.Size,
			Mode: f.Mode & 0o7777, Uid: f.Uid, Gid: f.Gid,
			ModTime: f.ModTime.Truncate(time.Second), Devmajor: f.Devmajor, Devminor: f.Devminor}
		if f.Typeflag == tar.TypeLink {
			h.Linkname = "./" + u.place(path.Clean("/"+f.Linkname))
		}
		if err := t.WriteHeader(h); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		if f.Typeflag != tar.TypeReg {
			continue
		}
		if _, err := io.Copy(t, io.NewSectionReader(spool, f.at, f.Size)); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return nil
}

func sortedNames(m map[string]string) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
