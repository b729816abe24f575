package lock

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"ingot/builder/accounts"
	"ingot/profiles"
)

// Path returns the path of the lock of a profile: beside its file, or in the folder dir when ingot
// ships it.
func Path(dir, name, file string) string {
	if file == "" {
		return filepath.Join(dir, name+".lock")
	}
	return strings.TrimSuffix(file, filepath.Ext(file)) + ".lock"
}

// numbers returns the numbers of the accounts of a profile that are known before a build: what the
// profile says, then what its own lock has, then what the profiles that it extends have, the nearest
// first. A lock without numbers is one of an older ingot, or one that was never built from: then the
// newest image of the profile has them. kept reports whether the profile had numbers of its own.
func (o Options) numbers(ctx context.Context, p *profiles.Profile, old *File) (known accounts.List, kept bool,
	err error) {
	if known, err = o.own(ctx, p.Name, old); err != nil {
		return nil, false, err
	}
	kept = len(known) > 0
	for _, parent := range p.Parents {
		var lock *File
		if o.Dir != "" || parent.File != "" {
			if lock, err = Read(Path(o.Dir, parent.Name, parent.File)); err != nil {
				return nil, false, err
			}
		}
		more, err := o.own(ctx, parent.Name, lock)
		if err != nil {
			return nil, false, err
		}
		known = known.Inherit(more)
	}
	known, err = withProfile(known, p)
	return known, kept, err
}

// own returns the numbers that are kept for one profile.
func (o Options) own(ctx context.Context, profile string, lock *File) (accounts.List, error) {
	if lock != nil && lock.Accounts != nil {
		return lock.Accounts, nil
	}
	if o.Accounts == nil || profile == "" {
		return accounts.List{}, nil
	}
	list, err := o.Accounts(ctx, profile)
	if err != nil {
		return nil, fmt.Errorf("reading the accounts of the newest image of %s: %w", profile, err)
	}
	return accounts.List{}.With(list), nil
}

// withProfile returns a list with the numbers that a profile gives. They replace others. It is an
// error when a number belongs to another account then.
func withProfile(known accounts.List, p *profiles.Profile) (accounts.List, error) {
	given := Given(p)
	with := known.With(given)
	first, second, what, n := with.Twice()
	if first == "" {
		return with, nil
	}
	for _, name := range []string{first, second} {
		if place := placeOf(p, name); place != "" && given.Get(what, name) == n {
			other := second
			if name == second {
				other = first
			}
			return nil, fmt.Errorf("%s: the number %d of the %s %q belongs to %q; choose another number, or give %q "+
				"another one in the profile", place, n, what, name, other, other)
		}
	}
	return nil, fmt.Errorf("the %ss %q and %q both have the number %d in the lock; give one of them another number in "+
		"the profile", what, first, second, n)
}

// Given returns the numbers that a profile gives to accounts.
func Given(p *profiles.Profile) accounts.List {
	list := accounts.List{}
	for _, u := range p.Users {
		list = list.With(accounts.List{{Name: u.Name, UID: u.UID, GID: u.GID}})
	}
	for _, g := range p.Groups {
		list = list.With(accounts.List{{Name: g.Name, GID: g.GID}})
	}
	return list
}

// placeOf returns where a profile names an account.
func placeOf(p *profiles.Profile, name string) string {
	for _, u := range p.Users {
		if u.Name == name {
			return u.At.String()
		}
	}
	for _, g := range p.Groups {
		if g.Name == name {
			return g.At.String()
		}
	}
	return ""
}

// accountChanges returns the accounts whose numbers differ between two locks.
func accountChanges(before, after *File) (list []Change) {
	for _, c := range before.Accounts.Changes(after.Accounts) {
		list = append(list, Change{Package: string(c.Kind) + " " + c.Name, Before: fmt.Sprint(c.Before),
			After: fmt.Sprint(c.After)})
	}
	return list
}

// KeepAccounts adds numbers to the lock at a path, so that later builds use them. It reports whether
// the lock has changed. Without a lock it does nothing.
func KeepAccounts(path string, list accounts.List) (changed bool, err error) {
	f, err := Read(path)
	if err != nil || f == nil {
		return false, err
	}
	next := f.Accounts.With(list)
	if f.Accounts != nil && slices.Equal(next, f.Accounts) {
		return false, nil
	}
	f.Accounts = next
	return true, f.write(path)
}
