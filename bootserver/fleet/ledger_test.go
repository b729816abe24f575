package fleet

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
)

func texts(list []Entry) (out []string) {
	for _, e := range list {
		mark := ""
		if e.Bad {
			mark = "! "
		}
		out = append(out, mark+string(e.Kind)+" "+e.Text)
	}
	return out
}

func TestBootEntries(t *testing.T) {
	b := step(Boot{ID: boot1, Machine: "m", Image: v1, Started: t0}, ingot.StageDHCP)
	after := Record(b, ingot.Event{Stage: ingot.StageTicket, Error: "no", Retry: true}, t0.Add(time.Second))
	after.Report = &ingot.Report{Healthy: true, Failed: []string{"db.service"}}
	after = end(after, ingot.OutcomeHealthy, "", t0)
	want := []string{"! step failed: no; it tries again", "! step failed units: db.service", "end lab:v1 healthy"}
	if d := cmp.Diff(want, texts(BootEntries(&b, after, t0))); d != "" {
		t.Errorf("BootEntries (-want +got):\n%s", d)
	}
	sick := after
	sick.Report = &ingot.Report{Failed: []string{"db.service"}, Checks: []ingot.CheckResult{{Name: "web", Detail: "refused"}}}
	if d := cmp.Diff([]string{"! step not healthy any more; check web: refused"}, texts(BootEntries(&after, sick, t0))); d != "" {
		t.Errorf("of a heartbeat (-want +got):\n%s", d)
	}
	if again := BootEntries(&sick, sick, t0); len(again) > 0 {
		t.Errorf("the same again makes %q", texts(again))
	}
}

func TestMachineEntries(t *testing.T) {
	m := Machine{ID: "m", State: Pending, MACs: []string{"a"}}
	after := m
	after.State, after.Name, after.MACs, after.Assignment = Approved, "node", []string{"a", "b"}, Assignment{ImageRef: v1, Why: "first"}
	want := []string{"machine approved, before: pending", `machine named "node", before: ""`, "machine card b is new", "decision assigned lab:v1: first"}
	if d := cmp.Diff(want, texts(MachineEntries(&m, after, t0))); d != "" {
		t.Errorf("MachineEntries (-want +got):\n%s", d)
	}
	held := after
	held.Setback = &Setback{Gave: v1, Why: "it failed", At: t0}
	if d := cmp.Diff([]string{"! decision held for a person: it failed"}, texts(MachineEntries(&after, held, t0))); d != "" {
		t.Errorf("of a hold (-want +got):\n%s", d)
	}
	seen := held
	seen.LastSeen = t0
	if got := MachineEntries(&held, seen, t0); len(got) > 0 {
		t.Errorf("being seen makes %q", texts(got))
	}
}

func TestCrashLine(t *testing.T) {
	text := "<4>[    1.0] hello\n<1>[   12.345] BUG: kernel NULL pointer dereference, address: 0\n<0>[   12.4] Kernel panic - not syncing: Fatal exception\n<0>[   12.5] ---[ end ]---\n"
	if got := CrashLine(text); got != "BUG: kernel NULL pointer dereference, address: 0" {
		t.Errorf("CrashLine = %q", got)
	}
	text = "[ 1.0] Out of memory: Killed process 7 (x)\n[ 2.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n"
	if got := CrashLine(text); got != "Kernel panic - not syncing: VFS: Unable to mount root fs" {
		t.Errorf("CrashLine = %q", got)
	}
	if got := CrashLine("[ 1.0] Kernel panic - not syncing: Fatal exception in interrupt\n"); got != "Kernel panic - not syncing: Fatal exception in interrupt" {
		t.Errorf("CrashLine = %q; want what little there is", got)
	}
	if got := CrashLine("[ 1.0] all is well\n"); got != "" {
		t.Errorf("CrashLine = %q; want none", got)
	}
}
