package profiles

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/internal/beneath"
)

var (
	suiteRE   = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	packageRE = regexp.MustCompile(`^([a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~*?-]+|/[a-z][a-z0-9-]*)?|` +
		`\./([A-Za-z0-9+~_][A-Za-z0-9+.~_-]*/)*[A-Za-z0-9+~_][A-Za-z0-9+.~_:%-]*\.deb)$`)
	unitRE = regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|target|` +
		`mount|automount|swap|path|slice|scope)$`)
	userRE        = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,31}$`) // Debian-snmp is one
	absoluteRE    = regexp.MustCompile(`^/[^\s*?[]*[^\s*?[/]$`)
	moduleRE      = regexp.MustCompile(`^(@[a-z]+|[a-z0-9][a-z0-9/_-]*/?)$`)
	plainModuleRE = regexp.MustCompile(`^[a-z0-9][a-zA-Z0-9_-]*$`)
	hostRE        = regexp.MustCompile(`^([a-z0-9-]|\{(name|mac|serial)\})+$`)
	keyRE         = regexp.MustCompile(`^(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/=]+( .*)?$`)
)

// Presets are the names that kernel.modules may use for groups of modules.
var Presets = []string{"@boot", "@virtual", "@net", "@storage"}

// checkFile checks one file by itself. validate checks the merged profile.
func (d *decoder) checkFile(p *Profile) {
	d.splitTaken(p)
	d.checkWords(p)
	d.checkTwice(p)
	d.checkTrees(p)
	d.checkScratch(p)
	d.checkSettings(p)
	d.checkRepositories(p)
	d.checkScripts(p)
	for _, f := range p.Files {
		checkSource(f, &d.Faults)
	}
	for _, a := range p.Secrets.Allow {
		checkAllowed(a, &d.Faults)
	}
	if p.Name != "" && !ingot.ValidProfileName(p.Name) {
		d.Faults.Add(d.Places["name"], "write lower-case letters, digits and dashes, at most 63", "%q cannot be a "+
			"profile name", p.Name)
	}
	if p.Arch != "" && p.Arch != ingot.AMD64 && p.Arch != ingot.ARM64 {
		d.Faults.Add(d.Places["arch"], "write amd64 or arm64", "unknown architecture %q", p.Arch)
	}
	for i, k := range p.Keep {
		k, _ = minus(k)
		if !slices.Contains([]string{KeepDocs, KeepMan, KeepLocales}, k) {
			d.Faults.Add(d.Places[fmt.Sprintf("keep[%d]", i)], "write docs, man or locales", "unknown word %q in keep", k)
		}
	}
	compressions := []Compression{CompressFast, CompressBalanced, CompressSmall}
	if p.Compression != "" && !slices.Contains(compressions, p.Compression) {
		d.Faults.Add(d.Places["compression"], "write fast, balanced or small", "unknown compression %q", p.Compression)
	}
	if p.Base.Suite != "" && !suiteRE.MatchString(p.Base.Suite) {
		d.Faults.Add(d.Places["base.suite"], "write a code name such as trixie", "%q cannot be a Debian suite", p.Base.Suite)
	}
	if p.Hostname != "" && !hostRE.MatchString(p.Hostname) {
		d.Faults.Add(d.Places["hostname"], "write letters, digits, dashes and {name}, {mac}, {serial}", "%q cannot be a "+
			"host name template", p.Hostname)
	}
}

