package desired

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/bootserver/fleet"
)

var update = flag.Bool("update", false, "write the golden files")

// someFleet is a fleet with two machines, of which one was retired.
func someFleet() Facts {
	seven := fleet.ImageRef{Image: "sha256:7", Name: "node:7"}
	return Facts{Now: time.Unix(1000, 0).UTC(), By: fleet.Actor{Kind: "token", Name: "ci"},
		Known: []string{"node:7", "node:8"}, Images: map[string]Image{"node:7": {ImageRef: seven},
			"node:8": {ImageRef: fleet.ImageRef{Image: "sha256:8", Name: "node:8"}}},
		Machines: []fleet.Machine{
			{ID: "m-525400000001", Name: "old01", State: fleet.Approved, MACs: []string{"52:54:00:00:00:01"},
				UUID: "4c4c4544-0044-4a10-8058-b2c04f4d3231", FirstSeen: time.Unix(1, 0).UTC(),
				Assignment: fleet.Assignment{ImageRef: seven}, Labels: map[string]string{"rack": "r1"}},
			{ID: "m-525400000002", Name: "old02", State: fleet.Retired, MACs: []string{"52:54:00:00:00:02"},
				FirstSeen: time.Unix(2, 0).UTC()},
		}}
}

// TestFaults: each kind of fault is reported at its line and column with what to write, all of them at
// once, and none that only follows from another one. The files are testdata/*.yaml; what is reported is
// beside them.
func TestFaults(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, faults := Parse([]File{{filepath.Base(name), text}}).Plan(Content{}, someFleet(), Options{})
		var lines []string
		for _, f := range faults {
			lines = append(lines, f.String())
			if f.Place.Line == 0 || f.Place.Column == 0 {
				t.Errorf("%s has no place", f)
			}
			if f.Fix == "" {
				t.Errorf("%s: nothing says what to do", f)
			}
		}
		got := strings.Join(lines, "\n") + "\n"
		golden := strings.TrimSuffix(name, ".yaml") + ".golden"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
		}
	}
}

// TestFiles: several files are one, a name that two of them have is a fault in the second, and files
// without content are refused.
func TestFiles(t *testing.T) {
	p := Parse([]File{{"a.yaml", []byte("machines: [{name: n1, macs: '52:54:00:00:01:01'}]\nrollout: {canary: 2}\n")},
		{"b.json", []byte(`{"machines": [{"name": "n2", "macs": ["52:54:00:00:01:02"]}], "pins": [{"machines": "n1,n2"}]}`)},
		{"c.yaml", []byte("# nothing yet\n")}})
	if len(p.Faults) > 0 || len(p.Spec.Machines) != 2 || !p.Sections.Pins || p.Sections.Labels ||
		*p.Spec.Rollout.Canary != 2 {
		t.Errorf("%v: %+v", p.Faults, p.Spec)
	}
	p = Parse([]File{{"a.yaml", []byte("machines: [{name: n1, macs: '52:54:00:00:01:01'}]\nrollout: {}\n")},
		{"b.yaml", []byte("machines:\n- {name: n1, macs: '52:54:00:00:01:01'}\nrollout: {}\n")}})
	var got []string
	for _, f := range p.Faults {
		got = append(got, f.String())
	}
	want := []string{"b.yaml:3:10: another file says how images reach machines as well; keep one of them",
		"b.yaml:2:10: the name n1 is at a.yaml:1:19 as well; keep one of them",
		"b.yaml:2:20: the card 52:54:00:00:01:01 is at a.yaml:1:29 as well; keep one of them"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, files := range [][]File{{{"empty.yaml", nil}}, {{"a.yaml", []byte("# a\n")}, {"b.yaml", []byte("null\n")}}} {
		if p := Parse(files); len(p.Faults) != 1 || !strings.Contains(p.Faults[0].What, "the files are empty") {
			t.Errorf("%s: %v", files[0].Name, p.Faults)
		}
	}
	if p := Parse([]File{{"big.yaml", make([]byte, MaxBytes+1)}}); len(p.Faults) != 1 {
		t.Errorf("a file that is too large has the faults %v", p.Faults)
	}
}

// TestExampleOfTheManual: the file in docs/GITOPS.md has no faults, and every section.
func TestExampleOfTheManual(t *testing.T) {
	manual, err := os.ReadFile("../../../docs/GITOPS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(manual), "```yaml\n")
	example, _, _ = strings.Cut(example, "```")
	p := Parse([]File{{"GITOPS.md", []byte(example)}})
	if want := (Sections{true, true, true, true, true, true}); len(p.Faults) > 0 || p.Sections != want {
		t.Errorf("the example has the sections %+v and the faults %v", p.Sections, p.Faults)
	}
}

// FuzzParse: no text makes the parser fail otherwise than by faults, and what has none is written as a
// file that says the same.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, name := range files {
		text, _ := os.ReadFile(name)
		f.Add(text)
	}
	f.Add([]byte("a: &a [x]\nb: [*a, *a]\n<<: *a\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p := Parse([]File{{"f", text}})
		if len(p.Faults) > 0 {
			return
		}
		again, err := p.Spec.YAML()
		if err != nil {
			t.Fatal(err)
		}
		q := Parse([]File{{"g", again}})
		empty := len(p.Spec.Images()) == 0 && len(p.Spec.Machines)+len(p.Spec.Rules)+len(p.Spec.Labels)+len(p.Spec.Pins) == 0
		if p.Spec.Schema = ""; !empty && !equal(p.Spec, q.Spec) {
			t.Errorf("%q is written as %q: %v", text, again, q.Faults)
		}
	})
}

// TestSchema: every key of a file has a description, and unknown keys are refused.
func TestSchema(t *testing.T) {
	text, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"additionalProperties": false`, `"maxUnavailable"`, `"approve"`,
		`"Host names, as a hostlist: node[01-40]."`, `"enum": [`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("the schema has no %s", want)
		}
	}
	if strings.Contains(string(text), `"At"`) {
		t.Error("the schema has the place of a part as a key")
	}
	described(t, text)
}
