package bootserver

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/client"
	"ingot/image"
)

// second is another machine beside firstMachine.
var second = func() client.Sighting {
	s := firstMachine
	s.MAC, s.UUID, s.Address = "52:54:00:12:00:02", "d1b2c3a4-0000-4000-8000-525400120002", s.Address.Next()
	return s
}()

// boots lets a machine come as far as its script, and returns the key of its boot.
func (h *house) boots(s client.Sighting) ingot.BootKey {
	h.t.Helper()
	if _, err := h.Observe(s); err != nil {
		h.t.Fatal(err)
	}
	h.LoaderServed(s.Address, "snponly.efi", 300_000)
	s.Kind, s.IPXE = client.Loader, true
	what, err := h.Observe(s)
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.api.Approve(h.t.Context(), s.MAC, api.ApproveRequest{Image: "lab:v1"}); err != nil {
		h.t.Fatal(err)
	}
	if status, text := h.get(what.URL); status != 200 || !strings.Contains(text, "kernel ") {
		h.t.Fatalf("GET script = %d: %s; want one that boots", status, text)
	}
	rest, _ := strings.CutPrefix(what.URL, h.base+"/b/")
	key, err := ingot.ParseBootKey(strings.TrimSuffix(rest, "/script"))
	if err != nil {
		h.t.Fatal(err)
	}
	return key
}

