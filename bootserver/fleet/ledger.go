package fleet

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"ingot"
)

// Entry is one line of the ledger: what happened when. The ledger is only
// appended to; what is old is forgotten.
type Entry struct {
	Seq     uint64          `json:"seq"`
	At      time.Time       `json:"at"`
	Kind    Kind            `json:"kind"`
	Machine ingot.MachineID `json:"machine,omitempty"`
	Boot    ingot.BootID    `json:"boot,omitempty"`
	Stage   ingot.Stage     `json:"stage,omitempty"` // of KindStep
	Text    string          `json:"text"`            // for people
	Bytes   int64           `json:"bytes,omitempty"`
	Bad     bool            `json:"bad,omitempty"` // worth a look
}

// Kind sorts entries.
type Kind string

// The kinds of entries.
const (
	KindStep     Kind = "step"     // a stage of a boot was reached, or failed
	KindEnd      Kind = "end"      // a boot ended
	KindDecision Kind = "decision" // what a machine boots next was decided
	KindMachine  Kind = "machine"  // what is known of a machine, or allowed to it, changed
	KindServer   Kind = "server"   // something befell all machines: the entry is of none
)

// BootEntries are the entries that lead from one record of a boot to the next;
// old is nil for a new boot.
func BootEntries(old *Boot, b Boot, now time.Time) []Entry {
	e := Entry{At: now, Machine: b.Machine, Boot: b.ID}
	var list []Entry
	seen := 0
	if old != nil {
		seen = len(old.Events)
	}
	for _, step := range b.Events[min(seen, len(b.Events)):] {
		s := e
		s.At, s.Kind, s.Stage, s.Bytes, s.Text = step.At, KindStep, step.Stage, step.Bytes, step.Detail
		if step.Error != "" {
			s.Text, s.Bad = "failed: "+step.Error, true
			if step.Retry {
				s.Text += "; it tries again"
			}
		}
		list = append(list, s)
	}
	if text := reportChange(old, b); text != "" {
		r := e
		r.Kind, r.Stage, r.Text, r.Bad = KindStep, ingot.StageHealthy, text, !b.Report.Healthy || len(b.Report.Failed) > 0
		list = append(list, r)
	}
	if len(b.Changes) > 0 && (old == nil || !slices.Equal(old.Changes, b.Changes)) {
		c := e
		c.Kind, c.Bad, c.Text = KindMachine, true, "its hardware changed: "+joined(b.Changes, "; ")
		list = append(list, c)
	}
	if b.Crash != "" && (old == nil || old.Crash != b.Crash) {
		c := e
		c.Kind, c.Bad, c.Text = KindStep, true, "its kernel crashed, as pstore kept it: "+b.Crash
		list = append(list, c)
	}
	if b.Outcome != ingot.OutcomeOpen && (old == nil || old.Outcome != b.Outcome) {
		e.Kind, e.Text, e.Bad = KindEnd, string(b.Outcome), b.Outcome == ingot.OutcomeFailed || b.Outcome == ingot.OutcomeSilent
		if b.Image.Name != "" {
			e.Text = b.Image.Name + " " + e.Text
		}
		if b.Reason != "" {
			e.Text += ": " + b.Reason
		}
		list = append(list, e)
	}
	return list
}

// maxWords bounds how many changes one entry lists.
const maxWords = 12

// joined lists what changed, and says how much more there is.
func joined(list []string, by string) string {
	if more := len(list) - maxWords; more > 0 {
		return fmt.Sprintf("%s%sand %d more", strings.Join(list[:maxWords], by), by, more)
	}
	return strings.Join(list, by)
}

// reportChange says what a report tells that the one before did not: units that
// failed, and a machine that was healthy and is not, or is again.
func reportChange(old *Boot, b Boot) string {
	if b.Report == nil {
		return ""
	}
	var before ingot.Report
	first := old == nil || old.Report == nil
	if !first {
		before = *old.Report
	}
	var words []string
	if !first && before.Healthy != b.Report.Healthy {
		words = append(words, map[bool]string{true: "healthy again", false: "not healthy any more"}[b.Report.Healthy])
		for _, c := range b.Report.Checks {
			if !c.OK {
				words = append(words, fmt.Sprintf("check %s: %s", c.Name, c.Detail))
			}
		}
	}
	if len(b.Report.Failed) > 0 && !slices.Equal(before.Failed, b.Report.Failed) {
		words = append(words, "failed units: "+strings.Join(b.Report.Failed, ", "))
	}
	return strings.Join(words, "; ")
}
