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

// Entry is the Change in words.
func (c Change) Entry() Entry {
	return Entry{Seq: c.Seq, At: c.At, Kind: c.Kind(), Machine: c.Machine, Boot: c.Boot, Stage: c.Stage, Text: c.String(), Bytes: c.Bytes, Bad: c.Bad()}
}

func entries(changes []Change) (list []Entry) {
	for _, c := range changes {
		list = append(list, c.Entry())
	}
	return list
}

// BootEntries are BootChanges as Entries.
func BootEntries(old *Boot, b Boot, now time.Time) []Entry { return entries(BootChanges(old, b, now)) }

// BootChanges are the Changes that lead from one record of a boot to the next;
// old is nil for a new boot.
func BootChanges(old *Boot, b Boot, now time.Time) []Change {
	var list []Change
	add := func(c Change) {
		c.Machine, c.Boot = b.Machine, b.ID
		if c.At.IsZero() {
			c.At = now
		}
		list = append(list, c)
	}
	seen := 0
	if old != nil {
		seen = len(old.Events)
	}
	for _, e := range b.Events[min(seen, len(b.Events)):] {
		add(stageChange(e))
	}
	if c, is := reportChange(old, b); is {
		add(c)
	}
	if len(b.Changes) > 0 && (old == nil || !slices.Equal(old.Changes, b.Changes)) {
		add(Change{Code: CodeBootHardware, To: Values{"changes": b.Changes}})
	}
	if b.Crash != "" && (old == nil || old.Crash != b.Crash) {
		add(Change{Code: CodeBootCrash, Detail: b.Crash})
	}
	if b.Outcome != ingot.OutcomeOpen && (old == nil || old.Outcome != b.Outcome) {
		add(Change{Code: CodeBootEnded, Image: b.Image, To: Values{"outcome": string(b.Outcome)}, Detail: b.Reason})
	}
	return list
}

// stageChange is the Change of one event of a boot.
func stageChange(e Event) Change {
	c := Change{Code: CodeBootStage, At: e.At, Stage: e.Stage, Bytes: e.Bytes, Detail: e.Detail}
	if e.Error != "" {
		c.Code, c.Detail, c.Failure = CodeStageFailed, e.Error, e.Code
		if e.Retry {
			c.To = Values{"retry": true}
		}
	}
	return c
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

// reportChange is what a report says that the one before did not: units that
// failed, and a machine that was healthy and is not, or is again.
func reportChange(old *Boot, b Boot) (c Change, is bool) {
	if b.Report == nil {
		return c, false
	}
	var before ingot.Report
	first := old == nil || old.Report == nil
	if !first {
		before = *old.Report
	}
	c = Change{Code: CodeBootReport, Stage: ingot.StageHealthy, To: Values{"isHealthy": b.Report.Healthy}}
	if !first && before.Healthy != b.Report.Healthy {
		c.To["healthy"] = b.Report.Healthy
		var checks []Values
		for _, k := range b.Report.Checks {
			if !k.OK {
				checks = append(checks, Values{"name": k.Name, "detail": k.Detail})
			}
		}
		if checks != nil {
			c.To["checks"] = checks
		}
	}
	if len(b.Report.Failed) > 0 && !slices.Equal(before.Failed, b.Report.Failed) {
		c.To["units"] = b.Report.Failed
	}
	return c, len(c.To) > 1
}
