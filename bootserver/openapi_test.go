package bootserver

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xeipuuv/gojsonschema"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/rollout"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
	"ingot/image"
)

// document is what the server says of its API.
type document struct {
	OpenAPI    string
	Paths      map[string]map[string]operation
	Components map[string]any
}

type operation struct {
	OperationID string `json:"operationId"`
	Responses   map[string]struct {
		Content map[string]struct{ Schema map[string]any }
	}
	Scope string `json:"x-scope"`
}

// judge compares an answer with what the document says of it. A foreign
// library reads the schemas.
func (d document) judge(t *testing.T, method, path string, status int, header http.Header, text []byte) {
	t.Helper()
	o, ok := d.Paths[path][strings.ToLower(method)]
	if !ok {
		t.Errorf("%s %s is not in the document", method, path)
		return
	}
	r, ok := o.Responses["200"]
	if status != http.StatusOK {
		r, ok = o.Responses["default"]
	}
	content, has := r.Content[header.Get("Content-Type")]
	if !ok || !has {
		t.Errorf("%s %s: the document has no answer %d of %q", method, path, status, header.Get("Content-Type"))
		return
	}
	schema := map[string]any{"components": d.Components}
	for k, v := range content.Schema {
		schema[k] = v
	}
	if ref, is := schema["$ref"]; is { // beside a reference, older drafts read nothing
		schema = map[string]any{"components": d.Components, "allOf": []any{map[string]any{"$ref": ref}}}
	}
	result, err := gojsonschema.Validate(gojsonschema.NewGoLoader(schema), gojsonschema.NewBytesLoader(text))
	if err != nil {
		t.Errorf("%s %s: %v", method, path, err)
		return
	}
	for _, e := range result.Errors() {
		t.Errorf("%s %s answers %d what the document does not say: %s\n%s", method, path, status, e, text)
	}
}

