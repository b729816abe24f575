package profiles

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestScriptsMerge: scripts are appended, replaced and taken back by name; a source becomes part of the
// profile, so that the plan has it; variables reach env only.
func TestScriptsMerge(t *testing.T) {
	dir := write(t, map[string]string{"a/profile.yaml": `name: a
extends: lab
vars: {n: 4}
scripts:
  configure: [{name: one, source: one.sh}, {name: two, run: "echo 2"}]
  finish: [{name: end, run: "echo ${HOME} $N\n", env: {N: "${n}"}}]
`, "a/one.sh": "echo 1\n", "b/profile.yaml": `name: b
extends: ../a
vars: {n: 5}
scripts:
  configure: [-two, {name: three, run: "echo 3"}, {name: one, run: "echo one"}]
`})
	p, err := Load(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, list := range scriptLists {
		for _, s := range *list.of(p) {
			got = append(got, s.Name+": "+s.Run+s.Env["N"])
		}
	}
	if d := cmp.Diff([]string{"one: echo one", "three: echo 3", "end: echo ${HOME} $N\n5"}, got); d != "" {
		t.Errorf("scripts (-want +got):\n%s", d)
	}
	if p, err = Load(filepath.Join(dir, "a")); err != nil || p.Scripts.Configure[0].Run != "echo 1\n" ||
		p.Scripts.Configure[0].Source != "" {
		t.Errorf("the script of a file is %+v, %v", p.Scripts.Configure, err)
	}
}

// TestFaultsOfScripts: each wrong use has one message.
func TestFaultsOfScripts(t *testing.T) {
	dir := write(t, map[string]string{"p.yaml": `name: p
extends: lab
scripts:
  configure:
    - {name: A b, run: x}
    - {name: none}
    - {name: both, run: x, source: y}
    - {name: out, source: ../y}
    - {name: gone, source: y.sh}
    - {name: long, source: long.sh}
    - {name: env, run: x, env: {"A-B": 1}}
    - {name: env, run: x}
  finish: [-env]
`, "long.sh": strings.Repeat("x", maxScript+1)})
	want := []string{
		`p.yaml:5:7: "A b" cannot be the name of a script; write lower-case letters, digits and dashes`,
		`p.yaml:6:7: the script "none" needs either run or source; write one of them`,
		`p.yaml:7:7: the script "both" needs either run or source; write one of them`,
		`p.yaml:8:7: the source "../y" is outside the profile's folder; write a path below the profile's folder, without ..`,
		`p.yaml:9:7: the source "y.sh" of the script "gone" cannot be read; put it beside the profile`,
		`p.yaml:10:7: the source "long.sh" of the script "long" is too long; keep it below 256 KiB, and put data into ` +
			`files ` +
			`or layers`,
		`p.yaml:11:7: "A-B" cannot be an environment variable; write letters, digits and underscores`,
		`p.yaml:12:7: the script "env" is defined already at line 11; keep one of them`,
		`p.yaml:13:12: scripts.finish: no profile that this one extends has "env"; leave -env out`,
	}
	var got []string
	for _, f := range faultsOf(t, dir, "p.yaml") {
		if !strings.Contains(f, `"y" of the script "both"`) { // it does not exist either
			got = append(got, f)
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("faults (-want +got):\n%s", d)
	}
}
