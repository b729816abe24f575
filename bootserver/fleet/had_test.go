package fleet

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot"
)

// TestHadVolumes: what a machine used under an image that does not check owners is remembered
// until it boots such an image again. A disk that appears under an image that does check is not.
func TestHadVolumes(t *testing.T) {
	disk := func(serial, holds string) ingot.Disk { return ingot.Disk{Name: "vda", Serial: serial, Holds: holds} }
	facts := func(stamps bool, disks ...ingot.Disk) ingot.Facts {
		return ingot.Facts{RAM: 1 << 30, Stamps: stamps, Disks: disks}
	}
	data, stranger, blank := disk("S1", `ext4 "data"`), disk("S2", `ext4 "data"`), disk("S3", "blank")
	m := Machine{ID: "m-1"}
	for _, c := range []struct {
		name  string
		facts ingot.Facts
		want  []ingot.Disk
	}{
		{"the first report of a new machine", facts(true, stranger), nil},
		{"an older image", facts(false, data, blank), nil},
		{"a newer image", facts(true, data, stranger, blank), []ingot.Disk{data}},
		{"once more, for it failed before it mounted", facts(true, data, stranger), []ingot.Disk{data}},
		{"an older image again", facts(false, data, stranger), []ingot.Disk{data}},
		{"which took the new disk", facts(true, data, stranger), []ingot.Disk{data, stranger}},
	} {
		m, _ = Learn(m, c.facts, nil, t0)
		if diff := cmp.Diff(c.want, m.Had); diff != "" {
			t.Errorf("%s: Had (-want +got):\n%s", c.name, diff)
		}
	}
}
