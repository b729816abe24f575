package fleet

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot"
)

// texts renders Changes with their category; "!" marks those that need attention.
func texts(list []Change) (out []string) {
	for _, c := range list {
		mark := ""
		if c.Bad() {
			mark = "! "
		}
		out = append(out, mark+string(c.Kind())+" "+c.String())
	}
	return out
}

func TestBootChanges(t *testing.T) {
	b := step(Boot{ID: boot1, Machine: "m", Image: v1, Started: t0}, ingot.StageDHCP)
	after := Record(b, ingot.Event{Stage: ingot.StageTicket, Error: "no", Retry: true}, t0.Add(time.Second))
	after.Report = &ingot.Report{Healthy: true, Failed: []string{"db.service"}}
	after = end(after, Ending{Outcome: ingot.OutcomeHealthy, Reason: ""}, t0)
	want := []string{"! step failed: no; the machine will retry", "! step failed units: db.service", "end lab:v1 healthy"}
	if d := cmp.Diff(want, texts(BootChanges(&b, after, t0))); d != "" {
		t.Errorf("BootChanges (-want +got):\n%s", d)
	}
	sick := after
	sick.Report = &ingot.Report{Failed: []string{"db.service"},
		Checks: []ingot.CheckResult{{Name: "web", Detail: "refused"}}}
	if d := cmp.Diff([]string{"! step no longer healthy; check web: " +
		"refused"}, texts(BootChanges(&after, sick, t0))); d != "" {
		t.Errorf("of a heartbeat (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"! step the kernel crashed (from pstore): BUG: x"},
		texts(BootChanges(&sick, with(sick, func(b *Boot) {
			b.Crash = "BUG: x"
		}), t0))); d != "" {
		t.Errorf("of a crash (-want +got):\n%s", d)
	}
	other := with(sick, func(b *Boot) { b.Changes = []string{"RAM 256 → 192 GiB", "disk S/N 7 is gone"} })
	if d := cmp.Diff([]string{"! machine hardware changed: RAM 256 → 192 GiB; disk S/N 7 is gone"},
		texts(BootChanges(&sick, other, t0))); d != "" {
		t.Errorf("of other hardware (-want +got):\n%s", d)
	}
	flood := with(sick, func(b *Boot) { b.Changes = make([]string, 500) })
	if got := texts(BootChanges(&sick, flood, t0))[0]; !strings.HasSuffix(got, "; and 488 more") {
		t.Errorf("of 500 changes: %q", got)
	}
	if again := BootChanges(&other, other, t0); len(again) > 0 {
		t.Errorf("other hardware again makes %q", texts(again))
	}
	if again := BootChanges(&sick, sick, t0); len(again) > 0 {
		t.Errorf("the same again makes %q", texts(again))
	}
}

func TestMachineChanges(t *testing.T) {
	m := Machine{ID: "m", State: Pending, LastSeen: t0.Add(-time.Hour), MACs: []string{"a"}}
	after := m
	after.State, after.Name, after.MACs, after.Assignment = Approved, "node", []string{"a", "b"},
		Assignment{ImageRef: v1, Why: "first"}
	want := []string{"machine approved (was pending)", `machine named "node" (was "")`, "machine new network card b",
		"decision assigned lab:v1: first"}
	if d := cmp.Diff(want, texts(MachineChanges(&m, after, t0))); d != "" {
		t.Errorf("MachineChanges (-want +got):\n%s", d)
	}
	held := after
	held.Setback = &Setback{Gave: v1, Why: "it failed", At: t0}
	if d := cmp.Diff([]string{"! decision held for an operator: " +
		"it failed"}, texts(MachineChanges(&after, held, t0))); d != "" {
		t.Errorf("of a hold (-want +got):\n%s", d)
	}
	seen := held
	seen.LastSeen = t0
	if got := MachineChanges(&held, seen, t0); len(got) > 0 {
		t.Errorf("being seen makes %q", texts(got))
	}
}

// TestMachineChangesOfOperators: what a person gave a machine, took from it or
// answered is in the ledger, each once.
func TestMachineChangesOfOperators(t *testing.T) {
	m := Machine{ID: "m", State: Pending, LastSeen: t0, Serial: "S1", Labels: map[string]string{"rack": "r1", "old": "x"},
		Loaders: map[ingot.Firmware]string{ingot.FirmwareBIOS: "undionly.kpxe"}}
	grant := Grant{Grant: ingot.Grant{Volume: "data", Disk: "D1", Expires: t0.Add(time.Hour)}, Given: t0}
	for _, c := range []struct {
		what     string
		from, to func(*Machine)
		want     []string
	}{
		{what: "labels", to: func(m *Machine) { m.Labels = map[string]string{"rack": "r2", "gpu": ""} },
			want: []string{"machine label gpu= set; label rack=r2 set (was r1); label old=x removed"}},
		{what: "a grant", to: func(m *Machine) { *m = addGrant(*m, grant, t0) },
			want: []string{"machine granted: a boot may initialise disk D1 as volume data until 1970-01-12T14:46:40Z"}},
		{what: "a grant that expired", from: func(m *Machine) {
			*m = addGrant(*m, grant, t0)
		}, to: func(m *Machine) {
			*m, _ = Expired(*m, t0.Add(time.Hour))
		},
			want: []string{"machine the grant to initialise disk D1 as volume data expired unused"}},
		{what: "a grant that was used", from: func(m *Machine) {
			*m, _ = LendGrants(addGrant(*m, grant, t0), boot1, t0)
			*m, _ = SpendGrants(*m, boot1, []string{grant.Volume})
		}, to: func(m *Machine) {
			*m, _ = Expired(*m, t0.Add(time.Hour))
		}},
		{what: "a question", to: func(m *Machine) { m.Ask = &Question{With: "m-2", What: "it has the card of node02"} },
			want: []string{"! machine an operator must answer whether it is the same machine: it has the card of node02"}},
		{what: "no", from: func(m *Machine) {
			m.Ask = &Question{With: "m-2", What: "it has the card of node02"}
		}, to: func(m *Machine) {
			m.Ask, m.State = nil, Approved
		},
			want: []string{"machine approved (was pending)", "machine question answered: it is not m-2"}},
		{what: "yes", from: func(m *Machine) {
			m.Ask = &Question{With: "m", What: "its serial number is other"}
		}, to: func(m *Machine) {
			m.Ask, m.State = nil, Approved
		},
			want: []string{"machine approved (was pending)", "machine question answered: it is the same machine"}},
		{what: "a serial number", to: func(m *Machine) {
			m.Serial = "S2"
		}, want: []string{"! machine serial number S2 (was S1)"}},
		{what: "a loader", to: func(m *Machine) { m.Loaders = map[ingot.Firmware]string{ingot.FirmwareBIOS: "ipxe.pxe"} },
			want: []string{"decision first stage changed to ipxe.pxe for firmware bios"}},
		{what: "an import", from: func(m *Machine) {
			m.LastSeen = time.Time{}
		}, to: func(m *Machine) {
			m.LastSeen = t0
		}, want: []string{"machine seen for the first time"}},
	} {
		before := m
		if c.from != nil {
			c.from(&before)
		}
		after := before
		c.to(&after)
		if d := cmp.Diff(c.want, texts(MachineChanges(&before, after, t0))); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.what, d)
		}
		if again := MachineChanges(&after, after, t0); len(again) > 0 {
			t.Errorf("%s: the same again makes %q", c.what, texts(again))
		}
	}
}

func TestMergeChanges(t *testing.T) {
	into := Machine{ID: "m-1", Name: "node01"}
	from := Machine{ID: "m-2", Name: "node02", MACs: []string{"52:54:00:00:00:02"}, UUID: "u2", Serial: "S2",
		Assignment: Assignment{ImageRef: v1}}
	list := Merged(into, from, t0)
	want := []string{"machine is the same machine as node01 (m-1) and was merged into it",
		"machine merged with m-2, which had cards 52:54:00:00:00:02, UUID u2, serial number S2, name node02, image lab:v1"}
	if d := cmp.Diff(want, texts(list)); d != "" || list[0].Machine != "m-2" || list[1].Machine != "m-1" {
		t.Errorf("Merged are of %s and %s (-want +got):\n%s", list[0].Machine, list[1].Machine, d)
	}
}
