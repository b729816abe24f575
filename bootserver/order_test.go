package bootserver

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/image"
)

// orderly changes the manifest of an image to that of one whose agent takes orders, and which has two hooks.
func orderly(m *ingot.ImageManifest) {
	m.Features = []ingot.Feature{ingot.FeatureAuthenticated, ingot.FeatureOrders}
	m.Drain = []ingot.Hook{{Name: "batch", Command: []string{"/bin/true"}}, {Name: "db", Command: []string{"/bin/true"}}}
}

// newOrderly is a house with node01, healthy on an image that takes orders.
func newOrderly(t *testing.T) (*house, *system, image.Image) {
	t.Helper()
	h := newHouse(t)
	im := putSmall(t, h.images, h.keys, "v1", orderly)
	s := h.healthy(firstMachine)
	if _, err := h.api.Rename(t.Context(), machineID, "node01"); err != nil {
		t.Fatal(err)
	}
	return h, s, im
}

// fetches posts a report and returns the order that the answer brings, if any. The answer is proven.
func (s *system) fetches() *ingot.Order {
	s.h.t.Helper()
	b, _ := s.h.state.Boot(s.key.ID())
	m := s.prove("report", ingot.Report{Boot: b.ID, Image: b.Image.Image, Root: b.Root, Healthy: true})
	status, proof, text := s.h.deliver(m)
	p, err := ingot.ParseProof(proof)
	if err != nil || !s.secret.ProvesAnswer("report", ingot.Answer{Status: status, Counter: m.counter, Newest: p.Counter,
		Body: text}, p.MAC) {
		s.h.t.Errorf("the answer to a report, %d %q, is not proven (%v)", status, text, err)
	}
	if status == http.StatusNoContent {
		return nil
	}
	var o ingot.Order
	if err := json.Unmarshal(text, &o); err != nil || status != http.StatusOK {
		s.h.t.Fatalf("the answer to a report is %d %s: %v", status, text, err)
	}
	return &o
}

// step says how far an order is.
func (s *system) step(counter uint64, state ingot.OrderState, hook string) int {
	s.h.t.Helper()
	return s.says("events", ingot.Event{Stage: ingot.StageAgent,
		Order: &ingot.OrderStep{Counter: counter, State: state, Hook: hook}})
}

func (h *house) reboot(q api.RebootRequest) api.Boot {
	h.t.Helper()
	b, err := h.api.Reboot(h.t.Context(), "node01", q)
	if err != nil {
		h.t.Fatal(err)
	}
	return b
}

func (h *house) ordered() fleet.Order {
	h.t.Helper()
	_, b := h.machine1()
	if b.Ordered == nil {
		h.t.Fatal("the boot has no order")
	}
	return *b.Ordered
}

