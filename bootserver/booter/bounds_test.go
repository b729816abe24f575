package booter

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"ingot"
	"ingot/bootserver/httpboot"
)

// send sends messages as the machine of a boot without authentication does.
func (h *house) send(boot ingot.BootID) httpboot.Sender {
	h.t.Helper()
	to, err := h.Sender(boot, ingot.Message{}, "", "")
	if err != nil {
		h.t.Fatal(err)
	}
	return to
}

// hostileEvent has as much text as one can have, which takes six times as much in JSON.
func hostileEvent(n int64) ingot.Event {
	text := strings.Repeat("<", 1000)
	e := ingot.Event{Stage: ingot.StageVolumes, Detail: text, Error: text, Retry: true, Bytes: n}
	for range 64 {
		e.Volumes = append(e.Volumes, text)
		e.Results = append(e.Results, ingot.VolumeResult{Volume: text, State: ingot.VolumeMounted, Device: text, Disk: text,
			Detail: text})
	}
	return e
}

// size is the size of the machine's boot in JSON, consoles and facts aside.
func (h *house) size() int {
	h.t.Helper()
	_, b := h.machine()
	text, err := json.Marshal(b)
	if err != nil {
		h.t.Fatal(err)
	}
	return len(text)
}

// TestWaitingMachineCannotFill: the key of a machine that waits for approval, which any stranger gets
// by DHCP, stores nothing: no image of ours runs there.
func TestWaitingMachineCannotFill(t *testing.T) {
	h := newHouse(t)
	boot := h.boots()
	before := h.size()
	for i := range 20 {
		if err := h.send(boot).Event(hostileEvent(int64(i))); !errors.Is(err, httpboot.ErrRefused) {
			t.Fatalf("an event: %v; want ErrRefused", err)
		}
	}
	_, reported := h.send(boot).Report(ingot.Report{Boot: boot})
	for name, err := range map[string]error{"console": h.send(boot).Console("text"), "crash": h.send(boot).Crash("text"),
		"report": reported} {
		if !errors.Is(err, httpboot.ErrRefused) {
			t.Errorf("%s: %v; want ErrRefused", name, err)
		}
	}
	if after := h.size(); after > before+1000 {
		t.Errorf("the boot grew from %d to %d bytes", before, after)
	}
}

// TestMachineCannotFill: a machine that has an image keeps a bounded record, without its ticket less,
// and can still tell what it has to.
func TestMachineCannotFill(t *testing.T) {
	h := newHouse(t)
	h.boots()
	h.approve(h.put("1"))
	boot := h.boots()
	fill := func(most int) {
		t.Helper()
		for i := range 60 {
			if err := h.send(boot).Event(hostileEvent(int64(i))); err != nil {
				t.Fatal(err)
			}
		}
		if n := h.size(); n > most {
			t.Errorf("the boot takes %d bytes; want at most %d", n, most)
		}
	}
	fill(64 << 10)
	facts := ingot.Facts{Serial: "S1"}
	text := strings.Repeat("<", 256)
	for range 256 {
		facts.Disks = append(facts.Disks, ingot.Disk{Name: text, Serial: text, WWN: text, Model: text, Path: text,
			Holds: text})
	}
	if _, err := h.Ticket(boot, ingot.TicketRequest{Nonce: strings.Repeat("n", 32), Facts: facts}); err != nil {
		t.Fatal(err)
	}
	m, _ := h.machine()
	if stored, err := json.Marshal(m); err != nil || len(stored) > 160<<10 || m.Facts.Serial != "S1" {
		t.Errorf("the machine takes %d bytes, serial number %q, %v; want at most 160 KiB", len(stored), m.Facts.Serial, err)
	}
	fill(256 << 10)
	if err := h.send(boot).Event(ingot.Event{Stage: ingot.StageVolumes, Results: []ingot.VolumeResult{{Volume: "data",
		State: ingot.VolumeMounted}}}); err != nil {
		t.Fatal(err)
	}
	_, b := h.machine()
	if last := b.Events[len(b.Events)-1]; len(last.Results) != 1 {
		t.Errorf("the latest event is %+v; want the one with a volume", last)
	}
}
