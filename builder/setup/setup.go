// Package setup changes a root as the keys of a profile ask that stand for files: locale, time zone,
// keyboard, kernel settings and modules, swap, and what is to be removed. Each key checks that the root
// has what makes it work. Users, units and the profile's own files are left to package builder.
package setup

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"ingot/builder/inspect"
	"ingot/builder/tree"
	"ingot/internal/yamlfile"
	"ingot/profiles"
)

// ErrMissing: a key of the profile needs something that the root does not have.
var ErrMissing = errors.New("the root lacks what the profile asks for")

// Remove removes what the profile does not want of packages and layers.
func Remove(root *tree.Tree, p *profiles.Profile) error {
	for _, pattern := range p.Remove {
		var hits []string
		for _, e := range root.Entries() {
			if ok, _ := path.Match(pattern, "/"+e.Path); ok { // the profile was checked
				hits = append(hits, e.Path)
			}
		}
		if e := root.Find(pattern); e != nil && len(hits) == 0 {
			hits = []string{e.Path} // its folder is reached by a link
		}
		if len(hits) == 0 {
			return at(p, "remove="+pattern, fmt.Errorf("%w: there is no %s to remove; leave it out, or correct the path",
				ErrMissing, pattern))
		}
		for _, hit := range hits {
			root.Remove(hit)
		}
	}
	return nil
}

// at adds the place of a key to an error.
func at(p *profiles.Profile, key string, err error) error {
	if place := p.Origin(key); err != nil && place.File != "" {
		return fmt.Errorf("%s: %w", place, err)
	}
	return err
}

// Apply adds the files that keys of the profile become. modules is the folder of the kernel's modules.
func Apply(root *tree.Tree, p *profiles.Profile, modules string) error {
	for _, step := range []struct {
		key   string
		apply func() error
	}{
		{"locale", func() error { return applyLocale(root, p) }},
		{"timezone", func() error { return applyTimezone(root, p) }},
		{"keyboard.layout", func() error { return applyKeyboard(root, p) }},
		{"sysctl", func() error { return applySysctl(root, p) }},
		{"swap.zram", func() error { return applyZram(root, p, modules) }},
	} {
		if err := step.apply(); err != nil {
			return at(p, step.key, err)
		}
	}
	if err := checkQuestions(root, p); err != nil {
		return err
	}
	return applyModules(root, p, modules)
}

func applyLocale(root *tree.Tree, p *profiles.Profile) error {
	if p.Locale == "" {
		return nil
	}
	have := root.Find("usr/lib/locale/locale-archive") != nil ||
		root.Find("usr/lib/locale/"+strings.Replace(p.Locale, ".UTF-8", ".utf8", 1)) != nil
	if !have {
		return fmt.Errorf("%w: the locale %s; add the package locales", ErrMissing, p.Locale)
	}
	text := []byte("LANG=" + p.Locale + "\n")
	return errors.Join(root.PutFile(profiles.FileLocale, 0o644, text), root.PutFile(profiles.FileLocaleConf, 0o644, text))
}

func applyTimezone(root *tree.Tree, p *profiles.Profile) error {
	const zones = "usr/share/zoneinfo/"
	if p.Timezone == "" {
		return nil
	}
	if e := root.Find(zones + p.Timezone); e == nil || e.Kind != tree.File {
		fix := "add the package tzdata"
		if root.Find(zones+"Etc/UTC") != nil {
			fix = "write a name such as Europe/Berlin; old names are in the package tzdata-legacy"
		}
		return fmt.Errorf("%w: the time zone %s; %s", ErrMissing, p.Timezone, fix)
	}
	return errors.Join(root.PutLink(profiles.FileLocaltime, "/"+zones+p.Timezone),
		root.PutFile(profiles.FileTimezone, 0o644, []byte(p.Timezone+"\n")))
}

func applyKeyboard(root *tree.Tree, p *profiles.Profile) error {
	if p.Keyboard == (profiles.Keyboard{}) {
		return nil
	}
	if root.Find("usr/bin/setupcon") == nil && root.Find("bin/setupcon") == nil {
		return fmt.Errorf("%w: what sets the keyboard of the console; add the package console-setup", ErrMissing)
	}
	return root.PutFile(profiles.FileKeyboard, 0o644, []byte(p.Keyboard.Text()))
}

func applySysctl(root *tree.Tree, p *profiles.Profile) error {
	if len(p.Sysctl) == 0 {
		return nil
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(p.Sysctl)) {
		fmt.Fprintf(&text, "%s = %s\n", name, *p.Sysctl[name])
	}
	return root.PutFile(profiles.FileSysctl, 0o644, []byte(text.String()))
}

