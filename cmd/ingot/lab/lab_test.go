package lab

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/cmd/ingot/command"
	"ingot/cmd/ingot/show"
	"ingot/image"
	"ingot/testvm"
)

// TestMachinesOfTheLab: a name has the same card whatever machines there are beside it, and all have the
// memory that was asked for.
func TestMachinesOfTheLab(t *testing.T) {
	cards := map[string]string{}
	for _, f := range []labFlags{{bios: 1, uefi: 1, memory: 1024}, {bios: 40, uefi: 24, memory: 4096}} {
		of := map[string]string{}
		for _, c := range f.machines() {
			if before, is := cards[c.Name]; is && before != c.MAC || of[c.MAC] != "" || c.RAM != f.memory {
				t.Errorf("%+v has machine %+v; %s had card %q before, and %q has this card", f, c, c.Name, before, of[c.MAC])
			}
			cards[c.Name], of[c.MAC] = c.MAC, c.Name
		}
		if len(of) != f.bios+f.uefi {
			t.Errorf("%+v has %d machines", f, len(of))
		}
	}
}

// TestFits: an image that needs more memory than the machines have is an error that says how much.
func TestFits(t *testing.T) {
	const would = " of memory, and the lab's machines would have 1024 MiB"
	for name, c := range map[string]struct {
		budget, root int64
		memory       int
		want         string
	}{
		"fits":              {1 << 30, 200 << 20, 1024, ""},
		"needs more":        {4 << 30, 200 << 20, 1024, "lab:v1 requires 4096 MiB" + would},
		"needs a bit more":  {1<<30 + 1, 0, 1024, "lab:v1 requires 1025 MiB" + would},
		"does not say":      {0, 200 << 20, 1024, ""},
		"is larger than it": {0, 2 << 30, 1024, "lab:v1 requires 2048 MiB" + would},
	} {
		im := image.Image{Name: ingot.ImageName{Profile: "lab", Version: "v1"},
			Manifest: ingot.ImageManifest{MinRAM: c.budget, Root: ingot.Artifact{Size: c.root}}}
		got := ""
		if err := fits(im, c.memory); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q; want %q", name, got, c.want)
		}
		if err := fits(im, int(needed(im))); err != nil {
			t.Errorf("%s: with what it needs: %v", name, err)
		}
	}
}

// TestApprovals: a server approves the machines of a lab under their names. What operators decided of
// machines that an earlier lab had stays, except for an image that was chosen for this lab.
func TestApprovals(t *testing.T) {
	v1, v2 := fleet.ImageRef{Image: ingot.DigestOf([]byte("1")), Name: "lab:v1"},
		fleet.ImageRef{Image: ingot.DigestOf([]byte("2")), Name: "lab:v2"}
	lab := labFlags{bios: 3, uefi: 2, memory: 1024}.machines()
	known := []fleet.Machine{
		{ID: "m-525400990001", MACs: []string{lab[0].MAC}, State: fleet.Approved, Assignment: fleet.Assignment{ImageRef: v2}},
		{ID: "m-525400990002", MACs: []string{lab[1].MAC}, State: fleet.Retired, Name: "web1"},
		{ID: "m-525400990102", MACs: []string{"52:54:00:00:00:01"}, State: fleet.Approved, Name: "uefi2"},
	}
	for chosen, want := range map[bool]string{
		false: "bios1 approved lab:v2; web1 retired lab:v1; bios3 approved lab:v1; uefi1 approved lab:v1; ",
		true:  "bios1 approved lab:v1; web1 retired lab:v1; bios3 approved lab:v1; uefi1 approved lab:v1; ",
	} {
		var shown []api.Machine
		for _, m := range known {
			shown = append(shown, api.Machine{ID: m.ID, Name: m.Name, MACs: m.MACs,
				Assignment: api.Assignment{ImageRef: api.ImageRef(m.Assignment.ImageRef)}})
		}
		var planned []fleet.Planned
		for _, p := range approvals(lab, shown, "lab:v1", chosen) {
			planned = append(planned, fleet.Planned(p))
		}
		changed, _, err := fleet.Import(known, planned, map[string]fleet.Assignment{"lab:v1": {ImageRef: v1}}, fleet.Actor{},
			time.Now())
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, d := range changed {
			got += d.Machine.Hostname() + " " + string(d.Machine.State) + " " + d.Machine.Assignment.Name + "; "
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("chosen: %t (-want +got):\n%s", chosen, d)
		}
	}
}

// TestSayUp: who starts a lab reads what boots, that it was approved, how long it takes, and commands that
// name a machine there is.
func TestSayUp(t *testing.T) {
	var said bytes.Buffer
	a := &Commands{App: &command.App{Printer: show.Printer{Stderr: &said}}}
	machines := []api.Machine{{ID: "m-1", Name: "bios1", State: api.Approved},
		{ID: "m-2", Name: "web1", State: api.Retired}, {ID: "m-3", Name: "uefi1", State: api.Approved}}
	for i, name := range []string{"lab:v2", "lab:v2", "lab:v1"} {
		machines[i].Assignment.Name = name
	}
	a.sayUp(machines, "http://127.0.0.1:1/", false)
	for _, want := range []string{"approved automatically and boot lab:v2, lab:v1 now", "a minute or more", "no KVM",
		"  → ingot why bios1\n", "  → ingot lab console bios1\n", "web1 does not boot, because it is retired\n" +
			"  → ingot machine approve web1\n"} {
		if !strings.Contains(said.String(), want) {
			t.Errorf("it does not say %q:\n%s", want, said.String())
		}
	}
	said.Reset()
	if a.sayUp(machines, "ingot dashboard", true); strings.Contains(said.String(), "KVM") {
		t.Errorf("with KVM:\n%s", said.String())
	}
}

// TestLabTable: the list has the image that a machine boots, and its name on the server where an operator
// gave it another one.
func TestLabTable(t *testing.T) {
	vm := testvm.LabVM{Config: testvm.Config{Name: "bios1", Firmware: testvm.BIOS, MAC: "52:54:00:99:00:01", RAM: 4096}}
	var out bytes.Buffer
	labTable(&out, []labView{{LabVM: vm, Running: true, Machine: "web1", Image: "node:1"}})
	const want = `NAME   FIRMWARE  MAC                MEMORY   POWER  IMAGE   DISK
bios1  BIOS      52:54:00:99:00:01  4.0 GiB  on     node:1  -

other names on the server: bios1 is web1
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
