package machines

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/cmd/ingot/show"
)

// naming is in the help of commands that show machines.
const naming = `MACHINE is an ID, a host name, a MAC address, a UUID or a unique prefix of one; a hostlist
such as node[01-40]; or a label selector: rack=r1,role!=db, or gpu for all machines with that
label. A word that is both the name of a machine and a label means the machine.`

// wholeNames is in the help of commands that change machines.
const wholeNames = `MACHINE is a whole ID, host name, MAC address or UUID; a hostlist such as node[01-40]; or a label
selector: rack=r1,role!=db, or gpu for all machines with that label. A word that is both the
name of a machine and a label means the machine.`

// hosts returns the names of the machines that arguments name, each once. A word
// that names no machine is returned as it is: the server reports it.
func (a *Commands) hosts(ctx context.Context, args []string) ([]string, error) {
	var all []string
	var known []api.Machine // fetched when needed
	for _, arg := range args {
		names, err := fleet.Hostlist(arg)
		if err != nil && !strings.Contains(arg, "=") {
			return nil, show.UsageError{Err: err}
		}
		switch whole, err := a.isName(ctx, arg); {
		case err != nil:
			return nil, err
		case !whole && !(strings.Contains(arg, "[") && !strings.Contains(arg, "=")): // labels have no brackets
			if known == nil {
				if known, err = a.Client().MachinesBrief(ctx); err != nil {
					return nil, err
				}
			}
			if names, err = chosen(known, arg); err != nil {
				return nil, err
			}
		}
		for _, n := range names {
			if !slices.Contains(all, n) {
				all = append(all, n)
			}
		}
	}
	return all, nil
}

// isName reports whether a word is the whole name of a machine. It does not need
// the list of all machines.
func (a *Commands) isName(ctx context.Context, word string) (bool, error) {
	if strings.ContainsAny(word, "=,[") {
		return false, nil
	}
	m, err := a.Client().Machine(ctx, word)
	var p api.Problem
	if errors.As(err, &p) {
		return false, nil
	}
	return err == nil && calledSo(m, word), err
}

// calledSo reports whether a word is a whole name of a machine, not a prefix.
func calledSo(m api.Machine, word string) bool {
	mac, err := ingot.ParseMAC(word)
	return string(m.ID) == word || m.Name == word || m.UUID == word || err == nil && slices.Contains(m.MACs, mac)
}

// chosen returns the machines that one argument names. An argument is a label
// selector if it has a "=", or if its words are labels and name no machine. An
// ambiguous argument is refused.
func chosen(known []api.Machine, arg string) ([]string, error) {
	if strings.Contains(arg, "=") {
		return labelled(known, arg)
	}
	names, err := fleet.Hostlist(arg)
	if err != nil {
		return nil, show.UsageError{Err: err}
	}
	machines, keys := 0, 0
	for _, n := range names {
		found := match(known, n)
		machines += min(1, len(found))
		i := slices.IndexFunc(known, func(m api.Machine) bool { _, has := m.Labels[n]; return has })
		if i < 0 {
			continue
		}
		keys++
		if len(found) > 0 && !calledSo(found[0], n) {
			return nil, show.WithHint(fmt.Errorf("%q is ambiguous: a label, of %s for example, and a prefix of %s", n,
				known[i].Hostname(), found[0].Hostname()),
				"write the whole name of the machine, or the label with its value: %s=%s", n, known[i].Labels[n])
		}
	}
	if machines == 0 && keys == len(names) {
		return labelled(known, arg)
	}
	return names, nil
}

// labelled returns the machines that a label selector chooses: at least one.
func labelled(known []api.Machine, selector string) (ids []string, err error) {
	sel, err := fleet.ParseSelector(selector)
	if err != nil {
		return nil, show.UsageError{Err: err}
	}
	for _, m := range slices.SortedStableFunc(slices.Values(known), byName) {
		if sel.Matches(m.Labels) {
			ids = append(ids, string(m.ID))
		}
	}
	if len(ids) == 0 {
		return nil, show.WithHint(fmt.Errorf("%w %s", errNoLabels, selector),
			"ingot machine ls; ingot machine label MACHINE KEY=VALUE")
	}
	return ids, nil
}

// among returns the machines of a list that arguments name; failed reports the
// words that name none. A selector that chooses none is no error; empty reports it.
func among(known []api.Machine, args []string) (list []api.Machine, empty string, failed error) {
	list = []api.Machine{}
	var bad []error
	for _, arg := range args {
		names, err := chosen(known, arg)
		if err != nil && !errors.Is(err, errNoLabels) {
			return nil, "", err
		}
		if err != nil {
			empty = err.Error()
		}
		for _, n := range names {
			found := match(known, n)
			if len(found) != 1 {
				bad = append(bad, show.WithHint(fmt.Errorf("%q matches %d machines and no label", n, len(found)),
					"ingot machine ls"))
				continue
			}
			if !slices.ContainsFunc(list, func(m api.Machine) bool { return m.ID == found[0].ID }) {
				list = append(list, found[0])
			}
		}
	}
	return list, empty, errors.Join(bad...)
}

// errNoLabels: a selector chooses no machine.
var errNoLabels = errors.New("no machine has the labels")

// ofEach calls ask for each machine that arguments name. It continues after the
// server refused one machine; failed reports those. Any other error ends it.
func ofEach[T any](ctx context.Context, a *Commands, args []string, ask func(name string) (T, error)) (list []T,
	failed, err error) {
	names, err := a.hosts(ctx, args)
	if err != nil {
		return nil, nil, err
	}
	var bad []error
	for _, n := range names {
		v, err := ask(n)
		var p api.Problem
		switch {
		case err == nil:
			list = append(list, v)
		case len(names) == 1 || !errors.As(err, &p): // the next request would fail as well
			return list, nil, err
		default:
			bad = append(bad, fmt.Errorf("%s: %w", n, err))
		}
	}
	return list, errors.Join(bad...), nil
}

// eachMachine changes every machine that arguments name, and continues after the
// server refused one.
func (a *Commands) eachMachine(ctx context.Context, args []string, do func(string) (api.Machine, error),
	say func(api.Machine) string) error {
	return showEach(ctx, a, args, do, func(w io.Writer, m api.Machine, _ int, _ bool) {
		fmt.Fprintln(w, show.Plain(say(m)))
	})
}

// showEach prints what ask returns for every machine that arguments name. With -o json, it is one
// document for one machine, and otherwise a list. text prints the one at an index; alone: there are
// no others.
func showEach[T any](ctx context.Context, a *Commands, args []string, ask func(name string) (T, error),
	text func(w io.Writer, v T, index int, alone bool)) error {
	list, failed, err := ofEach(ctx, a, args, ask)
	if err != nil && len(list) == 0 {
		return err
	}
	alone := len(list) == 1 && failed == nil && err == nil
	var v any = append([]T{}, list...)
	if alone {
		v = list[0]
	}
	return errors.Join(a.Show(v, func(w io.Writer) {
		for i, v := range list {
			text(w, v, i, alone)
		}
	}), failed, err)
}

// match returns the machines that a word names, see fleet.Match.
func match(known []api.Machine, word string) (found []api.Machine) {
	names := make([]fleet.Machine, len(known))
	for i, m := range known {
		names[i] = fleet.Machine{ID: m.ID, Name: m.Name, UUID: m.UUID, MACs: m.MACs}
	}
	for _, f := range fleet.Match(names, word) {
		i := slices.IndexFunc(known, func(m api.Machine) bool { return m.ID == f.ID })
		found = append(found, known[i])
	}
	return found
}
