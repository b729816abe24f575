package bootserver

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// attempt is one boot of the machine up to its ticket; it ends with an error
// at a stage when there is one, and else as healthy.
func (h *house) attempt(stage ingot.Stage, why string) (boot ingot.BootID, script string) {
	h.t.Helper()
	boot, script = h.ask()
	b, _ := h.state.Boot(boot)
	if b.Image.Image == "" {
		return boot, script
	}
	h.Served(boot, "kernel", 1, true)
	h.Served(boot, "initramfs", 1, true)
	if status, text := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce}); status != 200 {
		h.t.Fatalf("ticket: %d %s", status, text)
	}
	if why != "" {
		if status, text := h.post(boot, "events", ingot.Event{Stage: stage, Error: why}); status != 204 {
			h.t.Fatalf("event: %d %s", status, text)
		}
		return boot, script
	}
	if status, text := h.post(boot, "report", ingot.Report{Boot: boot, Root: b.Root, Healthy: true}); status != 204 {
		h.t.Fatalf("report: %d %s", status, text)
	}
	return boot, script
}

func (h *house) why() string {
	h.t.Helper()
	y, err := h.api.Why(h.t.Context(), machineID)
	if err != nil {
		h.t.Fatal(err)
	}
	return y.Words
}

// TestHeals: a machine with a good past falls back by itself, one without is
// held, and an operator's word brings either on.
func TestHeals(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.put("v2")
	h.ask()
	if _, err := h.api.Approve(t.Context(), machineID,
		api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	for range fleet.DefaultAttempts {
		h.attempt(ingot.StageSwitch, "/sbin/init: no such file")
	}
	if _, script := h.attempt("", ""); !strings.Contains(script,
		"This machine is held: lab:v1 failed twice in a row, and no image was ever healthy on this machine") {
		t.Errorf("a machine that is held gets\n%s", script)
	}
	if got := h.why(); !strings.HasPrefix(got,
		"Stage switch failed: /sbin/init: no such file (2 attempts). "+
			"The machine has been held for an operator since 12:00") {
		t.Errorf("why = %q", got)
	}
	if _, err := h.api.Resume(t.Context(), "node01"); err != nil {
		t.Fatal(err)
	}
	h.attempt("", "")
	if _, err := h.api.Assign(t.Context(), "node01", "lab:v2", "bad day"); err != nil {
		t.Fatal(err)
	}
	for range fleet.DefaultAttempts {
		h.attempt(ingot.StageRoot, "no")
	}
	b, _ := h.attempt("", "")
	if boot, _ := h.state.Boot(b); boot.Image.Name != "lab:v1" || boot.Outcome != ingot.OutcomeHealthy {
		t.Errorf("after two failures of lab:v2 boots %s, %s; want lab:v1, healthy", boot.Image.Name, boot.Outcome)
	}
	if got := h.why(); got != "Stage root failed: no (2 attempts). "+
		"The machine fell back to lab:v1 and became healthy at 12:00. "+
		"Its reports are not authenticated: lab:v1 was built before ingot could do that." {
		t.Errorf("why = %q", got)
	}
	list, err := h.api.Events(t.Context(), api.EventsRequest{Machine: "node01", Newest: true, Limit: 200})
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, e := range list.Events {
		text += string(e.Kind) + " " + e.Text + "\n"
	}
	for _, want := range []string{"machine first seen, pending", "decision held for an operator: lab:v1 failed twice",
		"decision retries lab:v1", "decision assigned lab:v2: bad day",
		"decision falls back to lab:v1: lab:v2 failed twice", "end lab:v1 healthy", "step failed: no"} {
		if !strings.Contains(text, want) {
			t.Errorf("the ledger does not say %q:\n%s", want, text)
		}
	}
}

// TestRecordsAreBounded: whatever a machine says, the records of it and of its
// boot stay small, and hold no boot key.
func TestRecordsAreBounded(t *testing.T) {
	h := newHouseOf(t)
	boot, _ := h.ask()
	long := strings.Repeat("x", 10<<10)
	facts := ingot.Facts{RAM: 1 << 30, Serial: "S1", Kernel: long, Firmware: ingot.Firmware(long)}
	for range 40 {
		facts.NICs = append(facts.NICs, ingot.NIC{Name: "eth0", MAC: "52:54:00:00:00:99", Firmware: long})
		facts.Disks = append(facts.Disks, ingot.Disk{Name: "vda", Serial: "D1", Holds: long})
	}
	key := string(h.BootKey(boot))
	facts.NICs[0].Driver = "/b/" + key
	if status, text := h.post(boot, "ticket", ingot.TicketRequest{Nonce: nonce, Facts: facts}); status != 200 {
		t.Fatalf("ticket: %d %s", status, text)
	}
	names := make([]string, 100)
	for i := range names {
		names[i] = long[:500]
	}
	for i := range int64(5) {
		h.post(boot, "events", ingot.Event{Stage: ingot.StageVolumes, Volumes: names, Bytes: i})
	}
	b, _ := h.state.Boot(boot)
	h.post(boot, "report", ingot.Report{Boot: boot, Root: b.Root, Image: ingot.Digest(long), Healthy: true,
		Kernel: long, Hostname: long})
	b, _ = h.state.Boot(boot)
	m := h.state.Machines()[0]
	if b.Outcome != ingot.OutcomeHealthy || m.Facts.RAM == 0 {
		t.Fatalf("the boot is %q, the machine has %d bytes of RAM; want what was told", b.Outcome, m.Facts.RAM)
	}
	for what, v := range map[string]any{"boot": b, "machine": m} {
		record, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if len(record) > 128<<10 {
			t.Errorf("the record of the %s has %d bytes; want at most 128 KiB", what, len(record))
		}
		if strings.Contains(string(record), key) {
			t.Errorf("the record of the %s holds the boot key", what)
		}
	}
}

// TestAsksAboutANewCard: a known board with another card waits as a new machine
// until an operator merges it, and then boots as the known one.
func TestAsksAboutANewCard(t *testing.T) {
	h := newHouseOf(t)
	h.attempt("", "")
	changed := firstMachine
	changed.MAC = "52:54:00:99:00:01"
	if _, err := h.Observe(changed); err != nil {
		t.Fatal(err)
	}
	m, err := h.api.Machine(t.Context(), "m-525400990001")
	if err != nil || m.State != api.Pending || m.Ask == nil || m.Ask.With != machineID {
		t.Fatalf("with another card: %+v, %v; want a pending machine that asks about %s", m, err, machineID)
	}
	script, err := h.Script(m.Boot, h.base)
	if err != nil || !strings.Contains(script, "ingot machine merge m-525400990001 "+machineID) {
		t.Errorf("its screen is %v\n%s", err, script)
	}
	if _, err := h.api.Merge(t.Context(), "node01", string(m.ID)); err == nil ||
		!strings.Contains(err.Error(), "the one that is known stays") {
		t.Errorf("merging the known one into the new one: %v; want it refused", err)
	}
	if _, err := h.api.Merge(t.Context(), string(m.ID), "node01"); err != nil {
		t.Fatal(err)
	}
	if script, err = h.Script(m.Boot, h.base); err != nil || !strings.Contains(script, "booting lab:v1 for node01") {
		t.Errorf("after the merge: %v\n%s", err, script)
	}
	boots, err := h.api.Boots(t.Context(), "node01", 0)
	if err != nil || len(boots) != 3 || boots[2].ID != m.Boot || boots[2].Number != 3 {
		t.Errorf("boots of node01: %d, %v; want its two and the one that was merged", len(boots), err)
	}
	if list := h.state.Machines(); len(list) != 1 || len(list[0].MACs) != 2 {
		t.Errorf("machines = %+v; want one with two cards", list)
	}
}

// TestConsoleAndCrash: what kernel and ingot-init said is kept, bounded and
// harmless; what is left of a crash belongs to the boot before.
func TestConsoleAndCrash(t *testing.T) {
	h := newHouseOf(t)
	say := func(boot ingot.BootID, part, text string) {
		t.Helper()
		if err := map[string]func(ingot.BootID, string) error{"console": h.Console, "crash": h.Crash}[part](boot,
			text); err != nil {
			t.Fatal(err)
		}
	}
	first, _ := h.attempt("", "")
	say(first, "console", "the first line \x1b[31m\n")
	say(first, "console", "Command line: ingot.boot="+string(first)+"\n")
	for range 20 {
		say(first, "console", strings.Repeat("m", 8<<10)+"\n")
	}
	say(first, "console", "the last line\n")
	c, err := h.api.Console(t.Context(), "node01", "")
	if err != nil || !strings.HasPrefix(c.Text, `the first line \x1b[31m`) ||
		!strings.HasSuffix(c.Text, "the last line\n") || len(c.Text) > state.MaxConsole+1000 ||
		!strings.Contains(c.Text, "some of it was not kept") || strings.Contains(c.Text, string(first)) {
		t.Errorf("console: %d bytes, %v, beginning %.40q", len(c.Text), err, c.Text)
	}
	second, _ := h.ask()
	say(second, "crash",
		"<2>[   12.345] BUG: kernel NULL pointer dereference\n<0>[   12.4] Kernel panic - not syncing: Fatal exception\n")
	b, _ := h.state.Boot(first)
	if b.Crash != "BUG: kernel NULL pointer dereference" {
		t.Errorf("crash of the first boot = %q", b.Crash)
	}
	if c, err := h.api.Console(t.Context(), "node01", first.Short()); err != nil ||
		!strings.Contains(c.Text, "NULL pointer") {
		t.Errorf("the first boot's console does not have the crash: %v", err)
	}
}

// TestBackupAndRestore, while the server runs: everything is as it was at the
// backup, and a file that is no backup changes nothing.
func TestBackupAndRestore(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.ask()
	var file bytes.Buffer
	if _, err := h.api.Backup(t.Context(), &file); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkBackup(t, path); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.Rename(t.Context(), machineID, "node01"); err != nil {
		t.Fatal(err)
	}
	for name, broken := range map[string][]byte{"nothing": nil, "text": []byte(strings.Repeat("no backup ", 10000)),
		"half": file.Bytes()[:file.Len()/2]} {
		if _, err := h.api.Restore(t.Context(), bytes.NewReader(broken)); err == nil {
			t.Errorf("%s is taken for a backup", name)
		}
		if m, err := h.api.Machine(t.Context(), machineID); err != nil || m.Name != "node01" {
			t.Fatalf("after %s: %+v, %v", name, m, err)
		}
	}
	done, err := h.api.Restore(t.Context(), bytes.NewReader(file.Bytes()))
	if err != nil || done.Machines != 1 {
		t.Fatalf("Restore = %+v, %v", done, err)
	}
	if err := checkBackup(t, done.Before); err != nil {
		t.Errorf("what was there before: %v", err)
	}
	m, err := h.api.Machine(t.Context(), machineID)
	if err != nil || m.Name != "" {
		t.Errorf("after the restore the machine is %+v, %v; want without a name", m, err)
	}
	if _, err := h.api.Rename(t.Context(), machineID, "node02"); err != nil {
		t.Errorf("a change after the restore: %v", err)
	}
}

// TestEventsAreWaitedFor: whoever waits hears of an entry when it is there.
func TestEventsAreWaitedFor(t *testing.T) {
	h := newHouse(t)
	before, err := h.api.Events(t.Context(), api.EventsRequest{})
	if err != nil || len(before.Events) != 0 {
		t.Fatal(before, err)
	}
	heard := make(chan api.Events, 1)
	go func() {
		e, err := h.api.Events(context.WithoutCancel(t.Context()),
			api.EventsRequest{After: before.Last, Wait: 20 * time.Second})
		if err != nil {
			t.Error(err)
		}
		heard <- e
	}()
	h.ask()
	if e := <-heard; len(e.Events) == 0 || e.Events[0].Kind != string(fleet.KindMachine) {
		t.Errorf("heard %+v; want that a machine was seen", e)
	}
}

// TestVendorRule: a machine that waits tells what SMBIOS says, in the query of
// its question or, as it once did, in a form; and a rule for its vendor approves it.
func TestVendorRule(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	p := h.Policy()
	p.Rules = []fleet.Rule{{Vendor: "Example*", Product: "Server ?", Approve: true, Image: "lab:v1"}}
	h.SetPolicy(p)
	boot, script := h.ask()
	if !strings.Contains(script, "/script?vendor=${manufacturer:uristring}&") {
		t.Errorf("the waiting screen does not tell the vendor:\n%s", script)
	}
	for form, want := range map[string]string{"vendor=Other&product=Server+1": "waiting for approval",
		"vendor=" + strings.Repeat("x", 5000): "not a form"} {
		if got := h.postForm(boot, form); !strings.Contains(got, want) {
			t.Errorf("posting %.40s: %s; want %q", form, got, want)
		}
	}
	if _, got := h.get(h.base + ingot.BootPath(h.BootKey(boot),
		"script") + "?vendor=Seen%20Inc.&product=%7e&serial=SN-4711"); !strings.Contains(got, "waiting for approval") {
		t.Errorf("asking with a query: %s", got)
	}
	if m, err := h.api.Machine(t.Context(), machineID); err != nil || m.State != api.Pending ||
		m.Facts.Vendor != "Seen Inc." || m.Facts.Product != "~" || m.Facts.Serial != "SN-4711" {
		t.Errorf("the machine that waits is %+v, %v", m, err)
	}
	if got := h.postForm(boot, "vendor=Example+Inc.&product=Server+1&serial=0123456789"); !strings.Contains(got,
		"booting lab:v1") {
		t.Errorf("a machine of the vendor gets\n%s", got)
	}
	m, err := h.api.Machine(t.Context(), machineID)
	if err != nil || m.State != api.Approved || m.Facts.Vendor != "Example Inc." || m.Facts.Serial != "" {
		t.Errorf("the machine is %+v, %v", m, err)
	}
}

func (h *house) postForm(boot ingot.BootID, form string) string {
	h.t.Helper()
	resp, err := http.Post(h.base+ingot.BootPath(h.BootKey(boot), "script"), "application/x-www-form-urlencoded",
		strings.NewReader(form))
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(b)
}

// TestRulesApprove: a rule approves the machines that it is about, and none
// that an operator is asked about.
func TestRulesApprove(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	p := h.Policy()
	p.Rules = []fleet.Rule{{Subnet: "10.99.0.0/24", MAC: "52:54:00:12:*", Approve: true, Image: "lab:v1",
		Labels: map[string]string{"rack": "r1"}}}
	h.SetPolicy(p)
	h.ask()
	m, err := h.api.Machine(t.Context(), machineID)
	if err != nil || m.State != api.Approved || m.Assignment.Name != "lab:v1" || m.Labels["rack"] != "r1" {
		t.Errorf("by a rule: %+v, %v", m, err)
	}
	other := firstMachine
	other.MAC, other.UUID = "52:54:00:99:00:02", ""
	if _, err := h.Observe(other); err != nil {
		t.Fatal(err)
	}
	asked := firstMachine
	asked.MAC = "52:54:00:12:00:77" // in the board of the first
	if _, err := h.Observe(asked); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"m-525400990002", "m-525400120077"} {
		if m, err := h.api.Machine(t.Context(), id); err != nil || m.State != api.Pending {
			t.Errorf("%s is %s, %v; want pending", id, m.State, err)
		}
	}
}
