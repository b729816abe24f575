package booter

import (
	"maps"
	"slices"
	"sync"

	"ingot"
	"ingot/bootserver/fleet"
)

// volumeProblems counts the problems with volumes that machines reported.
type volumeProblems struct {
	mu    sync.Mutex
	count map[ingot.VolumeProblem]uint64
}

// add counts the Changes that are about volumes. What a newer image calls a problem that this
// server does not know is counted under no name.
func (v *volumeProblems) add(list []fleet.Change) {
	for _, c := range list {
		if c.Code != fleet.CodeVolumeProblem || !c.Bad() {
			continue
		}
		p := ingot.VolumeProblem(c.To.Text("problem"))
		if !slices.Contains(ingot.VolumeProblems, p) {
			p = ""
		}
		v.mu.Lock()
		if v.count == nil {
			v.count = map[ingot.VolumeProblem]uint64{}
		}
		v.count[p]++
		v.mu.Unlock()
	}
}

// VolumeProblems returns how often machines reported each problem with a volume since the server
// started. The count of unknown problems has no name.
func (b *Booter) VolumeProblems() map[ingot.VolumeProblem]uint64 {
	b.volumes.mu.Lock()
	defer b.volumes.mu.Unlock()
	return maps.Clone(b.volumes.count)
}
