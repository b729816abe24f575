package importer

import (
	"fmt"
	"slices"
	"strings"

	"ingot/builder/inspect"
	"ingot/builder/tree"
	"ingot/profiles"
)

// startingProfile returns the text of a profile that boots an imported root. It does what the
// shipped debian profile does, as far as the root has the services for it.
func startingProfile(im *Result, base profiles.Base, kernel profiles.Kernel, root *tree.Tree) string {
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	line("# Made by: ingot import %s", im.From)
	for _, l := range im.Findings() {
		line("# %s", strings.ReplaceAll(l, "\n", " "))
	}
	line("# All of it is in import.json. Edit what follows; build with: ingot build ./%s", im.Name)
	line("name: %s\narch: %s\n", im.Name, im.Arch)
	if kernel.Package == "" {
		kernel.Package = "linux-image-" + string(im.Arch)
	}
	kind, ref := profiles.Layer{OCI: base.OCI, Tar: base.Tar}.From()
	line("base:\n  %s: %q\n", kind, ref)
	line("kernel:\n  package: %s\n  suite: %s\n  modules: [%s]\n  arguments:", kernel.Package,
		kernel.Suite, quoted(kernel.Modules))
	for _, a := range kernel.Arguments {
		line("    - %q", a)
	}
	line("\nfiles:")
	for _, f := range startingFiles(root) {
		line("  # %s", f.why)
		line("  - path: %s", f.path)
		if f.link != "" {
			line("    link: %s", f.link)
			continue
		}
		line("    content: |\n      %s", strings.ReplaceAll(strings.TrimSpace(f.content), "\n", "\n      "))
	}
	enable, mask := startingUnits(root)
	line("\nunits:\n  enable: [%s]\n  mask: [%s]", strings.Join(enable, ", "), strings.Join(mask, ", "))
	line("\nchecks:\n  - name: system\n    units: [\"@system\"]\n    within: 5m")
	if sshUnit(root) != "" {
		line("  - name: ssh\n    tcp: 127.0.0.1:22\n    within: 3m")
	}
	return s.String()
}

