package fleet

import (
	"fmt"
	"strings"
	"time"

	"ingot"
)

// Entry is one line of the ledger. The ledger is append-only; old entries are removed.
type Entry struct {
	Seq     uint64          `json:"seq"`
	At      time.Time       `json:"at"`
	Kind    Kind            `json:"kind"`
	Machine ingot.MachineID `json:"machine,omitempty"`
	Boot    ingot.BootID    `json:"boot,omitempty"`
	Stage   ingot.Stage     `json:"stage,omitempty"` // of KindStep
	Text    string          `json:"text"`            // for operators
	Bytes   int64           `json:"bytes,omitempty"`
	Bad     bool            `json:"bad,omitempty"` // worth a look
}

// Entry renders the Change as a line of the ledger.
func (c Change) Entry() Entry {
	return Entry{Seq: c.Seq, At: c.At, Kind: c.Kind(), Machine: c.Machine, Boot: c.Boot, Stage: c.Stage, Text: c.String(),
		Bytes: c.Bytes, Bad: c.Bad()}
}

// maxWords limits the changes that one entry lists.
const maxWords = 12

// joined joins at most maxWords strings, and says how many more there are.
func joined(list []string, by string) string {
	if more := len(list) - maxWords; more > 0 {
		return fmt.Sprintf("%s%sand %d more", strings.Join(list[:maxWords], by), by, more)
	}
	return strings.Join(list, by)
}
