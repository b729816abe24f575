package fleet

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
)

const rackCSV = `# a rack
name,mac,uuid,serial,labels,image,state
node01,52:54:00:12:00:01,,,rack=r1 role=db,lab:v1,
node02,52-54-00-12-00-02 52:54:00:12:01:02,,,rack=r1,,pending
node03,,d1b2c3a4-0000-4000-8000-525400120003,S3,,,approved
`

// importMachines is Import, and the machines that it changes.
func importMachines(machines []Machine, list []Planned, images map[string]Assignment, now time.Time) (
	changed []Machine, actions []Action, err error) {
	all, actions, err := Import(machines, list, images, Actor{}, now)
	for _, d := range all {
		changed = append(changed, d.Machine)
	}
	return changed, actions, err
}

func TestImport(t *testing.T) {
	list, err := ParsePlanned([]byte(rackCSV))
	if err != nil {
		t.Fatal(err)
	}
	known := []Machine{{ID: "m-old", Name: "old", State: Pending, MACs: []string{"52:54:00:12:01:02"}, LastHealthy: v2}}
	images := map[string]Assignment{"lab:v1": {ImageRef: v1}}
	changed, actions, err := importMachines(known, list, images, t0)
	if err != nil {
		t.Fatal(err)
	}
	want := []Action{{Do: "add", Machine: "m-525400120001", Name: "node01"},
		{Do: "change", Machine: "m-old", Name: "node02", What: []string{`named "node02" (was "old")`,
			"new network card 52:54:00:12:00:02", "label rack=r1 set"}},
		{Do: "add", Machine: "m-525400120003", Name: "node03"}}
	if d := cmp.Diff(want, actions); d != "" {
		t.Errorf("actions (-want +got):\n%s", d)
	}
	if m := changed[0]; m.State != Approved || m.Assignment.Image != v1.Image || m.Labels["role"] != "db" {
		t.Errorf("node01 = %+v", m)
	}
	if m := changed[1]; m.State != Pending || m.LastHealthy != v2 || len(m.MACs) != 2 {
		t.Errorf("node02 = %+v; want pending, with its past and both cards", m)
	}
	if m := changed[2]; m.State != Approved || m.UUID == "" || m.Serial != "S3" {
		t.Errorf("node03 = %+v", m)
	}
	if found, _ := Identify(pointers(changed), Sighting{MAC: "52:54:00:00:00:77", UUID: changed[2].UUID}); found == nil ||
		found.Name != "node03" {
		t.Errorf("node03 is not found by its UUID: %+v", found)
	}
	if again, actions, err := importMachines(changed, list, images, t0); err != nil || len(again) != 0 ||
		actions[0].Do != "same" {
		t.Errorf("importing again changes %d, %+v, %v; want nothing", len(again), actions, err)
	}
}

func TestImportFaults(t *testing.T) {
	known := []Machine{{ID: "m-1", Name: "taken", MACs: []string{"52:54:00:00:00:01"}},
		{ID: "m-2", UUID: "d1b2c3a4-0000-4000-8000-525400120002"}}
	list := []Planned{
		{Name: "Bad Name", MACs: []string{"52:54:00:00:00:09"}},
		{Name: "nothing"},
		{Name: "taken", MACs: []string{"52:54:00:00:00:08"}},
		{Name: "both", MACs: []string{"52:54:00:00:00:01"}, UUID: "d1b2c3a4-0000-4000-8000-525400120002"},
		{Name: "shared", UUID: "00000000-0000-0000-0000-000000000000"},
		{Name: "labels", MACs: []string{"52:54:00:00:00:07"}, Labels: map[string]string{"a b": ""}},
		{Name: "image", MACs: []string{"52:54:00:00:00:06"}, Image: "lab:v9"},
		{Name: "first", MACs: []string{"52:54:00:00:00:05"}},
		{Name: "second", MACs: []string{"52:54:00:00:00:05"}},
	}
	_, _, err := importMachines(known, list, nil, t0)
	if !errors.Is(err, ErrImport) {
		t.Fatalf("Import = %v; want ErrImport", err)
	}
	for _, want := range []string{`machine 1 "Bad Name"`, "it has no identifier", "the name belongs to machine m-1",
		"belong to different " +
			"machines", "not the UUID of a single " +
			"machine", "not a label", `no such image: "lab:v9"`, "is in the " +
			"list twice"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the faults do not say %q:\n%v", want, err)
		}
	}
	for text, want := range map[string]string{"": "first line", "name,colour\na,b\n": `unknown column "colour"`,
		"name,mac\na\n": "wrong number " +
			"of fields", "name,state\na,gone\n": "line 2: state", `[{"name":"a","macc":[]}]`: "macc"} {
		if _, err := ParsePlanned([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParsePlanned(%q) = %v; want %q", text, err, want)
		}
	}
}

