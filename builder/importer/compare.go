package importer

import (
	"context"
	"crypto/md5" // dpkg's checksums: they find edits, not attacks
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"ingot/builder/inspect"
	"ingot/builder/lock"
	"ingot/builder/tree"
)

// inventory is the installed packages and their configuration files.
type inventory struct {
	versions  map[string]string // by name
	arch      string            // of most packages
	conffiles map[string]string // path to MD5 as shipped
}

func takeInventory(list []inspect.Package) inventory {
	in := inventory{versions: map[string]string{}, conffiles: map[string]string{}}
	for _, p := range list {
		in.versions[p.Name] = p.Version
		if p.Arch != "all" && p.Arch != "" {
			in.arch = p.Arch
		}
		maps.Copy(in.conffiles, p.Conffiles)
	}
	return in
}

// autoInstalled returns the packages that apt installed as dependencies, from extended_states.
func autoInstalled(text string) map[string]bool {
	auto := map[string]bool{}
	for _, record := range strings.Split(text, "\n\n") {
		if strings.Contains("\n"+record, "\nAuto-Installed: 1") {
			for _, line := range strings.Split(record, "\n") {
				if name, ok := strings.CutPrefix(line, "Package: "); ok {
					auto[strings.TrimSpace(name)] = true
				}
			}
		}
	}
	return auto
}

// Comparison compares the packages of a Debian root with those of the shipped debian profile, and
// its files with those of its packages.
type Comparison struct {
	Suite string `json:"suite,omitempty"` // of the base; empty: packages were not compared
	Same  int    `json:"same"`
	// Added are only in the root, Missing only in the base; Changed have other versions.
	Added   []lock.Change `json:"added,omitempty"`
	Missing []lock.Change `json:"missing,omitempty"`
	Changed []lock.Change `json:"changed,omitempty"`
	// Asked are the added packages that somebody installed by name.
	Asked []string `json:"asked,omitempty"`

	Local     []LocalPath `json:"local,omitempty"`     // of no package
	Conffiles []string    `json:"conffiles,omitempty"` // configuration of packages, edited
	Modified  []string    `json:"modified,omitempty"`  // other files of packages, not as shipped
}

// LocalPath is a file, or a folder of files, that no package owns.
type LocalPath struct {
	Path  string `json:"path"`
	Files int    `json:"files"`
	Size  int64  `json:"size"`
}

// comparePackages compares the installed packages with those of a base, by name.
func (c *Comparison) comparePackages(have inventory, auto map[string]bool, base map[string]string) {
	for name, v := range have.versions {
		switch b, ok := base[name]; {
		case !ok:
			c.Added = append(c.Added, lock.Change{Package: name, After: v})
			if !auto[name] {
				c.Asked = append(c.Asked, name)
			}
		case b != v:
			c.Changed = append(c.Changed, lock.Change{Package: name, Before: b, After: v})
		default:
			c.Same++
		}
	}
	for name, v := range base {
		if _, ok := have.versions[name]; !ok {
			c.Missing = append(c.Missing, lock.Change{Package: name, Before: v})
		}
	}
	for _, list := range [][]lock.Change{c.Added, c.Missing, c.Changed} {
		slices.SortFunc(list, func(a, b lock.Change) int { return strings.Compare(a.Package, b.Package) })
	}
	slices.Sort(c.Asked)
}

// generated are paths that installing packages creates. No package owns them, and nobody edited
// them.
var generated = []string{
	"var/lib/dpkg", "var/lib/apt", "var/cache", "var/log", "var/lib/systemd", "var/lib/ucf", "var/lib/pam",
	"var/lib/usb_modeswitch", "var/lib/misc", "var/lib/shells.state", "var/lib/python",
	"etc/alternatives", "etc/ssl/certs", "etc/ld.so.cache", "etc/.pwd.lock", "etc/rc0.d", "etc/rc1.d", "etc/rc2.d",
	"etc/rc3.d", "etc/rc4.d", "etc/rc5.d", "etc/rc6.d", "etc/rcS.d",
	"usr/lib/udev/hwdb.bin", "etc/udev/hwdb.bin", "usr/share/mime", "usr/share/info/dir", "usr/lib/locale/locale-archive",
	"usr/share/fonts", "etc/pam.d", "etc/environment", "etc/shells",
	"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/passwd-", "etc/group-", "etc/subuid", "etc/subgid",
	"etc/subuid-", "etc/subgid-", "etc/nsswitch.conf", "etc/profile", "etc/motd",
	"root/.bashrc", "root/.profile", "etc/resolv.conf", "etc/timezone", "etc/localtime", "etc/vconsole.conf",
	"etc/locale.conf", "etc/default/locale", "etc/kernel", "etc/apt", "etc/ca-certificates.conf",
	"usr/share/applications", "var/lib/private", "etc/dpkg/origins/default", "etc/fstab", "etc/hosts", "etc/hosts.allow",
	"etc/hosts.deny", "etc/modules", "etc/security/opasswd", "usr/share/man", "usr/sbin/rmt", "var/lib/wtmpdb",
	"var/spool/mail", "bin", "sbin", "lib", "lib64", "lib32", "libx32", "var/run", "var/lock", "etc/mtab",
	"etc/sysctl.d/protect-links.conf",
}

