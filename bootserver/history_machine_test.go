package bootserver

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/httpboot"
)

// leaves: the computer is reset, what ran on it is over.
func (s *history) leaves(c *computer) {
	if c.boot != "" && !slices.Contains(s.old, c.boot) {
		s.old = append(s.old, c.boot)
	}
	c.boot, c.image = "", ""
}

// knocks is firmware that asks for an address, and is switched off again.
func (s *history) knocks(c *computer) {
	s.leaves(c)
	if _, err := s.Observe(c.sighting(false)); err != nil {
		s.t.Fatal(err)
	}
}

// boots is a reset and all that follows, up to a ticket, when there is one.
func (s *history) boots(t *rapid.T, c *computer) {
	s.leaves(c)
	at := attempt(s.t, s.party, c, s.facts(t, c))
	s.began(c, at)
}

// attempted is what the server answers in one attempt to boot.
type attempted struct {
	boot    ingot.BootID
	before  fleet.Boot // the boot, before the script decided
	decided fleet.Boot // and after
	machine fleet.Machine
	would   string // what a server that only watches says
	script  string
	ticket  string
	err     error // of the ticket
}

// attempt is one boot of a computer at a server, from the reset to the ticket.
func attempt(t fataler, b party, c *computer, facts ingot.Facts) (at attempted) {
	would, err := b.WouldAnswer(c.sighting(false))
	if err != nil {
		t.Fatal(err)
	}
	at.would = string(mustJSON(t, would))
	if _, err := b.Observe(c.sighting(false)); err != nil {
		t.Fatal(err)
	}
	b.LoaderServed(c.Address, "snponly.efi", 300_000)
	if _, err := b.Observe(c.sighting(true)); err != nil {
		t.Fatal(err)
	}
	at.machine, _ = b.state.Find(fleet.Sighting{MAC: c.MAC, UUID: c.UUID})
	at.boot = at.machine.Boot
	at.before, _ = b.state.Boot(at.boot)
	if at.script, err = b.Script(at.boot, base); err != nil {
		t.Fatal(err)
	}
	at.decided, _ = b.state.Boot(at.boot)
	if !strings.Contains(at.script, "kernel ") {
		return at
	}
	b.Served(at.boot, "kernel", 100, true)
	b.Served(at.boot, "initramfs", 100, true)
	signed, err := b.Ticket(at.boot, ingot.TicketRequest{Nonce: nonce, Facts: facts})
	at.ticket, at.err = string(signed.Ticket), err
	return at
}

// began judges an attempt.
func (s *history) began(c *computer, at attempted) {
	if c.boot = at.boot; slices.Contains(s.old, c.boot) && at.before.Stage().Rank() > ingot.StageScript.Rank() {
		s.t.Fatalf("%s starts over, and goes on with an old boot", c)
	}
	s.judges(c, at.machine, at.before, at.decided, at.script)
	if c.image == "" {
		return
	}
	m, _ := s.state.Machine(at.machine.ID)
	switch {
	case at.err == nil:
		var ticket ingot.Ticket
		if err := json.Unmarshal([]byte(at.ticket), &ticket); err != nil {
			s.t.Fatal(err)
		}
		if ticket.Image != c.image || ticket.Boot != c.boot || ticket.Machine != at.machine.ID ||
			m.State != fleet.Approved {
			s.t.Fatalf("%s runs %s in boot %s, and its ticket is %+v", c, c.image, c.boot.Short(), ticket)
		}
	case !errors.Is(at.err, httpboot.ErrRefused) || m.Ask == nil || m.State != fleet.Pending:
		s.t.Fatalf("a ticket for %s: %v, and the machine is %s", c, at.err, m.State)
	}
}

