package fleet

import (
	"fmt"
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
	return Entry{Seq: c.Seq, At: c.At, Kind: c.Kind(), Machine: c.Machine, Boot: c.Boot, Stage: c.Stage, Text: c.String(),
		Bytes: c.Bytes, Bad: c.Bad()}
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