func isGenerated(e *tree.Entry) bool {
	p := e.Path
	if strings.Contains(p, "/__pycache__/") || strings.HasSuffix(p, ".pyc") || strings.Contains(p, ".dpkg-") {
		return true
	}
	// The choices of update-alternatives and the links of systemctl enable.
	if e.Kind == tree.Symlink && (strings.HasPrefix(e.Target, "/etc/alternatives/") ||
		strings.HasPrefix(p, "etc/systemd/") || p == "usr/local/man") {
		return true
	}
	for q := p; q != "."; q = path.Dir(q) {
		if slices.Contains(generated, q) {
			return true
		}
	}
	return inspect.IsPurged(p) // not in an image anyway
}

// compareFiles compares the files of a root with dpkg's lists and sums, as
// dpkg --verify does, and finds those that no package owns.
func (c *Comparison) compareFiles(ctx context.Context, root *tree.Tree, in inventory) error {
	owned, sums, err := shippedFiles(root, in)
	if err != nil {
		return err
	}
	var local []string
	for _, e := range root.Entries() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if e.Kind == tree.Dir || isGenerated(e) {
			continue
		}
		want, isConffile := in.conffiles[e.Path]
		if !isConffile {
			want = sums[e.Path]
		}
		switch {
		case want != "" && e.Kind == tree.File:
			got, err := md5Of(root, e.Path)
			if err != nil {
				return err
			}
			if got != want && isConffile {
				c.Conffiles = append(c.Conffiles, "/"+e.Path)
			} else if got != want {
				c.Modified = append(c.Modified, "/"+e.Path)
			}
		case !owned[e.Path]:
			local = append(local, e.Path)
		}
	}
	c.Local = gather(root, owned, local)
	return nil
}

// shippedFiles reads dpkg's lists of paths and checksums. Diverted files are owned under both
// names.
func shippedFiles(root *tree.Tree, in inventory) (owned map[string]bool, sums map[string]string, err error) {
	owned, sums = map[string]bool{}, map[string]string{}
	resolved := func(p string) string {
		if e := root.Get(p); e != nil {
			return e.Path
		}
		return strings.Trim(p, "/")
	}
	for _, e := range root.Entries() {
		kind := path.Ext(e.Path)
		if path.Dir(e.Path) != "var/lib/dpkg/info" || kind != ".list" && kind != ".md5sums" {
			continue
		}
		b, err := root.ReadFile(e.Path)
		if err != nil {
			return nil, nil, err
		}
		for _, line := range strings.Split(string(b), "\n") {
			if kind == ".list" {
				owned[resolved(line)] = true
			} else if sum, p, ok := strings.Cut(line, "  "); ok {
				sums[resolved(p)] = sum
			}
		}
	}
	readUcf(root, in, owned, resolved)
	b, err := root.ReadFile("var/lib/dpkg/diversions")
	if err != nil {
		return owned, sums, nil //nolint:nilerr // there are none
	}
	lines := strings.Split(string(b), "\n") // triples: from, to, package
	for i := 0; i+1 < len(lines); i += 3 {
		from, to := resolved(lines[i]), resolved(lines[i+1])
		owned[from], owned[to] = true, true
		delete(sums, from)
	}
	return owned, sums, nil
}

// readUcf adds the configuration files that maintainer scripts register with
// ucf(1): they are in no list, but have a sum as shipped.
func readUcf(root *tree.Tree, in inventory, owned map[string]bool, resolved func(string) string) {
	b, err := root.ReadFile("var/lib/ucf/hashfile")
	if err != nil {
		return // there are none
	}
	for _, line := range strings.Split(string(b), "\n") {
		if sum, p, ok := strings.Cut(line, "  "); ok {
			p = resolved(p)
			owned[p], in.conffiles[p] = true, sum
		}
	}
}

func md5Of(root *tree.Tree, p string) (string, error) {
	e := root.Get(p)
	for e != nil && e.Hard != "" {
		e = root.Get(e.Hard)
	}
	r, err := e.Open()
	if err != nil {
		return "", fmt.Errorf("comparing %q: %w", p, err)
	}
	defer r.Close()
	sum := md5.New() // dpkg's checksum
	if _, err := io.Copy(sum, r); err != nil {
		return "", fmt.Errorf("comparing %q: %w", p, err)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// shared are folders for local files that no package owns. Their entries are listed one by one.
var shared = []string{"opt", "srv", "root", "home", "usr/local", "usr/local/bin", "usr/local/sbin", "usr/local/lib",
	"usr/local/etc", "usr/local/share", "usr/local/src", "etc/systemd/system"}

// gather groups local files by the highest folder above them that no package owns either.
func gather(root *tree.Tree, owned map[string]bool, local []string) []LocalPath {
	var list []LocalPath
	for _, p := range local {
		top := p
		for q := path.Dir(p); q != "." && !owned[q] && !slices.Contains(shared, q); q = path.Dir(q) {
			top = q
		}
		if n := len(list); n == 0 || list[n-1].Path != "/"+top {
			list = append(list, LocalPath{Path: "/" + top})
		}
		last := &list[len(list)-1]
		last.Files++
		if e := root.Get(p); e != nil && e.Hard == "" {
			last.Size += e.Size
		}
	}
	return list
}
