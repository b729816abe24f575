package main

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/bootserver/fleet"
)

// TestTimeline is a boot that was silent, as an operator sees it drawn.
func TestTimeline(t *testing.T) {
	start := time.Date(2026, 11, 24, 10, 0, 0, 0, time.Local)
	b := fleet.Boot{ID: ingot.NewBootID([16]byte{1}), Machine: "m-1", Firmware: ingot.FirmwareBIOS, Image: fleet.ImageRef{Name: "node:7"}, Started: start,
		Ended: start.Add(20 * time.Second), Outcome: ingot.OutcomeSilent, Reason: "no report", Crash: "Kernel panic\x1b[2J", Changes: []string{"RAM 4 → 2 GiB"}}
	for i, s := range []ingot.Stage{ingot.StageDHCP, ingot.StageKernel, ingot.StageInitramfs} {
		b.Events = append(b.Events, fleet.Event{Event: ingot.Event{Stage: s, Bytes: int64(i) << 20}, At: start.Add(time.Duration(i*5) * time.Second)})
	}
	var out strings.Builder
	timelines(&out, []fleet.Boot{b}, map[ingot.MachineID]string{"m-1": "node07"})
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.TrimRight(line, " \n"))
	}
	want := []string{
		"node07  01000000  bios  node:7  2026-11-24 10:00:00: silent",
		"  dhcp       +0.0 s",
		"  kernel     +5.0 s   ██████████                                1.0 MiB",
		"  initramfs  +10.0 s            ██████████                      2.0 MiB",
		"  (silence)  +20.0 s                      ░░░░░░░░░░░░░░░░░░░░           10.0 s",
		"  → no report",
		"  → crashed: Kernel panic·[2J",
		"  hardware changed: RAM 4 → 2 GiB",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("timelines (-want +got):\n%s", d)
	}
}