// TestAnswersAreAsDocumented: every route is asked for something it can answer
// and for something it cannot, and both answers are as its schema says.
func TestAnswersAreAsDocumented(t *testing.T) {
	s := newStreet(t)
	im, orders := s.put("v1"), putSmall(t, s.images, s.keys, "v9", orderly)
	s.put("v2")
	key := s.boots(firstMachine)
	s.do("POST", s.base+ingot.BootPath(key, "ticket"),
		ingot.TicketRequest{Nonce: nonce, Facts: ingot.Facts{UUID: firstMachine.UUID, RAM: 1 << 30,
			NICs: []ingot.NIC{{Name: "eth0", MAC: firstMachine.MAC, Boot: true}}, Disks: []ingot.Disk{{Name: "vda",
				Serial: "S1", Size: 1, Holds: "blank"}}}})
	s.do("POST", s.base+ingot.BootPath(key, "report"), ingot.Report{Boot: key.ID(), Image: im.Digest,
		Root: im.Manifest.Root.Digest, Healthy: true, Checks: []ingot.CheckResult{{Name: "a", OK: true}}})
	s.boots(second)
	s.someRollouts(im)
	_, request, err := access.NewRequest("alice")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := json.Marshal(string(request))
	if err != nil {
		t.Fatal(err)
	}
	pub, err := json.Marshal(string(s.keys.Release.Public.Text()))
	if err != nil {
		t.Fatal(err)
	}
	c := s.caller("an administrator", s.token("t", access.Admin), "")
	status, header, text := c.ask(t, "GET", "/v1/openapi.json", "")
	var d document
	if err := json.Unmarshal(text, &d); err != nil || status != 200 ||
		header.Get("Content-Type") != "application/json" || !strings.HasPrefix(d.OpenAPI, "3.1") {
		t.Fatalf("GET /v1/openapi.json = %d %s %v", status, header.Get("Content-Type"), err)
	}
	// What each route is asked: the path behind its own, and the body.
	asks := map[string][][2]string{
		"GET /v1/audit":     {{"", ""}, {"?after=1&limit=1", ""}, {"?last=true", ""}},
		"GET /v1/authority": {{"", ""}},
		"GET /v1/boots": {{"", ""}, {"?machine=" + machineID + "&limit=1", ""},
			{"?latest=true", ""}, {"?before=" + strings.Repeat("7", 48), ""}},
		"GET /v1/machines":       {{"", ""}, {"?limit=1", ""}},
		"GET /v1/machines/{ref}": {{"", ""}},
		"GET /v1/events": {{"", ""},
			{"?newest=true&limit=2&machine=" + machineID + "&machine=" + second.MAC, ""}, {"?after=1&wait=1ms", ""}},
		"GET /v1/machines/{ref}/console":  {{"", ""}},
		"GET /v1/machines/{ref}/hardware": {{"", ""}},
		"GET /v1/machines/{ref}/why":      {{"", ""}},
		"POST /v1/machines/{ref}/label":   {{"", `{"set":{"rack":"1"},"remove":["x"]}`}},
		"POST /v1/machines/{ref}/rename":  {{"", `{"name":"node07"}`}},
		"POST /v1/machines/{ref}/merge":   {}, // asked below what it cannot do
		"POST /v1/machines/{ref}/forget":  {},
		"POST /v1/machines/{ref}/retire":  {},
		"POST /v1/import": {{"",
			`{"machines":[{"name":"new01","macs":["52:54:00:aa:00:01"]}],"dryRun":true}`}},
		"GET /v1/fleet": {{"", ""}},
		"POST /v1/fleet": {{"", `{"files":[{"name":"f","content":"machines: [{name: n5, macs: '52:54:00:aa:00:05'}]"}]}`},
			{"", `{"files":[{"name":"f","content":"assignments: [{to: n5, image: lab:v1}]"}],"dryRun":true}`}},
		"POST /v1/fleet/diff":                       {{"", `{"files":[{"name":"f","content":"rules: []"}],"prune":true}`}},
		"POST /v1/machines/{ref}/pin":               {{"", `{"why":"certified"}`}},
		"DELETE /v1/machines/{ref}/pin":             {{"", ""}},
		"POST /v1/machines/{ref}/off":               {{"", `{"why":"broken fan"}`}},
		"DELETE /v1/machines/{ref}/off":             {{"", ""}},
		"POST /v1/machines/{ref}/reboot":            {{"", `{"drain":"required","why":"x"}`}},
		"DELETE /v1/machines/{ref}/reboot":          {{"", ""}},
		"GET /v1/rollouts":                          {{"", ""}},
		"POST /v1/rollouts":                         {{"", `{"image":"lab:v2","selector":"all","dryRun":true}`}},
		"GET /v1/rollouts/{id}":                     {{"", ""}},
		"GET /v1/rollouts/{id}/machines":            {{"", ""}, {"?limit=1", ""}},
		"POST /v1/rollouts/{id}/abort":              {{"", `{"why":"x"}`}},
		"POST /v1/rollouts/{id}/pause":              {{"", `{"why":"x"}`}},
		"POST /v1/rollouts/{id}/resume":             {{"", `{}`}},
		"POST /v1/machines/{ref}/resume":            {{"", ""}},
		"GET /v1/network":                           {{"", ""}},
		"GET /v1/tokens":                            {{"", ""}},
		"GET /v1/version":                           {{"", ""}},
		"POST /v1/machines/{ref}/approve":           {{"", `{"name":"node01"}`}},
		"POST /v1/machines/{ref}/assign":            {{"", `{"image":"lab:v2","why":"x"}`}},
		"POST /v1/machines/{ref}/rollback":          {{"", ""}},
		"POST /v1/machines/{ref}/once":              {{"", `{"image":"lab:v2","why":"x","limit":3600000000000}`}},
		"DELETE /v1/machines/{ref}/once":            {}, // asked in TestOnceCancelled: an assignment cancels it first
		"POST /v1/machines/{ref}/grants":            {{"", `{"volume":"data","disk":"S1","for":3600000000000,"force":true}`}},
		"DELETE /v1/machines/{ref}/grants/{volume}": {}, // asked in TestGrantWithdrawn
		"GET /v1/webhooks":                          {{"", ""}},
		"POST /v1/webhooks":                         {{"", `{"name":"siem","url":"https://siem.example/"}`}},
		"GET /v1/webhooks/{ref}":                    {{"", ""}},
		"DELETE /v1/webhooks/{ref}":                 {{"", ""}},
		"POST /v1/webhooks/{ref}/edit":              {{"", `{"selector":"rack=r1","newSecret":true}`}},
		"POST /v1/webhooks/{ref}/pause":             {{"", `{"why":"x"}`}},
		"POST /v1/webhooks/{ref}/resume":            {{"", `{"skip":true}`}},
		"POST /v1/webhooks/{ref}/test":              {{"", ""}},
		"POST /v1/webhooks/{ref}/redeliver":         {{"", `{}`}},
		"DELETE /v1/webhooks/{ref}/dead-letters":    {{"", ""}},
		"GET /v1/sessions":                          {{"", ""}},
		"DELETE /v1/sessions/{ref}":                 {{"", ""}},
		"POST /v1/tokens": {{"", `{"name":"b","scope":"read","for":3600000000000}`},
			{"", `{"name":"c","scope":"read","for":3600000000000,"request":` + string(csr) + `}`}},
		"POST /v1/tokens/{ref}/revoke":  {{"", ""}},
		"GET /v1/images":                {{"", ""}},
		"GET /v1/images/{ref}":          {{"", ""}},
		"GET /v1/images/{ref}/packages": {{"", ""}},
		"GET /v1/images/{ref}/contents": {{"", ""}},
		"DELETE /v1/images/{ref}":       {}, // asked in TestImagesInUseStay what they can do
		"POST /v1/images/{ref}/untag":   {},
		"DELETE /v1/keys/{ref}":         {},
		"POST /v1/images/gc":            {{"", `{"keep":3,"dryRun":true}`}},
		"POST /v1/images/{ref}/tag":     {{"", `{"tag":"lab:stable"}`}},
		"POST /v1/images/{ref}/note":    {{"", `{"did":"pull","with":"registry.example.com/lab"}`}},
		"POST /v1/keys":                 {{"", `{"name":"build1","key":` + string(pub) + `}`}},
		"GET /v1/keys":                  {{"", ""}},
		"POST /v1/keys/rotate":          {{"", `{"use":"server","leaked":true}`}},
		"POST /v1/reload":               {}, // this house has no configuration: it is asked below what it cannot do
	}
	// Assign before rollback: what the table's order would not give.
	order := []string{"POST /v1/machines/{ref}/assign"}
	for _, r := range api.Routes() {
		if r.Scope != "" && strings.HasPrefix(r.Path, "/v1/") &&
			!slices.Contains([]string{"/v1/openapi.json", "/v1/backup", "/v1/restore", "/v1/machines/{ref}/capture",
				"/v1/capture", "/v1/images/{ref}/sbom"}, r.Path) {
			order = append(order, r.Method+" "+r.Path)
		}
	}
	for _, pattern := range order {
		queries, known := asks[pattern]
		if !known {
			t.Errorf("%s: this test does not know what to ask it", pattern)
			continue
		}
		method, path, _ := strings.Cut(pattern, " ")
		switch pattern {
		case "POST /v1/machines/{ref}/reboot":
			s.runs(orders)
		case "DELETE /v1/machines/{ref}/reboot":
			s.runs(orders)
			c.ask(t, "POST", "/v1/machines/"+machineID+"/reboot", `{}`)
		case "POST /v1/rollouts": // what was asked before keeps the machine out
			s.update(func(tx state.Tx) {
				m, _ := tx.Machine(machineID)
				m.Pin, m.Off, m.Once = nil, nil, nil
				tx.StoreMachine(m)
			})
		}
		ref, id := machineID, "r2"
		if strings.HasSuffix(path, "/abort") {
			id = "r1"
		}
		at := func(ref, id string) string {
			return strings.ReplaceAll(strings.ReplaceAll(path, "{ref}", ref), "{id}", id)
		}
		if strings.HasPrefix(path, "/v1/tokens") {
			ref = "t2"
			s.revocable("t2")
		} else if strings.HasPrefix(path, "/v1/sessions") {
			ref = "alice"
			s.update(func(tx state.Tx) {
				tx.PutSession(access.Session{ID: strings.Repeat("a", 64), Kind: access.OIDC, Credential: "https://id.example alice",
					Name: "alice", Groups: []string{"ops"}, Began: s.clock, Used: s.clock, Until: s.clock.Add(time.Hour)})
			})
		} else if strings.HasPrefix(path, "/v1/webhooks") {
			ref = "hook"
			s.aWebhook(ref)
		} else if strings.HasPrefix(path, "/v1/images") {
			ref = "lab:v1"
		}
		for _, q := range queries {
			status, header, text := c.ask(t, method, at(ref, id)+q[0], q[1])
			if status != http.StatusOK {
				t.Errorf("%s%s = %d %s", pattern, q[0], status, text)
			}
			d.judge(t, method, path, status, header, text)
		}
		status, header, text := c.ask(t, method, at("nobody", "r9")+"?nonsense=1", "{}")
		if status < 400 {
			t.Errorf("%s: nonsense = %d", pattern, status)
		}
		d.judge(t, method, path, status, header, text)
	}
}

