package bootserver

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/state"
)

// damage makes the records of boots unreadable in the file of the state, and begins the server anew.
func (h *house) damage(boots ...ingot.BootID) {
	h.t.Helper()
	if onMemory {
		h.t.Skip("only a file has records that can be damaged")
	}
	if err := h.state.Close(); err != nil {
		h.t.Fatal(err)
	}
	path := filepath.Join(h.images.Root(), state.Folder, "ingot.db")
	file, err := os.ReadFile(path)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, id := range boots {
		begin := []byte(fmt.Sprintf(`{"id":%q`, string(id)))
		if !bytes.Contains(file, begin) {
			h.t.Fatalf("the file of the state has no boot %s", id)
		}
		file = bytes.ReplaceAll(file, begin, append([]byte("x"), begin[1:]...))
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		h.t.Fatal(err)
	}
	h.reopen()
}

// bootTwice boots machines twice, and returns the first of these boots. The second one is healthy.
func (h *house) bootTwice(first ingot.Outcome, machines ...ingot.MachineID) (boots []ingot.BootID) {
	h.t.Helper()
	for _, id := range machines {
		h.fakeBoot(id, first)
		m, _ := h.state.Machine(id)
		boots = append(boots, m.Boot)
		h.fakeBoot(id, ingot.OutcomeHealthy)
	}
	return boots
}

// wave is a rollout to all machines at once, without canaries.
func (h *house) wave(image string) api.Rollout {
	none := 0
	return h.startRollout(api.RolloutRequest{Image: image, Selector: "all", Policy: api.RolloutPolicy{Canary: &none,
		Waves: []int{100}, MaxUnavailable: api.Amount{Percent: 100}, Bake: time.Minute}})
}

// detail is what the server that runs now says of a rollout.
func (h *house) detail(id string) api.RolloutDetail {
	h.t.Helper()
	d, err := h.server.operator().Rollout(id)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

// logged counts the lines of a log that contain a text.
func logged(log, text string) (n int) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// TestDamagedBootOfRollout: a machine of which a boot cannot be read counts as not healthy, is named, and is
// logged once; a bad image is stopped all the same.
func TestDamagedBootOfRollout(t *testing.T) {
	h := newHouse(t)
	h.fakes(12, h.put("v1"))
	h.put("v2")
	r := h.wave("lab:v2")
	h.pass(time.Second)
	h.damage(h.bootTwice(ingot.OutcomeFailed, "m-000000000000")...)
	var log bytes.Buffer
	h.said.into(&log)
	for range 10 {
		h.pass(2 * time.Second)
	}
	d := h.detail(r.ID)
	if u := d.Unreadable; len(u) != 1 || u[0].Name != "fake000" || !strings.Contains(u[0].Reason, "reading boots") {
		t.Errorf("it names %+v as unreadable", u)
	}
	if d.State != "wave" || d.Count["moving"] != 12 || d.Budget[0].Unavailable != 12 {
		t.Errorf("it is %s with %v and %+v", d.State, d.Count, d.Budget)
	}
	for i := 1; i < 12; i++ {
		h.fakeBoot(ingot.MachineID(fmt.Sprintf("m-%012x", i)), ingot.OutcomeFailed)
		h.pass(2 * time.Second)
	}
	if d = h.detail(r.ID); d.State != "halted" || d.Stop.Reason != "failing-boots" {
		t.Errorf("after eleven failures it is %s: %+v", d.State, d.Stop)
	}
	if n := logged(log.String(), "level=ERROR"); n != 1 || logged(log.String(), "machine=m-000000000000 err=") != 1 {
		t.Errorf("%d errors were logged:\n%s", n, &log)
	}
}

// TestDamagedBootKeepsAWaveOpen: a good image does not pass for good on a machine of which nothing is known.
// The rollout pauses with that machine's name, and ends when an operator decides about it.
func TestDamagedBootKeepsAWaveOpen(t *testing.T) {
	h := newHouse(t)
	h.fakes(4, h.put("v1"))
	h.put("v2")
	r := h.wave("lab:v2")
	h.pass(time.Second)
	h.damage(h.bootTwice(ingot.OutcomeHealthy, "m-000000000002")...)
	for _, id := range []ingot.MachineID{"m-000000000000", "m-000000000001", "m-000000000003"} {
		h.fakeBoot(id, ingot.OutcomeHealthy)
	}
	for range 60 {
		h.pass(time.Minute)
	}
	d := h.detail(r.ID)
	if d.State != "paused" || d.Stop.Reason != "inconclusive" || !strings.Contains(d.Stop.Text, "fake002: what it did "+
		"cannot be read: reading boots: ") || d.Count["good"] != 3 {
		t.Fatalf("it is %s, with %v: %+v", d.State, d.Count, d.Stop)
	}
	o := h.server.operator()
	if _, err := o.Assign(t.Context(), "fake002", api.AssignRequest{Image: "lab:v2"}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.ResumeRollout(t.Context(), r.ID, api.WhyRequest{}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		h.pass(time.Minute)
	}
	if d = h.detail(r.ID); d.State != "done" || d.Count["good"] != 3 || d.Count["outside"] != 1 {
		t.Errorf("after an operator's word it is %s, with %v: %+v", d.State, d.Count, d.Stop)
	}
}

// TestRolloutOfWhichNothingIsKnown: it pauses, with the reason, and can be aborted.
func TestRolloutOfWhichNothingIsKnown(t *testing.T) {
	t.Run("boots", func(t *testing.T) {
		h := newHouse(t)
		v1 := h.put("v1")
		h.fakes(3, v1)
		h.put("v2")
		r := h.wave("lab:v2")
		h.pass(time.Second)
		h.damage(h.bootTwice(ingot.OutcomeHealthy, "m-000000000000", "m-000000000001", "m-000000000002")...)
		h.pass(time.Second)
		d := h.detail(r.ID)
		if d.State != "paused" || d.Stop.Reason != "unreadable" || len(d.Stop.Evidence) != 3 || len(d.Unreadable) != 3 ||
			!strings.Contains(d.Stop.Text, "what the machines that were moved did cannot be read") {
			t.Fatalf("it is %s: %+v", d.State, d.Stop)
		}
		if _, err := h.server.operator().AbortRollout(t.Context(), r.ID, api.WhyRequest{}); err != nil {
			t.Fatal(err)
		}
		h.pass(time.Second)
		for _, m := range h.state.Machines() {
			if m.Assignment.Image != v1.Digest {
				t.Errorf("after the abort %s is assigned %s", m.Name, m.Assignment.Name)
			}
		}
	})
	t.Run("window", func(t *testing.T) {
		h := newHouse(t)
		h.fakes(3, h.put("v1"))
		h.put("v2")
		r := h.wave("lab:v2")
		stored, _ := h.state.Rollout(r.ID)
		stored.Policy.Window = "Mon-Fri 09:00-16:00 Europe/Atlantis"
		h.update(func(tx state.Tx) { tx.PutRollout(stored) })
		var log bytes.Buffer
		h.said.into(&log)
		for range 5 {
			h.pass(2 * time.Second)
		}
		d := h.detail(r.ID)
		if d.State != "paused" || d.Stop.Reason != "unreadable" || !strings.Contains(d.Stop.Text, "Europe/Atlantis") {
			t.Errorf("it is %s: %+v", d.State, d.Stop)
		}
		if n := logged(log.String(), "level=ERROR"); n != 0 {
			t.Errorf("%d errors were logged:\n%s", n, &log)
		}
	})
}

// TestRolloutStartsBesideDamage: a boot that cannot be read keeps no rollout from starting. The strictest
// test is taken, and the plan says so.
func TestRolloutStartsBesideDamage(t *testing.T) {
	h := newHouse(t)
	h.fakes(3, h.put("v1"))
	h.put("v2")
	h.damage(h.bootTwice(ingot.OutcomeHealthy, "m-000000000000")...)
	p, err := h.server.operator().StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v2", Selector: "all"})
	if err != nil {
		t.Fatal(err)
	}
	if text := strings.Join(p.Notes, "\n"); !strings.Contains(text, "earlier boots cannot be read: reading boots: ") ||
		p.Rollout.Policy.Test.Usual != rollout.FloorRate {
		t.Errorf("the plan says %q, with %+v", text, p.Rollout.Policy.Test)
	}
}

// TestErrorOfRolloutIsLoggedOnce: not at every look, as long as it is the same; and again when it is back.
func TestErrorOfRolloutIsLoggedOnce(t *testing.T) {
	h := newHouse(t)
	h.fakes(3, h.put("v1"))
	h.put("v2")
	full := &fullStore{h.state, 1 << 30}
	h.state = full
	h.begin(h.port)
	if _, err := h.server.operator().StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v2",
		Selector: "all"}); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	h.said.into(&log)
	for _, room := range []int{0, 1 << 30} {
		full.room = room
		for range 5 {
			h.server.rollouts.Tick(t.Context())
		}
	}
	if logged(log.String(), `msg="moving a rollout on" rollout=r1 err="no space left on device"`) != 1 ||
		logged(log.String(), `msg="moving a rollout on: this works again" rollout=r1`) != 1 {
		t.Errorf("it logged:\n%s", &log)
	}
}