// checkWords checks every entry of the lists of words.
func (d *decoder) checkWords(p *Profile) {
	for _, list := range []struct {
		path string
		have []string
		re   *regexp.Regexp
		what string
		fix  string
	}{
		{"packages", p.Packages, packageRE, "cannot be a package name",
			"write NAME, NAME=1.26*, NAME/trixie-backports or ./FILE.deb; exact versions are pinned by the plan"},
		{"base.components", p.Base.Components, suiteRE, "cannot be an archive component", "write main, contrib, non-free " +
			"or non-free-firmware"},
		{"units.enable", p.Units.Enable, unitRE, "cannot be a systemd unit", "write the whole name such as ssh.service"},
		{"units.disable", p.Units.Disable, unitRE, "cannot be a systemd unit", "write the whole name such as ssh.service"},
		{"units.mask", p.Units.Mask, unitRE, "cannot be a systemd unit", "write the whole name such as ssh.service"},
		{"kernel.load", p.Kernel.Load, plainModuleRE, "cannot be a kernel module", "write a module such as br_netfilter"},
		{"kernel.blacklist", p.Kernel.Blacklist, plainModuleRE, "cannot be a kernel module", "write a module such as " +
			"nouveau"},
		{"kernel.initramfs", p.Kernel.Initramfs, absoluteRE, "cannot be a file of the initramfs", "write an absolute path " +
			"such as /etc/iscsi/initiatorname.iscsi"},
		{"kernel.modules", p.Kernel.Modules, moduleRE, "cannot be a kernel module", "write a module such as mlx5_core, a " +
			"folder such as drivers/net/, or a preset: " + strings.Join(Presets, ", ")},
	} {
		for i, s := range list.have {
			s, _ = minus(s)
			if !list.re.MatchString(s) {
				d.Faults.Add(d.Places[fmt.Sprintf("%s[%d]", list.path, i)], list.fix, "%q %s", s, list.what)
			} else if strings.HasPrefix(s, "@") && !slices.Contains(Presets, s) {
				d.Faults.Add(d.Places[fmt.Sprintf("%s[%d]", list.path, i)],
					"presets: "+strings.Join(Presets, ", "), "unknown preset %q", s)
			}
		}
	}
	for i, s := range p.Kernel.Initramfs {
		if absoluteRE.MatchString(s) && path.Clean(s) != s {
			d.Faults.Add(d.Places[fmt.Sprintf("kernel.initramfs[%d]", i)], "write "+path.Clean(s),
				"%q cannot be a file of the initramfs", s)
		}
	}
	for i, s := range p.Kernel.Arguments {
		if !argumentRE.MatchString(s) || strings.HasPrefix(s, "ingot.") {
			d.Faults.Add(d.Places[fmt.Sprintf("kernel.arguments[%d]", i)], "write one argument per entry, none of ingot's own; "+
				"spaces go between double quotes after =", "%q cannot be a kernel argument", s)
		}
	}
}

// argumentRE is one argument of the kernel: a word, or KEY="WORD WORD". Loaders join words by single spaces and read $,
// &, ; and | themselves, so quoted text has none of these.
var argumentRE = regexp.MustCompile(`^([^\s"]+|[^\s"=]+="[^"\s$&;|]+( [^"\s$&;|]+)*")$`)

// checkTwice finds names that one file uses twice.
func (d *decoder) checkTwice(p *Profile) {
	twice := func(kind, name string, at Place, seen map[string]Place) {
		if first, ok := seen[name]; ok && name != "" {
			d.Faults.Add(at, "keep one of them", "the %s %q is defined already at line %d", kind, name, first.Line)
		}
		seen[name] = at
	}
	files, users, volumes, checks := map[string]Place{}, map[string]Place{}, map[string]Place{}, map[string]Place{}
	groups, hooks := map[string]Place{}, map[string]Place{}
	for _, f := range p.Files {
		twice("file", f.Path, f.At, files)
	}
	for _, u := range p.Users {
		twice("user", u.Name, u.At, users)
	}
	for _, g := range p.Groups {
		twice("group", g.Name, g.At, groups)
	}
	for _, v := range p.Volumes {
		twice("volume", v.Name, v.At, volumes)
	}
	for _, c := range p.Checks {
		twice("check", c.Name, c.At, checks)
	}
	for _, h := range p.Drain {
		twice("drain hook", h.Name, h.At, hooks)
	}
	repositories := map[string]Place{}
	for _, r := range p.Repositories {
		twice("repository", r.Name, r.At, repositories)
	}
	for i, u := range p.Units.Enable {
		what := "masked"
		if slices.Contains(p.Units.Disable, u) {
			what = "disabled"
		}
		if _, back := minus(u); !back && (what == "disabled" || slices.Contains(p.Units.Mask, u)) {
			d.Faults.Add(d.Places[fmt.Sprintf("units.enable[%d]", i)], "keep one of them",
				"the unit %q is enabled and %s", u, what)
		}
	}
}

