package bootserver

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// TestCrashIsReportedOnce, of the boot directly before, whatever else its key is
// used for.
func TestCrashIsReportedOnce(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	var keys []ingot.BootKey
	for range 3 {
		h.clock = h.clock.Add(time.Minute)
		keys = append(keys, h.boots(firstMachine))
	}
	crash := func(text string) {
		t.Helper()
		if got := h.do("POST", h.base+ingot.BootPath(keys[2], "crash"), text); got != http.StatusNoContent {
			t.Fatalf("POST crash = %d; want 204", got)
		}
	}
	crash("no line of it says why")
	once := everything(t, h.state)
	for range 50 {
		crash(strings.Repeat("it was something else ", 1000))
	}
	crash("[ 1.0] Kernel panic - not syncing: it was something else")
	if again := everything(t, h.state); again != once {
		t.Errorf("a crash that is reported again changes\n%s\nto\n%s", once, again)
	}
	for i, want := range []bool{false, true, false} {
		c, err := h.api.Console(t.Context(), machineID, string(keys[i].ID()))
		if err != nil || strings.Contains(c.Text, "no line of it says why") != want {
			t.Errorf("console of boot %d: %q, %v; the crash belongs to the second one alone", i+1, c.Text, err)
		}
	}
}

// TestTheEndHasRoom: a boot that told as much as is kept still ends as it says.
func TestTheEndHasRoom(t *testing.T) {
	for _, c := range []struct {
		name, part string
		says       func(ingot.BootID, ingot.Digest) any
		want       ingot.Outcome
	}{
		{"an error", "events", func(ingot.BootID, ingot.Digest) any {
			return ingot.Event{Stage: ingot.StageRoot,
				Error: "no"}
		}, ingot.OutcomeFailed},
		{"another root", "report", func(id ingot.BootID,
			_ ingot.Digest) any {
			return ingot.Report{Boot: id, Healthy: true}
		}, ingot.OutcomeFailed},
		{"not well", "report", func(id ingot.BootID, root ingot.Digest) any {
			return ingot.Report{Boot: id,
				Root: root}
		}, ingot.OutcomeFailed},
		{"well", "report", func(id ingot.BootID, root ingot.Digest) any {
			return ingot.Report{Boot: id, Root: root,
				Healthy: true}
		}, ingot.OutcomeHealthy},
	} {
		h := newHouse(t)
		im := h.put("v1")
		key := h.boots(firstMachine)
		if err := h.state.Update(func(tx state.Tx) error {
			b, _ := tx.Boot(key.ID())
			for i := range fleet.MaxEvents {
				b.Events = append(b.Events, fleet.Event{At: h.clock,
					Event: ingot.Event{Stage: ingot.StageTicket, Error: "no", Retry: true, Bytes: int64(i)}})
			}
			tx.StoreBoot(b)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := h.do("POST", h.base+ingot.BootPath(key, c.part),
			c.says(key.ID(), im.Manifest.Root.Digest)); got != http.StatusNoContent {
			t.Errorf("%s: POST %s = %d", c.name, c.part, got)
		}
		if _, b := h.machine1(); b.Outcome != c.want || len(b.Events) < fleet.MaxEvents {
			t.Errorf("%s after %d events: the boot is %q; want %q", c.name, len(b.Events), b.Outcome, c.want)
		}
	}
}

// TestReportOfNothing: a machine that waits runs nothing that could be healthy,
// and cannot spoil its past by saying so.
func TestReportOfNothing(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.put("v2")
	h.ask()
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	h.attempt("", "")
	if _, err := h.api.Retire(t.Context(), machineID); err != nil {
		t.Fatal(err)
	}
	boot, _ := h.ask()
	before := everything(t, h.state)
	if status, text := h.post(boot, "report", ingot.Report{Boot: boot, Healthy: true}); status != http.StatusForbidden {
		t.Errorf("a report of a boot without an image = %d %s; want 403", status, text)
	}
	if after := everything(t, h.state); after != before {
		t.Errorf("it changed\n%s\nto\n%s", before, after)
	}
}

// TestWhoMayNotBootGetsNoFiles: a machine that is retired on its way to its
// image gets no more of it.
func TestWhoMayNotBootGetsNoFiles(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	key := h.boots(firstMachine)
	kernel := h.base + ingot.BootPath(key, im.Digest.Hex()+"/kernel")
	if status, _ := h.get(kernel); status != http.StatusOK {
		t.Fatalf("GET kernel = %d", status)
	}
	if _, err := h.api.Retire(t.Context(), machineID); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"kernel", "initramfs", "root", "uki.efi", "manifest", "config", "signature"} {
		if status, _ := h.get(h.base + ingot.BootPath(key, im.Digest.Hex()+"/"+part)); status != http.StatusForbidden {
			t.Errorf("GET %s of a machine that was retired = %d; want 403", part, status)
		}
	}
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{}); err != nil {
		t.Fatal(err)
	}
	if status, _ := h.get(kernel); status != http.StatusOK {
		t.Errorf("GET kernel, once it is approved again = %d; want 200", status)
	}
}

