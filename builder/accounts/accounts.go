// Package accounts gives the users and groups of an image numbers that stay the same from image to
// image, because the files on a machine's volumes keep the numbers of their owners.
//
// A List says which number belongs to which name. Number adds names that are not in it: their
// number follows from the name, so that images built apart from each other agree. Stub is the
// program that hands the numbers to the tools with which packages make their accounts. The package
// leaves out where a list is kept (package lock) and what makes accounts (package source).
package accounts

import (
	_ "embed"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
)

// Stub is a Perl program that stands in for adduser, addgroup, useradd, groupadd and
// systemd-sysusers while packages are configured. It expects the programs themselves in .ingot/original
// and the numbers in UIDs and GIDs, which Numbers writes.
//
//go:embed stub.pl
var Stub string

// The places, in the root, of what Stub reads.
const (
	UIDs = ".ingot/accounts/uids"
	GIDs = ".ingot/accounts/gids"
)

// The numbers that packages and administrators get (Debian policy 9.2.2).
const (
	lastStatic  = 99    // those up to it are in base-passwd
	usersGroup  = 100   // and this one, for the group "users"
	firstUser   = 1000  // system accounts end
	firstGlobal = 60000 // given by Debian to one package each
)

// The numbers that Number gives to new system accounts. Debian's tools choose from both ends of
// 100 to 999, so that accounts of images that were not numbered keep theirs.
const (
	firstSlot = 200
	slots     = 700
)

// Account is a name with its numbers.
type Account struct {
	Name string `json:"name"`
	UID  int    `json:"uid,omitempty"` // 0: there is no user of the name, or its number is not known
	GID  int    `json:"gid,omitempty"` // 0: there is no group of the name, or its number is not known
}

// number returns the field of a kind.
func (a *Account) number(k Kind) *int {
	if k == User {
		return &a.UID
	}
	return &a.GID
}

// Kind says whose number one is.
type Kind string

// The values of Kind.
const (
	User  Kind = "user"
	Group Kind = "group"
)

var kinds = []Kind{User, Group}

// List is a list of accounts, sorted by name, each name once. Its methods return new lists.
type List []Account

// Read returns the accounts of a passwd(5) and a group(5) file, without root. Lines that are not
// well-formed are ignored, as the C library does.
func Read(passwd, groups []byte) List {
	l := List{}
	for k, text := range map[Kind][]byte{User: passwd, Group: groups} {
		for line := range strings.Lines(string(text)) {
			f := strings.Split(line, ":")
			if len(f) < 3 {
				continue
			}
			if n, err := strconv.Atoi(f[2]); err == nil && n > 0 && f[0] != "" {
				l = l.Set(k, f[0], n)
			}
		}
	}
	return l
}

// find returns where a name is, or belongs.
func (l List) find(name string) (int, bool) {
	return slices.BinarySearchFunc(l, name, func(a Account, name string) int { return strings.Compare(a.Name, name) })
}

// Get returns the number of a user or group, or 0.
func (l List) Get(k Kind, name string) int {
	if i, has := l.find(name); has {
		return *l[i].number(k)
	}
	return 0
}

// Set returns the list with the number of a user or group changed or added.
func (l List) Set(k Kind, name string, n int) List {
	i, has := l.find(name)
	l = slices.Clone(l)
	if !has {
		l = slices.Insert(l, i, Account{Name: name})
	}
	*l[i].number(k) = n
	return l
}

// Holder returns the user or group that has a number, or "".
func (l List) Holder(k Kind, n int) string {
	for i := range l {
		if *l[i].number(k) == n {
			return l[i].Name
		}
	}
	return ""
}

// Given returns the accounts whose numbers were chosen when they were made: neither those that
// base-passwd has nor those that Debian gives to one package for ever.
func (l List) Given() List {
	given := List{}
	for i := range l {
		for _, k := range kinds {
			if n := *l[i].number(k); !Static(k, n) {
				given = given.Set(k, l[i].Name, n)
			}
		}
	}
	return given
}

// With returns the list with the numbers of over, which replace its own.
func (l List) With(over List) List {
	for i := range over {
		for _, k := range kinds {
			if n := *over[i].number(k); n != 0 {
				l = l.Set(k, over[i].Name, n)
			}
		}
	}
	return l
}

// Inherit returns the list with numbers of more that it lacks. A number that another name has is
// left out.
func (l List) Inherit(more List) List {
	for i := range more {
		for _, k := range kinds {
			name, n := more[i].Name, *more[i].number(k)
			if n != 0 && l.Get(k, name) == 0 && l.Holder(k, n) == "" {
				l = l.Set(k, name, n)
			}
		}
	}
	return l
}

// Twice returns two users or groups that have the same number; first is empty if there are none.
func (l List) Twice() (first, second string, k Kind, n int) {
	for _, k := range kinds {
		names := map[int]string{}
		for i := range l {
			n := *l[i].number(k)
			if n != 0 && names[n] != "" {
				return names[n], l[i].Name, k, n
			}
			names[n] = l[i].Name
		}
	}
	return "", "", "", 0
}

// Check reports what is wrong with a list that somebody may have edited.
func (l List) Check() error {
	for i, a := range l {
		switch {
		case a.Name == "" || strings.ContainsAny(a.Name, ":, \t\n/") || a.UID < 0 || a.GID < 0:
			return fmt.Errorf("%q with the numbers %d and %d cannot be an account", a.Name, a.UID, a.GID)
		case i > 0 && l[i-1].Name >= a.Name:
			return fmt.Errorf("account %q does not follow %q: the list is not sorted, or has it twice", a.Name, l[i-1].Name)
		}
	}
	if first, second, k, n := l.Twice(); first != "" {
		return fmt.Errorf("the %ss %q and %q both have the number %d", k, first, second, n)
	}
	return nil
}

// Change is an account whose number differs between two lists.
type Change struct {
	Kind          Kind
	Name          string
	Before, After int
}

// Changes returns the numbers that both lists have and that differ.
func (l List) Changes(after List) (list []Change) {
	for i := range l {
		for _, k := range kinds {
			was, is := *l[i].number(k), after.Get(k, l[i].Name)
			if was != 0 && is != 0 && was != is {
				list = append(list, Change{k, l[i].Name, was, is})
			}
		}
	}
	return list
}

// Static reports whether a number is not one to be chosen, but one that base-passwd has or that Debian
// gives to one package. So is 0, which is none.
func Static(k Kind, n int) bool {
	return n <= lastStatic || n >= firstGlobal || k == Group && n == usersGroup
}

// Numbers returns the content of UIDs or GIDs: a line "name:number" for each, which is also the form
// of adduser's pools (adduser.conf(5), UID_POOL).
func (l List) Numbers(k Kind) []byte {
	var text []byte
	for i := range l {
		if n := *l[i].number(k); n != 0 {
			text = append(text, l[i].Name+":"+strconv.Itoa(n)+"\n"...)
		}
	}
	return text
}

// slotOf returns the number that a name gets unless another name has it: from 200 to 899, by the
// FNV-1a hash of the name.
func slotOf(name string) int {
	h := fnv.New32a()
	h.Write([]byte(name))
	return firstSlot + int(h.Sum32()%slots)
}

// after returns the slot that is tried after one.
func after(slot int) int { return firstSlot + (slot-firstSlot+1)%slots }