// TestReboot: an order reaches the machine with the answer to its report, until it acknowledges, over a restart of
// the server; each step is told; and the boot after it replaces this one at once.
func TestReboot(t *testing.T) {
	h, s, im := newOrderly(t)
	if o := s.fetches(); o != nil {
		t.Fatalf("without an order it is sent %+v", o)
	}
	b := h.reboot(api.RebootRequest{Drain: ingot.DrainRequired, Why: "kernel fix"})
	if b.Ordered == nil || b.Ordered.State != ingot.OrderGiven || strings.Join(b.Ordered.Hooks, " ") != "batch db" ||
		b.Ordered.By != "local root" {
		t.Fatalf("the order is %+v", b.Ordered)
	}
	if _, err := h.api.Reboot(t.Context(), "node01", api.RebootRequest{}); !isProblem(err, api.CodeOrderOpen) {
		t.Errorf("a second order: %v; want %s", err, api.CodeOrderOpen)
	}
	h.clock = h.clock.Add(time.Minute)
	first := s.fetches()
	h.begin(h.port) // its answer got lost
	again := s.fetches()
	if first == nil || again == nil || first.Counter != again.Counter || first.Within != 9*time.Minute ||
		first.Kind != ingot.OrderReboot || strings.Join(first.Hooks, " ") != "batch db" {
		t.Fatalf("it is sent %+v, and after a restart %+v", first, again)
	}
	if text := string(mustJSON(t, first)); strings.Contains(text, "/bin/true") {
		t.Errorf("the order has a command: %s", text)
	}
	for _, step := range []struct {
		state ingot.OrderState
		hook  string
		says  string
	}{
		{ingot.OrderReceived, "", "It has the order to reboot (ordered at 12:00 by local root: kernel fix)."},
		{ingot.OrderDraining, "batch", "It drains before it reboots: hook batch ("},
		{ingot.OrderDraining, "db", "It drains before it reboots: hook db ("},
		{ingot.OrderRebooting, "", "It reboots as it was ordered to ("},
	} {
		if got := s.step(first.Counter, step.state, step.hook); got != http.StatusNoContent {
			t.Fatalf("%s: %d", step.state, got)
		}
		if why := h.why(); !strings.Contains(why, step.says) {
			t.Errorf("%s: why says %q; want %q", step.state, why, step.says)
		}
		if o := s.fetches(); o != nil {
			t.Errorf("%s: it is sent the order once more", step.state)
		}
		h.begin(h.port)
	}
	if got := s.step(first.Counter, ingot.OrderRebooting, ""); got != http.StatusNoContent {
		t.Errorf("asking once more, because the answer got lost: %d", got)
	}
	s.says("events", ingot.Event{Stage: ingot.StageAgent, Down: true})
	now := h.newSystem(h.begins(im))
	if got := now.take(); got != http.StatusOK {
		t.Fatalf("POST ticket = %d", got)
	}
	if o := now.fetches(); o != nil {
		t.Errorf("the next boot is sent %+v", o)
	}
	if m, _ := h.machine1(); m.Claim != nil {
		t.Error("the boot after an order has only a claim")
	}
	if got := s.step(first.Counter, ingot.OrderRebooting, ""); got/100 != 4 {
		t.Errorf("the boot that is over asks whether it may reboot: %d", got)
	}
	for _, text := range []string{"decision ordered to reboot after draining (batch, db): kernel fix",
		"step has the order to reboot", "step drains before it reboots: hook db", "step reboots as it was ordered to"} {
		h.ledgerHas(1, machineID+" "+text)
	}
}

// TestForgedAndRepeatedOrders: whoever has the key of a boot and all that was sent learns of no order, says nothing
// of one, and makes nothing of what was said before.
func TestForgedAndRepeatedOrders(t *testing.T) {
	h, s, _ := newOrderly(t)
	id := s.key.ID()
	report := ingot.Report{Boot: id, Healthy: true}
	old := s.prove("report", report)
	if status, _, _ := h.deliver(old); status != http.StatusNoContent {
		t.Fatalf("POST report = %d", status)
	}
	h.reboot(api.RebootRequest{})
	o := s.fetches()
	received := s.prove("events", ingot.Event{Stage: ingot.StageAgent,
		Order: &ingot.OrderStep{Counter: o.Counter, State: ingot.OrderReceived}})
	if status, _, _ := h.deliver(received); status != http.StatusNoContent {
		t.Fatalf("POST events = %d", status)
	}
	failed := mustJSON(t, ingot.Event{Stage: ingot.StageAgent,
		Order: &ingot.OrderStep{Counter: o.Counter, State: ingot.OrderDrainFailed}})
	events := ingot.BootPath(s.key, "events")
	other := h.healthy(second)
	foreign := other.prove("events", ingot.Event{Stage: ingot.StageAgent,
		Order: &ingot.OrderStep{Counter: o.Counter, State: ingot.OrderRebooting}})
	before := everything(t, h.state)
	for name, m := range map[string]message{
		"a report that was sent":             old,
		"a report, with the key alone":       {path: ingot.BootPath(s.key, "report"), body: mustJSON(t, report)},
		"what was said of the order":         received,
		"a failed drain, with the key alone": {path: events, body: failed},
		"a failed drain, with another proof": {path: events, body: failed, proof: received.proof, token: received.token},
		"a report's proof, as an event":      {path: events, body: failed, proof: old.proof, token: old.token},
		"another machine's word of it":       {path: events, body: foreign.body, proof: foreign.proof, token: foreign.token},
		"another machine's own word":         foreign,
	} {
		if status, _, text := h.deliver(m); status/100 != 4 || strings.Contains(string(text), "counter\":") {
			t.Errorf("%s: %d %s; want it refused, without an order", name, status, text)
		}
		if after := everything(t, h.state); after != before {
			t.Fatalf("%s: it changed\n%s\nto\n%s", name, before, after)
		}
	}
	for _, counter := range []uint64{0, 1, o.Counter - 1, o.Counter + 1} {
		if got := s.step(counter, ingot.OrderRebooting, ""); got != http.StatusForbidden {
			t.Errorf("the machine asks about order %d: %d; want 403", counter, got)
		}
	}
	if got := s.step(o.Counter, ingot.OrderDraining, "rm -rf /"); got != http.StatusForbidden {
		t.Errorf("a hook that was not ordered: %d; want 403", got)
	}
	if now := h.ordered(); now.State != ingot.OrderReceived {
		t.Errorf("after all that the order is %s", now.State)
	}
}

