package fleet

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
)

var v3 = ImageRef{ingot.DigestOf([]byte("v3")), "lab:v3"}

func machineDiff(a, b Machine) string {
	return cmp.Diff(a, b, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }))
}

func haveAll(ingot.Digest) bool { return true }

// played lets a machine boot what it is to boot; how says how each boot ends:
// h healthy, f failed, s silent, l switched off in its loader, w late but well.
func played(t *testing.T, m Machine, p Policy, how string) (Machine, []string) {
	t.Helper()
	var booted []string
	for i, c := range how {
		ref, err := Next(m)
		if err != nil {
			booted = append(booted, err.Error())
			continue
		}
		b := Boot{ID: ingot.NewBootID([16]byte{byte(len(m.Boot)), byte(i), byte(len(how))}), Started: t0, Image: ref}
		m.Boot = b.ID
		b = step(b, ingot.StageDHCP, ingot.StageLoader, ingot.StageScript)
		if c != 'l' {
			b = step(b, ingot.StageKernel, ingot.StageInitramfs)
		}
		booted = append(booted, ref.Name)
		switch c {
		case 'h':
			b, m = Judge(b, m, ingot.Report{Boot: b.ID, Root: b.Root, Healthy: true}, t0)
		case 'f':
			b = Record(b, ingot.Event{Stage: ingot.StageRoot, Error: "bad"}, t0)
		case 's', 'l', 'w':
			b = end(b, Ending{Outcome: ingot.OutcomeSilent, Reason: "no report"}, t0)
		}
		m = ApplyOutcome(m, b, p, haveAll, t0)
		if again := ApplyOutcome(m, b, p, haveAll, t0.Add(time.Second)); machineDiff(m, again) != "" {
			t.Errorf("a boot counts twice: %s", machineDiff(m, again))
		}
		if c == 'w' {
			b, m = Judge(b, m, ingot.Report{Boot: b.ID, Root: b.Root, Healthy: true}, t0)
			m = ApplyOutcome(m, b, p, haveAll, t0)
		}
	}
	ref, err := Next(m)
	if err != nil {
		return m, append(booted, err.Error())
	}
	return m, append(booted, ref.Name)
}

func TestApplyOutcome(t *testing.T) {
	fresh := Machine{ID: "m", State: Approved, Assignment: Assignment{ImageRef: v2}}
	good := fresh
	good.LastHealthy, good.Healthy = v1, []ImageRef{v1}
	same := good
	same.Assignment.ImageRef = v1
	const held = "the machine is held for an operator"
	for _, c := range []struct {
		name string
		m    Machine
		p    Policy
		how  string
		want []string
	}{
		{"falls back", good, Policy{}, "ffh", []string{"lab:v2", "lab:v2", "lab:v1", "lab:v1"}},
		{"failures in a row only", good, Policy{}, "fhfhf", []string{"lab:v2", "lab:v2", "lab:v2", "lab:v2", "lab:v2",
			"lab:v2"}},
		{"silence counts", good, Policy{Attempts: 3}, "sfs", []string{"lab:v2", "lab:v2", "lab:v2", "lab:v1"}},
		{"at once", good, Policy{Attempts: 1}, "s", []string{"lab:v2", "lab:v1"}},
		{"what was not fetched has not failed", good, Policy{Attempts: 1}, "lll",
			[]string{"lab:v2", "lab:v2", "lab:v2", "lab:v2"}},
		{"nothing to fall back to", fresh, Policy{}, "ff", []string{"lab:v2", "lab:v2", held}},
		{"the fallback fails as well and is kept", good, Policy{}, "ffffff",
			[]string{"lab:v2", "lab:v2", "lab:v1", "lab:v1", "lab:v1", "lab:v1", "lab:v1"}},
		{"what was healthy last is not given up", same, Policy{}, "ffff",
			[]string{"lab:v1", "lab:v1", "lab:v1", "lab:v1", "lab:v1"}},
		{"hold by policy", good, Policy{After: AfterHold}, "ff", []string{"lab:v2", "lab:v2", held}},
		{"retry by policy", good, Policy{After: AfterRetry}, "fff", []string{"lab:v2", "lab:v2", "lab:v2", "lab:v2"}},
		{"late, but well", good, Policy{Attempts: 1}, "ww", []string{"lab:v2", "lab:v2", "lab:v2"}},
	} {
		if _, got := played(t, c.m, c.p, c.how); cmp.Diff(c.want, got) != "" {
			t.Errorf("%s: boots %v; want %v", c.name, got, c.want)
		}
	}
}

// TestOperatorsWord: whatever was decided, an operator decides otherwise.
func TestOperatorsWord(t *testing.T) {
	m := Machine{ID: "m", State: Approved, Assignment: Assignment{ImageRef: v2}, LastHealthy: v1, Healthy: []ImageRef{v1}}
	fallen, _ := played(t, m, Policy{}, "ff")
	if fallen.Setback == nil || fallen.Setback.Why != "lab:v2 failed twice in a row; lab:v1 was the last healthy image "+
		"on this machine" || len(fallen.Setback.Failures) != 2 {
		t.Fatalf("setback = %+v", fallen.Setback)
	}
	for name, got := range map[string]Machine{"lab:v3": Assign(fallen, Assignment{ImageRef: v3}),
		"lab:v2": Resume(fallen)} {
		if ref, err := Next(got); err != nil || ref.Name != name {
			t.Errorf("after an operator's word: %q, %v; want %s", ref.Name, err, name)
		}
	}
	gone, _ := played(t, m, Policy{}, "f")
	gone.Boot = "last"
	b := step(Boot{ID: "last", Image: v2}, ingot.StageInitramfs)
	gone = ApplyOutcome(gone, end(b, Ending{Outcome: ingot.OutcomeFailed, Reason: "x"}, t0), Policy{},
		func(ingot.Digest) bool {
			return false
		}, t0)
	if _, err := Next(gone); err == nil ||
		gone.Setback.Why != "lab:v2 failed twice in a row, and lab:v1, the last healthy image on this machine, can no "+
			"longer be served" {
		t.Errorf("with its last healthy image gone: %v, %+v; want held", err, gone.Setback)
	}
	reassigned := Assign(m, Assignment{ImageRef: v3})
	reassigned.Boot = "last"
	if got := ApplyOutcome(reassigned, end(b, Ending{Outcome: ingot.OutcomeFailed, Reason: "x"}, t0), Policy{Attempts: 1},
		haveAll, t0); machineDiff(reassigned, got) != "" {
		t.Errorf("a boot of the image before the operator's word counts: %s", machineDiff(reassigned, got))
	}
}

func TestRestarts(t *testing.T) {
	b := step(Boot{ID: "b", Image: v2}, ingot.StageInitramfs)
	m := Machine{State: Approved, Boot: "b", Assignment: Assignment{ImageRef: v2}, LastHealthy: v1}
	fresh := m
	fresh.LastHealthy = ImageRef{}
	last := m
	last.LastHealthy = v2
	failing := func(m Machine) Machine {
		m.Trial = Trial{Image: v2.Image, Failures: []Failure{{Boot: "before"}}}
		return m
	}
	for _, c := range []struct {
		name string
		m    Machine
		want bool
	}{
		{"one more attempt", fresh, true},
		{"to the fallback", failing(m), true},
		{"into being held", failing(fresh), false},
		{"into the same for ever", failing(last), false},
	} {
		if got := Restarts(c.m, b, t0); got != c.want {
			t.Errorf("%s: Restarts = %t; want %t", c.name, got, c.want)
		}
	}
}