// judges what a script says to a machine, given the boot from before it was
// asked for and after.
func (s *history) judges(c *computer, m fleet.Machine, before, b fleet.Boot, script string) {
	serves := strings.Contains(script, "kernel ")
	if m.Once != nil && m.State == fleet.Approved && !s.servable(m.Once.Image) {
		m.Once = nil // it is cancelled then
	}
	if now, _ := s.state.Machine(m.ID); m.Assignment.Image == "" && now.Assignment.Image != "" { // by this script
		if name, why := s.Policy().FirstImage(m); now.Assignment.Name != name || now.Assignment.Why != why {
			s.t.Fatalf("%s gets %+v; the policy gives it %q, %s", m.ID, now.Assignment, name, why)
		}
		m.Assignment = now.Assignment
	}
	ref, err := fleet.Next(m)
	if want := err == nil && s.servable(ref.Image); serves != want {
		s.t.Fatalf("%s, %s, which is to boot %q (%v, servable: %t), gets\n%s", m.ID, m.State, ref.Name, err,
			s.servable(ref.Image), script)
	}
	if !serves {
		return
	}
	c.image = b.Image.Image
	if !s.mayHave(m, b, c.image) {
		s.t.Fatalf("%s, which is %s, boots %s: removed, of a strangeKey, or not its own", m.ID, m.State, b.Image.Name)
	}
	l := s.life(m.ID)
	if before.Image.Image != "" {
		return // decided before
	}
	if (b.Once != nil) != (m.Once != nil) || b.Once != nil && (b.Once.Order != m.Once.Order || c.image != m.Once.Image) {
		s.t.Fatalf("%s is to do once %+v, and its boot does %+v", m.ID, m.Once, b.Once)
	}
	for _, a := range b.Arguments() {
		if !strings.Contains(script, " "+a+" ") {
			s.t.Fatalf("the script of a boot with the argument %s is\n%s", a, script)
		}
	}
	if b.Once != nil {
		return
	}
	if !strings.Contains(script, "/"+c.image.Hex()+"/kernel") {
		s.t.Fatalf("the boot is of %s, and the script says\n%s", b.Image.Name, script)
	}
	if c.image != m.Assignment.Image && (len(l.healthy) == 0 || l.healthy[len(l.healthy)-1] != c.image) {
		s.t.Fatalf("%s boots %s: neither assigned nor the one healthy here last", m.ID, b.Image.Name)
	}
	if l.word != "" && l.word != c.image {
		s.t.Fatalf("%s boots %s, and an operator wants %s", m.ID, b.Image.Name, l.word)
	}
	l.word = ""
}

// facts are what a computer tells of itself. Now and then it has another board.
func (s *history) facts(t *rapid.T, c *computer) ingot.Facts {
	if draw(t, indices(12), "board") == 7 {
		c.serial = !c.serial
	}
	return ingot.Facts{UUID: c.UUID, Serial: map[bool]string{false: "S1", true: "S2"}[c.serial], RAM: 1 << 30,
		CPU:  "a CPU",
		NICs: []ingot.NIC{{Name: "eth0", MAC: c.MAC, Boot: true}}}
}

// polls asks for the script once more, as loaders that wait do.
func (s *history) polls(c *computer) {
	before, ok := s.state.Boot(c.boot)
	m, _ := s.state.Machine(before.Machine)
	all := s.copy()
	status, script := s.ask("GET", s.BootKey(c.boot), "script", nil)
	switch {
	case !ok:
		s.unchanged(all, "the script of a boot that is gone")
		if status != http.StatusNotFound {
			s.t.Fatalf("the script of a boot that is gone is %d %s", status, script)
		}
	case m.Boot != c.boot || !before.Open():
		s.unchanged(all, "the script of a boot that is over")
		if strings.Contains(script, "kernel ") {
			s.t.Fatalf("the script of a boot that is over is\n%s", script)
		}
	default:
		after, _ := s.state.Boot(c.boot)
		s.judges(c, m, before, after, script)
	}
}

