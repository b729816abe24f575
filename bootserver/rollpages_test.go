package bootserver

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// plain gets a page as it is, before compression.
func (b *browser) plain(path string) string {
	b.t.Helper()
	status, _, text := b.send("GET", path, nil, map[string]string{"Accept-Encoding": "identity"})
	if status != 200 {
		b.t.Fatalf("GET %s = %d:\n%s", path, status, text)
	}
	return text
}

// spaceRE is white space between the words of a page.
var spaceRE = regexp.MustCompile(`[ \n]+`)

// wants checks that a page has some texts, and that it has not some others: those that begin with a minus.
func wants(t *testing.T, what, text string, list ...string) {
	t.Helper()
	text = spaceRE.ReplaceAllString(text, " ")
	for _, want := range list {
		if not, is := strings.CutPrefix(want, "-"); is == strings.Contains(text, strings.TrimPrefix(want, "-")) {
			t.Errorf("%s: has %q: %t; the page is\n%s", what, not, is, text)
		}
	}
}

// seenRE finds the name of the plan in the form that starts a rollout.
var seenRE = regexp.MustCompile(`name="seen"\s+value="([0-9a-f]+)"`)

// TestRolloutIsStartedFromItsPlan: the form shows the plan and starts nothing; only what was shown is started.
func TestRolloutIsStartedFromItsPlan(t *testing.T) {
	s := newStreet(t)
	v1 := s.put("v1")
	s.put("v2")
	s.fakes(6, v1)
	s.stored(fleet.Machine{ID: "m-0000000000ff", Name: "pinned", State: fleet.Approved, Pin: &fleet.Mark{Why: "certified"},
		Assignment: fleet.Assignment{ImageRef: fleet.ImageRef{Image: v1.Digest, Name: "lab:v1"}}, FirstSeen: s.clock})
	b := s.loggedIn("ops", access.Operate)
	wants(t, "an empty list", b.plain("/rollouts"), "No rollout yet", "lab:v2 to 7",
		"/rollouts/new?image=lab%3av2&amp;to=all",
		"ingot rollout start IMAGE --to all --dry-run")
	wants(t, "the form", b.plain("/rollouts/new"), `<option value="rack=r1">`, `<option>lab:v2</option>`,
		`value="10%,50%,100%"`,
		"-name=\"seen\"", "ingot rollout start IMAGE --to SELECTOR --dry-run")
	values := url.Values{"image": {"lab:v2"}, "to": {"all"}, "canary": {"2"}, "waves": {"50%,100%"}, "unavailable": {"3"},
		"spread": {"rack"}, "bake": {"0s"}, "pause": {"0"}, "window": {""}, "how": {"auto"}, "drain": {"best-effort"},
		"quorum": {"80"}, "patience": {"1h"}, "usual": {"0.02"}, "bad": {"0.3"}}
	plan := b.plain("/rollouts/new?" + values.Encode())
	wants(t, "the plan", plan, "lab:v2 would reach 6\u00a0machines, and 1 would be left out", "Start: 6\u00a0machines",
		"fake000", "6\u00a0machines from lab:v1", "download: ", "<td class=\"fit\">pinned</td>", "<h3>Canary</h3><b>2</b>",
		"<h3>Wave 1</h3><b>1</b>", "ingot rollout start lab:v2 --to all --canary 2 --waves 50%,100% --max-unavailable 3 "+
			"--spread rack --bake 0s --patience 1h --pause-after 0 --drain=best-effort --quorum 80 "+
			"--usual-rate 0.02 --bad-rate 0.3 --dry-run")
	if n := len(s.state.Rollouts()); n != 0 {
		t.Fatalf("looking at the plan started %d rollouts", n)
	}
	seen := seenRE.FindStringSubmatch(plan)
	if seen == nil {
		t.Fatalf("the plan has no name:\n%s", plan)
	}
	values.Set("seen", seen[1])
	if _, err := s.api.Pin(t.Context(), "fake003", "changed meanwhile"); err != nil {
		t.Fatal(err)
	}
	status, header, _ := b.send("POST", "/rollouts", values, nil)
	to := header.Get("Location")
	if status != 303 || !strings.HasPrefix(to, "/rollouts/new?") || len(s.state.Rollouts()) != 0 {
		t.Fatalf("starting what was not shown = %d to %s, and there are %d rollouts", status, to, len(s.state.Rollouts()))
	}
	plan = b.plain(to)
	wants(t, "the plan again", plan, "The plan has changed since it was shown", "would reach 5\u00a0machines")
	values.Set("seen", seenRE.FindStringSubmatch(plan)[1])
	if status, header, text := b.send("POST", "/rollouts", values, nil); status != 303 ||
		header.Get("Location") != "/rollouts/r1?did=rollout" {
		t.Fatalf("starting = %d to %s: %s", status, header.Get("Location"), text)
	}
	p := s.rollout("r1").Policy
	if *p.Canary != 2 || fmt.Sprint(p.Waves) != "[50 100]" || p.MaxUnavailable.Machines != 3 || p.Spread != "rack" ||
		p.Bake != 1 || fmt.Sprint(p.PauseAfter) != "[0]" || p.Drain != ingot.DrainBestEffort || p.Quorum != 80 ||
		p.Patience != time.Hour || p.Test.Usual != 0.02 || p.Test.Bad != 0.3 {
		t.Errorf("it was started with %+v", p)
	}
	for field, c := range map[string][2]string{"canary": {"x", "canary: "}, "waves": {"50", "waves: "},
		"unavailable": {"0", "unavailable: "}, "bake": {"soon", "bake: "}, "to": {"rack=r9", "it names no machine"},
		"image": {"lab:v9", "lab:v9"}, "window": {"never", "window"}, "usual": {"much", "usual: "}, "pause": {"9", "pause"},
		"drain": {"perhaps", "drain"}} {
		v := url.Values{"image": {"lab:v2"}, "to": {"all"}}
		v.Set(field, c[0])
		wants(t, "a wrong "+field, b.plain("/rollouts/new?"+v.Encode()), `aria-label="Problem"`, c[1],
			"-name=\"seen\"")
	}
}

