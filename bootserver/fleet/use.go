package fleet

import "ingot"

// InUse says of every image that a machine needs, why: it is assigned, its
// latest boot is of it, whatever became of that boot, it is the one that was
// healthy last and may still run, or the one that a rollback would choose. Such
// an image must stay in the store. boots are those of the machines; older ones
// among them do not matter.
func InUse(machines []Machine, boots []Boot) map[ingot.Digest]string {
	latest := map[ingot.BootID]ImageRef{}
	for _, b := range boots {
		latest[b.ID] = b.Image
	}
	used := map[ingot.Digest]string{}
	for _, m := range machines {
		need := func(r ImageRef, why string) {
			if r.Image != "" && used[r.Image] == "" {
				used[r.Image] = m.Hostname() + " " + why
			}
		}
		need(m.Assignment.ImageRef, "is assigned it")
		need(latest[m.Boot], "booted it last")
		if m.Setback != nil {
			need(m.Setback.To, "fell back to it")
		}
		need(m.LastHealthy, "was last healthy with it")
		if back, err := Rollback(m, m.LastSeen); err == nil {
			need(back.ImageRef, "may fall back to it")
		}
	}
	return used
}
