package builder

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"ingot/builder/accounts"
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

// holder returns the name of the row with an id in its third field, or "".
func (t *table) holder(id int) string {
	for _, r := range t.rows {
		if len(r) > 2 && r[2] == strconv.Itoa(id) {
			return r[0]
		}
	}
	return ""
}

// id returns the third field of a row.
func id(row []string) (int, error) {
	if len(row) < 3 {
		return 0, fmt.Errorf("the root has no number for %q", row[0])
	}
	return strconv.Atoi(row[2])
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

// accountTables are the four tables together, and the numbers of accounts.
type accountTables struct {
	passwd, shadow, group, gshadow *table
	// given are the numbers that accounts must have, and those that they got. Nil: the next free ones.
	given accounts.List
}

// addUsers adds users and groups, and completes those that packages created. given are the numbers
// that accounts have in earlier images, or that the plan has; addUsers returns them with those of new
// accounts. It is nil for a plan of an older ingot.
func addUsers(root *tree.Tree, users []profiles.User, groups []profiles.Group, given accounts.List) (accounts.List,
	error) {
	if len(users)+len(groups) == 0 {
		return given, nil
	}
	a := accountTables{given: given}
	for _, t := range []struct {
		into **table
		path string
	}{{&a.passwd, "etc/passwd"}, {&a.shadow, "etc/shadow"}, {&a.group, "etc/group"}, {&a.gshadow, "etc/gshadow"}} {
		var err error
		if *t.into, err = readTable(root, t.path); err != nil {
			return nil, err
		}
	}
	for _, g := range groups {
		if err := a.addGroup(g.Name, g.GID, 0); err != nil {
			return nil, fmt.Errorf("adding group %q (%s): %w", g.Name, g.At, err)
		}
	}
	for _, u := range users {
		if err := a.add(root, u); err != nil {
			return nil, fmt.Errorf("adding user %q (%s): %w", u.Name, u.At, err)
		}
	}
	for _, t := range []*table{a.passwd, a.shadow, a.group, a.gshadow} {
		if err := t.write(); err != nil {
			return nil, err
		}
	}
	return a.given, nil
}

func (a *accountTables) add(root *tree.Tree, u profiles.User) error {
	r := a.passwd.row(u.Name)
	if r == nil {
		var err error
		if r, err = a.create(root, u); err != nil {
			return err
		}
	} else if a.given != nil {
		if err := a.check(accounts.User, r, u.UID); err != nil {
			return err
		}
		if g := a.group.row(u.Name); g != nil {
			if err := a.check(accounts.Group, g, u.GID); err != nil {
				return err
			}
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

// check returns an error if an account that the root had does not have the number that the profile
// gives to it. Those of installed packages have it.
func (a *accountTables) check(k accounts.Kind, row []string, want int) error {
	if have, err := id(row); want != 0 && (err != nil || have != want) {
		return fmt.Errorf("the base or a layer has the %s with the number %s, and only accounts that packages or the "+
			"profile make can get another one; leave the number out", k, strings.Join(row[2:min(len(row), 3)], ""))
	}
	return nil
}

// create adds a user with a group of the same name, as useradd does. Without a password hash no
// password works ("!", shadow(5)); SSH keys do.
func (a *accountTables) create(root *tree.Tree, u profiles.User) ([]string, error) {
	uid, err := a.number(accounts.User, u.Name, u.UID, 0)
	if err != nil {
		return nil, err
	}
	if err := a.addGroup(u.Name, u.GID, uid); err != nil {
		return nil, err
	}
	gid, err := id(a.group.row(u.Name))
	if err != nil {
		return nil, err
	}
	home := u.Home
	if home == "" {
		home = "/home/" + u.Name
	}
	row := []string{u.Name, "x", strconv.Itoa(uid), strconv.Itoa(gid), u.Comment, home, "/bin/bash"}
	a.passwd.rows = append(a.passwd.rows, row)
	// The day of the last change is left empty: it would be today.
	a.shadow.rows = append(a.shadow.rows, []string{u.Name, "!", "", "0", "99999", "7", "", "", ""})
	return row, addHome(root, home, uid, gid)
}

// addGroup adds a group unless the root has it. Its number is gid, else the one in given, else like
// if that is free.
func (a *accountTables) addGroup(name string, gid, like int) error {
	if r := a.group.row(name); r != nil {
		if a.given == nil {
			return nil
		}
		return a.check(accounts.Group, r, gid)
	}
	gid, err := a.number(accounts.Group, name, gid, like)
	if err != nil {
		return err
	}
	a.group.rows = append(a.group.rows, []string{name, "x", strconv.Itoa(gid), ""})
	a.gshadow.rows = append(a.gshadow.rows, []string{name, "!", "", ""})
	return nil
}

// number chooses the number of a new account: want if it is not 0, else the one in given, else like if
// that is not 0 and free, else the first from 1000 on that neither the root nor an earlier image has
// for another name.
func (a *accountTables) number(k accounts.Kind, name string, want, like int) (int, error) {
	t := map[accounts.Kind]*table{accounts.User: a.passwd, accounts.Group: a.group}[k]
	free := func(n int) bool {
		holder := a.given.Holder(k, n)
		return t.holder(n) == "" && (holder == "" || holder == name)
	}
	n := cmp.Or(want, a.given.Get(k, name))
	if n == 0 && like != 0 && free(like) {
		n = like
	}
	for id := 1000; n == 0; id++ {
		if free(id) {
			n = id
		}
	}
	if holder := t.holder(n); holder != "" {
		return 0, fmt.Errorf("%cid %d is taken by %q; choose another", k[0], n, holder)
	}
	if a.given != nil {
		a.given = a.given.Set(k, name, n)
	}
	return n, nil
}

func (a *accountTables) join(group, user string) error {
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
	if err := addExplicit(root, tree.Entry{Path: dir, Kind: tree.Dir, Mode: 0o700, UID: uid, GID: gid}); err != nil {
		return err
	}
	text := []byte(strings.Join(keys, "\n") + "\n")
	return addExplicit(root, tree.Entry{Path: dir + "/authorized_keys", Kind: tree.File, Mode: 0o600, UID: uid, GID: gid,
		Size: int64(len(text)), Open: tree.Bytes(text)})
}
