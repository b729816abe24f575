package bootserver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
)

// inbox is a receiver that keeps what it gets, and answers with a status.
type inbox struct {
	web *httptest.Server

	mu     sync.Mutex
	status int
	bodies []string
	events []api.WebhookEvent
}

func newInbox(t *testing.T) *inbox {
	t.Helper()
	in := &inbox{status: http.StatusNoContent}
	in.web = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		var e api.WebhookEvent
		if err := errors.Join(err, json.Unmarshal(body, &e)); err != nil {
			t.Errorf("reading an event: %v", err)
		}
		in.mu.Lock()
		defer in.mu.Unlock()
		if w.WriteHeader(in.status); in.status < 300 {
			in.bodies, in.events = append(in.bodies, string(body)), append(in.events, e)
		}
	}))
	t.Cleanup(in.web.Close)
	return in
}

func (in *inbox) answers(status int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.status = status
}

// codes are those of the events that were accepted.
func (in *inbox) codes() (list []string) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, e := range in.events {
		list = append(list, e.Type)
	}
	return list
}

// newHookedHouse is a house whose notifier runs by the real clock, with short pauses, until the test ends.
func newHookedHouse(t *testing.T) *street {
	t.Helper()
	s := newStreet(t)
	n := s.server.notifier
	n.Now = time.Now
	n.Policy = webhook.Policy{First: time.Millisecond, Longest: 20 * time.Millisecond, Refused: 2,
		Report: 2}.WithDefaults()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (h *house) eventually(what string, is func() bool) {
	h.t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("after a minute it is still not so: %s", what)
		}
	}
}

// hookOf reads a webhook.
func (h *house) hookOf(name string) api.Webhook {
	h.t.Helper()
	w, err := h.api.Webhook(h.t.Context(), name)
	if err != nil {
		h.t.Fatal(err)
	}
	return w
}

// wantCode checks that an error is a problem of a code.
func wantCode(t *testing.T, what string, err error, code api.Code) {
	t.Helper()
	var p api.Problem
	if !errors.As(err, &p) || p.Code != code {
		t.Errorf("%s: %v; want %s", what, err, code)
	}
}

