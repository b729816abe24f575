package fleet

import (
	"strings"
	"testing"

	"ingot"
)

func TestInUse(t *testing.T) {
	ref := func(s string) ImageRef { return ImageRef{Image: ingot.Digest(s), Name: s} }
	used := InUse([]Machine{
		{ID: "m-1", Name: "node01", Assignment: Assignment{ImageRef: ref("v4")}, LastHealthy: ref("v3"), Healthy: []ImageRef{ref("v1"), ref("v2"), ref("v3")}},
		{ID: "m-2", Assignment: Assignment{ImageRef: ref("v3")}, LastHealthy: ref("v3"), Healthy: []ImageRef{ref("v2"), ref("v3")}},
		{ID: "m-3"},
	})
	for image, why := range map[ingot.Digest]string{"v4": "node01 is assigned", "v3": "node01 was last healthy", "v2": "m-2 may fall back", "v1": ""} {
		if got := used[image]; !strings.HasPrefix(got, why) || why == "" && got != "" {
			t.Errorf("InUse[%s] = %q; want %q", image, got, why)
		}
	}
	if len(used) != 3 {
		t.Errorf("InUse = %v; want three images", used)
	}
}
