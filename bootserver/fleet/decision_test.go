package fleet

import (
	"time"

	"ingot"
)

// What a Decision does to a boot, or a boot and its machine, as a function of
// values: for tests that look at one step.

func decided(m Machine, b Boot, now time.Time, f func(*Decision)) (Boot, Machine) {
	d := NewDecision(m, b, BootPolicy{After: AfterRetry}, nil, Actor{}, now)
	f(d)
	return d.Boot, d.Machine
}

// Record adds an event to a boot.
func Record(b Boot, e ingot.Event, now time.Time) Boot {
	b, _ = decided(Machine{}, b, now, func(d *Decision) { d.Record(e) })
	return b
}

// Judge takes a report into boot and machine.
func Judge(b Boot, m Machine, r ingot.Report, now time.Time) (Boot, Machine) {
	return decided(m, b, now, func(d *Decision) { d.Report(r) })
}

// Supersede ends the boot that a newer one replaces.
func Supersede(b Boot, now time.Time) Boot {
	return end(b, Superseded(b), now)
}

// Expire ends a boot that passed its deadline without a report.
func Expire(b Boot, now time.Time) (Boot, bool) {
	e, is := Overdue(b, now)
	if !is {
		return b, false
	}
	return end(b, e, now), true
}

func end(b Boot, e Ending, now time.Time) Boot {
	b, _ = decided(Machine{}, b, now, func(d *Decision) { d.End(e) })
	return b
}

// Expired marks the grants whose time passed before any boot used them.
func Expired(m Machine, now time.Time) (Machine, bool) {
	d := NewDecision(m, Boot{}, BootPolicy{}, nil, Actor{}, now)
	d.ExpireGrants()
	return d.Machine, len(d.Changes) > 0
}

// Stall ends a boot whose first stage stalled.
func Stall(b Boot, m Machine, reason string, list []string, now time.Time) (Boot, Machine) {
	d := NewDecision(m, b, BootPolicy{}, nil, Actor{}, now)
	d.stall(b, reason, list)
	return d.Older[0], d.Machine
}

// Restarts is Decision.Restarts, where every image can be served.
func Restarts(m Machine, b Boot, now time.Time) bool {
	d := NewDecision(m, b, BootPolicy{}, Images{string(v1.Image): {}, string(v2.Image): {}}, Actor{}, now)
	return d.Restarts() && d.Err() == nil
}