// reports is the agent's word: it counts once, of the boot that runs, with the
// root that it was given.
func (s *history) reports(c *computer, well, root bool) {
	before, ok := s.state.Boot(c.boot)
	m, _ := s.state.Machine(before.Machine)
	r := ingot.Report{Boot: c.boot, Root: before.Root, Healthy: well}
	if !root {
		r.Root = ingot.DigestOf([]byte("another root"))
	}
	all := s.copy()
	err := s.Report(c.boot, r)
	if !ok || m.Boot != c.boot || before.Image.Image == "" {
		s.unchanged(all, "a report of a boot that is over, or runs nothing")
		if err == nil || !is(err, httpboot.ErrRefused, httpboot.ErrUnknown) {
			s.t.Fatalf("a report of a boot that is over, or runs nothing: %v", err)
		}
		return
	}
	if err != nil {
		s.t.Fatal(err)
	}
	decided := before.Outcome == ingot.OutcomeHealthy || before.Outcome == ingot.OutcomeFailed
	want := map[bool]ingot.Outcome{true: ingot.OutcomeHealthy, false: ingot.OutcomeFailed}[well && root]
	if decided {
		want = before.Outcome
	} else if want == ingot.OutcomeHealthy && before.Once == nil {
		l := s.life(m.ID)
		l.healthy = append(l.healthy, before.Image.Image)
	}
	if after, _ := s.state.Boot(c.boot); after.Outcome != want {
		s.t.Fatalf("a boot that was %q says well %t, right root %t, and is %q", before.Outcome, well, root,
			after.Outcome)
	}
}

// fails: ingot-init gives up.
func (s *history) fails(c *computer) {
	if err := s.Event(c.boot, ingot.Event{Stage: ingot.StageRoot, Error: "no"}); !is(err, httpboot.ErrRefused,
		httpboot.ErrUnknown) {
		s.t.Fatal(err)
	}
}

// crashes: what is left of the boot before is told, once or twice.
func (s *history) crashes(c *computer) {
	now, ok := s.state.Boot(c.boot)
	m, _ := s.state.Machine(now.Machine)
	all := s.copy()
	const text = "[ 1.0] Kernel panic - not syncing: why\n"
	if err := s.Crash(c.boot, text); !ok || m.Boot != c.boot || now.Image.Image == "" {
		s.unchanged(all, "the crash that an old boot or one without an image tells")
		if err == nil || !is(err, httpboot.ErrRefused, httpboot.ErrUnknown) {
			s.t.Fatal(err)
		}
		return
	} else if err != nil {
		s.t.Fatal(err)
	}
	once := s.copy()
	if err := s.Crash(c.boot, text+"and more"); err != nil {
		s.t.Fatal(err)
	}
	s.unchanged(once, "the same crash, told again")
}

// loops boots again and again into something that fails or is silent, now and
// then for a whole night.
func (s *history) loops(t *rapid.T) {
	c := s.any(t)
	times := draw(t, []int{1, 2, 3, 3, 4, 4, 4, 50}, "times")
	for range times {
		s.boots(t, c)
		switch draw(t, []string{"fail", "unwell", "silent", "reset", "root"}, "how") {
		case "fail":
			s.fails(c)
		case "unwell":
			s.reports(c, false, true)
		case "root":
			s.reports(c, true, false)
		case "silent":
			s.passes(11 * time.Minute)
		}
		s.recordsHold()
	}
}

// upgrades a machine a few times; the last image fails there, whenever it is
// tried, and what is booted instead is well.
func (s *history) upgrades(t *rapid.T) {
	c := s.any(t)
	if _, known := s.machine(c); !known {
		s.knocks(c)
	}
	for left := draw(t, indices(4), "good ones"); left >= 0; left-- {
		m, _ := s.machine(c)
		others := slices.DeleteFunc(slices.Clone(s.names), func(n string) bool {
			return s.kept[n].Digest == m.Assignment.Image || !s.servable(s.kept[n].Digest)
		})
		if len(others) == 0 {
			return
		}
		if _, err := s.operator.Approve(t.Context(), string(m.ID),
			api.ApproveRequest{Image: draw(t, others, "image")}); err != nil {
			t.Fatal(err)
		}
		after, _ := s.state.Machine(m.ID)
		s.ordered(after)
		s.boots(t, c)
		if left > 0 {
			s.reports(c, true, true)
			continue
		}
		for range draw(t, []int{6, 6, 6, 50}, "times") {
			if c.image == after.Assignment.Image {
				s.fails(c)
			} else {
				s.reports(c, true, true)
			}
			s.recordsHold()
			s.boots(t, c)
		}
	}
}
