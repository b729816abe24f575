package bootserver

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
)

// backedUp reads a backup, and lets a minute pass before and after it.
func (h *house) backedUp() *bytes.Buffer {
	h.t.Helper()
	h.clock = h.clock.Add(time.Minute)
	var backup bytes.Buffer
	if _, err := h.api.Backup(h.t.Context(), &backup); err != nil {
		h.t.Fatal(err)
	}
	h.clock = h.clock.Add(time.Minute)
	return &backup
}

// restore restores a backup after a minute.
func (h *house) restore(backup *bytes.Buffer) api.Restored {
	h.t.Helper()
	h.clock = h.clock.Add(time.Minute)
	done, err := h.api.Restore(h.t.Context(), backup)
	if err != nil {
		h.t.Fatal(err)
	}
	h.clock = h.clock.Add(time.Minute)
	return done
}

func (h *house) machine(ref string) api.Machine {
	h.t.Helper()
	m, err := h.api.Machine(h.t.Context(), ref)
	if err != nil {
		h.t.Fatal(err)
	}
	return m
}

// knows reports whether the state has a machine with a card.
func (h *house) knows(mac string) bool {
	_, known := h.state.Find(fleet.Sighting{MAC: mac})
	return known
}

// TestMachinesComeBackAfterARestore: an older state was restored. Machines that were added since the
// backup, and boots that began since, come back with the first message that proves them, and are shown
// as such.
func TestMachinesComeBackAfterARestore(t *testing.T) {
	h, im := newAbleHouse(t)
	h.healthy(second)
	backup := h.backedUp()
	added, again := h.healthy(firstMachine), h.healthy(second)
	if _, err := h.api.Rename(t.Context(), machineID, "node07"); err != nil {
		t.Fatal(err)
	}
	h.clock = h.clock.Add(time.Minute)
	added = h.healthy(firstMachine) // its ticket has the name
	was := h.machine(machineID)
	if done := h.restore(backup); done.Machines != 1 || strings.Join(done.Missing, " ") != "node07" {
		t.Errorf("Restore = %+v; want one machine, and node07 missing", done)
	}
	if h.knows(firstMachine.MAC) {
		t.Fatal("the backup has the machine that was added after it")
	}
	for what, s := range map[string]*system{"a machine that was added": added, "a boot that began": again} {
		if got := s.says("console", "a line"); got != http.StatusNoContent {
			t.Errorf("%s since the backup: POST console = %d; want 204", what, got)
		}
		if got := s.says("report", ingot.Report{Boot: s.key.ID(), Image: im.Digest, Root: im.Manifest.Root.Digest,
			Healthy: true}); got != http.StatusNoContent {
			t.Errorf("%s since the backup: POST report = %d; want 204", what, got)
		}
	}
	m := h.machine("node07")
	if m.State != api.Approved || m.Assignment.Image != im.Digest || m.UUID != was.UUID ||
		m.MachineKey != was.MachineKey ||
		strings.Join(m.MACs, " ") != strings.Join(was.MACs, " ") || m.Boot != added.key.ID() || m.Returned.IsZero() ||
		m.LastHealthy.Image != im.Digest || !m.Authenticated {
		t.Errorf("the machine came back as %+v\nwas %+v", m, was)
	}
	if m := h.machine(second.MAC); m.Boot != again.key.ID() || m.Returned.IsZero() || m.State != api.Approved {
		t.Errorf("the machine with another boot is %+v; want boot %s", m, again.key.ID())
	}
	boots, err := h.api.Boots(t.Context(), second.MAC, 0)
	if err != nil || len(boots) != 2 || boots[1].Outcome != ingot.OutcomeHealthy || boots[1].Number <= boots[0].Number {
		t.Errorf("its boots are %+v, %v", boots, err)
	}
	if _, err := h.api.Why(t.Context(), "node07"); err != nil {
		t.Error(err)
	}
	h.clock = h.clock.Add(time.Hour)
	h.healthy(firstMachine)
	if m := h.machine("node07"); !m.Returned.IsZero() || m.LastHealthy.Image != im.Digest {
		t.Errorf("after its next boot the machine is %+v; want one as any other", m)
	}
}

