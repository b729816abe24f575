package fleet

import (
	"testing"
	"time"

	"ingot"
)

// TestVolumesDoNotCount: a boot that ends because of a volume, or while one is checked, does not
// count against its image. A failure after that does.
func TestVolumesDoNotCount(t *testing.T) {
	check := ingot.Event{Stage: ingot.StageVolumes, Check: &ingot.VolumeCheck{Volume: "data", Device: "/dev/vdb",
		Percent: 3}}
	for _, c := range []struct {
		name   string
		events []ingot.Event
		ending Ending
		counts bool
	}{
		{"a volume is refused", []ingot.Event{{Stage: ingot.StageVolumes,
			Error: "volume refused: data: disk vda is not blank",
			Code:  ingot.FailureVolume}}, Ending{}, false},
		{"a volume is refused by an older image", []ingot.Event{{Stage: ingot.StageVolumes,
			Error: "volume refused: data: no device has the label"}}, Ending{}, false},
		{"the watchdog resets it while it checks", []ingot.Event{check}, Ending{ingot.OutcomeSilent, CauseSuperseded, ""},
			false},
		{"it goes on and then stops", []ingot.Event{check, {Stage: ingot.StageVolumes}, {Stage: ingot.StageSwitch}},
			Ending{ingot.OutcomeSilent, CauseDeadline, ""}, true},
		{"the host keys cannot be made", []ingot.Event{{Stage: ingot.StageVolumes, Error: "generating the SSH host key",
			Code: ingot.FailureIdentity}}, Ending{}, true},
		{"a check fails", []ingot.Event{{Stage: ingot.StageVolumes}, {Stage: ingot.StageHealthy, Error: "check db failed",
			Code: ingot.FailureCheck}}, Ending{}, true},
	} {
		b := Boot{ID: boot1, Machine: "m-1", Image: v1, Started: t0, Ticket: t0, Events: []Event{
			{Event: ingot.Event{Stage: ingot.StageRoot}, At: t0}}}
		m := Machine{ID: "m-1", State: Approved, Assignment: Assignment{ImageRef: v1}, Boot: boot1}
		d := NewDecision(m, b, BootPolicy{Attempts: 1}, Images{string(v1.Image): {}}, Actor{}, t0.Add(time.Minute))
		for _, e := range c.events {
			d.Record(e)
		}
		if c.ending.Outcome != "" {
			d.End(c.ending)
		}
		if d.Boot.Open() {
			t.Errorf("%s: the boot is open", c.name)
		}
		if counts := d.Machine.Setback != nil; counts != c.counts {
			t.Errorf("%s: it counts against the image: %t; want %t", c.name, counts, c.counts)
		}
	}
}

// TestCheckMovesDeadline: while a filesystem is checked, the deadline of the boot moves. A boot has
// one event of a check, and some Changes.
func TestCheckMovesDeadline(t *testing.T) {
	now := t0.Add(30 * time.Second)
	b := Boot{ID: boot1, Machine: "m-1", Image: v1, Started: t0, Ticket: t0, Deadline: t0.Add(5 * time.Minute),
		Events: []Event{{Event: ingot.Event{Stage: ingot.StageRoot}, At: now}}}
	m := Machine{ID: "m-1", State: Approved, Boot: boot1}
	changes := 0
	record := func(e ingot.Event) {
		d := NewDecision(m, b, BootPolicy{}, nil, Actor{}, now)
		d.Record(e)
		b, changes = d.Boot, changes+len(d.Changes)
	}
	const steps = 3 * 3600 / 20
	for i := range steps {
		now = now.Add(20 * time.Second)
		record(ingot.Event{Stage: ingot.StageVolumes, Check: &ingot.VolumeCheck{Volume: "data", Device: "/dev/vdb",
			Percent: i * 100 / steps}})
		if _, overdue := Overdue(b, now); overdue {
			t.Fatalf("the boot is overdue at %s although its check advances", now.Sub(t0))
		}
	}
	if len(b.Events) != 2 || b.Events[1].Check.Percent != 99 || changes != 10 {
		t.Errorf("%d events, %d Changes, the last is %+v; want 2 events, 10 Changes, 99 %%", len(b.Events), changes,
			b.Events[1])
	}
	now = now.Add(time.Second)
	record(ingot.Event{Stage: ingot.StageSwitch})
	if _, overdue := Overdue(b, now.Add(4*time.Minute)); overdue {
		t.Error("the time of the check counts")
	}
	if _, overdue := Overdue(b, now.Add(5*time.Minute)); !overdue {
		t.Error("after a check the boot has no deadline")
	}
	b.Deadline = t0.Add(5 * time.Minute)
	for range 1000 {
		now = now.Add(time.Hour)
		record(ingot.Event{Stage: ingot.StageVolumes, Check: &ingot.VolumeCheck{Volume: "data"}})
	}
	if _, overdue := Overdue(b, now); !overdue {
		t.Error("a machine that always reports a check has no deadline")
	}
}
