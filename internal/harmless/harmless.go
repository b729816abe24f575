// Package harmless makes text that strangers chose safe to show: names,
// serial numbers and messages of machines must not move the cursor, change
// colours or reverse the order of what an operator reads.
package harmless

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Harms reports whether a character does something else than being seen:
// control characters (C0, C1, DEL) and format characters (Unicode categories
// Cc and Cf: bidirectional overrides, zero-width ones), line and paragraph
// separators, and bytes that are not UTF-8.
func Harms(r rune) bool {
	if r < utf8.RuneSelf { // nearly all of a long list
		return r < ' ' || r == 0x7f
	}
	return unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || r == utf8.RuneError
}

// Text replaces each character that harms by a dot.
func Text(s string) string {
	return strings.Map(func(r rune) rune {
		if Harms(r) {
			return '·'
		}
		return r
	}, s)
}

// Lines is Text for what may have several lines, and tabs.
func Lines(s string) string {
	return strings.Map(func(r rune) rune {
		if Harms(r) && r != '\n' && r != '\t' {
			return '·'
		}
		return r
	}, s)
}

// JSON writes the characters that harm as escapes (RFC 8259 section 7). They
// can only be inside of strings, so the value stays the same; white space
// between values is kept.
func JSON(text []byte) []byte {
	var out []byte // nil as long as nothing was changed
	done := 0      // of text, what out has
	for i := 0; i < len(text); {
		if c := text[i]; c >= ' ' && c < 0x7f || c == '\n' || c == '\t' || c == '\r' {
			i++
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		if Harms(r) {
			out = escape(append(out, text[done:i]...), r)
			done = i + n
		}
		i += n
	}
	if out == nil {
		return text
	}
	return append(out, text[done:]...)
}

func escape(out []byte, r rune) []byte {
	if r > 0xffff {
		a, b := utf16.EncodeRune(r)
		return fmt.Appendf(out, `\u%04x\u%04x`, a, b)
	}
	return fmt.Appendf(out, `\u%04x`, r)
}
