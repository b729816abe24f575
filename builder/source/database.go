package source

import (
	"archive/tar"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// database is dpkg's database after packages were unpacked and before they are configured: the
// files that dpkg --unpack would have written.
type database struct {
	tar   *tar.Writer
	epoch time.Time
	made  map[string]bool
}

const dpkgDir = "var/lib/dpkg"

// writeDatabase appends dpkg's database, and what the scripts need besides, to the tar of the
// unpacked files, and closes the tar.
func (u *unpacked) writeDatabase(w io.Writer, epoch time.Time, extra []controlFile) error {
	db := &database{tar.NewWriter(w), epoch, map[string]bool{}}
	for _, dir := range []string{"alternatives", "info", "parts", "triggers", "updates"} {
		if err := db.dir(dpkgDir + "/" + dir); err != nil {
			return err
		}
	}
	var status bytes.Buffer
	var interests []string
	triggers := map[string][]string{}
	for _, d := range u.debs {
		if u.late[d] {
			continue
		}
		if err := db.info(d, u); err != nil {
			return err
		}
		if err := writeStatus(&status, d); err != nil {
			return fmt.Errorf("reading %s: %w", d.Name, err)
		}
		for _, i := range interestsOf(d) {
			if strings.HasPrefix(i.name, "/") {
				interests = append(interests, i.name+" "+i.by)
			} else {
				triggers[i.name] = append(triggers[i.name], i.by)
			}
		}
	}
	files := []controlFile{{"info/format", 0o644, []byte("1\n")}, {"status", 0o644, status.Bytes()},
		{"diversions", 0o644, nil}, {"statoverride", 0o644, nil}, {"triggers/Unincorp", 0o644, nil},
		{"triggers/File", 0o644, lines(interests)}}
	for name, by := range triggers {
		files = append(files, controlFile{"triggers/" + name, 0o644, lines(by)})
	}
	for _, f := range files {
		if err := db.file(dpkgDir+"/"+f.name, f.mode, f.content); err != nil {
			return err
		}
	}
	for _, f := range extra {
		if err := db.dir(path.Dir(f.name)); err != nil {
			return err
		}
		if err := db.file(f.name, f.mode, f.content); err != nil {
			return err
		}
	}
	return db.tar.Close()
}

func lines(list []string) []byte {
	if len(list) == 0 {
		return nil
	}
	return []byte(strings.Join(list, "\n") + "\n")
}

func (db *database) dir(p string) error {
	if p == "." || db.made[p] {
		return nil
	}
	if err := db.dir(path.Dir(p)); err != nil {
		return err
	}
	db.made[p] = true
	return db.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "./" + p, Mode: 0o755, ModTime: db.epoch})
}

func (db *database) file(p string, mode int64, content []byte) error {
	if err := db.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + p, Mode: mode,
		Size: int64(len(content)), ModTime: db.epoch}); err != nil {
		return err
	}
	_, err := db.tar.Write(content)
	return err
}

// info writes the list of a package's files and its control files.
func (db *database) info(d *deb, u *unpacked) error {
	var list bytes.Buffer
	for _, f := range d.files {
		if !u.taken[d][u.place(f.name)] {
			fmt.Fprintln(&list, f.name)
		}
	}
	prefix := dpkgDir + "/info/" + d.instance() + "."
	if err := db.file(prefix+"list", 0o644, list.Bytes()); err != nil {
		return err
	}
	for _, c := range d.control {
		if err := db.file(prefix+c.name, c.mode, c.content); err != nil {
			return err
		}
	}
	return nil
}

// writeStatus writes a package's record in the state "unpacked". Its configuration files have their
// final names already, not the suffix .dpkg-new, so that the tools of packages that are not
// configured yet work. dpkg has nothing left to do with them.
func writeStatus(w *bytes.Buffer, d *deb) error {
	first, rest, _ := strings.Cut(d.record, "\n")
	fmt.Fprintf(w, "%s\nStatus: install ok unpacked\n%s", first, rest)
	head := "Conffiles:\n"
	for line := range strings.Lines(string(d.script("conffiles"))) {
		name, flags := strings.TrimSpace(line), ""
		if rest, ok := strings.CutPrefix(name, "remove-on-upgrade "); ok { // deb-conffiles(5)
			name, flags = strings.TrimSpace(rest), " remove-on-upgrade"
		}
		sum := "newconffile"
		if i := slices.IndexFunc(d.files, func(f debFile) bool {
			return f.name == name &&
				f.Typeflag == tar.TypeReg
		}); i >= 0 {
			var err error
			if sum, err = d.md5(d.files[i]); err != nil {
				return err
			}
		} else if flags == "" {
			continue
		}
		fmt.Fprintf(w, "%s %s %s%s\n", head, name, sum, flags)
		head = ""
	}
	w.WriteByte('\n')
	return nil
}

// md5 is the checksum that dpkg keeps of a configuration file.
func (d *deb) md5(f debFile) (string, error) {
	spool, err := os.Open(d.tar)
	if err != nil {
		return "", err
	}
	defer spool.Close()
	sum := md5.New() // dpkg's format
	if _, err := io.Copy(sum, io.NewSectionReader(spool, f.at, f.Size)); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// interest is a trigger that a package waits for (deb-triggers(5)); by is the
// package as dpkg writes it, with its option.
type interest struct{ name, by string }

func interestsOf(d *deb) []interest {
	var list []interest
	for _, line := range strings.Split(string(d.script("triggers")), "\n") {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		switch f[0] {
		case "interest", "interest-await":
			list = append(list, interest{f[1], d.instance()})
		case "interest-noawait":
			list = append(list, interest{f[1], d.instance() + "/noawait"})
		}
	}
	return list
}

// scriptOrder returns the packages in the order of their preinst scripts: essential packages first,
// each after those that it depends on. Cycles are cut where they are found.
func scriptOrder(debs []*deb) []*deb {
	byName := map[string]*deb{}
	for _, d := range debs {
		for _, group := range d.relations("Provides") {
			if byName[group[0].name] == nil {
				byName[group[0].name] = d
			}
		}
	}
	for _, d := range debs {
		byName[d.Name] = d
	}
	var order []*deb
	seen := map[*deb]bool{}
	var visit func(d *deb)
	visit = func(d *deb) {
		if d == nil || seen[d] {
			return
		}
		seen[d] = true
		for _, name := range d.needs(byName) {
			visit(byName[name])
		}
		order = append(order, d)
	}
	for _, essential := range []string{"yes", ""} {
		for _, d := range debs {
			if field(d.record, "Essential") == essential || essential == "" {
				visit(d)
			}
		}
	}
	return order
}

// needs returns the names of the packages of the installation that d depends on.
func (d *deb) needs(there map[string]*deb) []string {
	var names []string
	for _, name := range []string{"Pre-Depends", "Depends"} {
		for _, group := range d.relations(name) {
			for _, r := range group {
				if p := there[r.name]; p != nil && p != d && !slices.Contains(names, p.Name) {
					names = append(names, p.Name)
					break
				}
			}
		}
	}
	return names
}
