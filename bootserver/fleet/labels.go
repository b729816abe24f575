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

// Keys returns the labels that the selector looks at.
func (s Selector) Keys() (keys []string) {
	for _, t := range s {
		keys = append(keys, t.key)
	}
	return keys
}

// looksLikeMAC and looksLikeID are the forms of identifiers that a host name could have. Of an ID,
// six digits are enough: people abbreviate it.
var (
	looksLikeMAC = regexp.MustCompile(`^[0-9a-f]{2}(-?[0-9a-f]{2}){5}$`)
	looksLikeID  = regexp.MustCompile(`^m-[0-9a-f]{6,}(-[0-9]+)?$`)
	looksLikeHex = regexp.MustCompile(`^[0-9a-f]{32}$`) // a UUID without its dashes
)

// ErrName means that a machine cannot have a name.
var ErrName = errors.New("not a name for a machine")

// CheckName returns an error that wraps ErrName if a machine cannot be given a name: it must be a host
// name, and nothing that a command could take for another machine's ID, MAC address or UUID. States
// of older versions may have such names; Match copes with them.
func CheckName(name string) error {
	switch {
	case !ingot.ValidProfileName(name):
		return fmt.Errorf("%w: %.80q cannot be a host name; use lower-case letters, digits and dashes, at most 63", ErrName,
			name)
	case looksLikeID.MatchString(name), looksLikeMAC.MatchString(name),
		looksLikeHex.MatchString(strings.ReplaceAll(name, "-", "")):
		return fmt.Errorf("%w: %q looks like the ID, MAC address or UUID of a machine, and commands would take it for "+
			"that one; choose another name", ErrName, name)
	}
	return nil
}

// Named returns the machines that ref names in full: the one with that ID, else all with that host
// name, MAC address or UUID.
func Named(machines []Machine, ref string) (whole []Machine) {
	uuid, mac := namedBy(ref)
	for i := range machines { // without copies
		switch m := &machines[i]; {
		case string(m.ID) == ref:
			return []Machine{*m}
		case m.Name != "" && m.Name == ref, m.UUID != "" && m.UUID == uuid, slices.Contains(m.MACs, mac):
			whole = append(whole, *m)
		}
	}
	return whole
}

// Directory finds machines as Named does, without looking at all of them for each name.
type Directory struct {
	machines []Machine
	byID     map[string]int
	byName   map[string][]int
	byUUID   map[string][]int
	byMAC    map[string][]int
}

// NewDirectory returns the directory of some machines.
func NewDirectory(machines []Machine) *Directory {
	d := &Directory{machines, make(map[string]int, len(machines)), make(map[string][]int, len(machines)),
		make(map[string][]int, len(machines)), make(map[string][]int, len(machines))}
	for i := range machines {
		m := &machines[i]
		if _, known := d.byID[string(m.ID)]; !known {
			d.byID[string(m.ID)] = i
		}
		if m.Name != "" {
			d.byName[m.Name] = append(d.byName[m.Name], i)
		}
		if m.UUID != "" {
			d.byUUID[m.UUID] = append(d.byUUID[m.UUID], i)
		}
		for _, mac := range m.MACs {
			d.byMAC[mac] = append(d.byMAC[mac], i)
		}
	}
	return d
}

// Named returns the machines that ref names in full, as the function Named does.
func (d *Directory) Named(ref string) (whole []Machine) {
	if i, known := d.byID[ref]; known {
		return []Machine{d.machines[i]}
	}
	uuid, mac := namedBy(ref)
	at := slices.Concat(d.byName[ref], d.byUUID[uuid], d.byMAC[mac])
	slices.Sort(at)
	for _, i := range slices.Compact(at) {
		whole = append(whole, d.machines[i])
	}
	return whole
}

// namedBy returns ref as a UUID and as a MAC address of a machine, as far as it is one.
func namedBy(ref string) (uuid, mac string) {
	mac, err := ingot.ParseMAC(ref)
	if err != nil {
		mac = ref
	}
	return cmp.Or(ingot.PlausibleUUID(ref), ref), mac
}

// Match returns the machines that ref names: those that Named returns, else all whose ID, host name or
// UUID begins with ref (at least 3 characters).
func Match(machines []Machine, ref string) []Machine {
	if whole := Named(machines, ref); len(whole) > 0 || len(ref) < 3 {
		return whole
	}
	var beginnings []Machine
	for _, m := range machines {
		if strings.HasPrefix(string(m.ID), ref) || strings.HasPrefix(m.Name, ref) || strings.HasPrefix(m.UUID, ref) {
			beginnings = append(beginnings, m)
		}
	}
	return beginnings
}
