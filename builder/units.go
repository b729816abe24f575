package builder

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"ingot/builder/inspect"
	"ingot/builder/tree"
	"ingot/profiles"
)

// setUnits enables, disables and masks units as systemctl would offline. origin returns where a profile
// says something, by its key.
func setUnits(root *tree.Tree, u profiles.Units, origin func(key string) profiles.Place) error {
	done := map[string]bool{}
	if err := applyPresets(root, u.Presets, done); err != nil {
		return err
	}
	for _, name := range u.Enable {
		if err := enable(root, name, done); err != nil {
			return at(origin("units.enable="+name), err)
		}
	}
	for _, name := range u.Disable {
		disable(root, name)
	}
	for _, name := range u.Mask {
		disable(root, name)
		if err := root.PutLink("etc/systemd/system/"+name, "/dev/null"); err != nil {
			return fmt.Errorf("masking %s: %w", name, err)
		}
	}
	return nil
}

// agentUnit is ingot's own unit, which no preset disables: without it no boot is healthy.
const agentUnit = "ingot-agent.service"

// applyPresets enables and disables the units of packages by rules, as systemctl preset-all does, but
// leaves alone what no rule matches.
func applyPresets(root *tree.Tree, rules []string, done map[string]bool) error {
	if len(rules) == 0 {
		return nil
	}
	for _, name := range installable(root) {
		for _, rule := range rules {
			verb, pattern, _ := strings.Cut(rule, " ")
			if ok, _ := path.Match(pattern, name); !ok { // the profile was checked
				continue
			}
			if verb == "disable" {
				disable(root, name)
			} else if err := enable(root, name, done); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// installable returns the units that can be enabled, sorted: no templates, aliases and masks.
func installable(root *tree.Tree) []string {
	var names []string
	for _, e := range root.Entries() {
		name := path.Base(e.Path)
		if e.Kind != tree.File || !inspect.IsUnitPath(e.Path) || strings.Contains(name, "@.") || name == agentUnit {
			continue
		}
		text, err := root.ReadFile(e.Path)
		if err == nil && inspect.FindUnit(root, name) == e.Path && len(installSection(string(text))) > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// at adds a place to an error, if it is known.
func at(p profiles.Place, err error) error {
	if err == nil || p.File == "" {
		return err
	}
	return fmt.Errorf("%s: %w", p, err)
}

// enable makes the links that the unit's [Install] section asks for.
func enable(root *tree.Tree, name string, done map[string]bool) error {
	if done[name] {
		return nil
	}
	done[name] = true
	file := inspect.FindUnit(root, name)
	if file == "" {
		return fmt.Errorf("enabling %s: the root has no such unit; add the package that has it, or a file below "+
			"/etc/systemd/system", name)
	}
	if e := root.Get(file); e.Kind == tree.Symlink && e.Target == "/dev/null" {
		if !strings.HasPrefix(file, "etc/") {
			return fmt.Errorf("enabling %s: the package %s masks it with the link /%s; add a unit of your own, "+
				"/etc/systemd/system/%s, or leave it out of units.enable", name, inspect.PackageOf(root, file), file, name)
		}
		root.Remove(file) // what a package or layer masked; systemctl enable refuses, and a profile counts more
		delete(done, name)
		return enable(root, name, done)
	}
	text, err := root.ReadFile(file)
	if err != nil {
		return fmt.Errorf("enabling %s: %w", name, err)
	}
	install := installSection(string(text))
	for key, suffix := range map[string]string{"WantedBy": ".wants/",
		"RequiredBy": ".requires/", "UpheldBy": ".upholds/"} {
		for _, target := range install[key] {
			if err := root.PutLink("etc/systemd/system/"+target+suffix+name, "/"+file); err != nil {
				return fmt.Errorf("enabling %s: %w", name, err)
			}
		}
	}
	for _, alias := range install["Alias"] {
		if err := root.PutLink("etc/systemd/system/"+alias, "/"+file); err != nil {
			return fmt.Errorf("enabling %s: %w", name, err)
		}
	}
	for _, also := range install["Also"] {
		if inspect.FindUnit(root, also) == "" {
			continue // systemctl only warns about it, too
		}
		if err := enable(root, also, done); err != nil {
			return err
		}
	}
	return nil
}

func installSection(text string) map[string][]string {
	values := map[string][]string{}
	inside := false
	for _, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			inside = line == "[Install]"
			continue
		}
		if key, value, ok := strings.Cut(line, "="); inside && ok {
			values[strings.TrimSpace(key)] = append(values[strings.TrimSpace(key)], strings.Fields(value)...)
		}
	}
	return values
}

// disable removes every link that starts a unit.
func disable(root *tree.Tree, name string) {
	for _, e := range root.Entries() {
		if e.Kind != tree.Symlink || !strings.HasPrefix(e.Path, "etc/systemd/system/") {
			continue
		}
		dir := path.Base(path.Dir(e.Path))
		pulled := strings.HasSuffix(dir, ".wants") || strings.HasSuffix(dir, ".requires")
		if (pulled && path.Base(e.Path) == name) || (!pulled && path.Base(e.Target) == name) {
			root.Remove(e.Path)
		}
	}
}
