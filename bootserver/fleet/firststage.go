package fleet

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"ingot"
)

// PatienceFirst is how long a machine has, after it accepted an offer, to
// begin loading: firmware does so at once, unless it cannot.
const PatienceFirst = 10 * time.Second

// FirstStage is the one of the first stages that a machine is offered: the one
// that it was moved to when others stalled, else the first of the list.
func FirstStage(m Machine, f ingot.Firmware, list []string) string {
	if len(list) == 0 {
		return ""
	}
	if l := m.Loaders[f]; slices.Contains(list, l) {
		return l
	}
	return list[0]
}

// Stalled reports whether firmware that asks from the start has been let down
// by the first stage of its latest boot, and says how: it accepted the offer
// and never loaded it, or loaded it and was not heard from again.
func Stalled(latest *Boot, f ingot.Firmware, now time.Time) (string, bool) {
	if latest == nil || !latest.Open() || latest.First == "" || latest.Back || latest.Firmware != f {
		return "", false
	}
	switch latest.Stage() {
	case ingot.StageDHCP:
		if latest.Accepted.IsZero() || now.Sub(latest.Accepted) < PatienceFirst {
			return "", false
		}
		return fmt.Sprintf("the first stage stalled: the machine was offered %s and did not load it within %s", latest.First,
			now.Sub(latest.Accepted).Round(time.Second)), true
	case ingot.StageLoader:
		return fmt.Sprintf("the first stage stalled: the machine loaded %s and was not heard from again", latest.First), true
	}
	return "", false
}

// nextStage is the first stage of a list that comes after the one of a boot.
func nextStage(b Boot, list []string) (next string, is bool) {
	i := slices.Index(list, b.First)
	if i < 0 || len(list) < 2 {
		return "", false
	}
	return list[(i+1)%len(list)], true
}

// withLoader is the machine with another first stage for a firmware.
func withLoader(m Machine, f ingot.Firmware, loader string) Machine {
	m.Loaders = maps.Clone(m.Loaders)
	if m.Loaders == nil {
		m.Loaders = map[ingot.Firmware]string{}
	}
	m.Loaders[f] = loader
	return m
}
