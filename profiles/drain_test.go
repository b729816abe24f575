package profiles

import (
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDrain: hooks are inherited, a hook of the same name takes the place of the other one, and what could
// not be run is refused.
func TestDrain(t *testing.T) {
	const base = "name: base\nextends: lab\ndrain:\n  - {name: batch, command: [/usr/bin/scontrol, drain]}\n" +
		"  - {name: db, command: [/usr/bin/true], within: 30s}\n"
	dir := write(t, map[string]string{"base.yaml": base,
		"child.yaml": "name: child\nextends: base.yaml\ndrain:\n  - {name: late, command: [/bin/late]}\n" +
			"  - {name: batch, command: [/bin/other, a], within: 1h}\n"})
	p, err := Load(filepath.Join(dir, "child.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range p.Drain {
		got = append(got, h.Name+" "+strings.Join(h.Command, " ")+" "+time.Duration(h.Within).String())
	}
	if want := "batch /bin/other a 1h0m0s; db /usr/bin/true 30s; late /bin/late 0s"; strings.Join(got, "; ") != want {
		t.Errorf("the hooks are %q; want %q", got, want)
	}
	less := write(t, map[string]string{"base.yaml": base, "less.yaml": "name: less\nextends: base.yaml\ndrain: [-db]\n"})
	if p, err := Load(filepath.Join(less, "less.yaml")); err != nil || len(p.Drain) != 1 || p.Drain[0].Name != "batch" {
		t.Errorf("a hook that was taken back: %+v, %v", p, err)
	}
	many := "name: x\nextends: lab\ndrain:\n"
	for i := range 17 {
		many += "  - {name: h" + string(rune('a'+i)) + ", command: [/bin/true]}\n"
	}
	for text, want := range map[string]string{
		"drain:\n  - {name: a, command: [scontrol]}\n":                         `has no absolute path of a program`,
		"drain:\n  - {name: a, command: []}\n":                                 `has no absolute path of a program`,
		"drain:\n  - {name: A b, command: [/bin/true]}\n":                      `cannot be the name of a drain hook`,
		"drain:\n  - {name: a, command: [/bin/true], within: 25h}\n":           `may take 25h0m0s; write at most 24h0m0s`,
		"drain:\n  - {name: a, command: [/b]}\n  - {name: a, command: [/b]}\n": `is defined already at line 4`,
		"drain:\n  - {name: a, command: /bin/true}\n":                          `write a list`,
		"drain:\n  - {name: a, command: [/bin/true], timeout: 5s}\n":           `unknown key "timeout"`,
		strings.TrimPrefix(many, "name: x\nextends: lab\n"):                    `there are 17 drain hooks; at most 16`,
	} {
		dir := write(t, map[string]string{"p.yaml": "name: x\nextends: lab\n" + text})
		if _, err := Load(filepath.Join(dir, "p.yaml")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}
