package ipxe

import (
	"strings"
	"testing"
)

func TestBootText(t *testing.T) {
	got := Boot{
		Image: "lab:v1 for node\nreboot", Kernel: "http://s/k", Initramfs: "http://s/i",
		Arguments: []string{"a=1", `b="c +d"`}, Again: "http://s/again",
	}.Text()
	want := `#!ipxe
echo ingot: booting lab:v1 for node reboot
kernel http://s/k a=1 b="c +d" || goto failed
initrd http://s/i || goto failed
boot || goto failed
:failed
echo ingot: lab:v1 for node reboot could not be loaded, trying again
sleep 5
chain --replace http://s/again || reboot
`
	if got != want {
		t.Errorf("Text =\n%s\nwant\n%s", got, want)
	}
}

// TestWaitIsReadable: sentences of ingot, with quotes and signs that iPXE cannot show, stay sentences.
func TestWaitIsReadable(t *testing.T) {
	for line, want := range map[string]string{
		`image "lab:v1": blob 3f2a has 3 bytes; want 5`: "image lab:v1: blob 3f2a has 3 bytes, want 5",
		"its board's serial number changed: A → B…":     "its boards serial number changed: A -> B...",
		"release key #2 & others; see\nthe log":         "release key no. 2 and others, see the log",
		"ünï ${x}|":                                     "?n? ?{x}?",
	} {
		got := Wait{Lines: []string{line}}.Text()
		if !strings.HasPrefix(got, "#!ipxe\necho "+want+"\n") {
			t.Errorf("%q is shown as\n%s\nwant %q", line, got, want)
		}
	}
}

func TestWaitIsHarmless(t *testing.T) {
	got := Wait{Lines: []string{"hello ${secret} && reboot", "ünï"}, Again: "http://s/x"}.Text()
	const again = "chain --replace http://s/x?vendor=${manufacturer:uristring}" +
		"&product=${product:uristring}&serial=${serial:uristring} ||\n"
	if strings.Contains(got, "${secret}") || strings.Contains(got, "&& reboot\n") || !strings.Contains(got, again) {
		t.Errorf("Text =\n%s", got)
	}
}