func quoted(list []string) string {
	q := make([]string, len(list))
	for i, s := range list {
		q[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(q, ", ")
}

// NoInit reports whether the root has no init system, so that it cannot boot.
func (im *Result) NoInit() bool { return slices.Contains(im.Lacks, inspect.InitSystem) }

// Findings returns what an import found, in lines for people.
func (im *Result) Findings() []string {
	name := im.Distribution
	if name == "" {
		name = "a system without a name"
	}
	lines := []string{fmt.Sprintf("%s for %s, %d MiB", name, im.Arch, im.Bytes>>20)}
	if im.Packages > 0 {
		lines[0] += fmt.Sprintf(", %d packages", im.Packages)
	}
	if len(im.Lacks) > 0 {
		lines = append(lines, "It lacks: "+inspect.MissingParts{Parts: im.Lacks, Fix: im.Fix}.String())
	}
	for _, m := range im.Mounts {
		if !m.Taken {
			lines = append(lines, fmt.Sprintf("Left out: %s, a separate filesystem (%s); add it with --include %s", m.Path,
				m.Type, m.Path))
		}
	}
	if len(im.Passwords) > 0 {
		lines = append(lines, "Passwords were left out of: "+clipped(im.Passwords, 5)+"; SSH keys work, or set users: "+
			"passwordHash")
	}
	if len(im.LeftOut) > 0 {
		lines = append(lines, "Left out, because it belongs to one host: "+clipped(im.LeftOut, 10)+"; keep a path with "+
			"--include PATH")
	}
	if im.Changed {
		lines = append(lines, "Files changed while they were read; import again when the host is idle")
	}
	c := im.Compared
	if c == nil {
		return lines
	}
	if c.Suite != "" {
		lines = append(lines, fmt.Sprintf("Beside the Debian base (%s): %d packages the same, %d added, %d missing, %d "+
			"of another version", c.Suite, c.Same, len(c.Added), len(c.Missing), len(c.Changed)))
	}
	if len(c.Asked) > 0 {
		lines = append(lines, "The same packages in a profile: extends: debian, packages: ["+clipped(c.Asked, 40)+"]")
	}
	if len(c.Conffiles) > 0 {
		lines = append(lines, "Configuration of packages, edited: "+clipped(c.Conffiles, 20))
	}
	if len(c.Modified) > 0 {
		lines = append(lines, "Files of packages, not as shipped: "+clipped(c.Modified, 10))
	}
	if len(c.Local) > 0 {
		var paths []string
		for _, l := range c.Local {
			if l.Files > 1 {
				paths = append(paths, fmt.Sprintf("%s (%d files)", l.Path, l.Files))
			} else {
				paths = append(paths, l.Path)
			}
		}
		lines = append(lines, "Local files: "+clipped(paths, 20))
	}
	return lines
}

// startingFile is a file of the profile, with the reason for it.
type startingFile struct{ why, path, content, link string }

func startingFiles(root *tree.Tree) []startingFile {
	list := []startingFile{
		{"The root is an image; volumes are mounted before systemd starts.", "/etc/fstab", "# see above\n", ""},
		{"The root is new at each boot: the journal stays in memory, with a limit.",
			"/etc/systemd/journald.conf.d/10-ingot.conf", "[Journal]\nStorage=volatile\nRuntimeMaxUse=32M\n", ""},
	}
	if usesNetworkd(root) {
		list = append(list, startingFile{"Every Ethernet card identifies itself to DHCP by its MAC address, as in loader " +
			"and initramfs.",
			"/etc/systemd/network/80-ingot-ethernet.network",
			"[Match]\nType=ether\nKind=!*\n\n[Link]\nRequiredForOnline=no\n\n[Network]\nDHCP=ipv4\n" +
				"KeepConfiguration=dhcp-on-stop\n\n[DHCPv4]\nClientIdentifier=mac\nUseHostname=no\nUseMTU=yes\n" +
				"UseDomains=yes\n\n[DHCPv6]\nUseDomains=yes\n\n[IPv6AcceptRA]\nUseDomains=yes\n", ""})
	}
	if inspect.FindUnit(root, "systemd-resolved.service") != "" {
		list = append(list, startingFile{"The resolver of the container or host is replaced.", "/etc/resolv.conf", "",
			"../run/systemd/resolve/stub-resolv.conf"})
	} else if e := root.Find("etc/resolv.conf"); e != nil && e.Kind == tree.File && e.Size > 0 {
		list = append(list, startingFile{"That of the host where the container image was made is replaced.",
			"/etc/resolv.conf", "# written when the network comes up\n", ""})
	}
	if config, err := root.ReadFile("etc/ssh/sshd_config"); err == nil &&
		strings.Contains(string(config), "sshd_config.d") {
		list = append(list, startingFile{"Host keys are made at boot, one pair per machine, or are on its data volume.",
			"/etc/ssh/sshd_config.d/10-ingot.conf",
			"HostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin prohibit-password\n", ""})
	}
	return list
}

// usesNetworkd reports whether the root has networkd and not NetworkManager.
func usesNetworkd(root *tree.Tree) bool {
	return inspect.FindUnit(root, "systemd-networkd.service") != "" &&
		inspect.FindUnit(root, "NetworkManager.service") == ""
}

func sshUnit(root *tree.Tree) string {
	for _, u := range []string{"ssh.service", "sshd.service"} {
		if inspect.FindUnit(root, u) != "" {
			return u
		}
	}
	return ""
}

// startingUnits returns the units of the root to enable and to mask.
func startingUnits(root *tree.Tree) (enable, mask []string) {
	if usesNetworkd(root) {
		enable = append(enable, "systemd-networkd.service")
	} else if inspect.FindUnit(root, "NetworkManager.service") != "" {
		enable = append(enable, "NetworkManager.service")
	}
	if inspect.FindUnit(root, "systemd-resolved.service") != "" {
		enable = append(enable, "systemd-resolved.service")
	}
	if u := sshUnit(root); u != "" {
		enable = append(enable, u)
	}
	for _, u := range []string{"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer",
		"unattended-upgrades.service", "dnf-makecache.timer", "dnf-automatic.timer",
		"e2scrub_all.timer", "e2scrub_reap.service", "fwupd-refresh.timer", "systemd-firstboot.service",
		"systemd-networkd-wait-online.service",
		"NetworkManager-wait-online.service", "cloud-init.service", "cloud-init-local.service", "cloud-config.service",
		"cloud-final.service", "snapd.service", "snapd.socket"} {
		if inspect.FindUnit(root, u) != "" {
			mask = append(mask, u)
		}
	}
	return enable, mask
}
