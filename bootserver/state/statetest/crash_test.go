package statetest

import "testing"

// TestInterruptedCalls: a call that strace shows in two lines counts if its second line says that it succeeded.
func TestInterruptedCalls(t *testing.T) {
	b := Backend{Files: []string{"ingot.journal"}}
	for name, c := range map[string]struct {
		lines []string
		want  string // kind of the call, or none
	}{
		"removed": {[]string{`7 unlinkat(AT_FDCWD, "/s/ingot.journal", 0) = 0`}, "remove"},
		"nothing to remove": {[]string{`7 unlinkat(AT_FDCWD, "/s/ingot.journal", 0) = -1 ENOENT (No such file or directory)`},
			""},
		"removed, interrupted": {[]string{`7 unlinkat(AT_FDCWD, "/s/ingot.journal", 0 <unfinished ...>`,
			`8 fsync(3</s/other>) = 0`, `7 <... unlinkat resumed>) = 0`}, "remove"},
		"nothing to remove, interrupted": {[]string{`7 unlinkat(AT_FDCWD, "/s/ingot.journal", 0 <unfinished ...>`,
			`7 <... unlinkat resumed>) = -1 ENOENT (No such file or directory)`}, ""},
		"synced, interrupted": {[]string{`7 fdatasync(3</s/ingot.journal> <unfinished ...>`,
			`7 <... fdatasync resumed>) = 0`}, "sync"},
		"not synced": {[]string{`7 fdatasync(3</s/ingot.journal> <unfinished ...>`,
			`7 <... fdatasync resumed>) = -1 EIO (Input/output error)`}, ""},
	} {
		kind, unfinished := "", map[string]call{}
		for _, line := range c.lines {
			if got, ok := b.parseCall(line, unfinished); ok {
				kind += got.kind
			}
		}
		if kind != c.want {
			t.Errorf("%s: read %q; want %q", name, kind, c.want)
		}
	}
}
