package explain

import "testing"

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{"plain\ttext\r\n": "plain\ttext\n", "\x1b[31mred\x07": `\x1b[31mred\x07`,
		"a\xffb": `a\xffb`, "z\u202ex": `z\xe2\x80\xaex`, "übel": "übel"} {
		if got := Printable(in); got != want {
			t.Errorf("Printable(%q) = %q; want %q", in, got, want)
		}
	}
}

func TestCrashLine(t *testing.T) {
	text := "<4>[    1.0] hello\n<1>[   12.345] BUG: kernel NULL pointer dereference, address: 0\n<0>[   12.4] Kernel " +
		"panic - not syncing: Fatal exception\n<0>[   12.5] ---[ end ]---\n"
	if got := CrashLine(text); got != "BUG: kernel NULL pointer dereference, address: 0" {
		t.Errorf("CrashLine = %q", got)
	}
	text = "[ 1.0] Out of memory: Killed process 7 (x)\n[ 2.0] Kernel panic - not syncing: VFS: Unable to mount root fs\n"
	if got := CrashLine(text); got != "Kernel panic - not syncing: VFS: Unable to mount root fs" {
		t.Errorf("CrashLine = %q", got)
	}
	if got := CrashLine("[ 1.0] Kernel panic - not syncing: Fatal exception in " +
		"interrupt\n"); got != "Kernel panic - "+
		"not syncing: Fatal exception in interrupt" {
		t.Errorf("CrashLine = %q; want what little there is", got)
	}
	if got := CrashLine("[ 1.0] all is well\n"); got != "" {
		t.Errorf("CrashLine = %q; want none", got)
	}
}
