package fleet

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// ErrHostlist means that the text is not a list of hosts.
var ErrHostlist = errors.New("not a list of hosts")

// MaxHosts is the maximum number of names of one hostlist.
const MaxHosts = 65536

// Hostlist expands "node[01-03,10]-a,login" to host names, in the format of ClusterShell,
// Slurm and pdsh: commas separate names, and brackets contain numbers and ranges, whose
// leading zeros are kept. A name may have several brackets.
func Hostlist(s string) ([]string, error) {
	var all []string
	for _, part := range splitOutside(s) {
		names, err := expand(part)
		if err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrHostlist, s, err)
		}
		if all = append(all, names...); len(all) > MaxHosts {
			return nil, fmt.Errorf("%w: %q is more than %d", ErrHostlist, s, MaxHosts)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrHostlist)
	}
	return all, nil
}

// splitOutside splits at commas outside brackets.
func splitOutside(s string) (parts []string) {
	depth, start := 0, 0
	for i, r := range s {
		switch {
		case r == '[':
			depth++
		case r == ']':
			depth--
		case r == ',' && depth == 0:
			parts = append(parts, s[start:i])
			start = i + 1
		}
	}
	return append(parts, s[start:])
}

func expand(s string) ([]string, error) {
	if s == "" {
		return nil, errors.New("a name is missing beside a comma")
	}
	head, rest, bracket := strings.Cut(s, "[")
	if strings.Contains(head, "]") {
		return nil, errors.New("a ] without its [")
	}
	if !bracket {
		return []string{s}, nil
	}
	inside, tail, closed := strings.Cut(rest, "]")
	if !closed {
		return nil, errors.New("a [ without its ]")
	}
	tails := []string{""}
	if tail != "" {
		var err error
		if tails, err = expand(tail); err != nil {
			return nil, err
		}
	}
	var names []string
	for _, r := range strings.Split(inside, ",") {
		numbers, err := numbers(r)
		if err != nil {
			return nil, err
		}
		if len(names)+len(numbers)*len(tails) > MaxHosts {
			return nil, fmt.Errorf("more than %d", MaxHosts)
		}
		for _, n := range numbers {
			for _, t := range tails {
				names = append(names, head+n+t)
			}
		}
	}
	return names, nil
}

// numbers expands "01-03" or "7".
func numbers(r string) ([]string, error) {
	from, to, isRange := strings.Cut(r, "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 31)
	last, err2 := strconv.ParseUint(to, 10, 31)
	switch {
	case err1 != nil || err2 != nil:
		return nil, fmt.Errorf("%q is not a range of numbers", r)
	case last < first:
		return nil, fmt.Errorf("%q ends before it begins", r)
	case last-first >= MaxHosts:
		return nil, fmt.Errorf("%q is more than %d", r, MaxHosts)
	}
	var list []string
	for n := first; n <= last; n++ {
		list = append(list, fmt.Sprintf("%0*d", len(from), n))
	}
	return list, nil
}
