package rootfs

import (
	"encoding/json"
	"os"
	"path/filepath"

	"ingot"
)

// Verdict is what the agent decided about a boot. It decides once: an agent that is
// started again reads the verdict and only reports.
type Verdict string

// The verdicts. While there is none, the guard waits for the deadline of the boot.
const (
	VerdictHealthy Verdict = "healthy" // every check passed, whether or not the server knows
	VerdictStays   Verdict = "stays"   // not healthy; the machine stays up for inspection
	VerdictReboots Verdict = "reboots" // not healthy; the next boot is another attempt or of another image
)

// Decided is the content of the verdict's file in ingot.RunDir. The folder is a tmpfs: the
// file outlives the agent and a soft reboot, and no other boot.
type Decided struct {
	Boot    ingot.BootID `json:"boot"` // that it is about
	Verdict Verdict      `json:"verdict"`
	Report  ingot.Report `json:"report"` // the first of the boot, which led to the verdict
	Posted  bool         `json:"posted"` // the server has the report
}

const verdictFile = "verdict.json"

// Write stores d below dir, readable by root only. A reader sees the old file or the new one.
func (d Decided) Write(dir string) error { return writeNote(dir, verdictFile, "the verdict", d) }

// ReadDecided returns what was decided about a boot, and false if there is nothing, or
// only of another boot. Of a file that cannot be read, the cautious answer is returned:
// something was decided, and nothing reboots the machine.
func ReadDecided(dir string, boot ingot.BootID) (d Decided, is bool) {
	b, err := os.ReadFile(filepath.Join(dir, verdictFile))
	switch {
	case os.IsNotExist(err):
		return Decided{}, false
	case err != nil || json.Unmarshal(b, &d) != nil || d.Verdict == "":
		return Decided{Boot: boot, Verdict: VerdictStays}, true
	}
	return d, d.Boot == boot
}
