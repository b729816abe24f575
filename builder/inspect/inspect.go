// Package inspect reads facts from the file tree of a root: its distribution
// (os-release(5)), its packages and their files (dpkg's database), its systemd units, and which
// parts it lacks to boot on a machine. It reads values only and changes nothing.
package inspect

import (
	"path"
	"slices"
	"strings"

	"ingot/builder/tree"
)

// OSRelease returns one value of the text of an os-release file (os-release(5)); empty: not set.
func OSRelease(text, key string) string {
	for _, line := range strings.Split(text, "\n") {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

// unitDirs are where packages and profiles put units (systemd.unit(5)).
var unitDirs = []string{"etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"}

// FindUnit returns the path of a unit, or "" when the root has none. An instance of a template,
// "getty@tty1.service", is found by its template.
func FindUnit(root *tree.Tree, name string) string {
	names := []string{name}
	if at := strings.IndexByte(name, '@'); at >= 0 {
		names = append(names, name[:at+1]+path.Ext(name))
	}
	for _, dir := range unitDirs {
		for _, n := range names {
			if e := root.Get(dir + "/" + n); e != nil && (e.Kind == tree.File || e.Kind == tree.Symlink) {
				return dir + "/" + n
			}
		}
	}
	return ""
}

// IsUnitPath reports whether a file is directly in a folder of units.
func IsUnitPath(p string) bool { return slices.Contains(unitDirs, path.Dir(p)) && path.Ext(p) != "" }

// Purged are the patterns (path.Match) of paths that packages leave in a root and an image must
// not have: the identity of a machine, and what only an installed system uses.
var Purged = []string{
	"etc/ssh/ssh_host_*", "etc/machine-id", "var/lib/dbus/machine-id", "etc/hostname", "etc/resolv.conf.dpkg*",
	"etc/.resolv.conf.systemd-resolved.bak",
	"etc/apt/sources.list*", "var/lib/apt/lists/*", "var/cache/apt/*", "var/cache/debconf/*-old", "var/cache/ldconfig/*",
	"var/log/*.log", "var/log/apt", "var/log/bootstrap.log", "var/lib/dpkg/*-old", "var/lib/systemd/random-seed",
	"etc/nvme/hostid", "etc/nvme/hostnqn",
	"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-", "etc/.pwd.lock",
	"tmp/*", "run/*", "dev/*", "boot/*",
}

// IsPurged reports whether the path, or a folder above it, matches one of Purged.
func IsPurged(p string) bool {
	for q := strings.Trim(p, "/"); q != "." && q != ""; q = path.Dir(q) {
		for _, pattern := range Purged {
			if ok, _ := path.Match(pattern, q); ok {
				return true
			}
		}
	}
	return false
}