// runs makes the first machine run an image, healthy and without an order.
func (s *street) runs(im image.Image) {
	s.t.Helper()
	s.update(func(tx state.Tx) {
		m, _ := tx.Machine(machineID)
		b, _ := tx.Boot(m.Boot)
		b.Image, b.Outcome, b.Ordered = fleet.ImageRef{Image: im.Digest, Name: im.Name.String()}, ingot.OutcomeHealthy, nil
		b.Auth.Half = make([]byte, 32)
		tx.StoreBoot(b)
	})
}

// someRollouts stores two rollouts with everything that an answer can have.
func (s *street) someRollouts(im image.Image) {
	s.t.Helper()
	ref := rollout.Image{Image: im.Digest, Name: im.Name.String()}
	for i := range 2 {
		r := rollout.Rollout{ID: fmt.Sprint("r", i+1), Number: i + 1, Generation: 1, Image: ref, Selector: "all", By: "x",
			Created: s.clock, State: rollout.Wave, Since: s.clock, Wave: 1, Waves: 4, Machines: 1,
			Policy: rollout.Policy{Canary: 1}.WithDefaults(0, 2), Stop: &rollout.Stop{Reason: rollout.FailingBoots, At: s.clock,
				Text: "x", Evidence: []rollout.Evidence{{Machine: machineID, Name: "node01", Reason: "x"}}},
			Log: []rollout.Entry{{At: s.clock, State: rollout.Wave, Wave: 1}}, Counted: 1}
		m := rollout.Member{Rollout: r.ID, Machine: machineID, Name: "node01", Wave: 1, From: ref, Left: "x",
			Results: []rollout.Result{{Boot: "b", Seq: 1, Class: rollout.Bad, At: s.clock, Reason: "x"}}}
		s.update(func(tx state.Tx) { tx.PutRollout(r); tx.PutMember(m) })
	}
}

