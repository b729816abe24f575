// Package secrets finds what the scripts of packages make at random in a root: keys, passwords,
// identities, whole databases. An image that holds one gives it to every machine, over plain HTTP,
// and building it again gives other bits.
//
// A table of known ones says what happens to each (Remove). Everything else is found by its nature:
// by the form of private keys and secrets in files that no package ships (Find), and by comparing
// the trees of two runs of the scripts (Differences).
package secrets

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"ingot"
	"ingot/builder/tree"
)

// Removed is what was done with a known secret that a root had.
type Removed struct {
	Known
	Found []string // paths, with a leading slash
}

// String describes it for people.
func (r Removed) String() string {
	return fmt.Sprintf("%s: %s: %s", strings.Join(r.Found, ", "), r.What, r.Fate)
}

// Lacks returns the first path that the finished root still lacks of a secret that the operator must
// supply; empty: none.
func (r Removed) Lacks(root *tree.Tree) string {
	if r.Fate != Operator {
		return ""
	}
	for _, p := range r.Found {
		e := root.Find(p)
		if e == nil || e.Kind == tree.Dir && len(children(root, e.Path)) == 0 {
			return p
		}
	}
	return ""
}

// Options say how a root is changed.
type Options struct {
	// Identity is the absolute path of the identity volume; empty: there is none.
	Identity string
	// Allowed reports whether the profile allows a path to be in every image.
	Allowed func(p string) bool
}

// Remove removes the known secrets from a root, or their random parts, and adds the units and
// scripts that make them on the machine.
func Remove(root *tree.Tree, o Options) ([]Removed, error) {
	var list []Removed
	for _, k := range table {
		found := k.in(root, o)
		if len(found) == 0 {
			continue
		}
		changed, err := k.remove(root, found)
		if err != nil {
			return nil, fmt.Errorf("removing secrets (%s): %w", k.What, err)
		}
		if len(changed) == 0 {
			continue
		}
		if k.Make != "" {
			if err := k.install(root, o.Identity); err != nil {
				return nil, fmt.Errorf("adding the unit that makes the %s: %w", k.What, err)
			}
		}
		list = append(list, Removed{k, changed})
	}
	return list, nil
}

// Made returns the known secrets that units make on machines.
func Made() []Known {
	return slices.DeleteFunc(slices.Clone(table), func(k Known) bool { return k.Make == "" })
}

// Digest is that of everything that Remove may add to a root, and of what it removes: with another one,
// the same packages give another image.
func Digest() ingot.Digest {
	var text bytes.Buffer
	for _, k := range table {
		fmt.Fprintln(&text, k.Name, k.Paths, k.Fate, k.Empty, k.Units, k.unit(), k.script(""), k.script("/identity"))
	}
	text.WriteString(fill)
	return ingot.DigestOf(text.Bytes())
}

// in returns the paths of a root that match, without those that are allowed.
func (k Known) in(root *tree.Tree, o Options) (found []string) {
	for _, e := range root.Entries() {
		for _, pattern := range k.Paths {
			if ok, _ := path.Match(pattern, e.Path); ok && !o.allows(e.Path) {
				found = append(found, e.Path)
				break
			}
		}
	}
	return found
}

func (o Options) allows(p string) bool { return o.Allowed != nil && o.Allowed("/"+p) }

// remove removes what was found, and returns the paths that it changed.
func (k Known) remove(root *tree.Tree, found []string) (changed []string, err error) {
	for _, p := range found {
		e := root.Get(p)
		switch {
		case e == nil: // in a folder that was removed
		case k.Clean != nil:
			content, err := root.ReadFile(p)
			if err != nil {
				return nil, err
			}
			if cleaned, differs := k.clean(content); differs {
				c := *e
				c.Size, c.Open, c.Hard = int64(len(cleaned)), tree.Bytes(cleaned), ""
				if err := root.Put(c); err != nil {
					return nil, err
				}
				changed = append(changed, "/"+p)
			}
		case k.Empty && e.Kind == tree.Dir:
			if below := children(root, p); len(below) > 0 {
				for _, c := range below {
					root.Remove(c)
				}
				changed = append(changed, "/"+p)
			}
		default:
			root.Remove(p)
			removeLinks(root, p)
			changed = append(changed, "/"+p)
		}
	}
	return changed, nil
}

// children returns the paths directly in a folder.
func children(root *tree.Tree, dir string) (list []string) {
	for _, e := range root.Entries() {
		if e.Path != "" && path.Dir(e.Path) == dir {
			list = append(list, e.Path)
		}
	}
	return list
}

