package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Verdict is what the agent reports to the guard.
type Verdict string

// The verdicts. While there is none, the guard waits for the deadline.
const (
	VerdictHealthy Verdict = "healthy" // reported, and taken by the server
	VerdictStays   Verdict = "stays"   // not healthy, and it is to stay as it is for a person
	VerdictWell    Verdict = "well"    // every check passed, but the server does not have the report yet
)

const verdictFile = "verdict"

// WriteVerdict leaves a verdict in dir.
func WriteVerdict(dir string, v Verdict) error {
	tmp := filepath.Join(dir, "."+verdictFile)
	if err := os.WriteFile(tmp, []byte(v), 0o600); err != nil {
		return fmt.Errorf("writing the verdict: %w", err)
	}
	return os.Rename(tmp, filepath.Join(dir, verdictFile))
}

// ReadVerdict returns the verdict in dir, or "".
func ReadVerdict(dir string) Verdict {
	b, err := os.ReadFile(filepath.Join(dir, verdictFile))
	if err != nil {
		return ""
	}
	return Verdict(strings.TrimSpace(string(b)))
}
