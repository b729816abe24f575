package fleet

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"ingot"
)

// TestNamesAreNoIdentifiers: a name cannot be what a command takes for another machine; where a state of
// an older version has one, the ID has precedence and the rest is ambiguous.
func TestNamesAreNoIdentifiers(t *testing.T) {
	for _, name := range []string{"m-525410000005", "m-525410000005-2", "m-525410", "52-54-10-00-00-05", "525410000005",
		"d1b2c3a4-0000-4000-8000-525400120003", "d1b2c3a4000040008000525400120003", "Node", "", "a b"} {
		if err := CheckName(name); !errors.Is(err, ErrName) {
			t.Errorf("CheckName(%q) = %v; want ErrName", name, err)
		}
		list := []Planned{{Name: name, MACs: []string{"52:54:00:00:00:01"}}}
		if _, _, err := importMachines(nil, list, nil, t0); !errors.Is(err, ErrImport) {
			t.Errorf("importing a machine %q = %v; want ErrImport", name, err)
		}
	}
	for _, name := range []string{"node00010", "m-1", "m-rack", "db-52-54", "cafe", "m-cafe"} {
		if err := CheckName(name); err != nil {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
	five := Machine{ID: "m-525410000005", Name: "five", MACs: []string{"52:54:10:00:00:05"}}
	ten := Machine{ID: "m-525410000010", Name: "m-525410000005", MACs: []string{"52:54:10:00:00:10"}}
	for _, all := range [][]Machine{{five, ten}, {ten, five}} {
		if got := Match(all, "m-525410000005"); len(got) != 1 || got[0].ID != five.ID {
			t.Errorf("Match by the ID = %v; want the machine with that ID, not the one that has it as its name", got)
		}
	}
	ten.Name = "52-54-10-00-00-05"
	for _, all := range [][]Machine{{five, ten}, {ten, five}} {
		if got := Match(all, "52-54-10-00-00-05"); len(got) != 2 {
			t.Errorf("Match by what is a name and a MAC address = %v; want both, which is ambiguous", got)
		}
	}
	// A list that is imported every night keeps a name of before.
	list := []Planned{{Name: ten.Name, MACs: ten.MACs}}
	if _, actions, err := importMachines([]Machine{five, ten}, list, nil, t0); err != nil || len(actions) != 1 {
		t.Errorf("importing a machine under its name of before: %v, %v", actions, err)
	}
	old := Machine{ID: "m-old", MACs: []string{"52:54:00:00:00:07"}} // an ID of no usual form
	list = []Planned{{Name: "m-old", MACs: []string{"52:54:00:00:00:08"}}}
	if _, _, err := importMachines([]Machine{old}, list, nil, t0); err == nil || !strings.Contains(err.Error(), "m-old") {
		t.Errorf("importing a machine named like the ID of another one: %v; want an error", err)
	}
}

// TestImportIsBounded: an entry has the bounds that operators and machines have, and every fault is named
// at once.
func TestImportIsBounded(t *testing.T) {
	labels := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprintf("k%d", i)] = "v"
		}
		return m
	}
	list := []Planned{
		{Name: "broadcast", MACs: []string{"ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"}, UUID: "0", Labels: map[string]string{
			"a b": "", "c d": ""}},
		{Name: "multicast", MACs: []string{"01-00-5E-00-00-01"}},
		{Name: "twice", MACs: []string{"52:54:00:00:00:01", "52-54-00-00-00-01"}},
		{Name: "labels", MACs: []string{"52:54:00:00:00:02"}, Labels: labels(20_000)},
		{Name: "more", MACs: []string{"52:54:00:00:00:03"}, Labels: map[string]string{"one": "more"}},
		{Name: "serial", MACs: []string{"52:54:00:00:00:04"}, Serial: strings.Repeat("x", 2<<20)},
		{Name: "escape", MACs: []string{"52:54:00:00:00:05"}, Serial: "\x1b[2J"},
		{Name: "cards", MACs: slices.Collect(func(yield func(string) bool) {
			for i := range 1000 {
				if !yield(fmt.Sprintf("52:54:01:00:%02x:%02x", i>>8, i&255)) {
					return
				}
			}
		})},
	}
	known := []Machine{{ID: "m-3", Name: "more", MACs: []string{"52:54:00:00:00:03"}, Labels: labels(MaxLabels)}}
	_, _, err := importMachines(known, list, nil, t0)
	if !errors.Is(err, ErrImport) {
		t.Fatalf("Import = %v; want ErrImport", err)
	}
	for _, want := range []string{`machine 1 "broadcast": ff:ff:ff:ff:ff:ff is`,
		`machine 1 "broadcast": 00:00:00:00:00:00`,
		`machine 1 "broadcast": "0" is not the UUID`, `"a b="`, `"c d="`, `machine 2 "multicast": 01:00:5e:00:00:01`,
		"52:54:00:00:00:01 is there twice", "it has 20000 labels; a machine has at most 64", "would have 65",
		"serial number has 2097152 bytes", `serial number "\x1b[2J"`, "it has 1000 MAC addresses"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the faults do not say %q:\n%v", want, err)
		}
	}
	if len(err.Error()) > 10_000 {
		t.Errorf("the faults are %d bytes", len(err.Error()))
	}
	if err := (Rule{MAC: "52:*", Labels: labels(MaxLabels + 1)}).Check(); !errors.Is(err, ErrRule) {
		t.Errorf("a rule with %d labels: %v; want ErrRule", MaxLabels+1, err)
	}
	full := Machine{State: Pending, Labels: labels(MaxLabels)}
	m := (Rule{Labels: map[string]string{"one": "more"}, Approve: true}).Apply(full, Assignment{})
	if m.State != Approved || !maps.Equal(m.Labels, full.Labels) {
		t.Errorf("a rule gives a machine %d labels", len(m.Labels))
	}
}

// TestDirectory: a directory finds the same machines as Named, in the same order: also when names, UUIDs and
// MAC addresses of several machines are the same, or one is written like another.
func TestDirectory(t *testing.T) {
	words := []string{"", "a", "b", "m-1", "m-2", "525400120001", "52:54:00:12:00:01", "52-54-00-12-00-01",
		"d1b2c3a4-0000-4000-8000-525400120003", "D1B2C3A4000040008000525400120003", "nobody"}
	found, several := 0, 0
	rapid.Check(t, func(r *rapid.T) {
		word := rapid.SampledFrom(words)
		all := make([]Machine, rapid.IntRange(0, 6).Draw(r, "machines"))
		for i := range all {
			all[i] = Machine{ID: ingot.MachineID(word.Draw(r, "id")), Name: word.Draw(r, "name"), UUID: word.Draw(r, "uuid"),
				MACs: rapid.SliceOfN(word, 0, 2).Draw(r, "macs"), Serial: fmt.Sprint(i)}
		}
		d := NewDirectory(all)
		for _, ref := range words {
			want, got := Named(all, ref), d.Named(ref)
			if !reflect.DeepEqual(got, want) {
				r.Fatalf("%q of %+v:\n%+v; want\n%+v", ref, all, got, want)
			}
			found += min(len(want), 1)
			several += max(len(want)-1, 0)
		}
	})
	if found == 0 || several == 0 {
		t.Errorf("%d names were found, %d of several machines; want some", found, several)
	}
}