// applyZram writes the configuration of zram-generator (zram-generator.conf(5)), which counts in MiB.
func applyZram(root *tree.Tree, p *profiles.Profile, modules string) error {
	z := p.Swap.Zram
	if z == "" {
		return nil
	}
	if root.Find("usr/lib/systemd/system-generators/zram-generator") == nil {
		return fmt.Errorf("%w: what makes swap in memory; add the package systemd-zram-generator", ErrMissing)
	}
	if names, err := moduleNames(root, modules); err != nil || !names["zram"] {
		return errors.Join(err, fmt.Errorf("%w: the kernel has no module zram; choose another kernel.package", ErrMissing))
	}
	size := z
	if percent, ok := strings.CutSuffix(z, "%"); ok {
		size = "ram * " + percent + " / 100"
	} else if n, err := yamlfile.ParseBytes(z); err == nil {
		size = strconv.FormatInt(int64(n)>>20, 10)
	}
	algorithm := p.Swap.Algorithm
	if algorithm == "" {
		algorithm = "zstd"
	}
	return root.PutFile(profiles.FileZram, 0o644,
		fmt.Appendf(nil, "[zram0]\nzram-size = %s\ncompression-algorithm = %s\n", size, algorithm))
}

// applyModules writes which modules are loaded and which are not.
func applyModules(root *tree.Tree, p *profiles.Profile, modules string) error {
	if len(p.Kernel.Load)+len(p.Kernel.Blacklist)+len(p.Kernel.Options) == 0 {
		return nil
	}
	names, err := moduleNames(root, modules)
	if err != nil {
		return err
	}
	var load, blacklist strings.Builder
	for _, m := range p.Kernel.Load {
		if !names[plain(m)] {
			near := yamlfile.Nearest(plain(m), slices.Sorted(maps.Keys(names)))
			return at(p, "kernel.load="+m, fmt.Errorf("%w: the kernel has no module %s; perhaps %s", ErrMissing, m, near))
		}
		fmt.Fprintln(&load, m)
	}
	for _, m := range p.Kernel.Blacklist {
		if !names[plain(m)] {
			return at(p, "kernel.blacklist="+m, fmt.Errorf("%w: the kernel has no module %s; leave it out", ErrMissing, m))
		}
		fmt.Fprintf(&blacklist, "blacklist %s\n", m)
	}
	for _, m := range slices.Sorted(maps.Keys(p.Kernel.Options)) {
		if !names[plain(m)] {
			near := yamlfile.Nearest(plain(m), slices.Sorted(maps.Keys(names)))
			return at(p, "kernel.options."+m, fmt.Errorf("%w: the kernel has no module %s; perhaps %s", ErrMissing, m, near))
		}
		fmt.Fprintf(&blacklist, "options %s %s\n", m, *p.Kernel.Options[m])
	}
	for file, text := range map[string]string{profiles.FileModulesLoad: load.String(),
		profiles.FileBlacklist: blacklist.String()} {
		if text == "" {
			continue
		}
		if err := root.PutFile(file, 0o644, []byte(text)); err != nil {
			return err
		}
	}
	return nil
}

// plain is the name of a module as its file has it; the kernel does not distinguish dashes and
// underscores (modprobe(8)).
func plain(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleNames returns the modules of the kernel, those that are built in too, by depmod's indexes.
func moduleNames(root *tree.Tree, folder string) (map[string]bool, error) {
	names := map[string]bool{}
	for _, index := range []string{"modules.dep", "modules.builtin"} {
		text, err := root.ReadFile(path.Join(folder, index))
		if err != nil {
			return nil, fmt.Errorf("reading the kernel's modules: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			file, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			name, _, _ := strings.Cut(path.Base(file), ".ko")
			names[plain(name)] = true
		}
	}
	return names, nil
}

// checkQuestions checks that a package asks each question that the profile answers. The questions are in
// debconf's database of templates (debconf-devel(7)).
func checkQuestions(root *tree.Tree, p *profiles.Profile) error {
	if len(p.Debconf) == 0 {
		return nil
	}
	text, err := root.ReadFile("var/cache/debconf/templates.dat")
	if err != nil {
		return at(p, "debconf="+p.Debconf[0], fmt.Errorf("%w: no package asks questions with debconf; leave debconf out",
			ErrMissing))
	}
	var asked []string
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "Name: "); ok {
			asked = append(asked, strings.TrimSpace(name))
		}
	}
	for _, line := range p.Debconf {
		name := strings.Fields(line)[1]
		if !slices.Contains(asked, name) {
			return at(p, "debconf="+line, fmt.Errorf("%w: no package asks the question %s; perhaps %s", ErrMissing, name,
				yamlfile.Nearest(name, asked)))
		}
	}
	return nil
}

// DropIns adds the settings of units. It returns the units that the root does not have.
func DropIns(root *tree.Tree, p *profiles.Profile) (unknown []string, err error) {
	for _, unit := range slices.Sorted(maps.Keys(p.Units.DropIns)) {
		if inspect.FindUnit(root, unit) == "" {
			unknown = append(unknown, unit)
		}
		if err := root.PutFile(profiles.DropInPath(unit), 0o644, []byte(*p.Units.DropIns[unit])); err != nil {
			return nil, at(p, "units.dropIns."+unit, err)
		}
	}
	if len(p.Units.Presets) > 0 {
		err = root.PutFile(profiles.FilePresets, 0o644, []byte(strings.Join(p.Units.Presets, "\n")+"\n"))
	}
	return unknown, err
}