// aWebhook stores a webhook with everything that an answer can have.
func (s *street) aWebhook(name string) {
	s.t.Helper()
	w := webhook.Webhook{ID: "0123456789abcdef", Name: name, URL: s.base, Events: []string{"boot"}, By: "x",
		Created: s.clock,
		Allow:   []netip.Prefix{netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("127.0.0.0/8")},
		Paused:  &webhook.Pause{At: s.clock, Why: "x"}}
	var err error
	if w.Secret, err = s.server.notifier.Seal(w.ID, make([]byte, webhook.NewSecret)); err != nil {
		s.t.Fatal(err)
	}
	failure := webhook.Failure{At: s.clock, Status: 500, Why: "x"}
	s.update(func(tx state.Tx) {
		tx.PutWebhook(w)
		tx.PutWebhookProgress(webhook.Progress{Webhook: w.ID, Failures: 2, Attempts: 1, Last: &failure, Next: s.clock,
			Gap: &webhook.Gap{From: 1, To: 2, Reason: webhook.GapRestored, At: s.clock}, SentAt: s.clock, Dropped: 1})
		tx.PutDeadLetter(webhook.Letter{Webhook: w.ID, Seq: 1, Event: "evt_1", Code: "boot-ended", At: s.clock, Died: s.clock,
			Machine: machineID, Failure: failure})
	})
}

