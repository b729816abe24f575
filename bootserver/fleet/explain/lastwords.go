package explain

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable makes text from a machine safe to show in a terminal: control characters
// other than line breaks and tabs are escaped, as in \x1b.
func Printable(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1, r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)):
			if r == '\r' && i+1 < len(s) && s[i+1] == '\n' {
				break
			}
			for _, c := range []byte(s[i : i+n]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// CrashLine returns the line of a kernel log that gives the reason of a crash, or "".
// A panic message is preferred, except "Fatal exception", which follows the reason.
func CrashLine(text string) string {
	const panics, after = "Kernel panic - not syncing", "Fatal exception"
	reason := ""
	for line := range strings.SplitSeq(text, "\n") {
		if _, rest, ok := strings.Cut(line, "] "); ok {
			line = rest
		}
		for _, sign := range []string{panics, "BUG:", "Oops:", "Out of memory"} {
			if strings.Contains(line, sign) && (reason == "" || sign == panics && !strings.Contains(line, after)) {
				reason = strings.TrimSpace(line)
			}
		}
	}
	return reason
}