// haltAtCanary plays a rollout of v2 to fakes that halts when its canary is given up.
func (h *house) haltAtCanary() (canary ingot.MachineID) {
	h.t.Helper()
	list, err := h.api.RolloutMachines(h.t.Context(), "r1")
	if err != nil {
		h.t.Fatal(err)
	}
	h.server.rollouts.Tick(h.t.Context())
	canary = list[0].Machine
	for range fleet.DefaultAttempts {
		h.fakeBoot(canary, ingot.OutcomeFailed)
		h.server.rollouts.Tick(h.t.Context())
	}
	if r := h.rollout("r1"); r.State != "halted" {
		h.t.Fatalf("the rollout is %s: %+v", r.State, r.Stop)
	}
	return canary
}

// TestRolloutPages: what the pages say in each state of a rollout, and what an operator does there.
func TestRolloutPages(t *testing.T) {
	s := newStreet(t)
	v1 := s.put("v1")
	s.put("v2")
	s.fakes(8, v1)
	s.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all"})
	b, reader := s.loggedIn("ops", access.Operate), s.loggedIn("reader", access.Read)
	wants(t, "planned", b.plain("/rollouts/r1"), "lab:v2 to all", "ingot rollout show r1", "No boot was counted yet",
		"-back to", "It begins within seconds")
	s.server.rollouts.Tick(t.Context())
	wants(t, "the canary", b.plain("/rollouts/r1"), "Under way in the canary: 1\u00a0machine is to boot the image",
		`action="/rollouts/r1/pause"`, `href="/rollouts/r1/abort"`, "-href=\"/rollouts/r1/resume\"", "assigned, to boot it",
		"starts anew below", "if the next")
	wants(t, "the fleet", b.plain("/"), "Open rollout r1", `aria-label="moved by rollout r1"`,
		"0 of 8 healthy, none failed",
		`id="n-rollouts">1</span>`, ">rollout r1</a>")
	wants(t, "many machines", b.plain("/?d=marks"), "moved by rollout r1", " data-r>")
	canary := s.haltAtCanary()
	page := b.plain("/rollouts/r1")
	wants(t, "halted", page, "Halted in the canary: fake000 failed with lab:v2 until it was given up: stage init: panic.",
		"Nothing moves until somebody resumes or aborts it", `href="/rollouts/r1/resume"`, "Abort: 1 back to lab:v1",
		"-/rollouts/r1/pause", "/machines/"+string(canary)+"/boots/", "<td>stage init: panic</td>", "given up",
		"What the one that failed has alone", `data-s="failed"`)
	wants(t, "a reader", reader.plain("/rollouts/r1"), "Halted in the canary", "-/rollouts/r1/resume",
		"-/rollouts/r1/abort",
		"-method=\"post\" action=\"/rollouts")
	wants(t, "the list", reader.plain("/rollouts"), "lab:v2 to all", "Halted", "-/rollouts/new")
	wants(t, "what needs attention", b.plain("/"), "Rollout r1</a> of lab:v2 halted")
	wants(t, "some machines", b.plain("/rollouts/r1?is=waiting"), "fake001", "-given up</td>")
	wants(t, "before an abort", b.plain("/rollouts/r1/abort"), "Abort: 1 back to lab:v1?", "ingot rollout abort r1",
		"cannot be resumed", "<td>lab:v1</td>")
	if s.rollout("r1").State != "halted" {
		t.Error("asking aborted the rollout")
	}
	wants(t, "before a resume", b.plain("/rollouts/r1/resume"), "the test starts anew", "ingot rollout resume r1")
	do := func(verb, why, want string) {
		t.Helper()
		status, header, text := b.send("POST", "/rollouts/r1/"+verb, url.Values{"why": {why}}, nil)
		r := s.rollout("r1")
		if status != 303 || header.Get("Location") != "/rollouts/r1?did=rollout-"+verb || r.State != want {
			t.Fatalf("%s = %d to %s, and the rollout is %s: %s", verb, status, header.Get("Location"), r.State, text)
		}
		wants(t, verb, b.plain("/rollouts/r1?did=rollout-"+verb), `role="status"`)
	}
	do("resume", "go on", "canary")
	do("pause", "lunch", "paused")
	wants(t, "paused", b.plain("/rollouts/r1"), "Paused by token ops: lunch.", "go on</td>")
	do("abort", "broken", "aborting")
	s.server.rollouts.Tick(t.Context())
	wants(t, "aborted", b.plain("/rollouts/r1"), "Aborted: every machine that was moved is assigned what it had before",
		"-/rollouts/r1/abort", "taken back")
	wants(t, "the history", b.plain("/rollouts"), "No rollout is under way", "<td>lab:v2 to all</td>",
		"ingot rollout history")
	wants(t, "an abort of what is over", b.plain("/rollouts/r1/abort"), "there is nothing to decide now",
		"-action=\"/rollouts/r1/abort\"")
	if status, text := b.get("/rollouts/r9"); status != 404 || !strings.Contains(text, "ingot rollout ls") {
		t.Errorf("a rollout that is not there = %d %s", status, text)
	}
	audit, err := s.api.Audit(t.Context(), 0, true, 100)
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	for _, e := range audit {
		if strings.HasPrefix(e.Action, "rollout.") && e.Who.Name == "ops" && e.Who.Kind == access.Token {
			done++
		}
	}
	if done != 3 {
		t.Errorf("the audit log has %d commands of the session's token; want 3: %+v", done, audit)
	}
}

