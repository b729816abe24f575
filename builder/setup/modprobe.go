package setup

import (
	"path"
	"slices"
	"strings"

	"ingot/builder/tree"
)

// Modprobe are settings of modprobe.d(5).
type Modprobe struct {
	Parameters map[string]string // of modules, by name
	Blacklist  []string          // sorted
}

// ReadModprobe returns the settings that a root has. A file in /etc replaces the one of the same name in /usr/lib.
func ReadModprobe(root *tree.Tree) (m Modprobe, err error) {
	files := map[string]string{}
	for _, dir := range []string{"usr/lib/modprobe.d", "etc/modprobe.d"} {
		for _, e := range root.Entries() {
			if path.Dir(e.Path) == dir && strings.HasSuffix(e.Path, ".conf") {
				files[path.Base(e.Path)] = e.Path
			}
		}
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	m.Parameters = map[string]string{}
	for _, name := range names {
		if e := root.Find(files[name]); e == nil || e.Kind != tree.File {
			continue // it is masked by a link to /dev/null
		}
		text, err := root.ReadFile(files[name])
		if err != nil {
			return Modprobe{}, err
		}
		m.read(string(text))
	}
	slices.Sort(m.Blacklist)
	m.Blacklist = slices.Compact(m.Blacklist)
	return m, nil
}

// read adds the lines of one file. A backslash at the end continues a line.
func (m *Modprobe) read(text string) {
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		words := strings.Fields(line)
		switch {
		case len(words) > 2 && words[0] == "options":
			name := plain(words[1])
			rest := strings.TrimSpace(line)
			for _, word := range words[:2] { // spaces within quotes stay
				rest = strings.TrimSpace(strings.TrimPrefix(rest, word))
			}
			m.Parameters[name] = strings.TrimSpace(m.Parameters[name] + " " + rest)
		case len(words) > 1 && words[0] == "blacklist":
			m.Blacklist = append(m.Blacklist, plain(words[1]))
		}
	}
}
