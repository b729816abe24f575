package profiles

import (
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"ingot/internal/yamlfile"
)

// The files of the root that keys of a profile become.
const (
	FileLocale      = "/etc/default/locale"
	FileLocaleConf  = "/etc/locale.conf"
	FileLocaltime   = "/etc/localtime"
	FileTimezone    = "/etc/timezone"
	FileKeyboard    = "/etc/default/keyboard"
	FileSysctl      = "/etc/sysctl.d/90-profile.conf"
	FileModulesLoad = "/etc/modules-load.d/profile.conf"
	FileBlacklist   = "/etc/modprobe.d/profile.conf"
	FileZram        = "/etc/systemd/zram-generator.conf"
	FilePresets     = "/etc/systemd/system-preset/00-profile.preset"
)

// owned returns the files that keys of a profile become, with the keys.
func (p *Profile) owned() map[string]string {
	list := map[string]string{}
	for _, o := range []struct {
		key   string
		set   bool
		paths []string
	}{
		{"locale", p.Locale != "", []string{FileLocale, FileLocaleConf}},
		{"timezone", p.Timezone != "", []string{FileLocaltime, FileTimezone}},
		{"keyboard", p.Keyboard != Keyboard{}, []string{FileKeyboard}},
		{"sysctl", len(p.Sysctl) > 0, []string{FileSysctl}},
		{"kernel.load", len(p.Kernel.Load) > 0, []string{FileModulesLoad}},
		{"kernel.blacklist", len(p.Kernel.Blacklist) > 0, []string{FileBlacklist}},
		{"kernel.options", len(p.Kernel.Options) > 0, []string{FileBlacklist}},
		{"swap.zram", p.Swap.Zram != "", []string{FileZram}},
		{"units.presets", len(p.Units.Presets) > 0, []string{FilePresets}},
	} {
		for _, file := range o.paths {
			if o.set {
				list[file] = o.key
			}
		}
	}
	for unit := range p.Units.DropIns {
		list[DropInPath(unit)] = "units.dropIns." + unit
	}
	return list
}

// DropInPath returns the file of a drop-in of a unit.
func DropInPath(unit string) string { return "/etc/systemd/system/" + unit + ".d/50-profile.conf" }

// mergeSettings merges the keys that become files. They replace inherited files at the same paths.
func (l *loader) mergeSettings(into *Profile, f *file) {
	p := f.p
	replace(&into.Locale, p.Locale)
	replace(&into.Timezone, p.Timezone)
	replace(&into.Keyboard, p.Keyboard)
	replace(&into.Swap.Zram, p.Swap.Zram)
	replace(&into.Swap.Algorithm, p.Swap.Algorithm)
	l.mergeMap(&into.Sysctl, f, "sysctl", p.Sysctl)
	l.mergeMap(&into.Kernel.Options, f, "kernel.options", p.Kernel.Options)
	l.mergeMap(&into.Units.DropIns, f, "units.dropIns", p.Units.DropIns)
	owned := p.owned()
	into.Files = slices.DeleteFunc(into.Files, func(g File) bool { return owned[g.Path] != "" })
}

// mergeMap merges values by name. One without a value takes the inherited one back.
func (l *loader) mergeMap(into *map[string]*string, f *file, key string, more map[string]*string) {
	for _, name := range slices.Sorted(maps.Keys(more)) {
		if more[name] != nil {
			if *into == nil {
				*into = map[string]*string{}
			}
			(*into)[name] = more[name]
			continue
		}
		if _, ok := (*into)[name]; !ok && !l.broken {
			fix := "write its value, or leave it out"
			if near := yamlfile.Nearest(name, slices.Sorted(maps.Keys(*into))); near != "" {
				fix = fmt.Sprintf("write %s, or leave it out", near)
			}
			l.faults.Add(f.d.Places[key+"."+name], fix, "%s: no profile that this one extends has %q", key, name)
		}
		delete(*into, name)
	}
}

// question returns package and question of an answer to debconf.
func question(line string) string {
	words := strings.Fields(line)
	return strings.Join(words[:min(2, len(words))], " ")
}

// debconfTypes are the types of debconf's questions (debconf-devel(7)).
var debconfTypes = []string{"string", "boolean", "select", "multiselect", "note", "text", "error", "title", "password"}

