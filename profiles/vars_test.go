package profiles

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const variedProfile = `name: varied
extends: lab
vars:
  workers: 4
  domain: {type: text, default: example.org, description: Where the service is.}
  debug: false
  token: {type: text}
packages:
  - curl
  - {name: intel-microcode, when: {arch: amd64}}
  - {name: [gdb, strace], when: {debug: true}}
kernel:
  - {package: linux-image-rt-arm64, when: {arch: arm64}}
  - {arguments: ["workers=${workers}"]}
  - {arguments: [debug], when: {debug: true, workers: [8, 16]}}
files:
  - path: /etc/app.conf
    content: "workers {{.workers}}{{if .debug}} debug{{end}} at {{.domain}} on {{.arch}}\n"
    template: true
  - {path: /etc/app.sh, content: "echo ${HOME}\n"}
  - {path: /etc/token, source: token, template: true}
  - {path: "/etc/${domain}", content: x, when: {debug: true}}
checks:
  - {name: web, http: "http://127.0.0.1/${domain}?$${HOME}"}
rescueShell: ${debug}
`

// varied writes the profile, one that extends it, and a template.
func varied(t *testing.T) string {
	t.Helper()
	return write(t, map[string]string{"varied/profile.yaml": variedProfile, "varied/token": "t={{.token}} " +
		"n={{.workers}}\n",
		"child/profile.yaml": "name: child\nextends: ../varied\nvars: {workers: 8, token: abc}\n"})
}

// TestVariables: a profile gives variables of what it extends other values, --set counts more than both, and
// each reaches the texts, templates and conditions that name it.
func TestVariables(t *testing.T) {
	dir := varied(t)
	p, err := Load(filepath.Join(dir, "child"))
	if err != nil {
		t.Fatal(err)
	}
	set, err := LoadWith(filepath.Join(dir, "child"), map[string]string{"debug": "true"})
	if err == nil || !strings.Contains(err.Error(), "rescueShell needs the package busybox-static") {
		t.Errorf("LoadWith(debug=true) = %v; want the fault of the shell that ${debug} asks for", err)
	}
	dir2 := write(t, map[string]string{"p.yaml": "name: p\nextends: " + filepath.Join(dir, "child") +
		"\npackages: [busybox-static]\n"})
	values := map[string]string{"debug": "true", "domain": "x.test"}
	if set, err = LoadWith(filepath.Join(dir2, "p.yaml"), values); err != nil {
		t.Fatal(err)
	}
	want := []Difference{
		{"checks{web}.http", "http://127.0.0.1/example.org?${HOME}", "http://127.0.0.1/x.test?${HOME}"},
		{"files{/etc/app.conf}.content", "workers 8 at example.org on amd64\n", "workers 8 debug at x.test on amd64\n"},
		{"files{/etc/x.test}.content", "", "x"}, {"files{/etc/x.test}.path", "", "/etc/x.test"},
		{"kernel.arguments=debug", "", "debug"},
		{"packages=busybox-static", "", "busybox-static"}, {"packages=gdb", "", "gdb"}, {"packages=strace", "", "strace"},
		{"rescueShell", "false", "true"},
		{"vars.debug.default", "false", "true"}, {"vars.domain.default", "example.org", "x.test"},
	}
	if d := cmp.Diff(want, Diff(p, set)); d != "" {
		t.Errorf("what --set changes (-want +got):\n%s", d)
	}
	have := map[string]string{}
	for _, v := range p.Values() {
		have[v.Key] = v.Text
	}
	if have["kernel.arguments=workers=8"] == "" || have["packages=intel-microcode"] == "" ||
		have["kernel.package"] != "linux-image-cloud-amd64" || have["files{/etc/app.sh}.content"] != "echo ${HOME}\n" {
		t.Errorf("the profile has %v", have)
	}
	for _, f := range p.Files {
		if f.Path != "/etc/token" {
			continue
		}
		r, err := p.Open(f)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if text, err := io.ReadAll(r); err != nil || string(text) != "t=abc n=8\n" {
			t.Errorf("the template of the folder is %q, %v", text, err)
		}
	}
}

