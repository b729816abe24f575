package bootserver

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/image"
)

// able changes the manifest of an image to that of one that authenticates its reports.
func able(m *ingot.ImageManifest) { m.Features = []ingot.Feature{ingot.FeatureAuthenticated} }

// system is what runs on a machine: ingot-init and the agent of one boot.
type system struct {
	h       *house
	key     ingot.BootKey
	own     *ecdh.PrivateKey
	secret  ingot.BootSecret
	token   string
	counter uint64
	ticket  ingot.Ticket
	facts   ingot.Facts // that it reports
}

// newSystem is ingot-init of a boot, before its ticket.
func (h *house) newSystem(key ingot.BootKey) *system {
	h.t.Helper()
	own, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	return &system{h: h, key: key, own: own}
}

// take requests a ticket, and agrees on the secret if the ticket has a half. It returns the status.
func (s *system) take() int {
	s.h.t.Helper()
	half := ingot.Half(s.own.PublicKey().Bytes())
	status, body := s.h.post(s.key.ID(), "ticket", ingot.TicketRequest{Nonce: nonce, Half: half, Facts: s.facts})
	if status != http.StatusOK {
		return status
	}
	var signed ingot.SignedTicket
	if err := json.Unmarshal(body, &signed); err != nil {
		s.h.t.Fatal(err)
	}
	s.ticket = ingot.Ticket{}
	if err := json.Unmarshal(signed.Ticket, &s.ticket); err != nil {
		s.h.t.Fatal(err)
	}
	if s.token = s.ticket.Token; s.token != "" {
		var err error
		if s.secret, err = ingot.NewBootSecret(s.own, s.key.ID(), half, s.ticket.ServerHalf); err != nil {
			s.h.t.Fatal(err)
		}
	}
	return status
}

// message is what a machine sends, with what proves it.
type message struct {
	path, proof, token string
	counter            uint64
	body               []byte
}

// prove makes the next message.
func (s *system) prove(part string, v any) message {
	s.h.t.Helper()
	body, is := v.(string)
	if !is {
		body = string(mustJSON(s.h.t, v))
	}
	s.counter++
	m := ingot.Message{Method: "POST", Path: ingot.BootPath(s.key, part), Counter: s.counter, Body: []byte(body)}
	return message{m.Path, s.secret.Prove(m).String(), s.token, m.Counter, m.Body}
}

// says sends a proven message and returns the status; the answer must be proven as well.
func (s *system) says(part string, v any) int {
	s.h.t.Helper()
	m := s.prove(part, v)
	status, proof, text := s.h.deliver(m)
	p, err := ingot.ParseProof(proof)
	if err != nil || !s.secret.ProvesAnswer(part, ingot.Answer{Status: status, Counter: m.counter, Newest: p.Counter,
		Body: text}, p.MAC) {
		s.h.t.Errorf("the answer to %s, %d %q, is not proven (%v)", part, status, text, err)
	}
	return status
}

// reports posts a report of the boot.
func (s *system) reports(healthy bool) int {
	s.h.t.Helper()
	b, _ := s.h.state.Boot(s.key.ID())
	return s.says("report", ingot.Report{Boot: b.ID, Image: b.Image.Image, Root: b.Root, Healthy: healthy})
}

