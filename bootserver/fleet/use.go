package fleet

import "ingot"

// Uses calls f for every image that a machine needs, with the reason: it is assigned, was
// booted last, was healthy last and may still run, or would be chosen by a rollback. Such
// an image must stay in the store. latest is the image of the machine's latest boot. f may
// be called more than once for one image.
func Uses(m *Machine, latest ingot.Digest, f func(image ingot.Digest, why string)) {
	use := func(image ingot.Digest, why string) {
		if image != "" {
			f(image, why)
		}
	}
	use(m.Assignment.Image, "is assigned it")
	use(latest, "booted it last")
	if m.Setback != nil {
		use(m.Setback.To.Image, "fell back to it")
	}
	use(m.LastHealthy.Image, "was last healthy with it")
	for i := len(m.Healthy) - 1; i >= 0; i-- { // as Rollback chooses
		if image := m.Healthy[i].Image; image != m.Assignment.Image {
			use(image, "may fall back to it")
			break
		}
	}
}

// InUse returns the reason for every image that a machine needs, such as "node01 is
// assigned it". boots are the boots of the machines; older ones are ignored.
func InUse(machines []Machine, boots []Boot) map[ingot.Digest]string {
	latest := map[ingot.BootID]ingot.Digest{}
	for _, b := range boots {
		latest[b.ID] = b.Image.Image
	}
	used := map[ingot.Digest]string{}
	for i := range machines {
		m := &machines[i]
		Uses(m, latest[m.Boot], func(image ingot.Digest, why string) {
			if used[image] == "" {
				used[image] = m.Hostname() + " " + why
			}
		})
	}
	return used
}