// TestArchitectures: the shipped profiles have a kernel for each architecture.
func TestArchitectures(t *testing.T) {
	for name, kernel := range map[string]string{"lab": "linux-image-cloud-", "node": "linux-image-",
		"rescue": "linux-image-"} {
		dir := write(t, map[string]string{"p.yaml": "name: p\nextends: " + name + "\narch: arm64\n"})
		p, err := Load(filepath.Join(dir, "p.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		q, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		if p.Kernel.Package != kernel+"arm64" || q.Kernel.Package != kernel+"amd64" {
			t.Errorf("%s: kernels %q for arm64, %q for amd64", name, p.Kernel.Package, q.Kernel.Package)
		}
	}
}

// TestFaultsOfVariables: each wrong use has one message with its place.
func TestFaultsOfVariables(t *testing.T) {
	dir := write(t, map[string]string{"p.yaml": `name: p
extends: lab
vars:
  n: 4
  b: {type: flag, default: true}
  Bad: 1
  need:
packages:
  - {name: curl, when: {archs: arm64}}
  - {when: {arch: amd64}}
  - {name: gdb, when: arm64}
hostname: "${nn}-{name}"
files:
  - {path: /etc/a, content: "a\n{{.gone}}", template: true}
  - {path: /etc/b, content: "{{if}}", template: true}
  - {path: /etc/c, template: true}
`, "q.yaml": "name: q\nextends: p2.yaml\nvars: {n: x, b: {type: number, default: 1}}\n",
		"p2.yaml":    "name: p2\nextends: lab\nvars: {n: 1, b: true}\n",
		"plain.yaml": "name: plain\nextends: lab\nfiles: [{path: /etc/x, content: '${HOME}'}]\nhostname: '${x}'\n"})
	want := []string{
		`p.yaml:5:3: unknown type "flag" of the variable "b"; write text, number or bool`,
		`p.yaml:6:3: "Bad" cannot be the name of a variable; write a letter, then letters, digits and underscores, and ` +
			`not arch`,
		`p.yaml:7:3: the variable "need" has no value; give it a default, or build with --set need=VALUE`,
		`p.yaml:9:25: the profile has no variable "archs"; variables: b, n, need`,
		`p.yaml:10:5: an item with a condition has the keys name and when; write: {name: WORD, when: …}`,
		`p.yaml:11:23: the condition is not a group of keys; write: when: {arch: arm64}, or the name of a variable with ` +
			`its value`,
		`p.yaml:12:11: the profile has no variable "nn"; write n, or write $${nn} for the text itself`,
		`p.yaml:14:5: the file "/etc/a": executing the template: line 2: there is no variable "gone"; variables: b, n, need`,
		`p.yaml:15:5: the file "/etc/b": reading the template: line 1: missing value for if; variables: b, n, need`,
		`p.yaml:16:5: the template "/etc/c" has no text; write content or source`,
	}
	if d := cmp.Diff(want, faultsOf(t, dir, "p.yaml")); d != "" {
		t.Errorf("faults (-want +got):\n%s", d)
	}
	want = []string{`q.yaml:3:8: the variable "n" is "x", not a number; write a number`,
		`q.yaml:3:14: the variable "b" is a bool already at p2.yaml:3:14; leave the type out, or choose another name`,
		`q.yaml:3:14: the variable "b" is "1", not true or false; write true or false`}
	if d := cmp.Diff(want, faultsOf(t, dir, "q.yaml")); d != "" {
		t.Errorf("faults of other values (-want +got):\n%s", d)
	}
	want = []string{`plain.yaml:4:11: "${x}" cannot be a host name template; write letters, digits, dashes and {name}, ` +
		`{mac}, {serial}`}
	if d := cmp.Diff(want, faultsOf(t, dir, "plain.yaml")); d != "" {
		t.Errorf("faults without variables (-want +got):\n%s", d)
	}
	_, err := LoadWith(filepath.Join(dir, "p2.yaml"), map[string]string{"m": "1", "n": "many"})
	var faults Faults
	if !errors.As(err, &faults) || len(faults) != 2 || faults[0].String() != `--set: the profile has no variable `+
		`"m"; write n` &&
		faults[0].String() != `--set: the profile has no variable "m"; variables: b, n` ||
		faults[1].String() != `--set: the variable "n" is "many", not a number; write a number` {
		t.Errorf("wrong --set: %v", err)
	}
}

// TestAnchorsEnd: anchors that refer to themselves are faults, and do not run for ever.
func TestAnchorsEnd(t *testing.T) {
	for _, text := range []string{"name: a\nvars: {x: 1}\npackages: &a [*a]\n", "name: a\nkernel: &k [*k, {when: " +
		"{arch: amd64}}]\n",
		"name: a\nfiles: &f\n  - *f\n  - {path: /x, when: {arch: arm64}}\n"} {
		dir := write(t, map[string]string{"p.yaml": text})
		if got := faultsOf(t, dir, "p.yaml"); len(got) == 0 {
			t.Errorf("no faults of %q", text)
		}
	}
}
