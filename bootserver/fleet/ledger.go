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
		c := stageChange(e)
		c.At = e.At
		add(c)
	}
	var before *ingot.Report
	if old != nil {
		before = old.Report
	}
	if b.Report != nil {
		if c, is := reportChange(before, *b.Report); is {
			add(c)
		}
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

// maxWords bounds how many changes one entry lists.
const maxWords = 12

// joined lists what changed, and says how much more there is.
func joined(list []string, by string) string {
	if more := len(list) - maxWords; more > 0 {
		return fmt.Sprintf("%s%sand %d more", strings.Join(list[:maxWords], by), by, more)
	}
	return strings.Join(list, by)
}
