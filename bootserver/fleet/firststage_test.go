package fleet

import (
	"strings"
	"testing"
	"time"

	"ingot"
)

// TestStalledFirstStage: a machine that was told what to load and comes back
// without having got anywhere is offered the next of its list, and goes round.
func TestStalledFirstStage(t *testing.T) {
	now := time.Unix(1000, 0)
	list := []string{"snponly.efi", "ipxe.efi"}
	f := ingot.FirmwareUEFIx64
	accepted := Boot{Firmware: f, First: "snponly.efi", Accepted: now}
	accepted = Record(accepted, ingot.Event{Stage: ingot.StageDHCP}, now)
	loaded := Record(accepted, ingot.Event{Stage: ingot.StageLoader, Detail: "snponly.efi"}, now)
	script := Record(loaded, ingot.Event{Stage: ingot.StageScript}, now)
	for _, c := range []struct {
		name  string
		boot  Boot
		fw    ingot.Firmware
		after time.Duration
		want  string
	}{
		{"asks again at once, as firmware does", accepted, f, time.Second, ""},
		{"never loaded", accepted, f, 30 * time.Second, "offered snponly.efi and did not load it"},
		{"loaded, and silent since", loaded, f, time.Second, "loaded snponly.efi and was not heard from again"},
		{"came as far as the script", script, f, time.Hour, ""},
		{"its loader asked us for an address", Boot{Firmware: f, First: "snponly.efi", Accepted: now, Back: true,
			Events: loaded.Events}, f, time.Hour, ""},
		{"asks with its other boot method", accepted, ingot.FirmwareUEFIx64HTTP, time.Hour, ""},
		{"was never given the address", Boot{Firmware: f, First: "snponly.efi", Events: accepted.Events}, f, time.Hour, ""},
	} {
		reason, stalled := Stalled(&c.boot, c.fw, now.Add(c.after))
		if stalled != (c.want != "") || !strings.Contains(reason, c.want) {
			t.Errorf("%s: Stalled = %q, %v; want %q", c.name, reason, stalled, c.want)
		}
	}
	m := Machine{}
	for _, want := range []string{"ipxe.efi", "snponly.efi"} {
		accepted.First = FirstStage(m, f, list)
		var b Boot
		if b, m = Stall(accepted, m, "because", list, now); b.Outcome != ingot.OutcomeSilent || b.Reason != "because" {
			t.Errorf("the boot ends as %q, %q; want silent with the reason", b.Outcome, b.Reason)
		}
		if got := FirstStage(m, f, list); got != want {
			t.Errorf("after %s stalled the machine is offered %s; want %s", accepted.First, got, want)
		}
	}
	if got := FirstStage(Machine{Loaders: map[ingot.Firmware]string{f: "gone.efi"}}, f, list); got != "snponly.efi" {
		t.Errorf("a loader that left the list is offered as %s; want the first", got)
	}
}
