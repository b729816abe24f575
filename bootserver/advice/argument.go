package advice

import (
	"strings"
	"unicode"
)

// Argument returns a value as an argument of a command line that an operator can paste into a POSIX
// shell: quoted, if it holds more than letters, digits and what no shell interprets. It reports false
// for a value that must not be pasted: empty, with characters that are not printed, or one that a
// command would take for a flag.
func Argument(value string) (argument string, ok bool) {
	if value == "" || value[0] == '-' || strings.ContainsFunc(value, hidden) {
		return "", false
	}
	if !strings.ContainsFunc(value, interpreted) {
		return value, true
	}
	return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'", true
}

func hidden(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }

// interpreted reports whether a character may mean something to a shell.
func interpreted(r rune) bool {
	plain := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("@%+=:,./_-", r)
	return !plain
}
