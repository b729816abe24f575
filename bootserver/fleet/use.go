package fleet

import "ingot"

// InUse says of every image that a machine needs, why: it is assigned, it is
// the one that was healthy last and may still run, or the one that a rollback
// would choose. Such an image must stay in the store.
func InUse(machines []Machine) map[ingot.Digest]string {
	used := map[ingot.Digest]string{}
	for _, m := range machines {
		need := func(r ImageRef, why string) {
			if r.Image != "" && used[r.Image] == "" {
				used[r.Image] = m.Hostname() + " " + why
			}
		}
		need(m.Assignment.ImageRef, "is assigned it")
		need(m.LastHealthy, "was last healthy with it")
		if back, err := Rollback(m, m.LastSeen); err == nil {
			need(back.ImageRef, "may fall back to it")
		}
	}
	return used
}
