package builder

import (
	"fmt"
	"path"
	"strings"

	"ingot/builder/inspect"
	"ingot/builder/tree"
	"ingot/profiles"
)

// setUnits enables, disables and masks units as systemctl would offline.
func setUnits(root *tree.Tree, u profiles.Units) error {
	done := map[string]bool{}
	for _, name := range u.Enable {
		if err := enable(root, name, done); err != nil {
			return err
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