// revocable makes sure that there is a live token of a name.
func (s *street) revocable(name string) {
	s.t.Helper()
	for _, c := range s.state.Credentials() {
		if c.Name == name && c.Live(s.clock) {
			return
		}
	}
	s.token(name, access.Read)
}

// TestPages: all machines come, each once, whatever the size of a page; a page
// that ended with what is gone says so.
func TestPages(t *testing.T) {
	s := newStreet(t)
	s.crowd(7)
	c := s.caller("somebody", s.token("t", access.Read), "")
	for _, limit := range []string{"1", "2", "3", "7", "8"} {
		var seen []string
		for q := "?limit=" + limit; q != ""; {
			status, header, text := c.ask(t, "GET", "/v1/machines"+q, "")
			var page []struct{ ID string }
			if err := json.Unmarshal(text, &page); err != nil || status != 200 {
				t.Fatalf("GET machines%s = %d %v %s", q, status, err, text)
			}
			for _, m := range page {
				seen = append(seen, m.ID)
			}
			_, q, _ = strings.Cut(header.Get("Link"), "?")
			if q != "" {
				q = "?" + strings.TrimSuffix(q, `>; rel="next"`)
			}
		}
		if len(seen) != 7 || seen[0] != "m-000000000000" || seen[6] != "m-000000000006" {
			t.Errorf("by pages of %s come %v; want all 7 in order", limit, seen)
		}
	}
	if all, err := s.api.Machines(t.Context()); err != nil || len(all) != 7 {
		t.Errorf("Machines() = %d, %v", len(all), err)
	}
	status, header, text := c.ask(t, "GET", "/v1/machines?after=m-gone", "")
	wantProblem(t, "a page after what is gone", status, header, text, http.StatusConflict)
}