// TestMachinesComeBackToANewServer: the disk of the server was lost, and a backup is restored to a new
// one. Which machines were removed since the backup is lost as well, so those that were added since wait
// for approval when they come back.
func TestMachinesComeBackToANewServer(t *testing.T) {
	there, im := newAbleHouse(t)
	there.healthy(second)
	backup := there.backedUp()
	added, again := there.healthy(firstMachine), there.healthy(second)
	here, _ := newAbleHouse(t)
	here.clock = there.clock.Add(time.Minute)
	here.restore(backup)
	for _, s := range []*system{added, again} {
		s.h = here
		if got := s.says("report", ingot.Report{Boot: s.key.ID(), Image: im.Digest, Root: im.Manifest.Root.Digest,
			Healthy: true}); got != http.StatusNoContent {
			t.Fatalf("POST report = %d; want 204", got)
		}
	}
	if m := here.machine(second.MAC); m.State != api.Approved || m.Boot != again.key.ID() {
		t.Errorf("a machine of the backup is %+v; want approved, with its new boot", m)
	}
	m := here.machine(machineID)
	if m.State != api.Pending || m.Returned.IsZero() || m.Boot != added.key.ID() || m.Assignment.Image != im.Digest {
		t.Errorf("a machine that was added since is %+v; want pending, shown as one that came back", m)
	}
	if _, err := here.api.Approve(t.Context(), machineID, api.ApproveRequest{}); err != nil {
		t.Fatal(err)
	}
	if m := here.machine(machineID); m.State != api.Approved || m.Assignment.Image != im.Digest {
		t.Errorf("once it was approved it is %+v; want its image assigned", m)
	}
}

// TestNobodyElseComesBack: no message brings back a machine that an operator removed, whenever that
// was, nor one of another installation, nor a machine of which somebody has everything that was sent.
func TestNobodyElseComesBack(t *testing.T) {
	forget := func(h *house) {
		if _, err := h.api.Forget(h.t.Context(), machineID, true); err != nil {
			h.t.Fatal(err)
		}
	}
	for name, play := range map[string]func(h *house) *system{
		"forgotten, without a restore": func(h *house) *system {
			s := h.healthy(firstMachine)
			forget(h)
			return s
		},
		"forgotten before the backup": func(h *house) *system {
			s := h.healthy(firstMachine)
			h.clock = h.clock.Add(time.Minute)
			forget(h)
			h.restore(h.backedUp())
			return s
		},
		"forgotten after the backup": func(h *house) *system {
			backup := h.backedUp()
			s := h.healthy(firstMachine)
			h.clock = h.clock.Add(time.Minute)
			forget(h)
			h.restore(backup)
			return s
		},
		"retired after the backup": func(h *house) *system {
			backup := h.backedUp()
			s := h.healthy(firstMachine)
			h.clock = h.clock.Add(time.Minute)
			if _, err := h.api.Retire(h.t.Context(), machineID); err != nil {
				h.t.Fatal(err)
			}
			h.restore(backup)
			return s
		},
		"forgotten after it came back": func(h *house) *system {
			backup := h.backedUp()
			s := h.healthy(firstMachine)
			h.restore(backup)
			if got := s.says("console", "a line"); got != http.StatusNoContent || !h.knows(firstMachine.MAC) {
				h.t.Fatalf("POST console = %d; want that it comes back", got)
			}
			h.clock = h.clock.Add(time.Minute)
			forget(h)
			return s
		},
		"of a boot from before the backup": func(h *house) *system {
			s := h.healthy(firstMachine)
			backup := h.backedUp()
			h.clock = h.clock.Add(time.Minute)
			forget(h)
			h.restore(h.backedUp())
			h.restore(backup) // it knows the machine again
			forget(h)
			return s
		},
	} {
		h, _ := newAbleHouse(t)
		h.healthy(second)
		s := play(h)
		if got := s.says("report", ingot.Report{Boot: s.key.ID(), Healthy: true}); got != http.StatusNotFound {
			t.Errorf("a machine %s: POST report = %d; want 404", name, got)
		}
		if h.knows(firstMachine.MAC) {
			t.Errorf("a machine %s came back", name)
		}
	}
}

