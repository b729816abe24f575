package builder

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"ingot/builder/tree"
	"ingot/profiles"
)

// table is one of the colon-separated files of /etc (passwd(5), shadow(5),
// group(5), gshadow(5)).
type table struct {
	root *tree.Tree
	path string
	mode uint32
	gid  int
	rows [][]string
}

func readTable(root *tree.Tree, p string) (*table, error) {
	b, err := root.ReadFile(p)
	if err != nil {
		return nil, err
	}
	e := root.Find(p)
	t := &table{root: root, path: p, mode: e.Mode, gid: e.GID}
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		t.rows = append(t.rows, strings.Split(line, ":"))
	}
	return t, nil
}

// row returns the row of a name, or nil.
func (t *table) row(name string) []string {
	for _, r := range t.rows {
		if r[0] == name {
			return r
		}
	}
	return nil
}

func (t *table) write() error {
	var s strings.Builder
	for _, r := range t.rows {
		s.WriteString(strings.Join(r, ":") + "\n")
	}
	return t.root.Put(tree.Entry{Path: t.path, Kind: tree.File, Mode: t.mode, GID: t.gid, Size: int64(s.Len()),
		Open: tree.Bytes([]byte(s.String()))})
}

// free is the first id from 1000 on that no row has in its third field.
func (t *table) free() int {
	taken := map[string]bool{}
	for _, r := range t.rows {
		if len(r) > 2 {
			taken[r[2]] = true
		}
	}
	for id := 1000; ; id++ {
		if !taken[strconv.Itoa(id)] {
			return id
		}
	}
}

// ownerID returns the id of a user or group name, or of a number. Empty is 0.
func ownerID(root *tree.Tree, file, name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	if id, err := strconv.Atoi(name); err == nil {
		return id, nil
	}
	t, err := readTable(root, file)
	if err != nil {
		return 0, err
	}
	r := t.row(name)
	if len(r) < 3 {
		return 0, fmt.Errorf("the root has no %q in /%s; add the user, or the package that creates it", name, file)
	}
	return strconv.Atoi(r[2])
}

// accounts are the four tables together.
type accounts struct{ passwd, shadow, group, gshadow *table }

// addUsers adds users, and completes those that packages created.
func addUsers(root *tree.Tree, users []profiles.User) error {
	if len(users) == 0 {
		return nil
	}
	var a accounts
	for _, t := range []struct {
		into **table
		path string
	}{{&a.passwd, "etc/passwd"}, {&a.shadow, "etc/shadow"}, {&a.group, "etc/group"}, {&a.gshadow, "etc/gshadow"}} {
		var err error
		if *t.into, err = readTable(root, t.path); err != nil {
			return err
		}
	}
	for _, u := range users {
		if err := a.add(root, u); err != nil {
			return fmt.Errorf("adding user %q (%s): %w", u.Name, u.At, err)
		}
	}
	for _, t := range []*table{a.passwd, a.shadow, a.group, a.gshadow} {
		if err := t.write(); err != nil {
			return err
		}
	}
	return nil
}

func (a *accounts) add(root *tree.Tree, u profiles.User) error {
	r := a.passwd.row(u.Name)
	if r == nil {
		var err error
		if r, err = a.create(root, u); err != nil {
			return err
		}
	}
	if u.Shell != "" {
		r[6] = u.Shell
	}
	if u.PasswordHash != "" {
		a.shadow.row(u.Name)[1] = u.PasswordHash
	}
	for _, g := range u.Groups {
		if err := a.join(g, u.Name); err != nil {
			return err
		}
	}
	return authorize(root, r, u.AuthorizedKeys)
}

// create adds a user with a group of the same name, as useradd does. Without a password hash no
// password works ("!", shadow(5)); SSH keys do.
func (a *accounts) create(root *tree.Tree, u profiles.User) ([]string, error) {
	uid := u.UID
	if uid == 0 {
		uid = a.passwd.free()
	}
	id := strconv.Itoa(uid)
	if slices.ContainsFunc(a.passwd.rows, func(r []string) bool { return len(r) > 2 && r[2] == id }) {
		return nil, fmt.Errorf("uid %s is taken; choose another", id)
	}
	home := u.Home
	if home == "" {
		home = "/home/" + u.Name
	}
	row := []string{u.Name, "x", id, id, u.Comment, home, "/bin/bash"}
	a.passwd.rows = append(a.passwd.rows, row)
	// The day of the last change is left empty: it would be today.
	a.shadow.rows = append(a.shadow.rows, []string{u.Name, "!", "", "0", "99999", "7", "", "", ""})
	if a.group.row(u.Name) == nil {
		a.group.rows = append(a.group.rows, []string{u.Name, "x", id, ""})
		a.gshadow.rows = append(a.gshadow.rows, []string{u.Name, "!", "", ""})
	}
	return row, root.Put(tree.Entry{Path: home, Kind: tree.Dir, Mode: 0o700, UID: uid, GID: uid})
}

func (a *accounts) join(group, user string) error {
	g := a.group.row(group)
	if g == nil {
		return fmt.Errorf("the root has no group %q", group)
	}
	for _, r := range [][]string{g, a.gshadow.row(group)} {
		if len(r) < 4 {
			continue
		}
		members := strings.FieldsFunc(r[3], func(c rune) bool { return c == ',' })
		if !slices.Contains(members, user) {
			r[3] = strings.Join(append(members, user), ",")
		}
	}
	return nil
}

func authorize(root *tree.Tree, passwd, keys []string) error {
	if len(keys) == 0 {
		return nil
	}
	uid, err := strconv.Atoi(passwd[2])
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(passwd[3])
	if err != nil {
		return err
	}
	dir := path.Join(passwd[5], ".ssh")
	if err := root.Put(tree.Entry{Path: dir, Kind: tree.Dir, Mode: 0o700, UID: uid, GID: gid}); err != nil {
		return err
	}
	text := []byte(strings.Join(keys, "\n") + "\n")
	return root.Put(tree.Entry{Path: dir + "/authorized_keys", Kind: tree.File, Mode: 0o600, UID: uid, GID: gid,
		Size: int64(len(text)), Open: tree.Bytes(text)})
}
