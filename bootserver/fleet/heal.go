package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"ingot"
)

// Healing: an image that fails again and again on a machine is given up there,
// and the machine boots the image that was healthy on it last. Everything that
// decides this is in the Machine, so a server that restarts decides the same.
//
//   - An operator's decision (Assign, Resume) resets the count of failures.
//   - An image that was the last healthy one on the machine is never given up:
//     there is nothing better, and what is wrong is not the image. So a machine
//     moves at most once between two words of operators, and cannot flip.
//   - Without such an image the machine is held: it waits for a person.

// After says what becomes of a machine whose image failed too often.
type After string

// The values of After.
const (
	AfterFallback After = "fallback" // boot the image last healthy on the machine; hold when there is none
	AfterHold     After = "hold"     // wait for a person
	AfterRetry    After = "retry"    // try again for ever
)

// DefaultAttempts is how often in a row an image may fail on a machine.
const DefaultAttempts = 2

// Policy is how machines heal. The zero Policy is the default.
type Policy struct {
	Attempts int   // failed boots in a row after which an image is given up; 0 means DefaultAttempts
	After    After // empty means AfterFallback
}

// Limit is how often in a row an image may fail on a machine.
func (p Policy) Limit() int { return cmp.Or(p.Attempts, DefaultAttempts) }

// Failure is one boot that counts against an image.
type Failure struct {
	Boot    ingot.BootID  `json:"boot"`
	Outcome ingot.Outcome `json:"outcome"`
	Stage   ingot.Stage   `json:"stage"` // the furthest that it came
	Reason  string        `json:"reason"`
	At      time.Time     `json:"at"`
}

// Trial is how the image that a machine boots now fares.
type Trial struct {
	Image    ingot.Digest `json:"image,omitempty"`
	Failures []Failure    `json:"failures,omitempty"` // in a row, the latest last
}

// IsZero reports whether nothing failed.
func (t Trial) IsZero() bool { return t.Image == "" && len(t.Failures) == 0 }

// maxFailures bounds what a Trial remembers of an image that is never given up.
const maxFailures = 10

// Setback says that the assigned image was given up, and what is done instead.
type Setback struct {
	Gave     ImageRef  `json:"gave"` // the image that failed
	To       ImageRef  `json:"to"`   // what the machine boots instead; empty: it is held
	Why      string    `json:"why"`
	At       time.Time `json:"at"`
	Failures []Failure `json:"failures"` // that decided it
}

// Assign gives a machine an image by an operator's word.
func Assign(m Machine, as Assignment) Machine {
	m.Assignment = as
	return Resume(m)
}

// Resume forgets what failed: the assigned image is tried again. What becomes
// of a boot whose image was decided before counts no more.
func Resume(m Machine) Machine {
	m.Trial, m.Setback, m.Orders = Trial{}, nil, m.Orders+1
	return m
}

// ApplyOutcome draws the consequences of a boot that ended: it counts the failures
// of an image in a row, and after too many gives it up. have says whether an
// image can still be served. Only the machine's latest boot matters, each boot
// once, and only if it was of what the machine is to boot: an operator may
// have decided otherwise meanwhile.
func ApplyOutcome(m Machine, b Boot, p Policy, have func(ingot.Digest) bool, now time.Time) Machine {
	switch {
	case m.Boot != b.ID || b.Image.Image == "":
		return m
	case b.Outcome == ingot.OutcomeHealthy:
		return forgetFailures(m, b)
	case b.Outcome != ingot.OutcomeFailed && b.Outcome != ingot.OutcomeSilent, !fetched(b):
		return m
	}
	if next, err := Next(m); err != nil || next.Image != b.Image.Image || b.Order != m.Orders {
		return m
	}
	if m.Trial.Image != b.Image.Image {
		m.Trial = Trial{Image: b.Image.Image}
	}
	if slices.ContainsFunc(m.Trial.Failures, func(f Failure) bool { return f.Boot == b.ID }) {
		return m
	}
	m.Trial.Failures = append(slices.Clone(m.Trial.Failures), Failure{b.ID, b.Outcome, b.Stage(), b.Reason, now})
	if more := len(m.Trial.Failures) - max(maxFailures, p.Limit()); more > 0 {
		m.Trial.Failures = m.Trial.Failures[more:]
	}
	if len(m.Trial.Failures) < p.Limit() || p.After == AfterRetry || b.Image.Image == m.LastHealthy.Image {
		return m
	}
	s := giveUp(m, b.Image, p, have, now)
	m.Setback, m.Trial = &s, Trial{}
	return m
}

// forgetFailures: what a machine says of itself outweighs our counting. It may
// have been slow, and given up before it spoke.
func forgetFailures(m Machine, b Boot) Machine {
	m.Trial = Trial{}
	if m.Setback != nil && m.Setback.Gave.Image == b.Image.Image {
		m.Setback = nil
	}
	return m
}

// fetched reports whether so much of the image was fetched that its fate is
// the image's own: a machine that was switched off in its loader says nothing.
func fetched(b Boot) bool {
	if b.First == FirstUKI {
		return b.Stage().Rank() >= ingot.StageLoader.Rank()
	}
	return b.Stage().Rank() >= ingot.StageInitramfs.Rank()
}

func giveUp(m Machine, image ImageRef, p Policy, have func(ingot.Digest) bool, now time.Time) Setback {
	s := Setback{Gave: image, At: now, Failures: m.Trial.Failures}
	failed := fmt.Sprintf("%s failed %s in a row", image.Name, Times(len(s.Failures)))
	switch last := m.LastHealthy; {
	case p.After == AfterHold:
		s.Why = failed + ", and the policy is to wait for an operator"
	case last.Image == "":
		s.Why = failed + ", and no image was ever healthy on this machine"
	case !have(last.Image):
		s.Why = fmt.Sprintf("%s, and %s, the last healthy image on this machine, can no longer be served", failed, last.Name)
	default:
		s.To, s.Why = last, fmt.Sprintf("%s; %s was the last healthy image on this machine", failed, last.Name)
	}
	return s
}

// Times says how often: once, twice, 3 times.
func Times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}
