package builder

import (
	"fmt"
	"strings"

	"ingot/builder/tree"
)

// bootPart is something that a machine wants of its root.
type bootPart struct {
	name string
	// paths are the programs of which one is enough.
	paths []string
	// packages bring it, by the word that os-release(5) has in ID or ID_LIKE.
	packages map[string]string
}

var bootInit = bootPart{"an init system (/sbin/init)", []string{"sbin/init"},
	map[string]string{"debian": "systemd systemd-sysv", "fedora": "systemd", "arch": "systemd", "suse": "systemd"}}

// bootParts are what a root can do without, though few machines want to.
var bootParts = []bootPart{
	{"udev (devices)", []string{"usr/lib/systemd/systemd-udevd", "lib/systemd/systemd-udevd"},
		map[string]string{"debian": "udev", "fedora": "systemd-udev", "suse": "udev"}},
	{"a network service", []string{"usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd", "usr/sbin/NetworkManager", "usr/bin/NetworkManager", "sbin/ifup", "usr/sbin/wickedd"},
		map[string]string{"fedora": "systemd-networkd", "suse": "systemd-network"}},
	{"dbus", []string{"usr/bin/dbus-daemon", "usr/bin/dbus-broker"}, map[string]string{"debian": "dbus", "fedora": "dbus-broker", "suse": "dbus-1"}},
	{"sshd (remote login, host keys)", []string{"usr/sbin/sshd", "usr/bin/sshd"},
		map[string]string{"debian": "openssh-server", "fedora": "openssh-server", "arch": "openssh", "suse": "openssh"}},
}

// installers are the commands that install packages, by os-release's word.
var installers = map[string]string{"debian": "apt-get install", "fedora": "dnf install", "arch": "pacman -S", "suse": "zypper install"}

func (p bootPart) in(root *tree.Tree) bool {
	for _, q := range p.paths {
		if e := root.Find(q); e != nil && e.Kind == tree.File {
			return true
		}
	}
	return false
}

// Missing lists what a root lacks to boot, and the command that a root of its
// distribution would get it by; empty when that is not known.
type Missing struct {
	Init  bool     // nothing starts at all
	Parts []string // what it lacks, the init system first
	Fix   string   // "apt-get install udev dbus"
}

func (m Missing) String() string {
	s := strings.Join(m.Parts, ", ")
	if m.Fix != "" {
		s += "; where the root is made: " + m.Fix
	}
	return s
}

// WhatIsMissing looks for what a boot needs.
func WhatIsMissing(root *tree.Tree) Missing {
	var m Missing
	var packages []string
	family := familyOf(root)
	for i, p := range append([]bootPart{bootInit}, bootParts...) {
		if p.in(root) {
			continue
		}
		m.Init = m.Init || i == 0
		m.Parts = append(m.Parts, p.name)
		if names := p.packages[family]; names != "" {
			packages = append(packages, names)
		}
	}
	if len(packages) > 0 {
		m.Fix = installers[family] + " " + strings.Join(packages, " ")
	}
	return m
}

// familyOf is the family of distributions that a root belongs to.
func familyOf(root *tree.Tree) string {
	text, err := root.ReadFile("etc/os-release")
	if err != nil {
		return ""
	}
	for _, key := range []string{"ID", "ID_LIKE"} {
		for _, word := range strings.Fields(osRelease(string(text), key)) {
			if word == "rhel" || word == "centos" {
				word = "fedora"
			}
			if installers[word] != "" {
				return word
			}
		}
	}
	return ""
}

// osRelease is one value of os-release(5).
func osRelease(text, key string) string {
	for _, line := range strings.Split(text, "\n") {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

// checkBootable refuses a root that no kernel could start, and warns of what
// most machines want.
func (b *build) checkBootable(root *tree.Tree) error {
	missing := WhatIsMissing(root)
	if missing.Init && !b.p.Base.Tree() {
		return fmt.Errorf("%w: the root has no /sbin/init; add the packages systemd and systemd-sysv, or extend debian", ErrNotBootable)
	}
	if missing.Init {
		return fmt.Errorf("%w: the root lacks %s", ErrNotBootable, missing)
	}
	if init := root.Find("sbin/init"); !strings.HasSuffix(init.Path, "systemd/systemd") {
		return fmt.Errorf("%w: its /sbin/init is /%s; ingot's machines are started by systemd", ErrNotBootable, init.Path)
	}
	if len(missing.Parts) > 0 {
		b.Log.Warn("the root lacks what most machines want", "missing", missing.String())
	}
	return nil
}

// linkModules lets a root whose /lib is a folder of its own find the kernel's
// modules, which are in /usr/lib.
func linkModules(root *tree.Tree) error {
	if lib := root.Get("lib"); lib == nil || lib.Kind != tree.Dir || root.Get("lib/modules") != nil && root.Get("lib/modules").Kind != tree.Dir {
		return nil
	}
	root.Remove("lib/modules")
	return root.PutLink("lib/modules", "/usr/lib/modules")
}
