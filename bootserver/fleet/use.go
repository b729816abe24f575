package fleet

import "ingot"

// Uses calls f for every image that a machine needs, and with why: it is assigned,
// its latest boot is of it, whatever became of that boot, it is the one that was
// healthy last and may still run, or the one that a rollback would choose. Such an
// image must stay in the store. latest is the image of the machine's latest boot.
// f may be called more than once for one image.
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

// InUse says of every image that some machine needs, why. boots are those of the
// machines; older ones among them do not matter.
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
