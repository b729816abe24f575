package advice

import (
	"os/exec"
	"testing"
)

// TestArgument: a shell passes on what was quoted as it was, and runs nothing of it.
func TestArgument(t *testing.T) {
	for _, value := range []string{"node01", "lab:v1", "S/N 12 34", `x $(id)`, "`id`;reboot #", `' " \ x`, "a\\", "*",
		"~root",
		"&& id", "{a,b}", "!!", "Ä b", "x=y"} {
		argument, ok := Argument(value)
		if !ok {
			t.Errorf("%q is no argument", value)
			continue
		}
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf '%s|' "+argument).Output()
		if err != nil || string(out) != value+"|" {
			t.Errorf("%s gives %q, %v; want %q", argument, out, err, value)
		}
	}
	for _, value := range []string{"", "-x", "--adopt", "a\nb", "a\x1b[2J", "a\u202eb", "a\xffb"} {
		if argument, ok := Argument(value); ok {
			t.Errorf("%q is the argument %q; want none", value, argument)
		}
	}
	if plain, _ := Argument("/dev/disk/by-id/wwn-0x5000"); plain != "/dev/disk/by-id/wwn-0x5000" {
		t.Errorf("a plain value is quoted: %s", plain)
	}
}
