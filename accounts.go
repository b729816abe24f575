package ingot

import (
	"fmt"
	"maps"
	"slices"
)

// MovedAccount is a user or group whose files on a volume would belong to another one, or to none,
// under another image.
type MovedAccount struct {
	Kind   string `json:"kind"` // "user" or "group"
	Name   string `json:"name"`
	Before int    `json:"before"`           // its number
	After  int    `json:"after,omitempty"`  // its number in the other image; 0: it is not there
	Holder string `json:"holder,omitempty"` // which account has the number Before there; empty: none
}

// String describes the change: "user postgres 102 → 106 (102 is now Debian-snmp)".
func (m MovedAccount) String() string {
	text := fmt.Sprintf("%s %s %d → %d", m.Kind, m.Name, m.Before, m.After)
	if m.After == 0 {
		text = fmt.Sprintf("%s %s %d is gone", m.Kind, m.Name, m.Before)
	}
	if m.Holder != "" {
		text += fmt.Sprintf(" (%d is now %s)", m.Before, m.Holder)
	}
	return text
}

// MovedAccounts returns the accounts of an image that have other numbers in another one, and those
// that are gone and whose number another account has there, users first, each by name. An image of
// an older ingot does not list its accounts: then nothing can be compared, and the result is empty.
func MovedAccounts(before, after *ImageManifest) []MovedAccount {
	if len(before.Users) == 0 || len(after.Users) == 0 {
		return nil
	}
	return append(moved("user", before.Users, after.Users), moved("group", before.Groups, after.Groups)...)
}

func moved(kind string, before, after map[string]int) (list []MovedAccount) {
	holders := map[int]string{}
	for name, n := range after {
		if holders[n] == "" || name < holders[n] {
			holders[n] = name
		}
	}
	for _, name := range slices.Sorted(maps.Keys(before)) {
		n := before[name]
		if is, there := after[name]; there && is == n || !there && holders[n] == "" {
			continue
		}
		list = append(list, MovedAccount{kind, name, n, after[name], holders[n]})
	}
	return list
}
