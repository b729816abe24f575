package accounts

import "slices"

// Number returns the list with a number for each account that was found in a root and that it
// lacks. found are the numbers that the root has.
//
// A new system account gets a number from 200 to 899 that follows from its name alone. When several
// new names lead to one number, the first in the order of names gets it, and the others, in that
// order, the next number that is free. User and group of one name get the same number. Other
// numbers stay as they were found: those of ordinary users, and those that a package insists on.
// The result depends on neither the order in which packages were configured nor the numbers that
// their tools would have chosen.
func (l List) Number(found List) List {
	found = found.Given()
	b := &numbering{given: l, found: found}
	var fresh []string
	for i := range found {
		if b.keep(&found[i]) {
			fresh = append(fresh, found[i].Name)
		}
	}
	// First all that get the number of their own name, so that the others do not take it from them.
	fresh = slices.DeleteFunc(fresh, func(name string) bool { return b.try(name, slotOf(name)) })
	for _, name := range fresh {
		slot := slotOf(name)
		for range slots {
			if slot = after(slot); b.try(name, slot) {
				break
			}
		}
	}
	return b.given
}

// numbering is one run of Number.
type numbering struct{ given, found List }

// keep gives an account the numbers that it must have, and reports whether it needs others.
func (b *numbering) keep(a *Account) (needs bool) {
	for _, k := range kinds {
		n := *a.number(k)
		switch {
		case n == 0 || b.given.Get(k, a.Name) != 0:
		case n >= firstUser || !b.chosen(a.Name, n):
			b.given = b.given.Set(k, a.Name, n)
		default:
			needs = true
		}
	}
	if !needs {
		return false
	}
	// Half of it is known: the other half gets the same number, if it is free.
	for _, k := range kinds {
		if n := b.given.Get(k, a.Name); n != 0 && b.try(a.Name, n) {
			return false
		}
	}
	return true
}

// try gives a number to the halves of an account that have none, if no other name has it.
func (b *numbering) try(name string, n int) bool {
	for _, k := range kinds {
		if holder := b.given.Holder(k, n); holder != "" && holder != name {
			return false
		}
	}
	for _, k := range kinds {
		if b.found.Get(k, name) != 0 && b.given.Get(k, name) == 0 {
			b.given = b.given.Set(k, name, n)
		}
	}
	return true
}

// chosen reports whether Stub, or a tool of Debian's, can have chosen a number for a new name: it is
// that of the name, or all numbers from there on were taken when the account was made. Any other
// number between 200 and 899 is one that a package insists on.
func (b *numbering) chosen(name string, n int) bool {
	if n < firstSlot || n >= firstSlot+slots {
		return true // where Debian's tools begin
	}
	for slot := slotOf(name); slot != n; slot = after(slot) {
		taken := false
		for _, k := range kinds {
			for _, l := range []List{b.found, b.given} {
				holder := l.Holder(k, slot)
				taken = taken || holder != "" && holder != name
			}
		}
		if !taken {
			return false
		}
	}
	return true
}
