package rollout

import (
	"cmp"
	"maps"
	"slices"

	"ingot"
)

// Traits are what is known of a machine and of how its boots went, by kind: "product", "cpu", "bios",
// "card", "disk", "stage", "failure", "console", "came from". A kind may have several values.
type Traits map[string][]string

// Shared is a trait that machines which failed have in common, and healthy ones have seldom or never.
type Shared struct {
	Kind    string `json:"kind"`
	Value   string `json:"value"`
	Failed  int    `json:"failed"`  // machines that failed and have it
	OfBad   int    `json:"ofBad"`   // machines that failed
	Healthy int    `json:"healthy"` // healthy ones that have it
	OfGood  int    `json:"ofGood"`  // healthy ones
}

// maxShared limits what Common returns.
const maxShared = 8

// Common returns what machines that failed have in common and healthy ones have not: traits that most
// of the failed and at most a third as large a share of the healthy have. The most telling come first. One
// machine alone has nothing in common.
func Common(failed, healthy []Traits) []Shared {
	if len(failed)+len(healthy) < 2 {
		return nil
	}
	bad, good := countTraits(failed), countTraits(healthy)
	var list []Shared
	for t, n := range bad {
		s := Shared{Kind: t.kind, Value: t.value, Failed: n, OfBad: len(failed), Healthy: good[t], OfGood: len(healthy)}
		// n/failed > 1/2, and healthy/ofGood <= 1/3 of n/failed
		if 2*n <= s.OfBad || 3*s.Healthy*s.OfBad > n*s.OfGood {
			continue
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Shared) int {
		return cmp.Or(cmp.Compare(b.weight(), a.weight()), cmp.Compare(b.Failed, a.Failed), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Value, b.Value))
	})
	return list[:min(len(list), maxShared)]
}

// weight is the difference of both shares.
func (s Shared) weight() float64 {
	w := float64(s.Failed) / float64(s.OfBad)
	if s.OfGood > 0 {
		w -= float64(s.Healthy) / float64(s.OfGood)
	}
	return w
}

type trait struct{ kind, value string }

func countTraits(list []Traits) map[trait]int {
	n := map[trait]int{}
	for _, traits := range list {
		has := map[trait]bool{}
		for kind, values := range traits {
			for _, v := range values {
				if v != "" {
					has[trait{kind, v}] = true
				}
			}
		}
		for t := range has {
			n[t]++
		}
	}
	return n
}

// TraitsOf returns the traits of hardware.
func TraitsOf(f ingot.Facts) Traits {
	t := Traits{"product": {join(f.Vendor, f.Product)}, "cpu": {f.CPU}, "BIOS": {join(f.BIOS, f.BIOSDate)},
		"firmware": {string(f.Firmware)}}
	for _, c := range f.NICs {
		t["driver"] = append(t["driver"], c.Driver)
		if c.Firmware != "" {
			t["card firmware"] = append(t["card firmware"], join(c.Driver, c.Firmware))
		}
	}
	for _, d := range f.Disks {
		t["disk"] = append(t["disk"], d.Model)
	}
	return t
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + " " + b
}

// With returns the traits with one more.
func (t Traits) With(kind, value string) Traits {
	t = maps.Clone(t)
	t[kind] = append(slices.Clone(t[kind]), value)
	return t
}