// TestOrderEnds: an order that was withdrawn or not fetched in time reboots nothing, whatever the machine has of
// it; the next one has a larger number.
func TestOrderEnds(t *testing.T) {
	h, s, _ := newOrderly(t)
	h.reboot(api.RebootRequest{Drain: ingot.DrainBestEffort})
	first := s.fetches()
	s.step(first.Counter, ingot.OrderReceived, "")
	s.step(first.Counter, ingot.OrderDraining, "batch")
	if b, err := h.api.CancelReboot(t.Context(), "node01"); err != nil || b.Ordered.State != ingot.OrderWithdrawn {
		t.Fatalf("withdrawing: %+v, %v", b.Ordered, err)
	}
	for _, state := range []ingot.OrderState{ingot.OrderDraining, ingot.OrderRebooting} {
		if got := s.step(first.Counter, state, ""); got != http.StatusForbidden {
			t.Errorf("%s after it was withdrawn: %d; want 403", state, got)
		}
	}
	if _, err := h.api.CancelReboot(t.Context(), "node01"); !isProblem(err, api.CodeNoOrder) {
		t.Errorf("withdrawing once more: %v; want %s", err, api.CodeNoOrder)
	}
	h.reboot(api.RebootRequest{})
	next := h.ordered()
	for range 12 { // it reports, and its answers get lost
		h.clock = h.clock.Add(time.Minute)
		s.fetches()
	}
	h.Tidy()
	if o := h.ordered(); next.Counter <= first.Counter || o.State != ingot.OrderExpired || s.fetches() != nil {
		t.Errorf("after %s the order is %+v", fleet.OrderLife, o)
	}
	if got := s.step(next.Counter, ingot.OrderRebooting, ""); got != http.StatusForbidden {
		t.Errorf("rebooting after it expired: %d; want 403", got)
	}
	h.ledgerHas(1, "! "+machineID+" step did not fetch the order to reboot in time")
	h.ledgerHas(1, machineID+" step does not reboot, because the order was withdrawn")
	audit, err := h.api.Audit(t.Context(), 0, false, 100)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, a := range audit {
		text += a.Action + " "
	}
	if !strings.Contains(text, "machine.reboot machine.cancel-reboot machine.reboot") {
		t.Errorf("the audit log has %s", text)
	}
}

// TestOrderIsRefused: machines that run an older image, are not heard from, or would boot nothing get no order, and
// images without hooks drain nothing.
func TestOrderIsRefused(t *testing.T) {
	h, s, _ := newOrderly(t)
	refused := func(name string, q api.RebootRequest, code api.Code, says string) {
		t.Helper()
		before := everything(t, h.state)
		_, err := h.api.Reboot(t.Context(), "node01", q)
		if !isProblem(err, code) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v; want %s, %q", name, err, code, says)
		}
		if everything(t, h.state) != before {
			t.Errorf("%s: it changed something", name)
		}
	}
	h.clock = h.clock.Add(fleet.Quiet)
	refused("silent", api.RebootRequest{}, api.CodeNotOrderable, "nothing is heard from it")
	s.fetches()
	if _, err := h.api.Retire(t.Context(), "node01"); err != nil {
		t.Fatal(err)
	}
	refused("retired", api.RebootRequest{}, api.CodeNotOrderable, "it is retired")
	if _, err := h.api.Approve(t.Context(), "node01", api.ApproveRequest{}); err != nil {
		t.Fatal(err)
	}
	h.reboot(api.RebootRequest{})

	h = newHouse(t)
	putSmall(t, h.images, h.keys, "v1", func(m *ingot.ImageManifest) { orderly(m); m.Drain = nil })
	h.healthy(firstMachine)
	if _, err := h.api.Rename(t.Context(), machineID, "node01"); err != nil {
		t.Fatal(err)
	}
	refused("no hooks", api.RebootRequest{Drain: ingot.DrainRequired}, api.CodeNoDrain, "declares no drain hooks")

	h, _ = newAbleHouse(t)
	h.healthy(firstMachine)
	if _, err := h.api.Rename(t.Context(), machineID, "node01"); err != nil {
		t.Fatal(err)
	}
	refused("an older image", api.RebootRequest{}, api.CodeNotOrderable, "an older ingot built it")
}