// TestMergeLeavesOneBoot that is not over.
func TestMergeLeavesOneBoot(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.boots(firstMachine)
	h.clock = h.clock.Add(time.Minute)
	changed := firstMachine
	changed.MAC = "52:54:00:99:00:01" // a new card: the machine waits, and its boot has no deadline
	h.seen(changed)
	h.clock = h.clock.Add(time.Second)
	h.seen(firstMachine) // and what is known boots again
	if _, err := h.api.Merge(t.Context(), "m-525400990001", machineID); err != nil {
		t.Fatal(err)
	}
	m, _ := h.machine1()
	boots, err := h.api.Boots(t.Context(), machineID, 0)
	if err != nil || len(boots) != 3 {
		t.Fatalf("%d boots, %v; want 3", len(boots), err)
	}
	for _, b := range boots {
		if b.Open() != (b.ID == m.Boot) {
			t.Errorf("boot %d is %q, and it is the latest one: %t", b.Number, b.Outcome, b.ID == m.Boot)
		}
	}
}

// TestNumbersAfterAMerge: the next boot gets a number of its own, also if the boot that goes on began before one
// of the other machine.
func TestNumbersAfterAMerge(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.boots(firstMachine)
	first, _ := h.machine1()
	changed := firstMachine
	changed.MAC = "52:54:00:99:00:01"
	h.clock = h.clock.Add(time.Minute)
	h.seen(changed)
	h.clock = h.clock.Add(time.Minute)
	if status, text := h.post(first.Boot, "ticket", ingot.TicketRequest{Nonce: nonce}); status != http.StatusOK {
		t.Fatalf("the ticket of the first machine: %d %s", status, text)
	}
	if _, err := h.api.Merge(t.Context(), "m-525400990001", machineID); err != nil {
		t.Fatal(err)
	}
	if m, _ := h.machine1(); m.Boot != first.Boot {
		t.Fatal("the boot that was heard last does not go on")
	}
	h.clock = h.clock.Add(time.Minute)
	h.seen(firstMachine)
	boots, err := h.api.Boots(t.Context(), machineID, 0)
	if err != nil || len(boots) != 3 {
		t.Fatalf("%d boots, %v; want 3", len(boots), err)
	}
	for i, b := range boots {
		if b.Number != i+1 {
			t.Errorf("boot %s has the number %d; want %d", b.ID.Short(), b.Number, i+1)
		}
	}
}

// TestAnOperatorsWordIsTried: what becomes of the boot that was under way when
// an operator spoke does not count against what he said.
func TestAnOperatorsWordIsTried(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	h.put("v2")
	p := h.Policy()
	p.Attempts = 1
	h.SetPolicy(p)
	h.ask()
	if _, err := h.api.Approve(t.Context(), machineID, api.ApproveRequest{Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	h.attempt("", "")
	for name, word := range map[string]func() error{
		"assign": func() error { _, err := h.api.Assign(t.Context(), machineID, "lab:v2", ""); return err },
		"resume": func() error { _, err := h.api.Resume(t.Context(), machineID); return err },
	} {
		if _, err := h.api.Assign(t.Context(), machineID, "lab:v2", ""); err != nil {
			t.Fatal(err)
		}
		boot, _ := h.ask() // it hangs in its loader
		h.Served(boot, "initramfs", 1, true)
		if err := word(); err != nil {
			t.Fatal(err)
		}
		if _, script := h.ask(); !strings.Contains(script, "booting lab:v2") {
			t.Errorf("after %s, and a reset, the script is\n%s", name, script)
		}
	}
}