var (
	localeRE   = regexp.MustCompile(`^(C|[a-z]{2,3}(_[A-Z]{2})?)\.UTF-8$`)
	timezoneRE = regexp.MustCompile(`^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$`)
	layoutRE   = regexp.MustCompile(`^[A-Za-z0-9_:,()-]*$`)
	sysctlRE   = regexp.MustCompile(`^-?[A-Za-z0-9_*/.@-]+$`)
	zramRE     = regexp.MustCompile(`^[1-9][0-9]?%$|^100%$`)
	presetRE   = regexp.MustCompile(`^(enable|disable) \S+$`)
)

// checkSettings checks the keys of one file that become files of the root.
func (d *decoder) checkSettings(p *Profile) {
	d.checkDebconf(p)
	d.checkRemove(p)
	for _, v := range []struct{ path, text, what, fix string }{
		{"locale", invalid(localeRE, p.Locale), "locale", "write a UTF-8 locale such as de_DE.UTF-8, or C.UTF-8"},
		{"timezone", invalid(timezoneRE, p.Timezone), "time zone", "write a name such as Europe/Berlin or Etc/UTC"},
		{"keyboard.layout", invalid(layoutRE, p.Keyboard.Layout), "keyboard layout", "write a word such as us or de"},
		{"keyboard.variant", invalid(layoutRE, p.Keyboard.Variant), "keyboard variant", "write a word such as nodeadkeys"},
		{"keyboard.model", invalid(layoutRE, p.Keyboard.Model), "keyboard model", "write a word such as pc105"},
		{"keyboard.options", invalid(layoutRE, p.Keyboard.Options), "list of keyboard options", "write words such as " +
			"ctrl:nocaps"},
	} {
		if v.text != "" {
			d.Faults.Add(d.Places[v.path], v.fix, "%q cannot be a %s", v.text, v.what)
		}
	}
	if at, ok := d.Places["keyboard"]; ok && p.Keyboard.Layout == "" {
		d.Faults.Add(at, "write: keyboard: {layout: de}", "the keyboard has no layout")
	}
	for name, value := range p.Sysctl {
		if !sysctlRE.MatchString(name) || value != nil && strings.ContainsAny(*value, "\n\r") {
			d.Faults.Add(d.Places["sysctl."+name], "write: net.ipv4.ip_forward: 1", "%q cannot be a setting of the kernel", name)
		}
	}
	for module, value := range p.Kernel.Options {
		at, fix := d.Places["kernel.options."+module], "write: e1000e: IntMode=1,1 Debug=2"
		switch {
		case !plainModuleRE.MatchString(module):
			d.Faults.Add(at, fix, "%q cannot be a kernel module", module)
		case value != nil && (strings.TrimSpace(*value) == "" || strings.ContainsAny(*value, "\n\r#\\")):
			d.Faults.Add(at, fix, "%q cannot be parameters of %s", *value, module)
		}
	}
	if z := p.Swap.Zram; z != "" && !isZram(z) {
		d.Faults.Add(d.Places["swap.zram"], "write a part of the memory such as 50%, or a size such as 4GiB",
			"%q cannot be the size of zram", z)
	}
	if a := p.Swap.Algorithm; a != "" && !slices.Contains([]string{"zstd", "lz4", "lzo-rle"}, a) {
		d.Faults.Add(d.Places["swap.algorithm"], "write zstd, lz4 or lzo-rle", "unknown compression %q", a)
	}
	d.checkUnitTexts(p)
	owned := p.owned()
	for _, f := range p.Files {
		if key := owned[f.Path]; key != "" {
			d.Faults.Add(f.At, "keep one of them", "the key %s makes the file %s, too", key, f.Path)
		}
	}
}

// isZram reports whether a text is a part of the memory, or a size.
func isZram(z string) bool {
	_, err := yamlfile.ParseBytes(z)
	return zramRE.MatchString(z) || err == nil && strings.HasSuffix(z, "iB")
}

// invalid returns a text that does not match.
func invalid(re *regexp.Regexp, text string) string {
	if text == "" || re.MatchString(text) {
		return ""
	}
	return text
}

func (d *decoder) checkDebconf(p *Profile) {
	for i, line := range p.Debconf {
		at := d.Places[fmt.Sprintf("debconf[%d]", i)]
		text, back := minus(line)
		words := strings.Fields(text)
		switch {
		case back && len(words) == 2:
		case strings.ContainsAny(line, "\n\r") || len(words) < 3 || !strings.Contains(text, " "):
			d.Faults.Add(at, "write PACKAGE QUESTION TYPE VALUE, as debconf-get-selections prints it",
				"%q cannot be an answer to debconf", clip(line))
		case !slices.Contains(debconfTypes, words[2]):
			d.Faults.Add(at, "write one of "+strings.Join(debconfTypes[:5], ", "), "unknown type %q of a question", words[2])
		case words[2] == "password":
			d.Faults.Add(at, "set the password on the machine, or for a login with users: passwordHash",
				"the answer to %q is a password, and everybody who reaches the boot server can read it", words[1])
		}
	}
}