// removeLinks removes links in the same folder to a file that was removed, and links to those: the
// hashed names of certificates (openssl-rehash(1ssl)), whose names are random too.
func removeLinks(root *tree.Tree, gone string) {
	for _, c := range children(root, path.Dir(gone)) {
		if e := root.Get(c); e != nil && e.Kind == tree.Symlink && e.Target == path.Base(gone) {
			root.Remove(c)
			removeLinks(root, c)
		}
	}
}

// Where the script of a known secret and its unit are, by name.
const (
	scriptDir = "usr/lib/ingot/secrets/"
	unitDir   = "usr/lib/systemd/system/"
)

// install adds the script that makes a secret, and its unit.
func (k Known) install(root *tree.Tree, identity string) error {
	unit, target := "ingot-secret-"+k.Name+".service", "sysinit.target"
	if len(k.Units) > 0 {
		target = "multi-user.target"
	}
	for _, u := range k.Units { // also of a template: Before= cannot name all its instances
		text := "[Unit]\nRequires=" + unit + "\nAfter=" + unit + "\n"
		if err := root.PutFile(unitDir+u+".d/ingot-secret.conf", 0o644, []byte(text)); err != nil {
			return err
		}
	}
	if strings.Contains(k.Make, scriptDir+fillName) {
		if err := root.PutFile(scriptDir+fillName, 0o644, []byte(fill)); err != nil {
			return err
		}
	}
	if err := root.PutFile(unitDir+unit, 0o644, []byte(k.unit())); err != nil {
		return err
	}
	if err := root.PutLink("etc/systemd/system/"+target+".wants/"+unit, "/"+unitDir+unit); err != nil {
		return err
	}
	return root.PutFile(scriptDir+k.Name, 0o644, []byte(k.script(identity)))
}

// unit returns the text of the unit.
func (k Known) unit() string {
	order := "Before=" + strings.Join(append(slices.Clone(k.Early), "sysinit.target", "shutdown.target"), " ") + "\n"
	if len(k.Units) > 0 {
		order = "After=sysinit.target\nBefore=shutdown.target\n" // see install for those that need it
	}
	return "[Unit]\nDescription=Make this machine's own " + k.What + "\nDefaultDependencies=no\n" +
		"After=local-fs.target systemd-tmpfiles-setup.service\nConflicts=shutdown.target\n" + order +
		"\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh /" + scriptDir + k.Name + "\n"
}

// script returns the shell script of a unit.
func (k Known) script(identity string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Makes the %s: %s.\nset -eu\numask 077\n", k.What, k.Fate)
	var files []string
	for _, p := range k.Paths {
		files = append(files, "/"+p)
	}
	paths := strings.Join(files, " ")
	if k.Fate == Kept && identity != "" {
		fmt.Fprintf(&s, `kept=%s
if [ -d "$kept" ] && [ -n "$(ls -A "$kept/%s" 2>/dev/null)" ]; then
	# The files alone: their folders are those of this image.
	(cd "$kept/%[2]s" && find . ! -type d) | while read -r file; do
		mkdir -p "$(dirname "/$file")"
		cp -a "$kept/%[2]s/$file" "/$file"
	done
	exit
fi
`, quote(path.Join(identity, ".ingot/identity")), k.Name)
	}
	if !k.Empty {
		fmt.Fprintf(&s, "for file in %s; do\n\t[ ! -e \"$file\" ] || exit 0 # supplied otherwise\ndone\n", paths)
	}
	s.WriteString(k.Make)
	if k.Fate == Kept && identity != "" {
		fmt.Fprintf(&s, `[ -d "$kept" ] || exit 0
rm -rf "$kept/%[1]s.new"
mkdir "$kept/%[1]s.new"
for file in %s; do
	[ ! -e "$file" ] || (cd / && cp -a --parents ".$file" "$kept/%[1]s.new/")
done
sync -f "$kept/%[1]s.new"
mv "$kept/%[1]s.new" "$kept/%[1]s"
`, k.Name, paths)
	}
	return s.String()
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// Lines describes removed secrets, one a line; those that the operator must supply come first.
func Lines(list []Removed) []string {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b Removed) int {
		return map[bool]int{true: 0, false: 1}[a.Fate == Operator] - map[bool]int{true: 0, false: 1}[b.Fate == Operator]
	})
	var lines []string
	for _, r := range list {
		lines = append(lines, r.String())
	}
	return lines
}

// Cleans reports whether the random part of a file is removed.
func Cleans(p string) bool {
	return slices.ContainsFunc(table, func(k Known) bool {
		return k.Clean != nil && slices.ContainsFunc(k.Paths, func(pattern string) bool {
			ok, _ := path.Match("/"+pattern, p)
			return ok
		})
	})
}
