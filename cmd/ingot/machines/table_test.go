package machines

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
)

// TestTables keeps what people see, control characters made harmless.
func TestTables(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var out bytes.Buffer
	machineTable(&out, []api.Machine{
		{ID: "m-525400120001", Name: "node01", State: api.Approved, LastSeen: now.Add(-90 * time.Second),
			Assignment:  api.Assignment{ImageRef: api.ImageRef{Image: "sha256:2", Name: "lab:v2"}},
			LastHealthy: api.ImageRef{Image: "sha256:1", Name: "lab:v1"},
			Facts:       ingot.Facts{Vendor: "Evil\x1b[2J", Product: "R\t1"}},
		{ID: "m-525400120002", State: api.Pending, LastSeen: now.Add(-50 * time.Hour)},
	}, now)
	want := `MACHINE         NAME    STATE     IMAGE   RUNS      LAST SEEN  ADDRESS  HARDWARE      LABELS
m-525400120001  node01  approved  lab:v2  lab:v1 *  1m ago     -        Evil·[2J R·1  -
m-525400120002  -       pending   -       -         2d ago     -        -             -

reports not authenticated, because the images are older: node01
`
	if out.String() != want {
		t.Errorf("machine ls =\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	v1 := api.ImageRef{Image: "sha256:1", Name: "lab:v1"}
	latest := func(name string, l api.Latest) api.Machine {
		return api.Machine{ID: ingot.MachineID("m-" + name), Name: name, State: api.Approved, LastSeen: now, Latest: &l,
			Assignment: api.Assignment{ImageRef: v1}, LastHealthy: v1, Authenticated: true}
	}
	rescue, heard := api.ImageRef{Image: "sha256:2", Name: "rescue:1"}, now.Add(-3*time.Minute)
	machineTable(&out, []api.Machine{
		latest("a", api.Latest{ImageRef: rescue, Outcome: ingot.OutcomeHealthy, Once: true}),
		latest("b", api.Latest{ImageRef: rescue, Once: true}),
		latest("c", api.Latest{ImageRef: rescue, Outcome: ingot.OutcomeHealthy}),
		latest("d", api.Latest{ImageRef: v1, Outcome: ingot.OutcomeHealthy, Silent: true, Heard: heard}),
		latest("e", api.Latest{ImageRef: v1, Outcome: ingot.OutcomeHealthy, Down: true, Heard: heard}),
		latest("f", api.Latest{ImageRef: v1, Outcome: ingot.OutcomeFailed}),
		latest("g", api.Latest{ImageRef: v1, Outcome: ingot.OutcomeSilent}),
		latest("h", api.Latest{}),
	}, now)
	want = `MACHINE  NAME  STATE     IMAGE   RUNS                      LAST SEEN  ADDRESS  HARDWARE  LABELS
m-a      a     approved  lab:v1  rescue:1 (once)           0s ago     -        -         -
m-b      b     approved  lab:v1  rescue:1 (once), booting  0s ago     -        -         -
m-c      c     approved  lab:v1  rescue:1 *                0s ago     -        -         -
m-d      d     silent    lab:v1  lab:v1                    0s ago     -        -         -
m-e      e     down      lab:v1  lab:v1                    0s ago     -        -         -
m-f      f     approved  lab:v1  lab:v1, failed            0s ago     -        -         -
m-g      g     approved  lab:v1  lab:v1, no report         0s ago     -        -         -
m-h      h     approved  lab:v1  -                         0s ago     -        -         -

not heard from: d (silent, last report 3m ago), e (down, last report 3m ago)
  → ingot why MACHINE
`
	if out.String() != want {
		t.Errorf("machine ls =\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	machineTable(&out, []api.Machine{
		{ID: "m-525400120003", Name: "node03", State: api.Approved, Returned: now, LastSeen: now},
		{ID: "m-525400120004", State: api.Pending, Returned: now, LastSeen: now}}, now)
	if want := "\ncame back after a restore by their own report: node03, " +
		"m-525400120004 (approve it: ingot machine approve m-525400120004)\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("machine ls =\n%s\nwant at its end%s", out.String(), want)
	}
	out.Reset()
	b := api.Boot{ID: ingot.NewBootID([16]byte{0xab}), Machine: "m-525400120001", Firmware: ingot.FirmwareBIOS,
		Started: now.Add(-time.Minute),
		Ended:   now, Outcome: ingot.OutcomeFailed, Reason: "stage root: bad", Image: api.ImageRef{Name: "lab:v1"},
		Events: []api.Event{{Event: ingot.Event{Stage: ingot.StageDHCP}, At: now.Add(-time.Minute)}}}
	bootTable(&out, []api.Boot{b}, nil, now)
	want = `BOOT      MACHINE         FIRMWARE  IMAGE   STARTED  TOOK    STAGE  OUTCOME  REASON
ab000000  m-525400120001  bios      lab:v1  1m ago   60.0 s  dhcp   failed   stage root: bad
`
	if out.String() != want {
		t.Errorf("boots =\n%s\nwant\n%s", out.String(), want)
	}
}