func checkSource(f File, faults *Faults) {
	ways := 0
	for _, given := range []bool{f.Content != "", f.Source != "", f.Link != "", f.Directory} {
		if given {
			ways++
		}
	}
	if ways > 1 {
		faults.Add(f.At, "keep one of content, source, link and directory", "the file %q is given in %d ways", f.Path, ways)
	}
	if !path.IsAbs(f.Path) || path.Clean(f.Path) != f.Path || f.Path == "/" {
		faults.Add(f.At, "write an absolute path such as /etc/motd", "%q cannot be a path in the root", f.Path)
	}
	if f.Template && f.Content == "" && f.Source == "" {
		faults.Add(f.At, "write content or source", "the template %q has no text", f.Path)
	}
	if f.Source != "" && !fs.ValidPath(f.Source) {
		faults.Add(f.At, "write a path below the profile's folder, without ..",
			"the source %q is outside the profile's folder", f.Source)
	}
}

func checkAllowed(a AllowedSecret, faults *Faults) {
	if _, err := path.Match(a.Path, ""); err != nil || !path.IsAbs(a.Path) || path.Clean(a.Path) != a.Path {
		faults.Add(a.At, "write an absolute path such as /etc/app/shared.key", "%q cannot be a path in the root", a.Path)
	}
	if strings.TrimSpace(a.Reason) == "" {
		faults.Add(a.At, "write: reason: why all machines may share it", "the secret %q is allowed without a reason", a.Path)
	}
}

// validate checks the merged profile.
//
// top is the beginning of the file. complete is false when a file could not be read, so that what is
// missing may be there.
func (p *Profile) validate(top Place, complete bool, faults *Faults) {
	if complete {
		p.validateNeeds(top, faults)
	}
	p.validateTrees(faults)
	for _, f := range p.Files {
		if f.Source != "" {
			p.validateSource(f, faults)
		}
	}
	for _, u := range p.Users {
		validateUser(u, faults)
	}
	for _, g := range p.Groups {
		validateName("group", g.Name, g.At, faults)
		validateNumber("gid", g.GID, g.At, faults)
	}
	for _, v := range p.Volumes {
		validateVolume(v, p.Volumes, faults)
	}
	p.validateScratch(faults)
	for _, c := range p.Checks {
		validateCheck(c, faults)
	}
	for i, h := range p.Drain {
		if i == ingot.MaxHooks {
			faults.Add(h.At, "let one command do more", "there are %d drain hooks; at most %d are run", len(p.Drain),
				ingot.MaxHooks)
		}
		validateHook(h, faults)
	}
	p.validateRepositories(faults)
	p.validateLocalPackages(faults)
}

func validateHook(h Hook, faults *Faults) {
	if !ingot.ValidProfileName(h.Name) {
		faults.Add(h.At, "write lower-case letters, digits and dashes, at most 63", "%q cannot be the name of a drain hook",
			h.Name)
	}
	if len(h.Command) == 0 || !path.IsAbs(h.Command[0]) {
		faults.Add(h.At, "write the program's path and its arguments: command: [/usr/bin/scontrol, …]",
			"the drain hook %q has no absolute path of a program", h.Name)
	}
	if h.Within > Duration(ingot.MaxHookTime) {
		faults.Add(h.At, "write at most "+ingot.MaxHookTime.String(), "the drain hook %q may take %s", h.Name,
			time.Duration(h.Within))
	}
}

// validateNeeds checks that nothing is missing.
func (p *Profile) validateNeeds(top Place, faults *Faults) {
	if p.Name == "" {
		faults.Add(top, "write: name: my-profile", "the profile has no name")
	}
	if p.Base.Suite == "" && !p.Base.Tree() {
		faults.Add(top, "write: extends: debian", "the profile has neither a Debian suite nor another base")
	}
	if p.Kernel.Package == "" {
		faults.Add(top, "write: kernel: {package: linux-image-"+string(p.Arch)+"}, or extend node or lab",
			"no kernel package is chosen")
	}
	if p.PermitsShell() && !p.HasPackage(ShellPackage) {
		faults.Add(top, "add it to packages", "rescueShell needs the package %s", ShellPackage)
	}
	p.validatePackages(faults)
}

func (p *Profile) validateSource(f File, faults *Faults) {
	folder := p.folders[f.At.File]
	if folder == nil || !fs.ValidPath(f.Source) {
		return // reported already
	}
	st, err := fs.Stat(folder, f.Source)
	switch {
	case errors.Is(err, beneath.ErrLeaves):
		faults.Add(f.At, "put the file itself there", "the source %q of %s: %v", f.Source, f.Path, beneath.ErrLeaves)
	case err != nil:
		faults.Add(f.At, "put it beside the profile", "the source %q of %s does not exist", f.Source, f.Path)
	case f.Template && st.Mode().IsRegular():
		if r, err := p.Open(f); err != nil {
			faults.Add(f.At, "declare the variable in vars, or correct the template", "%s",
				strings.TrimPrefix(err.Error(), f.At.String()+": "))
		} else {
			r.Close()
		}
	case !st.Mode().IsRegular():
		faults.Add(f.At, "name one file", "the source %q of %s is not a file", f.Source, f.Path)
	}
}