// TestRolloutsThatEndedStay: what became of machines after a rollout changes nothing of what it says.
func TestRolloutsThatEndedStay(t *testing.T) {
	h := newHouse(t)
	h.fakes(4, h.put("v1"))
	v2 := h.put("v2")
	h.put("v3")
	if _, err := h.api.Pin(t.Context(), "fake003", "certified"); err != nil {
		t.Fatal(err)
	}
	r := h.wave("lab:v2")
	for range 5 {
		h.pass(time.Minute)
		for i := range 3 {
			if m, _ := h.state.Machine(ingot.MachineID(fmt.Sprintf("m-%012x", i))); h.bootOf(m.Boot).Image.Image != v2.Digest {
				h.fakeBoot(m.ID, ingot.OutcomeHealthy)
			}
		}
	}
	before := h.rollout(r.ID)
	if before.State != "done" || before.Count["good"] != 3 || before.Count["not moved"] != 1 {
		t.Fatalf("it is %s with %v", before.State, before.Count)
	}
	if _, err := h.api.Retire(t.Context(), "fake000"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.Forget(t.Context(), "fake001", true); err != nil {
		t.Fatal(err)
	}
	h.reopen()
	after := h.detail(r.ID)
	list, err := h.server.operator().RolloutMachines(r.ID)
	if err != nil || fmt.Sprint(after.Count) != fmt.Sprint(before.Count) || list[0].Is != "good" ||
		list[3].Is != "not moved" {
		t.Errorf("it has %v, and had %v: %+v %v", after.Count, before.Count, list, err)
	}
	if all := h.server.operator().Rollouts(); len(all) != 1 || fmt.Sprint(all[0].Count) != fmt.Sprint(before.Count) {
		t.Errorf("the list has %+v", all)
	}
}