// TestRolloutReachesItsEnd: a good image is done, with waves that baked, and the page says so.
func TestRolloutReachesItsEnd(t *testing.T) {
	s := newStreet(t)
	v1 := s.put("v1")
	s.put("v2")
	s.fakes(8, v1)
	s.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all",
		Policy: api.RolloutPolicy{MaxUnavailable: api.Amount{Machines: 8}, Waves: []int{50, 100}}})
	b := s.loggedIn("ops", access.Operate)
	baked := false
	for range 80 {
		for _, m := range s.state.Machines() {
			if m.Assignment.Name == "lab:v2" && m.LastHealthy.Name != "lab:v2" {
				s.fakeBoot(m.ID, ingot.OutcomeHealthy)
			}
		}
		s.pass(time.Minute)
		switch s.rollout("r1").State {
		case "baking":
			if !baked {
				wants(t, "baking", b.plain("/rollouts/r1"), "The canary bakes until", "bakes until", "1 of 1")
			}
			baked = true
		case "done":
			wants(t, "done", b.plain("/rollouts/r1"), "Done: 8\u00a0machines run lab:v2.", "4 of 4", "done ",
				"-/rollouts/r1/abort",
				"0 of 8 boots failed")
			if !baked {
				t.Error("it never baked")
			}
			return
		}
	}
	t.Fatalf("the rollout is %s", s.rollout("r1").State)
}

