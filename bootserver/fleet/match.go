package fleet

import (
	"cmp"
	"slices"
	"strings"

	"ingot"
)

// Match returns the machines that an operator's word names: by its id or host
// name, which one has, or a MAC address or UUID, which several may have, or
// else by a beginning of one of these.
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
