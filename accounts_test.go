package ingot

import (
	"slices"
	"testing"
)

func TestMovedAccounts(t *testing.T) {
	before := &ImageManifest{Users: map[string]int{"postgres": 102, "munge": 103, "redis": 104, "bind": 105, "_apt": 42},
		Groups: map[string]int{"postgres": 105, "ssl-cert": 106}}
	after := &ImageManifest{
		Users:  map[string]int{"postgres": 106, "Debian-snmp": 102, "redis": 104, "new": 105, "_apt": 42},
		Groups: map[string]int{"postgres": 105}}
	got := MovedAccounts(before, after)
	want := []MovedAccount{{"user", "bind", 105, 0, "new"}, {"user", "postgres", 102, 106, "Debian-snmp"}}
	if !slices.Equal(got, want) {
		t.Fatalf("MovedAccounts = %v; want %v", got, want)
	}
	// munge and ssl-cert are gone, and nobody has their numbers.
	for i, text := range []string{"user bind 105 is gone (105 is now new)",
		"user postgres 102 → 106 (102 is now Debian-snmp)"} {
		if got[i].String() != text {
			t.Errorf("String() = %q; want %q", got[i], text)
		}
	}
	if got := MovedAccounts(before, before); got != nil {
		t.Errorf("of one image = %v", got)
	}
	if got := MovedAccounts(before, &ImageManifest{}); got != nil {
		t.Errorf("of an image that lists no accounts = %v", got)
	}
}
