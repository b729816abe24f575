package images

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
)

// TestSettingLines: what differs between two manifests is said in words, not as JSON.
func TestSettingLines(t *testing.T) {
	a := ingot.ImageManifest{Overlay: 1 << 30, MinRAM: 4 << 30, Deadline: 10 * time.Minute,
		Volumes: []ingot.Volume{{Name: "data", Mount: "/data"}, {Name: "old", Mount: "/old"}},
		Checks:  []ingot.Check{{Name: "ssh", TCP: "127.0.0.1:22", Within: 3 * time.Minute}}, Features: []ingot.Feature{"x"},
		Users: map[string]int{"postgres": 102, "munge": 103}}
	b := ingot.ImageManifest{MinRAM: 8 << 30, Deadline: 15 * time.Minute,
		Volumes: []ingot.Volume{{Name: "data", Mount: "/srv", Optional: true}},
		Checks: []ingot.Check{{Name: "ssh", TCP: "127.0.0.1:22", Within: 5 * time.Minute},
			{Name: "web", Command: []string{"curl", "localhost"}}}, Features: []ingot.Feature{"x", "y"},
		Users: map[string]int{"postgres": 106, "munge": 103, "redis": 107}}
	var got []string
	before, after := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range before.NumField() {
		name, _, _ := strings.Cut(before.Type().Field(i).Tag.Get("json"), ",")
		field := func(v reflect.Value) json.RawMessage {
			if v.Field(i).IsZero() {
				return nil
			}
			text, err := json.Marshal(v.Field(i).Interface())
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		if x, y := field(before), field(after); string(x) != string(y) {
			got = append(got, settingLines(name, x, y)...)
		}
	}
	want := []string{"overlay 1.0 GiB → none", "minRAM 4.0 GiB → 8.0 GiB", "deadline 10m0s → 15m0s", "− volumes old",
		"volumes data mount /data → /srv, optional none → yes", "checks ssh within 3m0s → 5m0s",
		"+ checks web (command curl localhost)", "+ features y",
		"users postgres 102 → 106", "+ users redis (107)"}
	slices.Sort(want)
	slices.Sort(got)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, line := range got {
		if strings.ContainsAny(line, `{}[]"`) {
			t.Errorf("a line is JSON: %s", line)
		}
	}
}