// do sends a request with a body and returns the status.
func (h *house) do(method, url string, body any) int {
	h.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		h.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(h.t.Context(), method, url, bytes.NewReader(text))
	if err != nil {
		h.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// bootRequests are all that a boot can ask, as ingot-init and the agent do.
func bootRequests(id ingot.BootID, im image.Image) []struct {
	method, part string
	body         any
} {
	type request = struct {
		method, part string
		body         any
	}
	list := []request{
		{"POST", "ticket", ingot.TicketRequest{Nonce: nonce}},
		{"POST", "events", ingot.Event{Stage: ingot.StageInit}},
		{"POST", "console", "a line"},
		{"POST", "crash", "a line"},
		{"POST", "report", ingot.Report{Boot: id, Root: im.Manifest.Root.Digest}},
	}
	for _, part := range []string{"kernel", "initramfs", "root", "config", "manifest", "signature", "uki.efi"} {
		list = append(list, request{"GET", im.Digest.Hex() + "/" + part, nil})
	}
	return list
}

// TestBootKeys: a key opens its own boot while that is the machine's latest
// one; an id is no key; a key of one boot with another's digits is none.
func TestBootKeys(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	one, two := h.boots(firstMachine), h.boots(second)
	mixed := ingot.BootKey(string(one.ID()) + string(two[32:]))
	for name, key := range map[string]ingot.BootKey{
		"the id alone":                       ingot.BootKey(one.ID()),
		"the id twice":                       ingot.BootKey(string(one.ID()) + string(one.ID())),
		"one boot's id, another boot's rest": mixed,
		"nothing but zeros":                  ingot.BootKey(strings.Repeat("0", 64)),
	} {
		for _, q := range bootRequests(one.ID(), im) {
			if got := h.do(q.method, h.base+ingot.BootPath(key, q.part), q.body); got != http.StatusNotFound {
				t.Errorf("%s: %s %s = %d; want 404", name, q.method, q.part, got)
			}
		}
		if got := h.do("GET", h.base+ingot.BootPath(key, "script"), nil); got != http.StatusNotFound {
			t.Errorf("%s: GET script = %d; want 404", name, got)
		}
	}
	if got := h.do("POST", h.base+ingot.BootPath(two, "report"),
		ingot.Report{Boot: one.ID()}); got != http.StatusBadRequest {
		t.Errorf("a report of one boot posted with another's key = %d; want 400", got)
	}
	for _, q := range bootRequests(one.ID(), im)[:4] {
		if got := h.do(q.method, h.base+ingot.BootPath(one, q.part), q.body); got >= 300 {
			t.Errorf("with its own key: %s %s = %d", q.method, q.part, got)
		}
	}
}

// TestTicketIsOnesOwn: what a key gets names its own boot and machine, whatever
// the request says of itself.
func TestTicketIsOnesOwn(t *testing.T) {
	h := newHouse(t)
	h.put("v1")
	one, two := h.boots(firstMachine), h.boots(second)
	for _, key := range []ingot.BootKey{one, two} {
		// The facts claim to have the card of the first machine.
		_, body := h.post(key.ID(), "ticket", ingot.TicketRequest{Nonce: nonce,
			Facts: ingot.Facts{NICs: []ingot.NIC{{MAC: firstMachine.MAC, Boot: true}}}})
		var signed ingot.SignedTicket
		var ticket ingot.Ticket
		if err := json.Unmarshal(body, &signed); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if err := json.Unmarshal(signed.Ticket, &ticket); err != nil {
			t.Fatal(err)
		}
		b, ok := h.state.Boot(key.ID())
		if !ok || ticket.Boot != key.ID() || ticket.Machine != b.Machine {
			t.Errorf("the ticket is of boot %s of %s; want %s of %s", ticket.Boot.Short(), ticket.Machine,
				key.ID().Short(), b.Machine)
		}
		if strings.Contains(string(signed.Ticket), string(key)) {
			t.Error("the ticket repeats the key")
		}
	}
}

// TestNoReplayInALaterBoot: when the machine starts over, the old key is good
// for nothing, and the new boot does not notice it.
func TestNoReplayInALaterBoot(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	old := h.boots(firstMachine)
	h.clock = h.clock.Add(time.Minute)
	now := h.boots(firstMachine)
	if old == now {
		t.Fatal("the machine started over and has the same key")
	}
	before, _ := h.state.Boot(now.ID())
	was, _ := h.state.Boot(old.ID())
	for _, q := range bootRequests(old.ID(), im) {
		if got := h.do(q.method, h.base+ingot.BootPath(old, q.part), q.body); got != http.StatusForbidden {
			t.Errorf("%s %s with the old key = %d; want 403", q.method, q.part, got)
		}
	}
	after, _ := h.state.Boot(now.ID())
	is, _ := h.state.Boot(old.ID())
	if len(after.Events) != len(before.Events) || after.Outcome != before.Outcome ||
		len(is.Events) != len(was.Events) || is.Outcome != was.Outcome || is.Report != nil {
		t.Errorf("the old key changed something:\n%+v\n%+v", is, after)
	}
}

// TestForeignKeys: whatever a machine may do for its boot, it cannot do with the
// key of another boot, or with what is nearly a key; nothing changes.
func TestForeignKeys(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	gone := h.boots(second)
	if _, err := h.api.Forget(t.Context(), second.MAC, true); err != nil {
		t.Fatal(err)
	}
	old := h.boots(firstMachine)
	h.clock = h.clock.Add(time.Minute)
	own, other := h.boots(firstMachine), h.boots(second)
	before := everything(t, h.state)
	for _, c := range []struct {
		name         string
		key          string
		want, script int // status of what a boot asks, and of its script
	}{
		{"an old boot's of the same machine", string(old), http.StatusForbidden, http.StatusOK},
		{"of a machine that was forgotten", string(gone), http.StatusNotFound, http.StatusNotFound},
		{"one boot's id, another machine's rest", string(own[:32] + other[32:]), http.StatusNotFound,
			http.StatusNotFound},
		{"one boot's id, an old boot's rest", string(own[:32] + old[32:]), http.StatusNotFound, http.StatusNotFound},
		{"too short", string(own[:63]), http.StatusNotFound, http.StatusNotFound},
		{"half of it", string(own[:48]), http.StatusNotFound, http.StatusNotFound},
		{"too long", string(own) + "0", http.StatusNotFound, http.StatusNotFound},
		{"one digit is another", string(own[:63]) + flip(own[63]), http.StatusNotFound, http.StatusNotFound},
		{"in upper case", strings.ToUpper(string(own)), http.StatusNotFound, http.StatusNotFound},
		{"none", "", http.StatusNotFound, http.StatusNotFound},
	} {
		for _, q := range append(bootRequests(own.ID(), im), bootRequests(other.ID(), im)...) {
			if got := h.do(q.method, h.base+ingot.BootPath(ingot.BootKey(c.key), q.part), q.body); got != c.want &&
				(q.part != "report" || got != http.StatusBadRequest) {
				t.Errorf("a key that is %s: %s %s = %d; want %d", c.name, q.method, q.part, got, c.want)
			}
		}
		url := h.base + ingot.BootPath(ingot.BootKey(c.key), "script")
		for _, method := range []string{"GET", "HEAD"} {
			if got := h.do(method, url, nil); got != c.script {
				t.Errorf("a key that is %s: %s script = %d; want %d", c.name, method, got, c.script)
			}
		}
		resp, err := http.PostForm(url, map[string][]string{"vendor": {"Example"}, "product": {"Server"},
			"serial": {"S1"}})
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.script || c.script == http.StatusOK &&
			!strings.Contains(string(text), "this boot is over") {
			t.Errorf("a key that is %s: POST script = %d %s (%v); want %d, and that it is over", c.name,
				resp.StatusCode, text, err, c.script)
		}
	}
	if after := everything(t, h.state); after != before {
		t.Errorf("foreign keys changed\n%s\nto\n%s", before, after)
	}
	// Another machine's own key opens that machine's boot, and says nothing of this one.
	mine := func() string {
		m, _ := h.state.Machine(machineID)
		b, _ := h.state.Boot(own.ID())
		return string(mustJSON(t, []any{m, b}))
	}
	was := mine()
	for _, q := range bootRequests(own.ID(), im) {
		h.do(q.method, h.base+ingot.BootPath(other, q.part), q.body)
	}
	if is := mine(); is != was {
		t.Errorf("another machine's key changed\n%s\nto\n%s", was, is)
	}
}

// TestEndedBootsRefuse: a boot that was judged gets no ticket and no files.
func TestEndedBootsRefuse(t *testing.T) {
	h := newHouse(t)
	im := h.put("v1")
	key := h.boots(firstMachine)
	if got := h.do("POST", h.base+ingot.BootPath(key, "events"),
		ingot.Event{Stage: ingot.StageRoot, Error: "the disk is on fire"}); got != 204 {
		t.Fatalf("POST events = %d", got)
	}
	for _, q := range bootRequests(key.ID(), im) {
		if slices.Contains([]string{"events", "console", "crash", "report"}, q.part) {
			continue // what a machine says of a boot that failed is heard
		}
		if got := h.do(q.method, h.base+ingot.BootPath(key, q.part), q.body); got != http.StatusForbidden {
			t.Errorf("%s %s after the boot failed = %d; want 403", q.method, q.part, got)
		}
	}
}

// TestKeysStayUnwritten: after a whole boot and many refusals, no key of a
// boot is in the log, in the state file, or in what the API tells.
func TestKeysStayUnwritten(t *testing.T) {
	h := newHouse(t)
	var log bytes.Buffer
	h.said.into(&log)
	im := h.put("v1")
	key := h.boots(firstMachine)
	for _, q := range bootRequests(key.ID(), im) {
		h.do(q.method, h.base+ingot.BootPath(key, q.part), q.body)
		h.do(q.method, h.base+ingot.BootPath(key, q.part)+"/nothing", q.body)
	}
	said := "Kernel command line: quiet ingot.boot=" + string(key) + " ro; GET " + h.base + ingot.BootPath(key, "root")
	h.do("POST", h.base+ingot.BootPath(key, "events"), ingot.Event{Stage: ingot.StageRoot, Error: said, Detail: said})
	h.do("POST", h.base+ingot.BootPath(key, "console"), said)
	h.do("POST", h.base+ingot.BootPath(key, "crash"), said)
	h.do("GET", h.base+ingot.BootPath(key, "root"), nil)
	var stored bytes.Buffer
	if err := h.state.Backup(&stored); err != nil {
		t.Fatal(err)
	}
	file := stored.Bytes()
	boots, err := h.api.Boots(t.Context(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	events, err := h.api.Events(t.Context(), api.EventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	console, err := h.api.Console(t.Context(), machineID, "")
	if err != nil || !strings.Contains(console.Text, "Kernel command line") {
		t.Fatalf("Console = %q, %v", console.Text, err)
	}
	answered, err := json.Marshal([]any{boots, events, console})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), key.ID().Short()) || !bytes.Contains(file, []byte(key.ID())) ||
		!bytes.Contains(answered, []byte(key.ID())) {
		t.Error("log, file or API do not name the boot: this test looks at the wrong ones")
	}
	for where, text := range map[string][]byte{"the log": log.Bytes(), "the state file": file, "the API": answered} {
		if bytes.Contains(text, []byte(key[32:])) {
			t.Errorf("%s holds the key of a boot", where)
		}
	}
}
