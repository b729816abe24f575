package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"ingot"
)

// Healing: if an image fails repeatedly on a machine, the machine falls back to the image
// that was last healthy on it. All state for this is in the Machine, so a restarted
// server decides the same.
//
//   - An operator's decision (Assign, Resume) resets the count of failures.
//   - The last healthy image of a machine is always retried: there is nothing better, and
//     the image is unlikely to be the problem. So a machine falls back at most once
//     between two decisions of operators, and does not alternate between images.
//   - A machine without such an image is held until an operator decides.

// After is what happens to a machine whose image failed too often.
type After string

// The values of After.
const (
	AfterFallback After = "fallback" // boot the last healthy image of the machine; hold if there is none
	AfterHold     After = "hold"     // wait for an operator
	AfterRetry    After = "retry"    // retry without limit
)

// DefaultAttempts is the default of Policy.Attempts.
const DefaultAttempts = 2

// Policy is how machines heal. The zero Policy is the default.
type Policy struct {
	Attempts int   // failed boots in a row before falling back; 0 means DefaultAttempts
	After    After // empty means AfterFallback
}

// Limit returns the number of failed boots in a row before a machine falls back.
func (p Policy) Limit() int { return cmp.Or(p.Attempts, DefaultAttempts) }

// Failure is one boot that counts against an image.
type Failure struct {
	Boot    ingot.BootID  `json:"boot"`
	Outcome ingot.Outcome `json:"outcome"`
	Stage   ingot.Stage   `json:"stage"` // the furthest stage reached
	Reason  string        `json:"reason"`
	At      time.Time     `json:"at"`
}

// Trial counts the failures of the image that a machine boots now.
type Trial struct {
	Image    ingot.Digest `json:"image,omitempty"`
	Failures []Failure    `json:"failures,omitempty"` // consecutive, the latest last
}

// IsZero reports whether nothing failed.
func (t Trial) IsZero() bool { return t.Image == "" && len(t.Failures) == 0 }

// maxFailures limits the stored failures of an image that is retried without limit.
const maxFailures = 10

// Setback records that the assigned image failed too often, and what the machine boots
// instead.
type Setback struct {
	Gave     ImageRef  `json:"gave"` // the image that failed
	To       ImageRef  `json:"to"`   // the image to boot instead; empty: the machine is held
	Why      string    `json:"why"`
	At       time.Time `json:"at"`
	Failures []Failure `json:"failures"` // the failures that led to it
}

// Assign assigns an image to a machine on behalf of an operator.
func Assign(m Machine, as Assignment) Machine {
	m.Assignment = as
	return Resume(m)
}

// Resume clears the failures of a machine, so that it retries its assigned image. Boots
// whose image was decided before no longer count.
func Resume(m Machine) Machine {
	m.Trial, m.Setback, m.Orders = Trial{}, nil, m.Orders+1
	return m
}

// ApplyOutcome returns the machine after a boot ended: it counts consecutive failures of
// an image, and after too many falls back or holds the machine. have reports whether an
// image can still be served. Only the latest boot counts, once, and only if it booted
// the image that the machine should boot: an operator may have changed that. A boot with a Once never
// counts.
func ApplyOutcome(m Machine, b Boot, p Policy, have func(ingot.Digest) bool, now time.Time) Machine {
	switch {
	case m.Boot != b.ID || b.Image.Image == "" || b.Once != nil:
		return m
	case b.Outcome == ingot.OutcomeHealthy:
		return forgetFailures(m, b)
	case b.Outcome != ingot.OutcomeFailed && b.Outcome != ingot.OutcomeSilent, !Delivered(b), Blameless(b):
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

// forgetFailures clears the failures after a healthy report, even if the boot had been
// counted as failed: the machine may only have been slow.
func forgetFailures(m Machine, b Boot) Machine {
	m.Trial = Trial{}
	if m.Setback != nil && m.Setback.Gave.Image == b.Image.Image {
		m.Setback = nil
	}
	return m
}

// Delivered reports whether enough of the image was fetched to attribute a failure to it. A
// machine that was switched off in its loader proves nothing about the image.
func Delivered(b Boot) bool {
	if b.First == FirstUKI {
		return b.Stage().Rank() >= ingot.StageLoader.Rank()
	}
	return b.Stage().Rank() >= ingot.StageInitramfs.Rank()
}

// Blameless reports whether a boot ended because of something that another image would meet as well:
// the machine's volumes, or kernel arguments that somebody changed on the way.
func Blameless(b Boot) bool {
	n := len(b.Events)
	return VolumeTrouble(b) || n > 0 && b.Events[n-1].Error != "" && b.Events[n-1].Code == ingot.FailureArguments
}

// VolumeTrouble reports whether a boot ended because of its volumes: one was refused or could
// not be mounted, or was still being checked. Another image would meet the same disks.
func VolumeTrouble(b Boot) bool {
	if len(b.Events) == 0 {
		return false
	}
	switch last := b.Events[len(b.Events)-1]; {
	case last.Error == "":
		return last.Check != nil
	case last.Code == "": // of an older image
		return last.Stage == ingot.StageVolumes
	default:
		return last.Code == ingot.FailureVolume
	}
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

// Times formats a count: "once", "twice", "3 times".
func Times(n int) string {
	switch n {
	case 1:
		return "once"
	case 2:
		return "twice"
	}
	return fmt.Sprintf("%d times", n)
}