// checkRemove checks the paths that are removed.
func (d *decoder) checkRemove(p *Profile) {
	for i, pattern := range p.Remove {
		at := d.Places[fmt.Sprintf("remove[%d]", i)]
		pattern, _ = minus(pattern)
		_, err := path.Match(pattern, "")
		switch {
		case err != nil || !path.IsAbs(pattern) || path.Clean(pattern) != pattern:
			d.Faults.Add(at, "write an absolute path such as /usr/share/doc/x", "%q cannot be a path in the root", pattern)
		case strings.Count(pattern, "/") < 2 || strings.HasPrefix(pattern, "/*"):
			d.Faults.Add(at, "write the paths below it", "%q would remove a folder that every system needs", pattern)
		}
	}
}

// checkUnitTexts checks presets and drop-ins.
func (d *decoder) checkUnitTexts(p *Profile) {
	for i, rule := range p.Units.Presets {
		if text, _ := minus(rule); !presetRE.MatchString(text) {
			d.Faults.Add(d.Places[fmt.Sprintf("units.presets[%d]", i)], `write "enable PATTERN" or "disable PATTERN"`,
				"%q cannot be a preset", rule)
		} else if _, err := path.Match(strings.Fields(text)[1], ""); err != nil {
			d.Faults.Add(d.Places[fmt.Sprintf("units.presets[%d]", i)], "close the bracket", "%q is not a pattern", rule)
		}
	}
	for unit, text := range p.Units.DropIns {
		at := d.Places["units.dropIns."+unit]
		switch {
		case !unitRE.MatchString(unit):
			d.Faults.Add(at, "write the whole name such as ssh.service", "%q cannot be a systemd unit", unit)
		case text != nil && !strings.HasPrefix(strings.TrimSpace(*text), "["):
			d.Faults.Add(at, "begin it with a section such as [Service]", "the drop-in of %q has no section", unit)
		}
	}
}

// validatePackages checks that what keys need is among the packages of a suite. A root that is a tree is
// looked at when it is built.
func (p *Profile) validatePackages(faults *Faults) {
	if p.Base.Tree() {
		return
	}
	for _, n := range []struct {
		key  string
		set  bool
		need []string
	}{
		{"locale", p.Locale != "C.UTF-8" && localeRE.MatchString(p.Locale), []string{"locales", "locales-all"}},
		{"keyboard", p.Keyboard.Layout != "", []string{"console-setup"}},
		{"swap.zram", isZram(p.Swap.Zram), []string{"systemd-zram-generator"}},
	} {
		if n.set && !slices.ContainsFunc(n.need, p.HasPackage) {
			at := p.Origin(n.key)
			if n.key == "keyboard" {
				at = p.Origin("keyboard.layout")
			}
			faults.Add(at, "add it to packages", "%s needs the package %s", n.key, n.need[0])
		}
	}
}

// Preseed returns the answers to debconf: those of the profile, and before them those that follow from
// other keys.
func (p *Profile) Preseed() []string {
	var list []string
	if p.Locale != "" && p.Locale != "C.UTF-8" {
		list = append(list, "locales locales/locales_to_be_generated multiselect "+p.Locale+" UTF-8",
			"locales locales/default_environment_locale select "+p.Locale)
	}
	if k := p.Keyboard; k != (Keyboard{}) {
		const q = "keyboard-configuration keyboard-configuration/"
		list = append(list, q+"layoutcode string "+k.Layout, q+"variantcode string "+k.Variant,
			q+"modelcode string "+k.model(), q+"optionscode string "+k.Options)
	}
	return append(list, p.Debconf...)
}

func (k Keyboard) model() string {
	if k.Model == "" {
		return "pc105"
	}
	return k.Model
}

// Text returns the content of /etc/default/keyboard (keyboard(5)).
func (k Keyboard) Text() string {
	return fmt.Sprintf("XKBMODEL=%q\nXKBLAYOUT=%q\nXKBVARIANT=%q\nXKBOPTIONS=%q\nBACKSPACE=\"guess\"\n",
		k.model(), k.Layout, k.Variant, k.Options)
}
