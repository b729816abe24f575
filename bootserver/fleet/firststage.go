package fleet

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"ingot"
)

// PatienceFirst is how long a machine may take to begin loading after it accepted an
// offer. Working firmware begins at once.
const PatienceFirst = 10 * time.Second

// FirstStage returns the first stage to offer to a machine: the one that it was moved to
// after others stalled, else the first of the list; empty if the list is empty.
func FirstStage(m Machine, f ingot.Firmware, list []string) string {
	if len(list) == 0 {
		return ""
	}
	if l := m.Loaders[f]; slices.Contains(list, l) {
		return l
	}
	return list[0]
}

// Stalled reports whether the first stage of the latest boot stalled, when firmware f
// starts over with DHCP, and returns the reason: the machine accepted the offer and did
// not load it, or loaded it and sent nothing more.
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

// nextStage returns the first stage of a list that follows the one of a boot.
func nextStage(b Boot, list []string) (next string, is bool) {
	i := slices.Index(list, b.First)
	if i < 0 || len(list) < 2 {
		return "", false
	}
	return list[(i+1)%len(list)], true
}

// withLoader returns the machine with another first stage for a firmware.
func withLoader(m Machine, f ingot.Firmware, loader string) Machine {
	m.Loaders = maps.Clone(m.Loaders)
	if m.Loaders == nil {
		m.Loaders = map[ingot.Firmware]string{}
	}
	m.Loaders[f] = loader
	return m
}
