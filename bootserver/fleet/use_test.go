package fleet

import (
	"strings"
	"testing"

	"ingot"
)

func TestInUse(t *testing.T) {
	ref := func(s string) ImageRef { return ImageRef{Image: ingot.Digest(s), Name: s} }
	used := InUse([]Machine{
		{ID: "m-1", Name: "node01", Assignment: Assignment{ImageRef: ref("v4")}, LastHealthy: ref("v3"),
			Healthy: []ImageRef{ref("v1"), ref("v2"), ref("v3")}},
		{ID: "m-2", Assignment: Assignment{ImageRef: ref("v3")}, LastHealthy: ref("v3"),
			Healthy: []ImageRef{ref("v2"), ref("v3")}},
		{ID: "m-3"},
		{ID: "m-4", Assignment: Assignment{ImageRef: ref("v4")}, Boot: "b-2"}, // reassigned while it boots
	}, []Boot{{ID: "b-1", Machine: "m-4", Image: ref("v0")}, {ID: "b-2", Machine: "m-4", Image: ref("v5")}})
	for image, why := range map[ingot.Digest]string{"v4": "node01 is assigned", "v3": "node01 was last healthy",
		"v2": "m-2 may fall back", "v5": "m-4 booted", "v1": "", "v0": ""} {
		if got := used[image]; !strings.HasPrefix(got, why) || why == "" && got != "" {
			t.Errorf("InUse[%s] = %q; want %q", image, got, why)
		}
	}
	if len(used) != 4 {
		t.Errorf("InUse = %v; want four images", used)
	}
}
