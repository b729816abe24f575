package bootserver

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
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

// TestGrantsFit: a grant for a volume that no image of the machine declares, or for a disk that it did
// not report, is refused with the names that exist, unless it is forced.
func TestGrantsFit(t *testing.T) {
	h := newHouseOf(t)
	putSmall(t, h.images, h.keys, "v2", func(m *ingot.ImageManifest) {
		m.Volumes = []ingot.Volume{{Name: "data", Mount: "/data"}, {Name: "logs", Mount: "/logs"}}
	})
	if _, err := h.api.AssignBy(t.Context(), machineID, api.AssignRequest{Image: "lab:v2"}); err != nil {
		t.Fatal(err)
	}
	grant := func(volume, disk string, force bool) error {
		t.Helper()
		_, err := h.api.Grant(t.Context(), machineID,
			api.GrantRequest{Volume: volume, Disk: disk, For: time.Hour, Force: force})
		return err
	}
	if err := grant("data", "anything", false); err != nil {
		t.Errorf("before the machine reported its hardware: %v; want any disk taken", err)
	}
	boot, _ := h.ask()
	if status, text := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce}); status != 200 {
		t.Fatalf("ticket: %d %s", status, text)
	}
	h.post(boot, "events", ingot.Event{Stage: ingot.StageVolumes, Results: []ingot.VolumeResult{{Volume: "data",
		State: ingot.VolumeRefused, Problem: ingot.VolumeForeign, Disk: "LATE"}}})
	m := h.known(machineID)
	m.Facts.RAM = 1 << 30
	m.Facts.Disks = []ingot.Disk{{Name: "vda", Serial: "S1", WWN: "0x5000C500A1B2C3D4"}, {Name: "vdb", Path: "pci-1"}}
	h.stored(m)
	for _, c := range []struct {
		volume, disk, says string
		force              bool
	}{
		{"data", "S1", "", false},
		{"logs", "naa.5000c500a1b2c3d4", "", false},
		{"data", "pci-1", "", false},
		{"dta", "S1", `lab:v2 declares no volume "dta" for node01; it declares data, logs`, false},
		{"data", "S2", `node01 did not report a disk "S2"; it reported S1 (vda), pci-1 (vdb)`, false},
		{"data", "LATE", "", false},
		{"dta", "S2", "", true},
	} {
		err := grant(c.volume, c.disk, c.force)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("grant %s --disk %s (force %v): %v; want %q", c.volume, c.disk, c.force, err, c.says)
		}
	}
}

// TestGrantWithdrawn: a grant that no boot used can be taken back. It is in no ticket after that, and
// ledger and audit log have it.
func TestGrantWithdrawn(t *testing.T) {
	h := newHouseOf(t)
	ctx := t.Context()
	if _, err := h.api.Grant(ctx, "node01", api.GrantRequest{Volume: "data", Disk: "D1", For: time.Hour,
		Force: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.WithdrawGrant(ctx, "node01", "logs"); err == nil ||
		!strings.Contains(err.Error(), `node01 has no unused grant for volume "logs"; it has grants for data`) {
		t.Errorf("withdrawing another: %v; want what there is", err)
	}
	if m, err := h.api.WithdrawGrant(ctx, "node01", "data"); err != nil || len(m.Grants) > 0 {
		t.Fatalf("withdrawing: %+v, %v", m.Grants, err)
	}
	h.ledgerHas(1, machineID+" machine the grant to initialise disk D1 as volume data was withdrawn")
	boot, _ := h.ask()
	status, text := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce})
	if status != 200 || strings.Contains(string(text), `"D1"`) {
		t.Errorf("the ticket after that: %d %s; want no grant", status, text)
	}
	list, _, err := h.state.Changes(state.Query{Audit: true, Limit: 100})
	if err != nil || !slices.ContainsFunc(list, func(c fleet.Change) bool { return c.Code == "machine.withdraw-grant" }) {
		t.Errorf("the audit log, %v: %v; want the withdrawal", err, list)
	}
	if _, err := h.api.WithdrawGrant(ctx, "node01", "data"); err == nil {
		t.Error("withdrawing again was done")
	}
}