// TestForgedReturns: after a restore, only the system that took the ticket brings its boot back.
func TestForgedReturns(t *testing.T) {
	h, im := newAbleHouse(t)
	there, _ := newAbleHouse(t)
	backup := h.backedUp()
	there.clock = h.clock
	first := h.healthy(firstMachine)
	replayed := first.prove("report", ingot.Report{Boot: first.key.ID(), Healthy: true})
	h.clock = h.clock.Add(time.Minute)
	s := h.healthy(firstMachine)
	foreign := there.healthy(firstMachine)
	h.restore(backup)
	good := ingot.Report{Boot: s.key.ID(), Image: im.Digest, Root: im.Manifest.Root.Digest, Healthy: true}
	stranger := *s
	stranger.secret = bytes.Repeat([]byte{1}, 32)
	ours := s.prove("report", good)
	with := func(token string) message { return message{ours.path, ours.proof, token, 0, ours.body} }
	for name, c := range map[string]struct {
		m    message
		want int
	}{
		"without a proof":                {message{path: ours.path, body: ours.body}, http.StatusNotFound},
		"its token, without the secret":  {stranger.prove("report", good), http.StatusUnauthorized},
		"a token of another server":      {with(foreign.token), http.StatusUnauthorized},
		"the key of another server":      {foreign.prove("report", good), http.StatusNotFound},
		"the token of its earlier boot":  {with(first.token), http.StatusUnauthorized},
		"a token with one other digit":   {with(flip(ours.token[0]) + ours.token[1:]), 401},
		"another body under its own MAC": {message{ours.path, ours.proof, ours.token, 0, []byte("{}")}, 401},
	} {
		if got, _, text := h.deliver(c.m); got != c.want || h.knows(firstMachine.MAC) {
			t.Errorf("%s: %d %s; want %d, and no machine", name, got, text, c.want)
		}
	}
	if got, _, text := h.deliver(ours); got != http.StatusNoContent {
		t.Fatalf("the machine itself: %d %s", got, text)
	}
	if got, _, _ := h.deliver(ours); got != http.StatusConflict {
		t.Errorf("its message once more: %d; want 409", got)
	}
	if got, _, _ := h.deliver(replayed); got != http.StatusNotFound {
		t.Errorf("a recorded message of its earlier boot: %d; want 404", got)
	}
	if m := h.machine(machineID); m.Boot != s.key.ID() {
		t.Errorf("its boot is %s; want %s", m.Boot, s.key.ID())
	}
}

// TestComesBackAlthoughAskedFor: after a restore, a host asks DHCP in the name of a machine that runs.
// Without a ticket it keeps nobody out.
func TestComesBackAlthoughAskedFor(t *testing.T) {
	h, _ := newAbleHouse(t)
	backup := h.backedUp()
	s := h.healthy(firstMachine)
	h.restore(backup)
	h.ask()
	if m := h.machine(machineID); m.State != api.Pending || m.Boot == s.key.ID() {
		t.Fatalf("a host that asked in its name made %+v", m)
	}
	if got := s.says("console", "a line"); got != http.StatusNoContent {
		t.Errorf("POST console = %d; want 204", got)
	}
	if m := h.machine(machineID); m.State != api.Approved || m.Boot != s.key.ID() || m.Returned.IsZero() {
		t.Errorf("the machine is %+v; want the boot that runs", m)
	}
	boots, err := h.api.Boots(t.Context(), machineID, 0)
	if err != nil || len(boots) != 2 || boots[0].Outcome == ingot.OutcomeOpen {
		t.Errorf("its boots are %+v, %v; want that the other one ended", boots, err)
	}
}
