package inspect

import (
	"bufio"
	"bytes"
	"path"
	"strings"

	"ingot/builder/tree"
)

// Package is one installed package of dpkg's status file.
type Package struct {
	Name, Version, Arch, Maintainer string
	Depends                         []string          // relations, each with its alternatives
	Conffiles                       map[string]string // MD5 as shipped, by path
}

// ParseStatus returns the installed packages of the text of dpkg's status file (dpkg(1),
// "PACKAGE STATES"; deb822(5)), in its order.
func ParseStatus(text string) []Package {
	var list []Package
	for record := range strings.SplitSeq(text, "\n\n") {
		p := Package{Conffiles: map[string]string{}}
		state, key := "", ""
		for line := range strings.SplitSeq(record, "\n") {
			if strings.HasPrefix(line, " ") {
				if f := strings.Fields(line); key == "Conffiles" && len(f) == 2 {
					p.Conffiles[strings.TrimPrefix(f[0], "/")] = f[1]
				}
				continue
			}
			var value string
			key, value, _ = strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch key {
			case "Package":
				p.Name = value
			case "Version":
				p.Version = value
			case "Architecture":
				p.Arch = value
			case "Maintainer":
				p.Maintainer, _, _ = strings.Cut(value, " <")
			case "Status":
				state = value
			case "Depends", "Pre-Depends":
				p.Depends = append(p.Depends, strings.Split(value, ",")...)
			}
		}
		if p.Name != "" && strings.HasSuffix(state, " installed") {
			list = append(list, p)
		}
	}
	return list
}

// Packages reads dpkg's status file of a root. A root without one has no packages.
func Packages(root *tree.Tree) ([]Package, error) {
	if root.Find("var/lib/dpkg/status") == nil {
		return nil, nil
	}
	text, err := root.ReadFile("var/lib/dpkg/status")
	if err != nil {
		return nil, err
	}
	return ParseStatus(string(text)), nil
}

// Owners maps every path of a root that a package ships to the package's name, from dpkg's own
// lists. Kernel modules and the kernel's copyright belong to the package named kernel, which dpkg does not know.
func Owners(root *tree.Tree, kernel string) (map[string]string, error) {
	owners := map[string]string{}
	entries := root.Entries()
	for _, e := range entries {
		name, ok := strings.CutSuffix(path.Base(e.Path), ".list")
		if !ok || path.Dir(e.Path) != "var/lib/dpkg/info" {
			continue
		}
		b, err := root.ReadFile(e.Path)
		if err != nil {
			return nil, err
		}
		name, _, _ = strings.Cut(name, ":")
		for scan := bufio.NewScanner(bytes.NewReader(b)); scan.Scan(); {
			if f := root.Get(scan.Text()); f != nil && f.Kind != tree.Dir {
				owners[f.Path] = name
			}
		}
	}
	ofKernel := func(p string) bool {
		return strings.HasPrefix(p, "usr/lib/modules/") || strings.HasPrefix(p, "usr/share/doc/"+kernel+"/")
	}
	for _, e := range entries {
		if _, ok := owners[e.Path]; !ok && ofKernel(e.Path) && e.Kind != tree.Dir {
			owners[e.Path] = kernel
		}
	}
	return owners, nil
}

// PackageOf returns the package that ships the entry at p, or something below it; empty: none does.
// It reads all of dpkg's lists: Owners is quicker for many paths of files.
func PackageOf(root *tree.Tree, p string) string {
	p = strings.Trim(path.Clean("/"+p), "/")
	if p == "" {
		return ""
	}
	names := []string{p} // under which packages may list it
	entries := root.Entries()
	for _, e := range entries {
		if e.Kind != tree.Symlink || strings.Contains(e.Path, "/") {
			continue
		}
		if to := root.Find(e.Path); to != nil && strings.HasPrefix(p, to.Path+"/") {
			names = append(names, e.Path+strings.TrimPrefix(p, to.Path))
		}
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(path.Base(e.Path), ".list")
		if !ok || path.Dir(e.Path) != "var/lib/dpkg/info" {
			continue
		}
		b, err := root.ReadFile(e.Path)
		if err != nil {
			continue
		}
		for line := range strings.SplitSeq(string(b), "\n") {
			line = strings.Trim(line, "/")
			for _, n := range names {
				if line == n || strings.HasPrefix(line, n+"/") {
					name, _, _ = strings.Cut(name, ":")
					return name
				}
			}
		}
	}
	return ""
}
