package explain

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Printable makes text from a machine safe to show in a terminal: control
// characters, but for line breaks and tabs, are shown as \x1b is.
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

// CrashLine is the line of a kernel's last words that says why, or "". A panic
// says it best, but for the one that only says that something came before it.
func CrashLine(text string) string {
	const panics, after = "Kernel panic - not syncing", "Fatal exception"
	why := ""
	for line := range strings.SplitSeq(text, "\n") {
		if _, rest, ok := strings.Cut(line, "] "); ok {
			line = rest
		}
		for _, sign := range []string{panics, "BUG:", "Oops:", "Out of memory"} {
			if strings.Contains(line, sign) && (why == "" || sign == panics && !strings.Contains(line, after)) {
				why = strings.TrimSpace(line)
			}
		}
	}
	return why
}
