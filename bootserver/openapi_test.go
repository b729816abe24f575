package bootserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xeipuuv/gojsonschema"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
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
	im := s.put("v1")
	s.put("v2")
	key := s.boots(client)
	s.do("POST", s.base+ingot.BootPath(key, "ticket"), ingot.TicketRequest{Nonce: nonce, Facts: ingot.Facts{UUID: client.UUID, RAM: 1 << 30,
		NICs: []ingot.NIC{{Name: "eth0", MAC: client.MAC, Boot: true}}, Disks: []ingot.Disk{{Name: "vda", Serial: "S1", Size: 1, Holds: "blank"}}}})
	s.do("POST", s.base+ingot.BootPath(key, "report"), ingot.Report{Boot: key.ID(), Image: im.Digest, Root: im.Manifest.Root.Digest, Healthy: true, Checks: []ingot.CheckResult{{Name: "a", OK: true}}})
	s.boots(second)
	_, request, err := access.NewRequest("alice")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := json.Marshal(string(request))
	if err != nil {
		t.Fatal(err)
	}
	c := s.caller("an administrator", s.token("t", access.Admin), "")
	status, header, text := c.ask(t, "GET", "/v1/openapi.json", "")
	var d document
	if err := json.Unmarshal(text, &d); err != nil || status != 200 || header.Get("Content-Type") != "application/json" || !strings.HasPrefix(d.OpenAPI, "3.1") {
		t.Fatalf("GET /v1/openapi.json = %d %s %v", status, header.Get("Content-Type"), err)
	}
	// What each route is asked: the path behind its own, and the body.
	asks := map[string][][2]string{
		"GET /v1/audit":                    {{"", ""}, {"?after=1&limit=1", ""}, {"?last=true", ""}},
		"GET /v1/authority":                {{"", ""}},
		"GET /v1/boots":                    {{"", ""}, {"?machine=" + machineID + "&limit=1", ""}, {"?latest=true", ""}},
		"GET /v1/machines":                 {{"", ""}, {"?limit=1", ""}},
		"GET /v1/machines/{ref}":           {{"", ""}},
		"GET /v1/events":                   {{"", ""}, {"?newest=true&limit=2&machine=" + machineID, ""}, {"?after=1&wait=1ms", ""}},
		"GET /v1/machines/{ref}/console":   {{"", ""}},
		"GET /v1/machines/{ref}/why":       {{"", ""}},
		"POST /v1/machines/{ref}/label":    {{"", `{"set":{"rack":"1"},"remove":["x"]}`}},
		"POST /v1/machines/{ref}/rename":   {{"", `{"name":"node07"}`}},
		"POST /v1/machines/{ref}/merge":    {}, // asked below what it cannot do
		"POST /v1/machines/{ref}/forget":   {},
		"POST /v1/machines/{ref}/retire":   {},
		"POST /v1/import":                  {{"", `{"machines":[{"name":"new01","macs":["52:54:00:aa:00:01"]}],"dryRun":true}`}},
		"POST /v1/machines/{ref}/resume":   {{"", ""}},
		"GET /v1/network":                  {{"", ""}},
		"GET /v1/tokens":                   {{"", ""}},
		"GET /v1/version":                  {{"", ""}},
		"POST /v1/machines/{ref}/approve":  {{"", `{"name":"node01"}`}},
		"POST /v1/machines/{ref}/assign":   {{"", `{"image":"lab:v2","why":"x"}`}},
		"POST /v1/machines/{ref}/rollback": {{"", ""}},
		"POST /v1/machines/{ref}/grants":   {{"", `{"volume":"data","disk":"S1","for":3600000000000}`}},
		"POST /v1/tokens":                  {{"", `{"name":"b","scope":"read","for":3600000000000}`}, {"", `{"name":"c","scope":"read","for":3600000000000,"request":` + string(csr) + `}`}},
		"POST /v1/tokens/{ref}/revoke":     {{"", ""}},
		"POST /v1/reload":                  {}, // this house has no configuration: it is asked below what it cannot do
	}
	// Assign before rollback: what the table's order would not give.
	order := []string{"POST /v1/machines/{ref}/assign"}
	for _, r := range api.Routes() {
		if r.Scope != "" && strings.HasPrefix(r.Path, "/v1/") && !slices.Contains([]string{"/v1/openapi.json", "/v1/backup", "/v1/restore", "/v1/machines/{ref}/capture"}, r.Path) {
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
		ref := machineID
		if strings.HasPrefix(path, "/v1/tokens") {
			ref = "t2"
			s.revocable("t2")
		}
		for _, q := range queries {
			status, header, text := c.ask(t, method, strings.ReplaceAll(path, "{ref}", ref)+q[0], q[1])
			if status != http.StatusOK {
				t.Errorf("%s%s = %d %s", pattern, q[0], status, text)
			}
			d.judge(t, method, path, status, header, text)
		}
		status, header, text := c.ask(t, method, strings.ReplaceAll(path, "{ref}", "nobody")+"?nonsense=1", "{}")
		if status < 400 {
			t.Errorf("%s: nonsense = %d", pattern, status)
		}
		d.judge(t, method, path, status, header, text)
	}
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

// crowd records n machines, as if they had asked.
func (h *house) crowd(n int) {
	h.t.Helper()
	err := h.state.Update(func(tx *state.Tx) error {
		for i := range n {
			mac := fmt.Sprintf("%012x", i)
			tx.PutMachine(fleet.Machine{ID: ingot.MachineID("m-" + mac), State: fleet.Pending, MACs: []string{mac}, FirstSeen: h.clock.Add(time.Duration(i))})
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
}
