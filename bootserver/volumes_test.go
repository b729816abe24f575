package bootserver

import (
	"slices"
	"strings"
	"testing"

	"ingot"
)

// TestRefusedVolumeIsVisible: an optional volume that a healthy machine refused is in its events, its
// report, the answer to why, with the command that helps, and the metrics; so is a full overlay in
// the answer to why. What a newer image calls a problem is counted as unknown.
func TestRefusedVolumeIsVisible(t *testing.T) {
	h := newHouseOf(t)
	boot, _ := h.ask()
	if status, text := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce}); status != 200 {
		t.Fatalf("ticket: %d %s", status, text)
	}
	refused := ingot.VolumeResult{Volume: "data", State: ingot.VolumeRefused, Problem: ingot.VolumeNotBlank,
		Optional: true, Device: "/dev/vdb", Disk: "S1",
		Detail: "disk vdb (\"S1\") is not blank, it holds: GPT; nothing was written"}
	newer := ingot.VolumeResult{Volume: "logs", State: ingot.VolumeRefused, Problem: "haunted", Optional: true}
	h.post(boot, "events", ingot.Event{Stage: ingot.StageVolumes, Results: []ingot.VolumeResult{refused, newer,
		{Volume: "fine", State: ingot.VolumeMounted}}})
	b, _ := h.state.Boot(boot)
	report := ingot.Report{Boot: boot, Root: b.Root, Healthy: true, Volumes: []ingot.VolumeResult{refused},
		OverlayUsed: 512 << 20, OverlaySize: 512 << 20}
	if status, text := h.post(boot, "report", report); status != 204 {
		t.Fatalf("report: %d %s", status, text)
	}
	h.ledgerHas(1, "! "+machineID+" step volume data refused: "+refused.Detail)
	boots, err := h.api.Boots(t.Context(), "node01", 0)
	if err != nil {
		t.Fatal(err)
	}
	last := boots[len(boots)-1]
	if last.Report == nil || !slices.Equal(last.Report.Volumes, []ingot.VolumeResult{refused}) {
		t.Errorf("the report of the boot = %+v; want what became of the volume", last.Report)
	}
	why, err := h.api.Why(t.Context(), "node01")
	for _, want := range []string{"Healthy on lab:v1", "Volume data was refused: disk vdb (\"S1\") is not blank",
		"run on the machine: " + refused.Remedy(), "its writable overlay is full (512 MiB of 512 MiB)"} {
		if err != nil || !strings.Contains(why.Words, want) {
			t.Errorf("Why = %q, %v; want %q in it", why.Words, err, want)
		}
	}
	text := scraped(h)
	for _, want := range []string{`ingot_volume_problems_total{problem="not-blank"} 1`,
		`ingot_volume_problems_total{problem="unknown"} 1`, `ingot_volume_problems_total{problem="foreign"} 0`} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("the metrics do not say %s:\n%s", want, ours(text))
		}
	}
}