// TestRolloutPageIsLive: an open page gets the halt within seconds, as the page has it.
func TestRolloutPageIsLive(t *testing.T) {
	s := newStreet(t)
	v1 := s.put("v1")
	s.put("v2")
	s.fakes(4, v1)
	s.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all"})
	b := s.loggedIn("ops", access.Operate)
	next := b.stream(b.open("/rollouts/r1"), "")
	s.haltAtCanary()
	for {
		event, _, data := next()
		var parts [][2]string
		if err := json.Unmarshal([]byte(data), &parts); event != "parts" || err != nil {
			t.Fatalf("the page gets %s, %v: %s", event, err, data)
		}
		for _, p := range parts {
			if p[0] == "head" && strings.Contains(p[1], "Halted") {
				wants(t, "the page", b.plain("/rollouts/r1"), spaceRE.ReplaceAllString(p[1], " "))
				return
			}
		}
	}
}

// TestRolloutPagesShowText: what machines say in a rollout stays text: reasons, consoles, hardware, names.
func TestRolloutPagesShowText(t *testing.T) {
	const evil = "<script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\u202eesrever\u2066\"'`&{{.}}"
	s := newStreet(t)
	v1 := s.put("v1")
	s.put("v2")
	s.fakes(4, v1)
	s.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all", Policy: api.RolloutPolicy{Spread: "rack"}})
	canary := s.haltAtCanary()
	members := s.state.Members("r1")
	s.update(func(tx state.Tx) {
		m, _ := tx.Machine(canary)
		m.Facts = ingot.Facts{Vendor: evil, Product: evil, CPU: evil, NICs: []ingot.NIC{{Driver: evil}}}
		tx.StoreMachine(m)
		r, _ := tx.Rollout("r1")
		stop := *r.Stop
		stop.Text = "halted: " + evil
		stop.Evidence[0].Reason, stop.Evidence[0].Name = evil, evil
		r.Stop, r.By = &stop, evil
		r.Log = append(r.Log, r.Log[len(r.Log)-1])
		r.Log[len(r.Log)-1].Why = evil
		tx.PutRollout(r)
		for _, member := range members {
			if member.Machine == canary {
				member.Name, member.Domain, member.From.Name = evil, evil, evil
				member.Results[0].Reason = evil
				tx.PutMember(member)
			}
		}
	})
	b := s.loggedIn("admin", access.Admin)
	said := 0
	for _, path := range []string{"/", "/rollouts", "/rollouts/r1", "/rollouts/r1/abort", "/rollouts/r1/resume", "/events",
		"/rollouts/new?image=lab:v1&to=" + url.QueryEscape(evil), "/find?q=rollout",
		"/rollouts/r1?is=" + url.QueryEscape(evil)} {
		text := b.plain(path)
		said += strings.Count(text, "&lt;script&gt;")
		if strings.Contains(text, "<script>") || strings.Contains(text, "<img") ||
			strings.ContainsAny(text, "\x1b\u202e\u2066") {
			t.Errorf("GET %s: what a machine said is no text:\n%s", path, text)
		}
	}
	if said < 12 {
		t.Errorf("the pages show it %d times; the test missed it", said)
	}
}

