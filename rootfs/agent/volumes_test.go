package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot"
)

// TestReportOfVolumes: every report says what became of the volumes at the boot, and how full the
// overlay is.
func TestReportOfVolumes(t *testing.T) {
	h := handover(t, "")
	h.Volumes = []ingot.VolumeResult{{Volume: "data", State: ingot.VolumeRefused, Problem: ingot.VolumeForeign}}
	a := &Agent{Handover: h, System: &system{}}
	r := a.report(t.Context(), "", nil)
	if diff := cmp.Diff(h.Volumes, r.Volumes); diff != "" {
		t.Errorf("volumes of the report (-want +got):\n%s", diff)
	}
	if r.OverlaySize <= 0 || r.OverlayUsed <= 0 || r.OverlayUsed > r.OverlaySize {
		t.Errorf("the overlay has %d of %d bytes used", r.OverlayUsed, r.OverlaySize)
	}
	for used, full := range map[int64]bool{0: false, 900: false, 990: true, 1000: true} {
		if got := (ingot.Report{OverlayUsed: used, OverlaySize: 1000}).OverlayFull(); got != full {
			t.Errorf("an overlay with %d of 1000 bytes used is full: %t", used, got)
		}
	}
}