// deliver sends a message as it is.
func (h *house) deliver(m message) (status int, proof string, text []byte) {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, h.base+m.path, bytes.NewReader(m.body))
	if err != nil {
		h.t.Fatal(err)
	}
	if m.proof != "" {
		req.Header.Set(ingot.HeaderAuth, m.proof)
		req.Header.Set(ingot.HeaderToken, m.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(resp.Body); err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get(ingot.HeaderAuth), text
}

// newAbleHouse is a house whose image lab:v1 authenticates its reports.
func newAbleHouse(t *testing.T) (*house, image.Image) {
	t.Helper()
	h := newHouse(t)
	return h, putSmall(t, h.images, h.keys, "v1", able)
}

// healthy lets a machine boot and report that it is healthy.
func (h *house) healthy(c client.Sighting) *system {
	h.t.Helper()
	s := h.newSystem(h.boots(c))
	if got := s.take(); got != http.StatusOK {
		h.t.Fatalf("POST ticket = %d", got)
	}
	if got := s.reports(true); got != http.StatusNoContent {
		h.t.Fatalf("POST report = %d", got)
	}
	return s
}

// TestForgedMessages: with the key of a boot and everything that was sent, a host that does not have
// the secret can neither report nor fail a boot, nor repeat or change what the machine said.
func TestForgedMessages(t *testing.T) {
	h, im := newAbleHouse(t)
	s, other := h.healthy(firstMachine), h.healthy(second)
	id, root := s.key.ID(), im.Manifest.Root.Digest
	good := ingot.Report{Boot: id, Image: im.Digest, Root: root, Healthy: true}
	said := s.prove("events", ingot.Event{Stage: ingot.StageAgent, Detail: "was said"})
	if status, _, text := h.deliver(said); status != http.StatusNoContent {
		t.Fatalf("POST events = %d %s", status, text)
	}
	report, older := s.prove("report", good), s.prove("report", good)
	if status, _, _ := h.deliver(older); status != http.StatusNoContent {
		t.Fatalf("POST report = %d", status)
	}
	with := func(m message, change func(*message)) message { change(&m); return m }
	fresh := s.prove("report", good)
	foreign := other.prove("report", good)
	stranger := *s
	stranger.secret = bytes.Repeat([]byte{1}, 32)
	before := everything(t, h.state)
	for name, c := range map[string]struct {
		message
		want int
	}{
		"healthy, without a proof": {message{path: fresh.path, body: fresh.body}, 401},
		"a failure, without a proof": {message{path: ingot.BootPath(s.key, "events"),
			body: mustJSON(t, ingot.Event{Stage: ingot.StageRoot, Error: "no"})}, 401},
		"console, without a proof":    {message{path: ingot.BootPath(s.key, "console"), body: []byte("a line")}, 401},
		"a crash, without a proof":    {message{path: ingot.BootPath(s.key, "crash"), body: []byte("a line")}, 401},
		"what was said, once more":    {said, 409},
		"a counter that is too small": {report, 409},
		"another body": {with(fresh, func(m *message) {
			m.body = bytes.Replace(m.body, []byte("true"), []byte("false"), 1)
		}), 401},
		"another counter": {with(fresh, func(m *message) {
			_, mac, _ := strings.Cut(m.proof, " ")
			m.proof = "99999999 " + mac
		}), 401},
		"what was said, to another part": {with(said, func(m *message) { m.path = ingot.BootPath(s.key, "console") }), 401},
		"in the name of another boot": {with(fresh, func(m *message) {
			m.path = ingot.BootPath(other.key, "report")
		}), 401},
		"another machine's proof":         {with(foreign, func(m *message) { m.path = fresh.path }), 401},
		"another machine's token":         {with(fresh, func(m *message) { m.token = other.token }), 401},
		"a token with one other digit":    {with(fresh, func(m *message) { m.token = flip(m.token[0]) + m.token[1:] }), 401},
		"a token that is none":            {with(fresh, func(m *message) { m.token = "?" }), 401},
		"no token":                        {with(fresh, func(m *message) { m.token = "" }), 401},
		"a proof that is none":            {with(fresh, func(m *message) { m.proof = "1 x" }), 401},
		"another secret, the right token": {stranger.prove("report", good), 401},
	} {
		if status, _, text := h.deliver(c.message); status != c.want {
			t.Errorf("%s: %d %s; want %d", name, status, text, c.want)
		}
		if after := everything(t, h.state); after != before {
			t.Fatalf("%s: it changed\n%s\nto\n%s", name, before, after)
		}
	}
	if status, _, text := h.deliver(fresh); status != http.StatusNoContent {
		t.Errorf("what the machine says after all that: %d %s; want 204", status, text)
	}
}

// TestSecondHalf: the first machine that takes the ticket of a boot has it; another one gets none, the
// operator is shown a conflict, and the first goes on.
func TestSecondHalf(t *testing.T) {
	h, _ := newAbleHouse(t)
	key := h.boots(firstMachine)
	s, other := h.newSystem(key), h.newSystem(key)
	if got := s.take(); got != http.StatusOK {
		t.Fatalf("POST ticket = %d", got)
	}
	first := s.ticket
	if got := other.take(); got != http.StatusConflict {
		t.Errorf("another half: %d; want 409", got)
	}
	if got, body := h.post(key.ID(), "ticket", ingot.TicketRequest{Nonce: nonce}); got != http.StatusForbidden {
		t.Errorf("no half: %d %s; want 403", got, body)
	}
	if got, body := h.post(key.ID(), "ticket", ingot.TicketRequest{Nonce: nonce,
		Half: make([]byte, 32)}); got != http.StatusForbidden {
		t.Errorf("a half of zeros: %d %s; want 403", got, body)
	}
	if got := s.take(); got != http.StatusOK || !bytes.Equal(first.ServerHalf, s.ticket.ServerHalf) {
		t.Errorf("the first one again: %d; want 200 and the same half of the server", got)
	}
	if got := s.reports(true); got != http.StatusNoContent {
		t.Errorf("the first one reports: %d; want 204", got)
	}
	h.ledgerHas(1, "conflict: another machine requested a ticket of this boot; it got none")
	if why := h.why(); !strings.Contains(why, "another host requested a ticket of this boot and got none") {
		t.Errorf("why: %s", why)
	}
}

// TestTicketRepeatsHalves: the signature of a ticket covers boot, nonce and both halves, and both sides
// have the same secret, which is not in the ticket.
func TestTicketRepeatsHalves(t *testing.T) {
	h, _ := newAbleHouse(t)
	s := h.newSystem(h.boots(firstMachine))
	if got := s.take(); got != http.StatusOK {
		t.Fatalf("POST ticket = %d", got)
	}
	if !s.ticket.MachineHalf.Same(s.own.PublicKey().Bytes()) || len(s.ticket.ServerHalf) != 32 ||
		s.ticket.Boot != s.key.ID() || s.ticket.Nonce != nonce {
		t.Errorf("the ticket is %+v", s.ticket)
	}
	b, _ := h.state.Boot(s.key.ID())
	if !b.Auth.Half.Same(s.ticket.MachineHalf) {
		t.Error("the ticket was given, and the half is not recorded")
	}
	if text := mustJSON(t, s.ticket); bytes.Contains(text, mustJSON(t, s.secret)) {
		t.Error("the ticket has the secret")
	}
}

// TestBeforeTheTicket: an image that can prove its reports sends none before its ticket, and no event
// of a later stage.
func TestBeforeTheTicket(t *testing.T) {
	h, im := newAbleHouse(t)
	key := h.boots(firstMachine)
	for _, c := range []struct {
		part string
		body any
		want int
	}{
		{"events", ingot.Event{Stage: ingot.StageInit}, 204},
		{"console", "a line", 204},
		{"events", ingot.Event{Stage: ingot.StageTicket, Error: "again", Retry: true}, 204},
		{"events", ingot.Event{Stage: ingot.StageRoot, Error: "no"}, 401},
		{"events", ingot.Event{Stage: ingot.StageAgent}, 401},
		{"report", ingot.Report{Boot: key.ID(), Root: im.Manifest.Root.Digest, Healthy: true}, 401},
	} {
		if got := h.do("POST", h.base+ingot.BootPath(key, c.part), c.body); got != c.want {
			t.Errorf("%s %+v = %d; want %d", c.part, c.body, got, c.want)
		}
	}
	if _, b := h.machine1(); !b.Open() || b.Report != nil {
		t.Errorf("the boot is %q with %+v; want open, without a report", b.Outcome, b.Report)
	}
}

// TestConsoleThatCrossesTheTicket: images of before send console output while their ticket is on its way, in
// each boot. It is refused, and no warning; later output without a proof, and any other message, is one.
func TestConsoleThatCrossesTheTicket(t *testing.T) {
	h, _ := newAbleHouse(t)
	var said bytes.Buffer
	h.said.into(&said)
	s := h.newSystem(h.boots(firstMachine))
	if got := s.take(); got != http.StatusOK {
		t.Fatalf("POST ticket = %d", got)
	}
	for _, c := range []struct {
		part  string
		after time.Duration
		warns bool
	}{{"console", 0, false}, {"console", 5 * time.Second, false}, {"events", 0, true}, {"console", time.Minute, true}} {
		said.Reset()
		h.clock = h.clock.Add(c.after)
		if got := h.do("POST", h.base+ingot.BootPath(s.key, c.part), ingot.Event{Stage: ingot.StageInit}); got !=
			http.StatusUnauthorized {
			t.Errorf("%s without a proof = %d; want 401", c.part, got)
		}
		if warns := strings.Contains(said.String(), "level=WARN"); warns != c.warns {
			t.Errorf("%s without a proof, %s after the message before: a warning: %t; want %t:\n%s", c.part, c.after, warns,
				c.warns, said.String())
		}
	}
}

// TestProofsOutliveTheServer: a server that was started again, one with the state from before the ticket,
// and one that restored a backup verify messages without remembering anything.
func TestProofsOutliveTheServer(t *testing.T) {
	h, _ := newAbleHouse(t)
	key := h.boots(firstMachine)
	var backup bytes.Buffer
	if err := h.state.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	s := h.newSystem(key)
	if got := s.take(); got != http.StatusOK {
		t.Fatalf("POST ticket = %d", got)
	}
	said := s.prove("report", ingot.Report{Boot: key.ID(), Root: s.h.rootOf(key), Healthy: true})
	if status, _, _ := h.deliver(said); status != http.StatusNoContent {
		t.Fatalf("POST report = %d", status)
	}
	h.begin(h.port)
	if got := s.reports(true); got != http.StatusNoContent {
		t.Errorf("after a restart: %d; want 204", got)
	}
	if status, _, _ := h.deliver(said); status != http.StatusConflict {
		t.Errorf("an older message after a restart: %d; want 409", status)
	}
	if _, err := h.api.Restore(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	if _, b := h.machine1(); b.Auth.Half != nil {
		t.Fatal("the backup is not from before the ticket")
	}
	if got := s.reports(true); got != http.StatusNoContent {
		t.Errorf("after a restore: %d; want 204", got)
	}
	if _, b := h.machine1(); b.Outcome != ingot.OutcomeHealthy || !b.Auth.Half.Same(s.ticket.MachineHalf) {
		t.Errorf("after a restore the boot is %q with half %x; want healthy, with the machine's", b.Outcome, b.Auth.Half)
	}
	if status, _, _ := h.deliver(message{path: said.path, body: said.body}); status != http.StatusUnauthorized {
		t.Errorf("without a proof after a restore: %d; want 401", status)
	}
}

func (h *house) rootOf(key ingot.BootKey) ingot.Digest {
	b, _ := h.state.Boot(key.ID())
	return b.Root
}

// TestOlderImages: what an image can do is read from its manifest. An older one is served, reports
// without proofs, and is shown as such; a host that sends a half in its name changes nothing. If the
// configuration requires authentication, it is not served.
func TestOlderImages(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	s := h.newSystem(h.boots(firstMachine))
	if got := s.take(); got != http.StatusOK || s.ticket.ServerHalf != nil || s.ticket.MachineHalf != nil ||
		s.ticket.Token != "" {
		t.Fatalf("POST ticket = %d %+v; want one without halves", got, s.ticket)
	}
	report := ingot.Report{Boot: s.key.ID(), Root: im.Manifest.Root.Digest, Healthy: true}
	if got := h.do("POST", h.base+ingot.BootPath(s.key, "report"), report); got != http.StatusNoContent {
		t.Errorf("POST report = %d", got)
	}
	if m, err := h.api.Machine(t.Context(), machineID); err != nil || m.Authenticated || m.LastHealthy.Name != "lab:v1" {
		t.Errorf("the machine is %+v, %v; want healthy, not authenticated", m, err)
	}
	if why := h.why(); !strings.Contains(why, "Its reports are not authenticated: lab:v1 was built before") {
		t.Errorf("why: %s", why)
	}
	p := h.Policy()
	p.Authenticated = true
	h.SetPolicy(p)
	if got := h.do("POST", h.base+ingot.BootPath(s.key, "report"), report); got != http.StatusNoContent {
		t.Errorf("a machine that runs already reports %d; want 204", got)
	}
	h.clock = h.clock.Add(time.Minute)
	_, script := h.ask()
	if want := "boots.authenticated requires"; strings.Contains(script, "kernel ") || !strings.Contains(script, want) {
		t.Errorf("with boots.authenticated: required, the script is\n%s\nwant it to say %q", script, want)
	}
	if why := h.why(); !strings.Contains(why, "boots.authenticated requires") {
		t.Errorf("why: %s", why)
	}
	putSmall(t, h.images, h.keys, "v2", able)
	if _, err := h.api.Assign(t.Context(), machineID, "lab:v2", ""); err != nil {
		t.Fatal(err)
	}
	if _, script = h.ask(); !strings.Contains(script, "booting lab:v2") {
		t.Errorf("a newer image is not served:\n%s", script)
	}
}

// TestNewestIsReported: an agent whose counter fell behind, as after a machine was set back to a snapshot,
// hears from which number to go on, proven.
func TestNewestIsReported(t *testing.T) {
	h, _ := newAbleHouse(t)
	s := h.healthy(firstMachine)
	s.counter = 1000
	if got := s.reports(true); got != http.StatusNoContent {
		t.Fatalf("POST report = %d", got)
	}
	s.counter = 10
	status, proof, _ := h.deliver(s.prove("report", ingot.Report{Boot: s.key.ID()}))
	if p, err := ingot.ParseProof(proof); err != nil || status != http.StatusConflict || p.Counter != 1001 {
		t.Errorf("a counter that fell behind: %d, newest %d, %v; want 409 and 1001", status, p.Counter, err)
	}
}

// TestClaim: a host that boots in the name of a healthy machine is answered in full, but gets no
// grant, ends nothing and counts for nothing while the machine reports; with the machine's next
// heartbeat its boot is over, and the operator sees the conflict.
func TestClaim(t *testing.T) {
	h, im := newAbleHouse(t)
	s := h.healthy(firstMachine)
	before, _ := h.machine1()
	h.clock = h.clock.Add(20 * time.Second)
	forged := h.newSystem(h.begins(im))
	if forged.key == s.key {
		t.Fatal("the newcomer is not answered with a boot of its own")
	}
	h.grants("data")
	if got := forged.take(); got != http.StatusServiceUnavailable {
		t.Errorf("a ticket with a grant: %d; want 503", got)
	}
	h.grants("")
	if got := forged.take(); got != http.StatusOK || len(forged.ticket.Grants) != 0 {
		t.Errorf("a ticket: %d with %v; want one without grants", got, forged.ticket.Grants)
	}
	if got := h.do("GET", h.base+ingot.BootPath(forged.key, im.Digest.Hex()+"/root"), nil); got != http.StatusOK {
		t.Errorf("the root: %d; want 200", got)
	}
	if got := forged.says("events", ingot.Event{Stage: ingot.StageRoot, Error: "no"}); got != http.StatusNoContent {
		t.Errorf("its failure: %d; want 204", got)
	}
	h.clock = h.clock.Add(time.Second)
	again := h.newSystem(h.begins(im)) // and once more
	if got := again.take(); got != http.StatusOK {
		t.Errorf("a ticket of its second boot: %d", got)
	}
	if m, b := h.machine1(); len(m.Trial.Failures) != 0 || m.Setback != nil || b.ID != again.key.ID() {
		t.Errorf("failures in the machine's name count: %+v %+v", m.Trial, m.Setback)
	}
	if got := again.reports(true); got != http.StatusNoContent {
		t.Errorf("its report: %d; want 204", got)
	}
	h.clock = h.clock.Add(10 * time.Second)
	if got := s.reports(true); got != http.StatusNoContent {
		t.Errorf("the machine's own heartbeat: %d; want 204", got)
	}
	after, b := h.machine1()
	if after.Boot != s.key.ID() || after.Claim != nil || b.Outcome != ingot.OutcomeHealthy || b.Conflict == nil {
		t.Errorf("the machine is %+v, its boot %+v; want the one that runs, with a conflict", after, b)
	}
	if after.LastHealthy != before.LastHealthy || len(after.Healthy) != len(before.Healthy) || after.Setback != nil {
		t.Errorf("the machine is %+v; want what it was: %+v", after, before)
	}
	if got := again.reports(true); got != http.StatusForbidden {
		t.Errorf("the newcomer reports once more: %d; want 403", got)
	}
	if got := h.do("GET", h.base+ingot.BootPath(again.key, im.Digest.Hex()+"/root"), nil); got != http.StatusForbidden {
		t.Errorf("the root, once more: %d; want 403", got)
	}
	h.ledgerHas(1, "conflict: this boot still runs, but boot "+again.key.ID().Short()+" began in the name of this machine")
	if why := h.why(); !strings.HasPrefix(why, "Healthy on lab:v1") || !strings.Contains(why, "another host had begun") {
		t.Errorf("why: %s", why)
	}
	h.clock = h.clock.Add(time.Second)
	third := h.begins(im) // numbers go on
	if b, _ := h.state.Boot(third.ID()); b.Number != 4 {
		t.Errorf("the next boot has number %d; want 4", b.Number)
	}
}

// begins lets the first machine, which is approved, begin a boot and load its kernel and initramfs.
func (h *house) begins(im image.Image) ingot.BootKey {
	h.t.Helper()
	id, _ := h.ask()
	for _, part := range []string{"kernel", "initramfs"} {
		if got := h.do("GET", h.base+ingot.BootPath(h.BootKey(id), im.Digest.Hex()+"/"+part), nil); got != http.StatusOK {
			h.t.Fatalf("GET %s = %d", part, got)
		}
	}
	return h.BootKey(id)
}

// grants gives the machine a grant for a volume; "": takes all away.
func (h *house) grants(volume string) {
	h.t.Helper()
	m := h.known(machineID)
	m.Grants = nil
	if volume != "" {
		m.Grants = []fleet.Grant{{Grant: ingot.Grant{Volume: volume, Disk: "S1", Expires: h.clock.Add(time.Hour)}}}
	}
	h.stored(m)
}

// TestClaimReports: nothing that a host says of itself in the name of a machine that reports changes the
// machine, in its packets or with its ticket request. It counts when the machine is silent, and is
// forgotten when it is not.
func TestClaimReports(t *testing.T) {
	const strange = "d1b2c3a4-0000-4000-8000-52540012000b"
	board := firstMachine.UUID
	for name, c := range map[string]struct {
		real, newcomer ingot.Facts
		ticket         int // of the newcomer
		state          fleet.State
		uuid, serial   string // after the newcomer has replaced it
	}{
		"another machine": {ingot.Facts{UUID: board, Serial: "S1", RAM: 1}, ingot.Facts{UUID: strange, Serial: "S2", RAM: 2},
			http.StatusServiceUnavailable, fleet.Pending, board, "S1"},
		"the first serial number": {ingot.Facts{RAM: 1}, ingot.Facts{UUID: strange, Serial: "S2", RAM: 2},
			http.StatusOK, fleet.Approved, board, "S2"},
		"the same machine": {ingot.Facts{UUID: board, Serial: "S1", RAM: 1}, ingot.Facts{UUID: board, Serial: "S1", RAM: 2},
			http.StatusOK, fleet.Approved, board, "S1"},
	} {
		for _, stays := range []bool{true, false} {
			h, im := newAbleHouse(t)
			real := h.newSystem(h.boots(firstMachine))
			real.facts = c.real
			if got := real.take(); got != http.StatusOK {
				t.Fatalf("POST ticket = %d", got)
			}
			if got := real.reports(true); got != http.StatusNoContent {
				t.Fatalf("POST report = %d", got)
			}
			before, _ := h.machine1()
			h.clock = h.clock.Add(20 * time.Second)
			forged := h.newSystem(h.begins(im))
			forged.facts = c.newcomer
			if got := forged.take(); got != c.ticket {
				t.Errorf("%s: POST ticket = %d; want %d", name, got, c.ticket)
			}
			if m, _ := h.machine1(); !sameButBoot(before, m) {
				t.Errorf("%s: its report changed the machine from\n%+v\nto\n%+v", name, before, m)
			}
			if stays {
				if got := real.reports(true); got != http.StatusNoContent {
					t.Errorf("%s: the machine's own heartbeat: %d; want 204", name, got)
				}
				m, b := h.machine1()
				if m.LastSeen = before.LastSeen; !sameButBoot(before, m) || m.Claim != nil || b.Conflict == nil {
					t.Errorf("%s: the machine was\n%+v\nand is\n%+v with conflict %v", name, before, m, b.Conflict)
				}
				continue
			}
			h.clock = h.clock.Add(fleet.Silence)
			if c.ticket == http.StatusOK {
				forged.reports(true)
			} else if got := forged.take(); got != http.StatusForbidden {
				t.Errorf("%s: POST ticket of a silent machine = %d; want 403", name, got)
			}
			m, _ := h.machine1()
			if m.State != c.state || m.UUID != c.uuid || m.Serial != c.serial || m.Facts.RAM != c.newcomer.RAM ||
				m.Claim != nil {
				t.Errorf("%s: after it replaced the other one the machine is %+v", name, m)
			}
		}
	}
}

// sameButBoot compares a machine with what it was before another boot began.
func sameButBoot(before, after fleet.Machine) bool {
	after.Boot, after.Claim, before.Boot, before.Claim = "", nil, "", nil
	return reflect.DeepEqual(before, after)
}

// TestResetOfAHealthyMachine: a machine that was reset has no way to say so. Its next boot counts once two
// heartbeats are missing, and then gets the grants; whatever the earlier boot says later is a conflict.
func TestResetOfAHealthyMachine(t *testing.T) {
	h, im := newAbleHouse(t)
	s := h.healthy(firstMachine)
	h.grants("data")
	h.clock = h.clock.Add(fleet.Silence - time.Second)
	now := h.newSystem(h.begins(im))
	if got := now.take(); got != http.StatusServiceUnavailable {
		t.Errorf("a ticket with a grant, before the machine is silent: %d; want 503", got)
	}
	h.clock = h.clock.Add(time.Second)
	if got := now.take(); got != http.StatusOK || len(now.ticket.Grants) != 1 {
		t.Errorf("a ticket: %d with %v; want one with the grant", got, now.ticket.Grants)
	}
	if got := now.reports(false); got != http.StatusNoContent {
		t.Errorf("its report: %d; want 204", got)
	}
	if m, b := h.machine1(); m.Claim != nil || b.ID != now.key.ID() || len(m.Trial.Failures) != 1 {
		t.Errorf("the machine is %+v; want the failure of its boot counted", m)
	}
	if got := s.reports(true); got != http.StatusForbidden {
		t.Errorf("the earlier boot reports: %d; want 403", got)
	}
	if b, _ := h.state.Boot(s.key.ID()); b.Conflict == nil || b.Conflict.With != now.key.ID() {
		t.Errorf("the earlier boot has conflict %+v; want one with %s", b.Conflict, now.key.ID().Short())
	}
}

// TestOutcomeAfterAReset: what a boot reports while the one before may still run counts when that one stays
// silent.
func TestOutcomeAfterAReset(t *testing.T) {
	for _, healthy := range []bool{true, false} {
		h, _ := newAbleHouse(t)
		h.healthy(firstMachine)
		im := putSmall(t, h.images, h.keys, "v2", able)
		if _, err := h.api.Assign(t.Context(), machineID, "lab:v2", ""); err != nil {
			t.Fatal(err)
		}
		h.clock = h.clock.Add(10 * time.Second)
		now := h.newSystem(h.begins(im))
		if got := now.take(); got != http.StatusOK {
			t.Fatalf("POST ticket = %d", got)
		}
		if got := now.reports(healthy); got != http.StatusNoContent {
			t.Fatalf("POST report = %d", got)
		}
		if m, _ := h.machine1(); m.LastHealthy.Name != "lab:v1" || len(m.Trial.Failures) != 0 {
			t.Errorf("healthy %t: it counts while the boot before may run: %+v", healthy, m)
		}
		h.clock = h.clock.Add(fleet.Silence)
		if got := now.reports(healthy); got != http.StatusNoContent {
			t.Fatalf("POST report = %d", got)
		}
		m, _ := h.machine1()
		if healthy && m.LastHealthy.Name != "lab:v2" || !healthy && len(m.Trial.Failures) != 1 || m.Claim != nil {
			t.Errorf("healthy %t: it does not count although the boot before is silent: %+v", healthy, m)
		}
	}
}

// TestShutDown: a machine that says that it shuts down is replaced at once; one that goes on
// after all, as in a soft reboot, is not.
func TestShutDown(t *testing.T) {
	h, im := newAbleHouse(t)
	s := h.healthy(firstMachine)
	down := ingot.Event{Stage: ingot.StageAgent, Down: true}
	if got := h.do("POST", h.base+ingot.BootPath(s.key, "events"), down); got != http.StatusUnauthorized {
		t.Errorf("another host says that it shuts down: %d; want 401", got)
	}
	if got := s.says("events", down); got != http.StatusNoContent {
		t.Fatalf("POST events = %d", got)
	}
	h.grants("data")
	now := h.newSystem(h.begins(im))
	if got := now.take(); got != http.StatusOK || len(now.ticket.Grants) != 1 {
		t.Errorf("a ticket: %d with %v; want one with the grant, at once", got, now.ticket.Grants)
	}
	if got := now.reports(true); got != http.StatusNoContent {
		t.Fatalf("POST report = %d", got)
	}
	if got := now.says("events", down); got != http.StatusNoContent {
		t.Fatalf("POST events = %d", got)
	}
	if got := now.reports(true); got != http.StatusNoContent {
		t.Fatalf("POST report = %d", got)
	}
	h.begins(im)
	if m, _ := h.machine1(); m.Claim == nil || m.Claim.Running != now.key.ID() {
		t.Errorf("a machine that reports after it said that it shuts down is replaced at once: %+v", m.Claim)
	}
}

// TestClaimOfAnOpenBoot: a boot that did not get healthy yet ends when another one begins, as a reset looks
// just like that. What it says later shows that it was none: it goes on, and nothing counts against its
// image.
func TestClaimOfAnOpenBoot(t *testing.T) {
	h, im := newAbleHouse(t)
	s := h.newSystem(h.boots(firstMachine))
	if got := s.take(); got != http.StatusOK {
		t.Fatalf("POST ticket = %d", got)
	}
	h.do("GET", h.base+ingot.BootPath(s.key, im.Digest.Hex()+"/initramfs"), nil)
	h.clock = h.clock.Add(time.Second)
	h.begins(im)
	h.clock = h.clock.Add(time.Second)
	if _, err := h.Observe(firstMachine); err != nil {
		t.Fatal(err)
	}
	if m, _ := h.machine1(); m.Setback == nil {
		t.Fatalf("resets of a boot that is not healthy do not make the machine give its image up: %+v", m)
	}
	if got := h.do("GET", h.base+ingot.BootPath(s.key, im.Digest.Hex()+"/root"), nil); got != http.StatusOK {
		t.Errorf("its root: %d; want 200", got)
	}
	if got := s.says("console", "a line"); got != http.StatusNoContent {
		t.Errorf("its console: %d; want 204", got)
	}
	if m, b := h.machine1(); b.ID != s.key.ID() || !b.Open() || m.Setback != nil || len(m.Trial.Failures) != 0 {
		t.Errorf("the machine is %+v, its boot %+v; want the one that runs, and no failures", m, b)
	}
	if got := s.reports(true); got != http.StatusNoContent {
		t.Errorf("its report: %d; want 204", got)
	}
	if m, b := h.machine1(); b.Outcome != ingot.OutcomeHealthy || m.LastHealthy.Name != "lab:v1" {
		t.Errorf("the boot is %q, last healthy %q", b.Outcome, m.LastHealthy.Name)
	}
}
