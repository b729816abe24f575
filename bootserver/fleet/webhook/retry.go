package webhook

import (
	"slices"
	"time"
)

const statusGone = 410

// elsewhere are the statuses of 400 to 599 that say nothing of the event: the receiver, what is before it, the URL or
// the credentials are at fault, or its load (RFC 9110, RFC 6585, RFC 8470).
var elsewhere = []int{401, 402, 403, 404, 405, 407, 408, 421, 425, 426, 429, 431, 451, 502, 503, 504, 511}

// Policy is how long events are tried. Zero fields mean the defaults.
type Policy struct {
	First   time.Duration // before the second attempt; each later pause is twice as long
	Longest time.Duration // pause between two attempts
	// Refused is the number of answers that say that an event is at fault (4xx), after which it is given up.
	Refused int
	// Patience is how long an event is tried at which a receiver fails that is there (5xx, no answer in time). Of
	// events without one between them that was accepted, one is given up for that: the receiver may fail at all.
	Patience time.Duration
	// Report is the number of failures in a row after which the ledger says that a webhook fails.
	Report int
}

// The defaults of a Policy.
const (
	DefaultFirst    = 5 * time.Second
	DefaultLongest  = time.Hour
	DefaultRefused  = 10
	DefaultPatience = 24 * time.Hour
	DefaultReport   = 5
)

// maxRetryAfter bounds what a receiver can ask for by Retry-After.
const maxRetryAfter = 24 * time.Hour

// WithDefaults returns the policy with defaults for what is zero.
func (p Policy) WithDefaults() Policy {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&p.First, DefaultFirst)
	set(&p.Longest, DefaultLongest)
	set(&p.Patience, DefaultPatience)
	if p.Refused == 0 {
		p.Refused = DefaultRefused
	}
	if p.Report == 0 {
		p.Report = DefaultReport
	}
	return p
}

// Result is what became of one attempt.
type Result struct {
	Status int           // of the answer; 0: there was none
	Late   bool          // there was none in time, of a receiver that is there
	Why    string        // why it failed
	Said   string        // text of the answer, from the receiver
	After  time.Duration // that the receiver asked for by Retry-After
}

// Text is why an attempt failed, with the text of the answer. That is for administrators: others see the
// ledger, and must not read by it what a receiver answers.
func (r Result) Text() string {
	if r.Said == "" {
		return r.Why
	}
	return r.Why + ": " + r.Said
}

// OK reports whether the event was accepted.
func (r Result) OK() bool { return r.Status >= 200 && r.Status < 300 }

// gone reports whether the receiver wants nothing more.
func (r Result) gone() bool { return r.Status == statusGone }

// Refused reports whether the answer says that the event is at fault, and not the receiver or its load.
func (r Result) Refused() bool {
	return r.Status >= 400 && r.Status < 500 && !slices.Contains(elsewhere, r.Status)
}

// Fails reports whether the receiver is there, and may have failed because of the event.
func (r Result) Fails() bool {
	return r.Late || r.Status >= 500 && r.Status < 600 && !slices.Contains(elsewhere, r.Status)
}

// Verdict is what follows from an attempt.
type Verdict int

// The verdicts.
const (
	Delivered Verdict = iota
	Retry             // the event is tried again
	Dead              // the event is given up
	Gone              // the receiver wants nothing more: the webhook is paused, and the event stays next
)

// After returns the progress after an attempt that ended at a time. random is from [0,1). The caller moves
// Seq and Gap on when the verdict is Delivered or Dead.
func (p Policy) After(w Progress, r Result, now time.Time, random float64) (Progress, Verdict) {
	w.Attempts++
	if r.OK() {
		w = w.Anew()
		w.Failures, w.Last, w.Stuck = 0, nil, false
		w.Sent++
		w.SentAt = now
		return w, Delivered
	}
	w.Failures++
	w.Last = &Failure{At: now, Status: r.Status, Why: r.Text()}
	if r.gone() {
		return w.Anew(), Gone
	}
	w.Next = now.Add(p.Pause(w.Failures, r, random))
	switch {
	case r.Refused():
		if w.Refusals++; w.Refusals >= p.Refused {
			return w.Anew(), Dead // the next event may be accepted
		}
	case !r.Fails():
		w.Began = time.Time{}
	case w.Began.IsZero() || w.Began.After(now):
		w.Began = now
	case now.Sub(w.Began) >= p.Patience && !w.Stuck:
		w.Stuck = true
		return w.Anew(), Dead
	}
	return w, Retry
}

// Anew is the progress without the attempts of the event that was next.
func (w Progress) Anew() Progress {
	w.Attempts, w.Refusals, w.Began, w.Next = 0, 0, time.Time{}, time.Time{}
	return w
}

// Pause returns how long to wait after so many failures in a row: twice as long each time, between a half
// and the whole of it, so that several webhooks of one receiver do not come together.
func (p Policy) Pause(failures int, r Result, random float64) time.Duration {
	d := p.Longest
	if shift := failures - 1; shift < 32 && p.First<<shift > 0 {
		d = min(d, p.First<<shift)
	}
	d = d/2 + time.Duration(random*float64(d/2))
	return max(d, min(r.After, maxRetryAfter))
}

// Wait returns how long no attempt is to be made yet. A time that is further away than any pause is from a
// clock that was set, and does not count.
func (p Policy) Wait(w Progress, now time.Time) time.Duration {
	d := w.Next.Sub(now)
	if d <= 0 || d > max(p.Longest, maxRetryAfter) {
		return 0
	}
	return d
}