func validateUser(u User, faults *Faults) {
	validateName("user", u.Name, u.At, faults)
	validateNumber("uid", u.UID, u.At, faults)
	validateNumber("gid", u.GID, u.At, faults)
	if strings.ContainsAny(u.PasswordHash+u.Comment+u.Shell+u.Home, ":\n") ||
		(u.PasswordHash != "" && !strings.HasPrefix(u.PasswordHash, "$")) {
		faults.Add(u.At, "write a crypt(5) hash as `mkpasswd` prints it, without colons anywhere", "user %q: the "+
			"password hash or another field cannot go into /etc/passwd", u.Name)
	}
	for _, k := range u.AuthorizedKeys {
		if !keyRE.MatchString(k) {
			faults.Add(u.At, "write the line of an id_*.pub file", "user %q: %q is not an SSH public key", u.Name, clip(k))
		}
	}
}

func validateName(what, name string, at Place, faults *Faults) {
	if !userRE.MatchString(name) {
		faults.Add(at, "write letters, digits, - and _", "%q cannot be a %s name", name, what)
	}
}

// validateNumber checks a uid or gid; 0 is none. 65535 means "no number" to programs with 16 bits
// (Debian policy 9.2.2).
func validateNumber(what string, n int, at Place, faults *Faults) {
	if n == 1<<16-1 {
		faults.Add(at, "write a number such as 5432", "%d cannot be a %s", n, what)
	}
}

func validateVolume(v Volume, all []Volume, faults *Faults) {
	if !ingot.ValidProfileName(v.Name) {
		faults.Add(v.At, "write lower-case letters, digits and dashes", "%q cannot be a volume name", v.Name)
	}
	if v.Filesystem != "" && v.Filesystem != "ext4" {
		faults.Add(v.At, "write ext4", "volume %q: the filesystem %q is not supported", v.Name, v.Filesystem)
	}
	if label := v.label(); len(label) > 16 {
		faults.Add(v.At, "write at most 16 bytes", "volume %q: ext4 cannot hold the label %q", v.Name, label)
	}
	validateMount(fmt.Sprintf("volume %q", v.Name), v.Mount, v.At, faults)
	validateOptions(v, faults)
	for _, w := range all {
		if w.Name == v.Name {
			break // only look at those before v, so that a pair is reported once
		}
		switch {
		case w.Mount == v.Mount:
			faults.Add(v.At, "choose another path", "volumes %q and %q are both mounted at %s", w.Name, v.Name, v.Mount)
		case v.Serial == "" && w.Serial == "" && w.label() == v.label():
			faults.Add(v.At, "choose another label", "volumes %q and %q have the same label %q", w.Name, v.Name, v.label())
		case v.Identity && w.Identity:
			faults.Add(v.At, "keep one of them", "volumes %q and %q are both marked identity", w.Name, v.Name)
		}
	}
}

func (v Volume) label() string { return ingot.Volume{Name: v.Name, Label: v.Label}.FSLabel() }

func validateCheck(c Check, faults *Faults) {
	ways := 0
	for _, set := range []bool{len(c.Units) > 0, c.TCP != "", c.HTTP != "", len(c.Command) > 0} {
		if set {
			ways++
		}
	}
	if ways != 1 {
		faults.Add(c.At, "write exactly one of units, tcp, http and command", "check %q asks for %d things", c.Name, ways)
	}
	if c.TCP != "" {
		if _, _, err := net.SplitHostPort(c.TCP); err != nil {
			faults.Add(c.At, "write host:port such as 127.0.0.1:22", "check %q: %q is not an address", c.Name, c.TCP)
		}
	}
	if c.HTTP != "" {
		if u, err := url.Parse(c.HTTP); err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			faults.Add(c.At, "write a URL such as http://127.0.0.1:8080/healthz", "check %q: %q is not a URL", c.Name, c.HTTP)
		}
	}
}

func clip(s string) string {
	if len(s) > 24 {
		return s[:24] + "…"
	}
	return s
}