// TestLargeRolloutIsShown: a rollout of many machines has bars instead of names, and its page stays small.
func TestLargeRolloutIsShown(t *testing.T) {
	s := newStreet(t)
	v1 := s.put("v1")
	s.put("v2")
	s.fakes(600, v1)
	s.startRollout(api.RolloutRequest{Image: "lab:v2", Selector: "all", Policy: api.RolloutPolicy{Spread: "rack"}})
	s.server.rollouts.Tick(t.Context())
	b := s.loggedIn("ops", access.Operate)
	page := b.plain("/rollouts/r1")
	wants(t, "the page", page, "240 not moved yet", "Show 500 more", "/rollouts/r1?n=all#members")
	if len(page) > 120_000 || strings.Count(page, "<tr>") > 150 {
		t.Errorf("the page of 600 machines has %d bytes, %d rows", len(page), strings.Count(page, "<tr>"))
	}
	if all := b.plain("/rollouts/r1?n=all"); strings.Count(all, `href="/machines/m-`) < 600 {
		t.Errorf("the page of all has %d machines", strings.Count(all, `href="/machines/m-`))
	}
	plan := b.plain("/rollouts/new?image=lab:v2&to=all")
	wants(t, "a plan of machines that belong to it", plan, `aria-label="Problem"`)
}

// TestMarksAreShown: what keeps a machine out of rollouts is said by its page and by why, and can be changed there; it
// is void when the machine boots.
func TestMarksAreShown(t *testing.T) {
	s := newStreet(t)
	v1 := s.put("v1")
	s.put("v2")
	ref := fleet.ImageRef{Image: v1.Digest, Name: v1.Name.String()}
	s.running(ref, 0, 6)
	ops := s.loggedIn("ops", access.Operate)
	list := s.state.Machines()
	pinned, off, other := list[0], list[1], list[2]
	send := func(m fleet.Machine, verb, why string) {
		t.Helper()
		to := "/machines/" + string(m.ID) + "/" + verb
		if status, _, text := ops.send("POST", to, url.Values{"why": {why}}, nil); status != 303 {
			t.Fatalf("%s = %d: %s", verb, status, text)
		}
	}
	send(pinned, "pin", "certified with lab:v1")
	send(off, "off", "power supply")
	if _, err := s.api.StartRollout(t.Context(), api.RolloutRequest{Image: "lab:v2", Selector: "all"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.api.Assign(t.Context(), other.Name, "lab:v1", "again"); err != nil {
		t.Fatal(err)
	}
	for m, want := range map[string][]string{
		pinned.Name: {"It is pinned, so that rollouts leave it out, by token ops at ", ": certified with lab:v1.",
			"Rollout r1 of lab:v2 leaves it out.", "/pin/cancel", `<span class="chip">pinned</span>`},
		off.Name:   {"It is marked as switched off,", ": power supply.", "/off/cancel", "marked as off</span>"},
		other.Name: {"It belongs to rollout r1 of lab:v2, in ", "-/pin/cancel", "-/off/cancel", "-class=\"chip\""},
	} {
		wants(t, m, ops.plain("/machines/"+m), want...)
	}
	send(pinned, "pin/cancel", "")
	send(off, "off/cancel", "")
	for _, m := range []fleet.Machine{pinned, off} {
		wants(t, "later "+m.Name, ops.plain("/machines/"+m.Name), "It belongs to rollout r1", "-class=\"chip\"")
	}
	send(off, "off", "")
	s.clock = s.clock.Add(time.Minute)
	if err := s.state.Update(func(tx state.Tx) error {
		b, _ := tx.Boot(off.Boot)
		b.Started = s.clock
		tx.StoreBoot(b)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wants(t, "it booted", ops.plain("/machines/"+off.Name), "-marked as switched off", "-/off/cancel")
}
