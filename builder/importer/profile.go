package importer

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot/builder/inspect"
	"ingot/builder/tree"
	"ingot/internal/yamlfile"
	"ingot/profiles"
)

// startingProfile returns the text of a profile that boots an imported root. It does what the
// shipped debian profile does, as far as the root has the services for it.
//
// What the root says about itself (the name of its distribution, its file names) is in comments only,
// and the text is read back: it must mean the intended profile and nothing else.
func startingProfile(im *Result, base profiles.Base, kernel profiles.Kernel, root *tree.Tree) (string, error) {
	if kernel.Package == "" {
		kernel.Package = "linux-image-" + string(im.Arch)
	}
	enable, mask := startingUnits(root)
	p := &profiles.Profile{Name: im.Name, Arch: im.Arch, Base: base, Kernel: kernel,
		Units: profiles.Units{Enable: enable, Mask: mask}, Checks: startingChecks(root)}
	files := startingFiles(root)
	for _, f := range files {
		p.Files = append(p.Files, profiles.File{Path: f.path, Content: f.content, Link: f.link})
	}
	text := profileText(im, p, files)
	var read profiles.Profile
	d := yamlfile.Decoder{File: "profile.yaml", What: "the profile"}
	if d.Decode([]byte(text), &read); len(d.Faults) > 0 {
		return "", fmt.Errorf("writing the profile: %w: %w", errText, d.Faults)
	}
	want, err := yamlfile.Encode(p)
	if err != nil {
		return "", fmt.Errorf("writing the profile: %w", err)
	}
	got, err := yamlfile.Encode(&read)
	if err != nil {
		return "", fmt.Errorf("writing the profile: %w", err)
	}
	if !bytes.Equal(want, got) {
		return "", fmt.Errorf("writing the profile: %w", errText)
	}
	return text, nil
}

// errText: what was written does not read back as what was meant. No input is known that leads here.
var errText = errors.New("its text does not read back as the profile that was meant; nothing was written")

func profileText(im *Result, p *profiles.Profile, files []startingFile) string {
	var s strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	line("%s", yamlfile.Comment("Made by: ingot import "+im.From))
	for _, l := range im.Findings() {
		line("%s", yamlfile.Comment(l))
	}
	line("%s", yamlfile.Comment("All of it is in import.json. Edit what follows; build with: ingot build ./"+im.Name))
	value := yamlfile.Scalar
	line("name: %s\narch: %s\n", value(p.Name), value(string(p.Arch)))
	kind, ref := profiles.Layer{OCI: p.Base.OCI, Tar: p.Base.Tar}.From()
	line("base:\n  %s: %s\n", kind, value(ref))
	line("kernel:\n  package: %s", value(p.Kernel.Package))
	if p.Kernel.Suite != "" {
		line("  suite: %s", value(p.Kernel.Suite))
	}
	list(line, "  ", "modules", p.Kernel.Modules)
	if len(p.Kernel.Arguments) > 0 {
		line("  arguments:")
	}
	for _, a := range p.Kernel.Arguments {
		line("    - %s", value(a))
	}
	line("\nfiles:")
	for i, f := range p.Files {
		line("  %s\n  - path: %s", yamlfile.Comment(files[i].why), value(f.Path))
		if f.Link != "" {
			line("    link: %s", value(f.Link))
			continue
		}
		line("    content: |\n      %s", strings.ReplaceAll(strings.TrimSpace(f.Content), "\n", "\n      "))
	}
	line("\nunits:")
	list(line, "  ", "enable", p.Units.Enable)
	list(line, "  ", "mask", p.Units.Mask)
	line("\nchecks:")
	for _, c := range p.Checks {
		line("  - name: %s", value(c.Name))
		list(line, "    ", "units", c.Units)
		if c.TCP != "" {
			line("    tcp: %s", value(c.TCP))
		}
		line("    within: %s", value(strings.TrimSuffix(time.Duration(c.Within).String(), "0s")))
	}
	return s.String()
}

// list writes a list of texts on one line, unless it is empty.
func list(line func(string, ...any), indent, key string, texts []string) {
	if len(texts) == 0 {
		return
	}
	values := make([]string, len(texts))
	for i, t := range texts {
		values[i] = yamlfile.Scalar(t)
	}
	line("%s%s: [%s]", indent, key, strings.Join(values, ", "))
}

func startingChecks(root *tree.Tree) []profiles.Check {
	checks := []profiles.Check{{Name: "system", Units: []string{"@system"}, Within: profiles.Duration(5 * time.Minute)}}
	if sshUnit(root) != "" {
		checks = append(checks, profiles.Check{Name: "ssh", TCP: "127.0.0.1:22", Within: profiles.Duration(3 * time.Minute)})
	}
	return checks
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