// TestRebootByPage: a machine is ordered to reboot by its page, which then offers to withdraw the order. Who may only
// read is shown no button.
func TestRebootByPage(t *testing.T) {
	s := newStreet(t)
	im, orders := s.put("v1"), putSmall(t, s.images, s.keys, "v9", orderly)
	boot, _ := s.ask()
	if _, err := s.api.Approve(t.Context(), machineID, api.ApproveRequest{Name: "node01", Image: "lab:v1"}); err != nil {
		t.Fatal(err)
	}
	s.get(s.BootURL(s.base, boot, "script"))
	s.bootsHealthy(boot, im.Manifest.Root.Digest)
	s.runs(orders)
	const page, form, cancel = "/machines/" + machineID, "/machines/" + machineID + "/reboot",
		"/machines/" + machineID + "/reboot/cancel"
	ops, reader := s.loggedIn("ops", access.Operate), s.loggedIn("wall", access.Read)
	wants(t, "the page", ops.plain(page), form, "-"+cancel, `title="ingot machine reboot node01, with --drain or`)
	wants(t, "the page of who may read", reader.plain(page), "-"+form)
	for name, c := range map[string]struct {
		by     *browser
		to     string
		values url.Values
		status int
	}{
		"who may read":         {reader, form, nil, 403},
		"an unknown drain":     {ops, form, url.Values{"drain": {"rm -rf /"}}, 400},
		"nothing to withdraw":  {ops, cancel, nil, 404},
		"a machine of no name": {ops, "/machines/nobody/reboot", nil, 404},
	} {
		if status, _, text := c.by.send("POST", c.to, c.values, nil); status != c.status {
			t.Errorf("%s: %d %s; want %d", name, status, text, c.status)
		}
	}
	send := func(to string, values url.Values, want string) {
		t.Helper()
		if status, header, text := ops.send("POST", to, values, nil); status != 303 || header.Get("Location") != want {
			t.Fatalf("%s = %d to %s: %s", to, status, header.Get("Location"), text)
		}
	}
	send(form, url.Values{"drain": {"required"}, "why": {"<b>fan"}}, page+"?did=reboot")
	if o := s.boot().Ordered; o == nil || o.Drain != ingot.DrainRequired || o.Why != "<b>fan" {
		t.Errorf("the order is %+v", o)
	}
	wants(t, "the page after the order", ops.plain(page), cancel, "&lt;b&gt;fan", "-<b>fan",
		`title="ingot machine reboot node01 --cancel"`)
	send(cancel, nil, page+"?did=reboot-cancel")
	wants(t, "the page after it was withdrawn", ops.plain(page), "-"+cancel)
	if o := s.boot().Ordered; o == nil || o.State != ingot.OrderWithdrawn {
		t.Errorf("the order is %+v; want it withdrawn", o)
	}
}

// TestPlanSaysHowMachinesReboot: the form that starts a rollout has the ways and the drain hooks of the command line,
// and the plan says what follows.
func TestPlanSaysHowMachinesReboot(t *testing.T) {
	s := newStreet(t)
	s.orderable()
	s.put("v2")
	b := s.loggedIn("ops", access.Operate)
	const page = "/rollouts/new?image=lab:v2&to=node01"
	wants(t, "the form", b.plain(page), "<option selected>auto</option>", "<option>reboot</option>",
		"<option>next-boot</option>", `<option value="required">`, `<option value="best-effort">`,
		"1 machine is ordered to reboot", "ingot rollout start lab:v2 --to node01 --dry-run")
	wants(t, "a plan with drain hooks", b.plain(page+"&how=reboot&drain=required"), "<option selected>reboot</option>",
		`<option value="required" selected>`, "1 machine is ordered to drain (required) and reboot",
		"ingot rollout start lab:v2 --to node01 --how reboot --drain=required --dry-run")
	wants(t, "a plan that orders nothing", b.plain(page+"&how=next-boot"), "when somebody reboots them",
		"ingot rollout start lab:v2 --to node01 --how next-boot --dry-run")
	wants(t, "drain hooks that nobody runs", b.plain(page+"&how=next-boot&drain=required"), `aria-label="Problem"`,
		"with how next-boot nobody drains")
}

// boot is the latest boot of the first machine.
func (s *street) boot() fleet.Boot {
	s.t.Helper()
	m, _ := s.state.Machine(machineID)
	b, known := s.state.Boot(m.Boot)
	if !known {
		s.t.Fatal("it has not booted")
	}
	return b
}
