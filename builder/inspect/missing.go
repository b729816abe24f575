package inspect

import (
	"strings"

	"ingot/builder/tree"
)

// bootPart is a part of a root that machines need to boot, or that most of them need afterwards.
type bootPart struct {
	name string
	// paths are the programs that provide it; one is enough.
	paths []string
	// packages provide it, by the distribution in ID or ID_LIKE of os-release(5).
	packages map[string]string
}

// InitSystem names the init system among the missing parts of a root.
const InitSystem = "an init system (/sbin/init)"

var bootInit = bootPart{InitSystem, []string{"sbin/init"},
	map[string]string{"debian": "systemd systemd-sysv", "fedora": "systemd", "arch": "systemd", "suse": "systemd"}}

// bootParts are the parts that a root boots without, but that most machines need.
var bootParts = []bootPart{
	{"udev (devices)", []string{"usr/lib/systemd/systemd-udevd", "lib/systemd/systemd-udevd"},
		map[string]string{"debian": "udev", "fedora": "systemd-udev", "suse": "udev"}},
	{"a network service", []string{"usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd",
		"usr/sbin/NetworkManager", "usr/bin/NetworkManager", "sbin/ifup", "usr/sbin/wickedd"},
		map[string]string{"fedora": "systemd-networkd", "suse": "systemd-network"}},
	{"dbus", []string{"usr/bin/dbus-daemon", "usr/bin/dbus-broker"},
		map[string]string{"debian": "dbus", "fedora": "dbus-broker", "suse": "dbus-1"}},
	{"sshd (remote login, host keys)", []string{"usr/sbin/sshd", "usr/bin/sshd"},
		map[string]string{"debian": "openssh-server", "fedora": "openssh-server", "arch": "openssh", "suse": "openssh"}},
}

// installers are the commands that install packages, by distribution.
var installers = map[string]string{"debian": "apt-get install", "fedora": "dnf install",
	"arch": "pacman -S", "suse": "zypper install"}

func (p bootPart) in(root *tree.Tree) bool {
	for _, q := range p.paths {
		if e := root.Find(q); e != nil && e.Kind == tree.File {
			return true
		}
	}
	return false
}

// MissingParts lists what a root lacks to boot.
type MissingParts struct {
	Init  bool     // there is no init system, so nothing starts
	Parts []string // the init system first
	Fix   string   // the command that installs them, "apt-get install udev dbus"; empty: not known
}

func (m MissingParts) String() string {
	s := strings.Join(m.Parts, ", ")
	if m.Fix != "" {
		s += "; where the root is made, run: " + m.Fix
	}
	return s
}

// Missing looks for the parts that a boot needs.
func Missing(root *tree.Tree) MissingParts {
	var m MissingParts
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

// familyOf returns the distribution of a root, or the one that it is like, as installers names it.
func familyOf(root *tree.Tree) string {
	text, err := root.ReadFile("etc/os-release")
	if err != nil {
		return ""
	}
	for _, key := range []string{"ID", "ID_LIKE"} {
		for _, word := range strings.Fields(OSRelease(string(text), key)) {
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
