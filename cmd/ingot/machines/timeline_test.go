package machines

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/bootserver/api"
)

// TestTimeline is a boot that was silent, as an operator sees it drawn.
func TestTimeline(t *testing.T) {
	start := time.Date(2026, 11, 24, 10, 0, 0, 0, time.Local)
	b := api.Boot{ID: ingot.NewBootID([16]byte{1}), Machine: "m-1", Firmware: ingot.FirmwareBIOS,
		Image: api.ImageRef{Name: "node:7"}, Started: start,
		Ended: start.Add(20 * time.Second), Outcome: ingot.OutcomeSilent, Reason: "no report", Crash: "Kernel panic\x1b[2J",
		Changes: []string{"RAM 4 → 2 GiB"}}
	for i, s := range []ingot.Stage{ingot.StageDHCP, ingot.StageKernel, ingot.StageInitramfs} {
		b.Events = append(b.Events, api.Event{Event: ingot.Event{Stage: s, Bytes: int64(i) << 20},
			At: start.Add(time.Duration(i*5) * time.Second)})
	}
	var out strings.Builder
	timelines(&out, []bootView{{Boot: b}}, map[ingot.MachineID]string{"m-1": "node07"}, start)
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.TrimRight(line, " \n"))
	}
	want := []string{
		"node07  01000000  bios  node:7  2026-11-24 10:00:00: silent",
		"  dhcp       +0.0 s",
		"  kernel     +5.0 s   ██████████                                1.0 MiB",
		"  initramfs  +10.0 s            ██████████                      2.0 MiB",
		"  (silence)  +20.0 s                      ░░░░░░░░░░░░░░░░░░░░  10.0 s",
		"  → no report",
		"  → crashed: Kernel panic·[2J",
		"  hardware changed: RAM 4 → 2 GiB",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("timelines (-want +got):\n%s", d)
	}
}

// TestTimelineOfParts: what was served of a file that was not fetched to its end
// is drawn, of a boot that ended and of one that runs, in 80 columns.
func TestTimelineOfParts(t *testing.T) {
	start := time.Date(2026, 11, 24, 10, 0, 0, 0, time.Local)
	b := api.Boot{ID: ingot.NewBootID([16]byte{1}), Machine: "m-1", Firmware: ingot.FirmwareUEFIx64,
		Image: api.ImageRef{Name: "node:7"}, Started: start,
		Served: map[string]int64{"kernel": 9541018, "initramfs": 3 << 20}}
	for i, s := range []ingot.Stage{ingot.StageDHCP, ingot.StageScript, ingot.StageKernel} {
		b.Events = append(b.Events, api.Event{Event: ingot.Event{Stage: s},
			At: start.Add(time.Duration(i*5) * time.Second)})
	}
	b.Events[2].Bytes = 9541018
	needed := map[string]int64{"kernel": 9541018, "initramfs": 12 << 20, "root": 300 << 20}
	draw := func(b api.Boot, needed map[string]int64, now time.Duration) []string {
		var out strings.Builder
		timelines(&out, []bootView{{b, needed}}, nil, start.Add(now))
		var got []string
		for line := range strings.Lines(out.String()) {
			line = strings.TrimRight(line, " \n")
			if n := utf8.RuneCountInString(line); n > 80 && strings.HasPrefix(line, "  ") {
				t.Errorf("%d columns: %s", n, line)
			}
			got = append(got, line)
		}
		return got[1:]
	}
	want := []string{
		"  dhcp       +0.0 s",
		"  script     +5.0 s   ██████████",
		"  kernel     +10.0 s            ██████████                      9.1 MiB",
		"  initramfs  +20.0 s                      ▒▒▒▒▒···············  3.0 of 12.0 MiB",
	}
	for i, line := range draw(b, needed, 20*time.Second) {
		if !strings.HasPrefix(line+strings.Repeat(" ", 9), want[i]) {
			t.Errorf("a boot that runs, line %d:\n%s; want\n%s", i, line, want[i])
		}
	}
	b.Outcome, b.Ended = ingot.OutcomeSilent, start.Add(40*time.Second)
	got := draw(b, needed, time.Hour)
	if !strings.Contains(got[3], "▒▒▒▒▒▒▒·") || !strings.Contains(got[3], "3.0 of 12.0 MiB") || !strings.Contains(got[4],
		"(silence)") {
		t.Errorf("a boot that was silent:\n%s", strings.Join(got, "\n"))
	}
	for _, c := range []struct {
		p    part
		want string
	}{{part{"kernel", 3 << 20, 0}, "3.0 MiB"}, {part{"kernel", 500, 9 << 20}, "500 B of 9.0 MiB"},
		{part{"kernel", 12 << 20, 9 << 20}, "12.0 MiB, size 9.0 MiB"}} {
		if got := c.p.String(); got != c.want {
			t.Errorf("%+v = %q; want %q", c.p, got, c.want)
		}
	}
}