// TestWebhookLife: a webhook from its creation to its removal, as operators see it. Its secret is shown
// once, and is nowhere else.
func TestWebhookLife(t *testing.T) {
	h := newHookedHouse(t)
	ctx, in := t.Context(), newInbox(t)
	h.stored(fleet.Machine{ID: "m-1", Name: "node01", State: fleet.Approved})
	q := api.WebhookRequest{Name: "siem", URL: in.web.URL, Events: []string{"machine", "webhook-test"}}
	_, err := h.api.CreateWebhook(ctx, q)
	wantCode(t, "a loopback address", err, api.CodeInvalidWebhook)
	q.Allow = []string{"127.0.0.1"}
	made, err := h.api.CreateWebhook(ctx, q)
	if err != nil || !strings.HasPrefix(made.Secret, webhook.SecretPrefix) || made.State != "waiting" || made.Encrypted {
		t.Fatalf("CreateWebhook = %+v, %v", made, err)
	}
	_, err = h.api.CreateWebhook(ctx, q)
	wantCode(t, "the same name", err, api.CodeWebhookTaken)
	for what, bad := range map[string]api.WebhookRequest{
		"no such event":  {Name: "a", URL: "https://a/", Events: []string{"boots"}},
		"a bad URL":      {Name: "a", URL: "https://u:p@a/"},
		"a bad selector": {Name: "a", URL: "https://a/", Selector: "=x="},
		"a bad CA":       {Name: "a", URL: "https://a/", CA: "x"},
		"a bad secret":   {Name: "a", URL: "https://a/", Secret: "whsec_x"},
		"a bad name":     {Name: "a b", URL: "https://a/"},
	} {
		_, err := h.api.CreateWebhook(ctx, bad)
		wantCode(t, what, err, api.CodeInvalidWebhook)
	}
	if r, err := h.api.TestWebhook(ctx, "siem"); err != nil || !r.OK || r.Status != http.StatusNoContent {
		t.Errorf("TestWebhook = %+v, %v", r, err)
	}
	if _, err := h.api.Label(ctx, "node01", api.LabelRequest{Set: map[string]string{"rack": "r1"}}); err != nil {
		t.Fatal(err)
	}
	h.eventually("the label comes", func() bool { return slices.Contains(in.codes(), "machine-labels") })
	in.answers(http.StatusUnprocessableEntity)
	if r, err := h.api.TestWebhook(ctx, "siem"); err != nil || r.OK || r.Status != 422 || !strings.Contains(r.Why, "422") {
		t.Errorf("TestWebhook of one that refuses = %+v, %v", r, err)
	}
	if _, err := h.api.Label(ctx, "node01", api.LabelRequest{Set: map[string]string{"rack": "r2"}}); err != nil {
		t.Fatal(err)
	}
	h.eventually("a dead letter", func() bool { return h.hookOf("siem").Dead == 1 })
	w := h.hookOf("siem")
	if w.State != "failing" || w.Letters[0].Code != "machine-labels" || w.Letters[0].Failure.Status != 422 {
		t.Errorf("the webhook is %+v", w)
	}
	_, err = h.api.RedeliverWebhook(ctx, "siem", []string{"evt_other"})
	wantCode(t, "another dead letter", err, api.CodeNoDeadLetter)
	in.answers(http.StatusOK)
	b := h.loggedIn("boss", access.Admin)
	again := "/settings/webhooks/" + w.ID + "/redeliver"
	wants(t, "the page Settings", b.plain("/settings"), "1\u00a0dead letter", "machine-labels", "422", again)
	if status, header, text := b.send("POST", again, nil, nil); status != 303 ||
		header.Get("Location") != "/settings?did=letters#wh" {
		t.Fatalf("sending it again = %d to %s: %s", status, header.Get("Location"), text)
	}
	h.eventually("it was sent again", func() bool { return h.hookOf("siem").Dead == 0 })
	other := newInbox(t)
	edited, err := h.api.EditWebhook(ctx, "siem", api.EditWebhookRequest{URL: &other.web.URL, Events: []string{"machine"},
		NewSecret: true})
	if err != nil || edited.URL != other.web.URL || !strings.HasPrefix(edited.Secret, "whsec_") ||
		edited.FormerUntil.IsZero() {
		t.Errorf("EditWebhook = %+v, %v", edited, err)
	}
	for range webhook.MaxFormer - 1 { // the receiver may have any of them
		if _, err := h.api.EditWebhook(ctx, "siem", api.EditWebhookRequest{NewSecret: true}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = h.api.EditWebhook(ctx, "siem", api.EditWebhookRequest{NewSecret: true})
	wantCode(t, "one secret more", err, api.CodeInvalidWebhook)
	edited, err = h.api.EditWebhook(ctx, "siem", api.EditWebhookRequest{NewSecret: true, Overlap: new(time.Duration)})
	if err != nil || !edited.FormerUntil.IsZero() {
		t.Errorf("without an overlap: %+v, %v; want no former secret", edited, err)
	}
	long := 1000 * time.Hour
	for what, bad := range map[string]api.EditWebhookRequest{"a bad URL": {URL: new("ftp://a/")},
		"no such event":       {Events: []string{"x"}},
		"too long an overlap": {NewSecret: true, Overlap: &long}, "a bad secret": {Secret: "whsec_x"},
		"an overlap of nothing": {URL: &other.web.URL, Overlap: &long}} {
		_, err := h.api.EditWebhook(ctx, "siem", bad)
		wantCode(t, what, err, api.CodeInvalidWebhook)
	}
	if _, err := h.api.Label(ctx, "node01", api.LabelRequest{Set: map[string]string{"rack": "r3"}}); err != nil {
		t.Fatal(err)
	}
	h.eventually("the label comes to the other", func() bool { return slices.Contains(other.codes(), "machine-labels") })
	if _, err := h.api.PauseWebhook(ctx, "siem", "maintenance"); err != nil {
		t.Fatal(err)
	}
	if w := h.hookOf("siem"); w.State != "paused" || w.Paused.Why != "maintenance" || w.Paused.By == "" {
		t.Errorf("the webhook is %+v", w)
	}
	if _, err := h.api.ResumeWebhook(ctx, "siem", api.ResumeWebhookRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := h.api.RemoveWebhook(ctx, "siem"); err != nil {
		t.Fatal(err)
	}
	_, err = h.api.Webhook(ctx, "siem")
	wantCode(t, "a webhook that was removed", err, api.CodeWebhookNotFound)
	h.wantAudited(made)
}

// wantAudited checks that the audit log has the life of a webhook, and nothing its secret.
func (s *street) wantAudited(made api.NewWebhook) {
	s.t.Helper()
	list, err := s.api.Audit(s.t.Context(), 0, true, 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	var actions []string
	for _, e := range list {
		if e.On == made.ID {
			actions = append(actions, e.Action)
		}
	}
	want := []string{"webhook.create", "webhook.test", "webhook.test", "webhook.redeliver"}
	want = append(want, slices.Repeat([]string{"webhook.edit"}, webhook.MaxFormer+1)...)
	want = append(want, "webhook.pause", "webhook.resume", "webhook.rm")
	if !slices.Equal(actions, want) {
		s.t.Errorf("the audit log has %v; want %v", actions, want)
	}
	text, err := json.Marshal(list)
	if err != nil {
		s.t.Fatal(err)
	}
	var backup bytes.Buffer
	if _, err := s.api.Backup(s.t.Context(), &backup); err != nil {
		s.t.Fatal(err)
	}
	secret := strings.TrimPrefix(made.Secret, webhook.SecretPrefix)
	key, err := webhook.ParseSecret(made.Secret)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, where := range [][]byte{text, backup.Bytes()} {
		if bytes.Contains(where, []byte(secret)) || bytes.Contains(where, key) {
			s.t.Error("the secret is in the audit log or in a backup")
		}
	}
}

// TestWebhookScope: webhooks take the scope admin, those that are shown too.
func TestWebhookScope(t *testing.T) {
	for _, r := range api.Routes() {
		if strings.HasPrefix(r.Path, "/v1/webhooks") && r.Scope != access.Admin {
			t.Errorf("%s %s takes the scope %s", r.Method, r.Path, r.Scope)
		}
	}
}

// TestEventsHaveNoSecrets: whatever a machine says, no event of its boot has the key of the boot, and texts
// come as they are.
func TestEventsHaveNoSecrets(t *testing.T) {
	h := newHookedHouse(t)
	in := newInbox(t)
	if _, err := h.api.CreateWebhook(t.Context(), api.WebhookRequest{Name: "all", URL: in.web.URL, Events: fleet.Topics(),
		Allow: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	h.put("v1")
	key := h.boots(firstMachine)
	const spite = "<script>alert(1)</script> \x1b[31m\u202e"
	for _, e := range []ingot.Event{{Stage: ingot.StageInitramfs, Detail: spite + " ingot.boot=" + string(key)},
		{Stage: ingot.StageRoot, Error: "GET http://10.0.0.1" + ingot.BootPath(key, "root") + ": no"}} {
		if status := h.do("POST", h.base+ingot.BootPath(key, "events"), e); status != http.StatusNoContent {
			t.Fatalf("POST events = %d", status)
		}
	}
	token := h.token("ci", access.Read)
	h.eventually("all come", func() bool {
		return slices.Contains(in.codes(), "boot-stage-failed") && slices.Contains(in.codes(), "token.create")
	})
	in.mu.Lock()
	defer in.mu.Unlock()
	found := false
	for i, body := range in.bodies {
		if strings.Contains(body, string(key)) || strings.Contains(body, string(key)[32:]) || strings.Contains(body, token) {
			t.Errorf("an event has a secret: %s", body)
		}
		found = found || strings.Contains(in.events[i].Data.Detail, "<script>alert(1)</script>")
	}
	if !found {
		t.Errorf("no event has the text of the machine; events are %s", in.bodies)
	}
}

// TestWebhookBeginsNow: a webhook gets nothing of before, also not what was not written to the file yet.
func TestWebhookBeginsNow(t *testing.T) {
	h := newHookedHouse(t)
	in := newInbox(t)
	h.stored(fleet.Machine{ID: "m-1", State: fleet.Approved})
	note := func(mac string) {
		if err := h.state.Append(fleet.Change{At: time.Now(), Code: fleet.CodeMachineCard, Machine: "m-1",
			To: fleet.Values{"mac": mac}}); err != nil {
			t.Fatal(err)
		}
	}
	note("before")
	if _, err := h.api.CreateWebhook(t.Context(), api.WebhookRequest{Name: "now", URL: in.web.URL,
		Allow: []string{"127.0.0.1"}}); err != nil {
		t.Fatal(err)
	}
	note("after")
	h.eventually("it comes", func() bool { return len(in.codes()) > 0 })
	if got := in.events[0].Data.To["mac"]; got != "after" || len(in.events) != 1 {
		t.Errorf("%d events came, the first about %v", len(in.events), got)
	}
}

// TestTooManyWebhooks: there is a bound.
func TestTooManyWebhooks(t *testing.T) {
	h := newHookedHouse(t)
	h.update(func(tx state.Tx) {
		for i := range webhook.Max {
			tx.PutWebhook(webhook.Webhook{ID: string(rune('a' + i)), Paused: &webhook.Pause{}})
		}
	})
	_, err := h.api.CreateWebhook(t.Context(), api.WebhookRequest{Name: "one", URL: "https://a.example/"})
	wantCode(t, "one more", err, api.CodeTooManyWebhooks)
}
