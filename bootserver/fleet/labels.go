package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"ingot"
)

// Errors of labels and selectors.
var (
	// ErrLabel means that a label's key or value has invalid characters.
	ErrLabel = errors.New("not a label")
	// ErrSelector means that the text is not a label selector.
	ErrSelector = errors.New("not a selector")
)

var labelRE = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$`)

// MaxLabels is the maximum number of labels of one machine.
const MaxLabels = 64

// CheckLabel returns an error that wraps ErrLabel if a label is invalid. The value may be
// empty.
func CheckLabel(key, value string) error {
	if !labelRE.MatchString(key) || (value != "" && !labelRE.MatchString(value)) {
		return fmt.Errorf("%w: %q; letters, digits and . _ / - inside, at most 63", ErrLabel, key+"="+value)
	}
	return nil
}

// Selector selects machines by their labels; all of its terms must match.
type Selector []term

type term struct {
	key, value string
	not        bool // must differ, or be absent
	exists     bool // any value
}

// ParseSelector parses "rack=r1,role!=db,gpu": equal, not equal, label exists.
func ParseSelector(s string) (Selector, error) {
	var sel Selector
	for _, part := range strings.Split(s, ",") {
		t := term{}
		switch key, value, ok := strings.Cut(part, "!="); {
		case ok:
			t = term{key: key, value: value, not: true}
		default:
			t.key, t.value, ok = strings.Cut(part, "=")
			t.exists = !ok
		}
		if err := CheckLabel(t.key, t.value); err != nil {
			return nil, fmt.Errorf("%w: %q: %w", ErrSelector, s, err)
		}
		sel = append(sel, t)
	}
	return sel, nil
}

// Matches reports whether the selector selects a machine with these labels.
func (s Selector) Matches(labels map[string]string) bool {
	for _, t := range s {
		value, has := labels[t.key]
		switch {
		case t.exists && !has, !t.exists && !t.not && (!has || value != t.value), t.not && has && value == t.value:
			return false
		}
	}
	return true
}

// Match returns the machines that ref names: the one with that ID or host name, else all
// with that MAC address or UUID, else all whose ID, host name or UUID begins with ref (at
// least 3 characters).
func Match(machines []Machine, ref string) []Machine {
	mac, err := ingot.ParseMAC(ref)
	if err != nil {
		mac = ref
	}
	uuid := cmp.Or(ingot.PlausibleUUID(ref), ref)
	var parts, beginnings []Machine
	for _, m := range machines {
		switch {
		case string(m.ID) == ref || (m.Name != "" && m.Name == ref):
			return []Machine{m}
		case (m.UUID != "" && m.UUID == uuid) || slices.Contains(m.MACs, mac):
			parts = append(parts, m)
		case len(ref) >= 3 && (strings.HasPrefix(string(m.ID), ref) || strings.HasPrefix(m.Name, ref) ||
			strings.HasPrefix(m.UUID, ref)):
			beginnings = append(beginnings, m)
		}
	}
	if len(parts) > 0 {
		return parts
	}
	return beginnings
}