func TestRules(t *testing.T) {
	m := Machine{State: Pending, MACs: []string{"52:54:00:12:00:01"}, Address: netip.MustParseAddr("10.1.0.9"),
		Labels: map[string]string{"rack": "mine"},
		Port:   SwitchPort{Relay: netip.MustParseAddr("10.1.0.1"), Circuit: "Eth1/7"},
		Facts:  ingot.Facts{Vendor: "Dell Inc.", Product: "PowerEdge R640"}}
	for _, c := range []struct {
		r    Rule
		want bool
	}{
		{Rule{Subnet: "10.1.0.0/24"}, true},
		{Rule{Subnet: "10.2.0.0/24"}, false},
		{Rule{MAC: "52:54:00:*"}, true},
		{Rule{Vendor: "Dell*", Product: "PowerEdge R6?0"}, true},
		{Rule{Vendor: "Dell*", Product: "PowerEdge R7?0"}, false},
		{Rule{Port: "Eth1/*"}, true},
		{Rule{Port: "Eth2/*"}, false},
	} {
		c.r.Approve = true
		if err := c.r.Check(); err != nil {
			t.Error(err)
		}
		if got := c.r.Matches(m); got != c.want {
			t.Errorf("%+v matches: %t; want %t", c.r, got, c.want)
		}
	}
	for _, r := range []Rule{{}, {Approve: true}, {Subnet: "10.1.0.0/24"}, {Subnet: "ten", Approve: true},
		{MAC: "[", Approve: true}, {MAC: "*", Labels: map[string]string{"a b": ""}}, {MAC: "*", Image: "Bad Name"}} {
		if err := r.Check(); !errors.Is(err, ErrRule) {
			t.Errorf("Check(%+v) = %v; want ErrRule", r, err)
		}
	}
	rules := []Rule{{MAC: "aa:*", Approve: true}, {MAC: "52:*", Approve: true,
		Labels: map[string]string{"rack": "r1", "role": "db"}}}
	r, ok := FirstRule(rules, m)
	if got := r.Apply(m, Assignment{ImageRef: v1}); !ok || got.State != Approved || got.Labels["rack"] != "mine" ||
		got.Labels["role"] != "db" || got.Assignment.Image != v1.Image {
		t.Errorf("Apply = %+v", got)
	}
	asked, approved := m, m
	asked.Ask, approved.State = &Question{}, Approved
	for _, o := range []Machine{asked, approved} {
		if _, ok := FirstRule(rules, o); ok {
			t.Errorf("a rule speaks of a machine that is %s, asked %v", o.State, o.Ask)
		}
	}
}

// TestImportOverwritesNothing: a list that is read again does not bring back who
// was retired, and another board under a known card is a fault.
func TestImportOverwritesNothing(t *testing.T) {
	m := Machine{ID: "m-525400120001", Name: "node01", State: Retired, MACs: []string{"52:54:00:12:00:01"},
		UUID: "d1b2c3a4-0000-4000-8000-525400120001", FirstSeen: time.Unix(1, 0)}
	row := Planned{Name: "node01", MACs: m.MACs}
	changed, actions, err := importMachines([]Machine{m}, []Planned{row}, nil, time.Unix(2, 0))
	if err != nil || len(changed) != 0 || len(actions) != 1 || actions[0].Do != "same" {
		t.Errorf("Import of a retired machine = %+v, %+v, %v; want that it stays as it is", changed, actions, err)
	}
	row.UUID = "d1b2c3a4-0000-4000-8000-525400120002"
	if _, _, err := importMachines([]Machine{m}, []Planned{row}, nil, time.Unix(2, 0)); !errors.Is(err, ErrImport) ||
		!strings.Contains(err.Error(), m.UUID) {
		t.Errorf("Import of another UUID: %v; want a fault that names the one that is known", err)
	}
}

// TestImportAnswersNothing: a list says nothing about the question that a
// machine asks; what it adds otherwise is taken.
func TestImportAnswersNothing(t *testing.T) {
	asks := Machine{ID: "m-525400120009", State: Pending, MACs: []string{"52:54:00:12:00:09"}, Name: "node09",
		FirstSeen: t0, Ask: &Question{With: "m-525400120001", What: "it has the card of node01"}}
	for _, c := range []struct {
		planned Planned
		do      string
	}{
		{Planned{Name: "node09", MACs: []string{"52:54:00:12:00:09"}}, "asks"},
		{Planned{Name: "node09", MACs: []string{"52:54:00:12:00:09"}, Serial: "SN-9"}, "change"},
	} {
		changed, actions, err := importMachines([]Machine{asks}, []Planned{c.planned}, nil, t0)
		if err != nil || len(actions) != 1 || actions[0].Do != c.do ||
			!strings.Contains(strings.Join(actions[0].What, " "), "a question is still open: it has the card of node01") {
			t.Errorf("importing %+v does %+v, %v; want %s, and the question told", c.planned, actions, err, c.do)
		}
		for _, m := range changed {
			if m.State != Pending || m.Ask == nil {
				t.Errorf("importing %+v made it %s, asking %v", c.planned, m.State, m.Ask)
			}
		}
	}
}