// TestPagesOfBoots: all boots come, each once and in order, whatever the size
// of a page, while machines boot and old boots are forgotten.
func TestPagesOfBoots(t *testing.T) {
	s := newStreet(t)
	s.crowd(3)
	began := 0
	begin := func(n int) (ids []ingot.BootID) {
		id := func(began int) ingot.BootID {
			return ingot.NewBootID([16]byte{byte(began * 7), 1, byte(began >> 8), byte(began)}) // not in order
		}
		inParts(t, s.state, n, func(tx state.Tx, i int) {
			i += began
			tx.StoreBoot(fleet.Boot{ID: id(i), Machine: ingot.MachineID(fmt.Sprintf("m-%012x", i%3)), Number: i/3 + 1,
				Started: s.clock.Add(time.Duration(i/2) * time.Second), Outcome: ingot.OutcomeHealthy}) // two at a time
		})
		for range n {
			ids, began = append(ids, id(began)), began+1
		}
		return ids
	}
	c := s.caller("somebody", s.token("t", access.Read), "")
	// walk reads all pages, and begins boots between them.
	walk := func(query string, more int) (seen []ingot.BootID, pages int) {
		for q := query; q != ""; pages++ {
			status, header, text := c.ask(t, "GET", "/v1/boots"+q, "")
			var page []fleet.Boot
			if err := json.Unmarshal(text, &page); err != nil || status != 200 {
				t.Fatalf("GET boots%s = %d %v %s", q, status, err, text)
			}
			var ids []ingot.BootID
			for _, b := range page {
				ids = append(ids, b.ID)
			}
			seen = append(ids, seen...)
			begin(more)
			if _, q, _ = strings.Cut(header.Get("Link"), "?"); q != "" {
				q = "?" + strings.TrimSuffix(q, `>; rel="next"`)
			}
		}
		return seen, pages
	}
	all := begin(20)
	slices.SortFunc(all, func(a, b ingot.BootID) int {
		one, _ := s.state.Boot(a)
		other, _ := s.state.Boot(b)
		return cmp.Or(one.Started.Compare(other.Started), cmp.Compare(a, b))
	})
	for _, forget := range []bool{false, true} { // from memory, and from the file
		if forget {
			s.state.Forget()
		}
		for _, limit := range []int{1, 2, 3, 7, 19, 20, 21} {
			if seen, pages := walk(fmt.Sprintf("?limit=%d", limit), 0); !slices.Equal(seen, all) ||
				pages != (20+limit-1)/limit {
				t.Errorf("by pages of %d come %d boots on %d pages, out of memory: %v; want all 20 in order", limit,
					len(seen), pages, forget)
			}
		}
	}
	if seen, pages := walk("?limit=3", 2); !slices.Equal(seen, all) || pages != 7 {
		t.Errorf("while others begin come %d boots on %d pages; want the 20 that there were", len(seen), pages)
	}
	of := func(m string) (ids []ingot.BootID) {
		list, err := s.api.Boots(t.Context(), m, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range list {
			ids = append(ids, b.ID)
		}
		return ids
	}
	begin(3*state.BootsPerMachine - began)
	before := of("m-000000000000")
	if len(before) != state.BootsPerMachine {
		t.Fatalf("%d boots of a machine; want %d", len(before), state.BootsPerMachine)
	}
	// The oldest ones are forgotten under the reader's eyes, those that pages end with among them.
	seen, pages := walk("?limit=60&machine=m-000000000000", 3*60)
	if pages != 2 || !slices.Equal(seen[len(seen)-60:], before[40:]) {
		t.Errorf("while old ones are forgotten come %d boots on %d pages; want at least the newest 60 of %d",
			len(seen), pages, len(before))
	}
	wantOlder := before[len(before)-len(seen):]
	if !slices.Equal(seen, wantOlder) {
		t.Errorf("what came of a machine is not in order, or not whole")
	}
	status, header, text := c.ask(t, "GET", "/v1/boots?before=nonsense", "")
	wantProblem(t, "a page before nonsense", status, header, text, http.StatusBadRequest)
}

// TestClientPages: the client gives as many boots as it is asked for, over as
// many pages as that takes.
func TestClientPages(t *testing.T) {
	s := newStreet(t)
	const machines, most = 25, state.BootsPerMachine
	s.crowd(machines)
	inParts(t, s.state, machines*most, func(tx state.Tx, n int) {
		tx.StoreBoot(fleet.Boot{ID: ingot.NewBootID([16]byte{1, byte(n >> 8), byte(n)}),
			Machine: ingot.MachineID(fmt.Sprintf("m-%012x", n%machines)),
			Number:  n/machines + 1, Started: s.clock.Add(time.Duration(n) * time.Second), Outcome: ingot.OutcomeHealthy})
	})
	for limit, want := range map[int]int{0: machines * most, 1: 1, 999: 999, 1000: 1000, 1001: 1001, 2400: 2400,
		20_000: machines * most} {
		list, err := s.api.Boots(t.Context(), "", limit)
		if err != nil || len(list) != want {
			t.Errorf("Boots(%d) = %d, %v; want %d", limit, len(list), err, want)
			continue
		}
		for i, b := range list {
			if n := machines*most - want + i; !b.Started.Equal(s.clock.Add(time.Duration(n) * time.Second)) {
				t.Errorf("Boots(%d): the boot at %d began at %s; want the latest ones, oldest first", limit, i,
					b.Started)
				break
			}
		}
	}
	if list, err := s.api.Boots(t.Context(), "m-000000000003", 0); err != nil || len(list) != most {
		t.Errorf("Boots of one machine = %d, %v; want %d", len(list), err, most)
	}
}

// crowd records n machines, as if they had asked.
func (h *house) crowd(n int) {
	h.t.Helper()
	inParts(h.t, h.state, n, func(tx state.Tx, i int) {
		mac := fmt.Sprintf("%012x", i)
		tx.StoreMachine(fleet.Machine{ID: ingot.MachineID("m-" + mac), State: fleet.Pending, MACs: []string{mac},
			FirstSeen: h.clock.Add(time.Duration(i))})
	})
}
