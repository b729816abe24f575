package bootserver

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
)

// ledgerText is the ledger of everything, a line an entry: machine, kind and text,
// with "!" when it is worth a look.
func (h *house) ledgerText() string {
	h.t.Helper()
	list, err := h.api.Events(h.t.Context(), api.EventsRequest{Newest: true, Limit: 500})
	if err != nil {
		h.t.Fatal(err)
	}
	var text strings.Builder
	for _, e := range list.Events {
		if e.Bad {
			text.WriteString("! ")
		}
		text.WriteString(strings.TrimSpace(string(e.Machine)+" "+string(e.Kind)+" "+e.Text) + "\n")
	}
	return text.String()
}

// ledgerHas checks that the ledger has a text so often.
func (h *house) ledgerHas(times int, what string) {
	h.t.Helper()
	if got := strings.Count(h.ledgerText(), what+"\n"); got != times {
		h.t.Errorf("the ledger says %q %d times; want %d:\n%s", what, got, times, h.ledgerText())
	}
}

// TestLedgerOfATicket: a ticket is told once, with what it lets the machine do,
// however often it is asked for; a grant that no boot used is told when its
// time has passed.
func TestLedgerOfATicket(t *testing.T) {
	h := newHouseOf(t)
	grant := func(volume, disk string) {
		t.Helper()
		if _, err := h.api.Grant(t.Context(), "node01", api.GrantRequest{Volume: volume, Disk: disk,
			For: time.Hour, Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	ticket := func(boot ingot.BootID) {
		t.Helper()
		if status, text := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce}); status != 200 {
			t.Fatalf("ticket: %d %s", status, text)
		}
	}
	grant("data", "D1")
	h.ledgerHas(1,
		machineID+" machine granted: a boot may initialise disk D1 as volume data until 2026-11-23T13:00:00Z")
	boot, _ := h.ask()
	for range 3 {
		ticket(boot)
		h.clock = h.clock.Add(time.Second)
	}
	h.ledgerHas(1, machineID+" step ticket issued for lab:v1; it may initialise disk D1 as volume data")
	grant("logs", "D2") // while it asks
	for range 2 {
		ticket(boot)
	}
	h.ledgerHas(1,
		machineID+" step ticket issued for lab:v1; it may initialise disk D1 as volume data; it may initialise disk D2 as "+
			"volume logs")
	h.post(boot, "events", ingot.Event{Stage: ingot.StageVolumes, Volumes: []string{"logs"}})
	h.ledgerHas(1, machineID+" machine used: the grant to initialise disk D2 as volume logs")
	boot, _ = h.ask() // it was reset before it wrote to D1
	ticket(boot)
	h.ledgerHas(2, machineID+" step ticket issued for lab:v1; it may initialise disk D1 as volume data")
	h.post(boot, "events", ingot.Event{Stage: ingot.StageVolumes, Volumes: []string{"data", "logs"}})
	h.ledgerHas(1, machineID+" machine used: the grant to initialise disk D1 as volume data")
	if _, err := h.api.Resume(t.Context(), "node01"); err != nil { // it was reset twice
		t.Fatal(err)
	}
	boot, _ = h.ask()
	ticket(boot)
	h.ledgerHas(1, machineID+" step ticket issued for lab:v1")
	grant("more", "D3")
	h.clock = h.clock.Add(2 * time.Hour)
	for range 3 {
		h.Expire()
	}
	h.ledgerHas(1, machineID+" machine the grant to initialise disk D3 as volume more expired unused")
	if strings.Contains(h.ledgerText(), "data expired") || strings.Contains(h.ledgerText(), string(h.BootKey(boot))) {
		t.Errorf("the ledger says that a grant which was used expired, or a key:\n%s", h.ledgerText())
	}
}

// TestLedgerOfRules: it is told which rule approved and labelled a machine, once.
func TestLedgerOfRules(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	p := h.Policy()
	p.Rules = []fleet.Rule{{Subnet: "10.99.0.0/24", MAC: "52:54:00:12:*", Labels: map[string]string{"rack": "r1"}}}
	h.SetPolicy(p)
	for range 2 {
		h.ask()
	}
	h.ledgerHas(1, machineID+" decision labelled by the rule for subnet 10.99.0.0/24, mac 52:54:00:12:*")
	h.ledgerHas(1, machineID+" machine label rack=r1 set")
	p.Rules = []fleet.Rule{{MAC: "52:54:00:12:*", Approve: true, Image: "lab:v1"}}
	h.SetPolicy(p)
	for range 2 {
		h.ask()
	}
	h.ledgerHas(1, machineID+" decision approved, assigned lab:v1 by the rule for mac 52:54:00:12:*")
}

// TestLedgerOfAMerge: a merge is told on both sides, with what the machine had
// that is no more.
func TestLedgerOfAMerge(t *testing.T) {
	h := newHouseOf(t)
	h.attempt("", "")
	changed := firstMachine
	changed.MAC = "52:54:00:99:00:01"
	h.seen(changed)
	if !strings.Contains(h.ledgerText(),
		"! m-525400990001 machine an operator must answer whether it is the same machine: ") {
		t.Errorf("the ledger does not say what is asked:\n%s", h.ledgerText())
	}
	if _, err := h.api.Merge(t.Context(), "m-525400990001", "node01"); err != nil {
		t.Fatal(err)
	}
	h.ledgerHas(1, "m-525400990001 machine is the same machine as node01 ("+machineID+") and was merged into it")
	h.ledgerHas(1,
		machineID+" machine merged with m-525400990001, which had cards 52:54:00:99:00:01, UUID "+firstMachine.UUID)
	h.ledgerHas(0, "m-525400990001 machine forgotten")
	if _, err := h.api.Forget(t.Context(), "node01", true); err != nil {
		t.Fatal(err)
	}
	h.ledgerHas(1, machineID+" machine forgotten")
}

// TestLedgerOfAnImport: a list that was imported is told with each machine that
// it made or changed, and the machine once more when it is seen.
func TestLedgerOfAnImport(t *testing.T) {
	h := newHouse(t)
	list := api.ImportRequest{Machines: []api.Planned{{Name: "node01", MACs: []string{firstMachine.MAC},
		Labels: map[string]string{"rack": "r1"}}}}
	for range 2 {
		if _, err := h.api.Import(t.Context(), list); err != nil {
			t.Fatal(err)
		}
	}
	h.ledgerHas(1, machineID+" machine imported as node01")
	h.ledgerHas(1, machineID+" machine added before it was first seen, approved, with "+firstMachine.MAC)
	h.ask()
	h.ledgerHas(1, machineID+" machine seen for the first time")
}

// TestLedgerOfACrash: what pstore kept is told once, as of the boot whose kernel
// ran last, and explains why a healthy machine started over.
func TestLedgerOfACrash(t *testing.T) {
	h := newHouseOf(t)
	well, _ := h.attempt("", "")
	h.clock = h.clock.Add(4 * time.Hour)
	h.ask() // reset again before it loads a kernel
	boot, _ := h.ask()
	for range 2 {
		if err := h.Crash(boot, "<2>[   12.345] BUG: kernel NULL pointer dereference\n"); err != nil {
			t.Fatal(err)
		}
	}
	h.ledgerHas(1, "! "+machineID+" step the kernel crashed (from pstore): BUG: kernel NULL pointer dereference")
	if b, _ := h.state.Boot(well); b.Crash == "" {
		t.Error("the crash belongs to another boot than the one that was healthy")
	}
	if got, want := h.why(), "(lab:v1) was healthy and ended in a kernel crash: BUG: kernel NULL pointer "+
		"dereference."; !strings.Contains(got, want) {
		t.Errorf("why = %q; want that it says %q", got, want)
	}
	h.attempt("", "")
	boot, _ = h.ask()
	if err := h.Crash(boot, "<2>[   12.3] nothing that says why\n"); err != nil {
		t.Fatal(err)
	}
	h.ledgerHas(1, "! "+machineID+" step the kernel crashed (from pstore): no line of its last words says why")
}

// TestLedgerOfARestore: who follows the ledger hears that the state was
// restored, although the backup's ledger is shorter.
func TestLedgerOfARestore(t *testing.T) {
	h := newHouse(t)
	h.ask()
	var backup bytes.Buffer
	if _, err := h.api.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node01", "node02", "node03"} {
		if _, err := h.api.Rename(t.Context(), machineID, name); err != nil {
			t.Fatal(err)
		}
	}
	before, err := h.api.Events(t.Context(), api.EventsRequest{Newest: true, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.Restore(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	after, err := h.api.Events(t.Context(), api.EventsRequest{After: before.Last, Wait: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Events) != 1 || after.Events[0].Kind != string(fleet.KindServer) || after.Events[0].Machine != "" ||
		!strings.Contains(after.Events[0].Text, "restored from a backup (machines: 1)") {
		t.Errorf("after the restore a follower hears %+v; want that the state was restored", after.Events)
	}
}

// TestHardwarePerBoot: what a machine told of its hardware is found with each of
// its boots, what changed is told with the boot that found it, and a ticket that
// is asked for again, also late, takes nothing back.
func TestHardwarePerBoot(t *testing.T) {
	h := newHouseOf(t)
	boots := func(gib int64, asks int) ingot.BootID {
		t.Helper()
		boot, _ := h.ask()
		for i := range asks { // what it says when it asks again does not count
			if status, text := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce,
				Facts: ingot.Facts{RAM: (gib + 100*int64(i)) << 30, CPU: "a CPU"}}); status != 200 {
				t.Fatalf("ticket: %d %s", status, text)
			}
			b, _ := h.state.Boot(boot)
			h.clock = b.Deadline.Add(-time.Second) // the next one is late
		}
		return boot
	}
	first, second, third := boots(256, 1), boots(192, 3), boots(192, 1)
	h.ledgerHas(1, "! "+machineID+" machine hardware changed: lost 64 GiB of RAM (256 → 192 GiB)")
	if b, _ := h.state.Boot(second); len(b.Changes) != 1 {
		t.Errorf("after its ticket was asked for again, the changes of the boot are %q", b.Changes)
	}
	const lost = "The machine lost 64 GiB of RAM (256 → 192 GiB) since its boot at "
	if why, err := h.api.Why(t.Context(), "node01"); err != nil || !strings.Contains(why.Words, lost) {
		t.Errorf("Why = %q, %v; want that memory is lost, also two boots later", why.Words, err)
	}
	for boot, want := range map[ingot.BootID]int64{first: 256, second: 192, third: 192} {
		got, err := h.api.Hardware(t.Context(), "node01", boot.Short())
		if err != nil || got.Boot != boot || got.Facts.RAM != want<<30 || (len(got.Changes) == 1) != (boot == second) {
			t.Errorf("Hardware(%s) = %+v, %v; want %d GiB", boot.Short(), got, err, want)
		}
	}
	if got, err := h.api.Hardware(t.Context(), "node01", ""); err != nil || got.Boot != third || got.Same != second {
		t.Errorf("Hardware of the latest boot = %+v, %v; want what boot %s told first", got, err, second.Short())
	}
	silent, _ := h.ask()
	if got, err := h.api.Hardware(t.Context(), "node01", string(silent)); err == nil ||
		!strings.Contains(err.Error(), "reported no hardware") {
		t.Errorf("Hardware of a boot without a ticket = %+v, %v", got, err)
	}
}
