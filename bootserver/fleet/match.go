package fleet

import (
	"cmp"
	"slices"
	"strings"

	"ingot"
)

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
