package api

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"ingot"
	"ingot/bootserver/access"
)

// Webhooks is what the server can do about receivers of events.
type Webhooks interface {
	// Webhooks returns all webhooks, the oldest first, without their dead letters.
	Webhooks() []Webhook
	// Webhook returns one webhook, by id or name.
	Webhook(ref string) (Webhook, error)
	// CreateWebhook makes one that gets what happens from now on.
	CreateWebhook(ctx context.Context, q WebhookRequest) (NewWebhook, error)
	// EditWebhook changes one, which goes on where it was.
	EditWebhook(ctx context.Context, ref string, q EditWebhookRequest) (NewWebhook, error)
	RemoveWebhook(ctx context.Context, ref string) (Webhook, error)
	PauseWebhook(ctx context.Context, ref string, q WhyRequest) (Webhook, error)
	ResumeWebhook(ctx context.Context, ref string, q ResumeWebhookRequest) (Webhook, error)
	// TestWebhook sends a test, once, and waits for the answer.
	TestWebhook(ctx context.Context, ref string) (WebhookTest, error)
	// RedeliverWebhook lets dead letters be sent again.
	RedeliverWebhook(ctx context.Context, ref string, q RedeliverRequest) (Webhook, error)
	// DiscardDeadLetters removes dead letters without sending them.
	DiscardDeadLetters(ctx context.Context, ref string) (Webhook, error)
}

// WebhookRequest describes a receiver of events.
type WebhookRequest struct {
	Name string `json:"name" maxLength:"64"`
	URL  string `json:"url" maxLength:"2000" doc:"https://HOST/PATH. It is shown, and is in backups."`
	// topics and codes of events
	Events   []string `json:"events,omitempty" maxItems:"64" doc:"Default: boot, machine, rollout, image."`
	Selector string   `json:"selector,omitempty" maxLength:"4000" doc:"Only machines with such labels."`
	CA       string   `json:"ca,omitempty" maxLength:"32768" doc:"PEM. Default: the CAs of the server's system."`
	Allow    []string `json:"allow,omitempty" maxItems:"8" doc:"Loopback and link-local addresses to be allowed."`
	Secret   string   `json:"secret,omitempty" maxLength:"200" doc:"whsec_BASE64. Default: a new one, shown once."`
}

// EditWebhookRequest changes a receiver of events. What is absent stays as it is.
type EditWebhookRequest struct {
	URL       *string   `json:"url,omitempty" maxLength:"2000"`
	Events    []string  `json:"events,omitempty" maxItems:"64" doc:"All that it gets from now on."`
	Selector  *string   `json:"selector,omitempty" maxLength:"4000" doc:"Empty: all machines."`
	CA        *string   `json:"ca,omitempty" maxLength:"32768" doc:"PEM. Empty: the CAs of the server's system."`
	Allow     *[]string `json:"allow,omitempty" maxItems:"8" doc:"All addresses to be allowed from now on."`
	NewSecret bool      `json:"newSecret,omitempty" doc:"Draw a new secret, which is shown once."`
	Secret    string    `json:"secret,omitempty" maxLength:"200" doc:"whsec_BASE64: a new secret of the receiver."`
	// how long requests are signed by the former secret as well; absent: a day
	Overlap *time.Duration `json:"overlap,omitempty" doc:"Nanoseconds."`
}

// Webhook is a receiver of events.
type Webhook struct {
	ID       string         `json:"id"`
	Name     string         `json:"name"`
	URL      string         `json:"url"`
	Events   []string       `json:"events"`
	Selector string         `json:"selector,omitempty"`
	CA       string         `json:"ca,omitempty"`
	Allow    []netip.Prefix `json:"allow,omitempty"`
	Created  time.Time      `json:"created"`
	By       string         `json:"by"`
	State    string         `json:"state" enum:"ok,waiting,failing,paused"` // waiting: nothing was sent yet
	Paused   *WebhookPause  `json:"paused,omitempty"`
	// how many entries of the ledger were not looked at yet, wanted or not
	Behind    uint64          `json:"behind"`
	Sent      uint64          `json:"sent"` // events that were accepted
	SentAt    time.Time       `json:"sentAt,omitzero"`
	Attempts  int             `json:"attempts,omitempty"` // of the event that is next, as far as it failed
	Failures  int             `json:"failures,omitempty"` // attempts in a row that failed
	Next      time.Time       `json:"next,omitzero"`      // when it is tried again
	Last      *WebhookFailure `json:"last,omitempty"`
	Gap       *WebhookGap     `json:"gap,omitempty"`     // not sent yet
	Dead      int             `json:"dead"`              // dead letters
	Dropped   uint64          `json:"dropped,omitempty"` // dead letters that were removed undelivered
	Letters   []DeadLetter    `json:"letters,omitempty"`
	Unusable  string          `json:"unusable,omitempty"` // why nothing can be sent
	Encrypted bool            `json:"encrypted"`          // the URL is https
	// requests are signed by the former secret as well until then
	FormerUntil time.Time `json:"formerUntil,omitzero"`
}

// WebhookPause says that nothing is sent.
type WebhookPause struct {
	At  time.Time `json:"at"`
	By  string    `json:"by,omitempty"` // absent: the server, because the receiver wants nothing more
	Why string    `json:"why,omitempty"`
}

// WebhookFailure is an attempt that failed.
type WebhookFailure struct {
	At     time.Time `json:"at"`
	Status int       `json:"status,omitempty"` // of the answer; absent: there was none
	Why    string    `json:"why"`
}

// WebhookGap are entries of the ledger that are not sent.
type WebhookGap struct {
	From    uint64    `json:"from"`
	To      uint64    `json:"to"`
	Entries uint64    `json:"entries,omitempty"` // absent: not known
	Reason  string    `json:"reason" enum:"retention,restored,skipped"`
	At      time.Time `json:"at"`
}

// DeadLetter is an event that was given up.
type DeadLetter struct {
	Event    string          `json:"event"` // the webhook-id of its requests
	Seq      uint64          `json:"seq"`
	Code     string          `json:"code"`
	Machine  ingot.MachineID `json:"machine,omitempty"`
	At       time.Time       `json:"at"` // when it happened
	Died     time.Time       `json:"died"`
	Attempts int             `json:"attempts"`
	Failure  WebhookFailure  `json:"failure"`
	Again    bool            `json:"again,omitempty"` // it is being sent again
}

// NewWebhook is a webhook that was just made: the only time that its secret is seen.
type NewWebhook struct {
	Webhook
	Secret string `json:"secret,omitempty" doc:"Absent if the request had one."`
}

// ResumeWebhookRequest says how a webhook goes on.
type ResumeWebhookRequest struct {
	Skip bool `json:"skip,omitempty" doc:"With what happens from now on, instead of where it was."`
}

// RedeliverRequest names dead letters.
type RedeliverRequest struct {
	Events []string `json:"events,omitempty" maxItems:"80" doc:"Ids of events; default: all dead letters."`
}

// WebhookTest is what became of a test.
type WebhookTest struct {
	OK     bool          `json:"ok"`
	Status int           `json:"status,omitempty"`
	Why    string        `json:"why,omitempty"`
	Took   time.Duration `json:"took" doc:"Nanoseconds."`
}

// WebhookEvent is the body of a request to a webhook.
type WebhookEvent struct {
	Type      string      `json:"type"`      // the code of what happened: "boot-ended"
	Timestamp time.Time   `json:"timestamp"` // when it happened
	Data      WebhookData `json:"data"`
}

// WebhookData is one entry of the ledger, with what receivers need beyond it. Texts of machines are in it
// as they came.
type WebhookData struct {
	Entry
	Topics      []string    `json:"topics"`
	MachineName string      `json:"machineName,omitempty"` // when it was sent
	Subject     string      `json:"subject,omitempty"`     // ID of anything else: a token, a key, a tag, a webhook
	Name        string      `json:"name,omitempty"`        // of the machine or subject, when it happened
	Actor       *access.Who `json:"actor,omitempty"`       // the operator
	Detail      string      `json:"detail,omitempty"`      // text of a machine or an operator
	Truncated   bool        `json:"truncated,omitempty"`   // it was too large: from and to are left out
}

// WebhookIn names one webhook in the path of a route.
type WebhookIn struct {
	Ref string `path:"ref" maxLength:"64" doc:"Id or name."`
}

func webhookRoutes(r *routes, b Webhooks) {
	type createIn struct{ Body WebhookRequest }
	add(r, "GET /v1/webhooks", access.Admin, "All receivers of events",
		func(context.Context, *nothingIn) ([]Webhook, error) { return append([]Webhook{}, b.Webhooks()...), nil })
	add(r, "POST /v1/webhooks", access.Admin, "Send events to a receiver, from now on",
		func(ctx context.Context, in *createIn) (NewWebhook, error) { return b.CreateWebhook(ctx, in.Body) })
	add(r, "GET /v1/webhooks/{ref}", access.Admin, "One receiver of events, with its dead letters",
		func(_ context.Context, in *WebhookIn) (Webhook, error) { return b.Webhook(in.Ref) })
	add(r, "DELETE /v1/webhooks/{ref}", access.Admin, "Send no more events to a receiver, and forget it",
		func(ctx context.Context, in *WebhookIn) (Webhook, error) { return b.RemoveWebhook(ctx, in.Ref) })
	type editIn struct {
		WebhookIn
		Body EditWebhookRequest
	}
	add(r, "POST /v1/webhooks/{ref}/edit", access.Admin, "Change a receiver of events, which goes on where it was",
		func(ctx context.Context, in *editIn) (NewWebhook, error) { return b.EditWebhook(ctx, in.Ref, in.Body) })
	type whyIn struct {
		WebhookIn
		Body WhyRequest
	}
	add(r, "POST /v1/webhooks/{ref}/pause", access.Admin, "Send nothing to a receiver until it is resumed",
		func(ctx context.Context, in *whyIn) (Webhook, error) { return b.PauseWebhook(ctx, in.Ref, in.Body) })
	type resumeIn struct {
		WebhookIn
		Body ResumeWebhookRequest
	}
	add(r, "POST /v1/webhooks/{ref}/resume", access.Admin, "Go on sending events, and try at once",
		func(ctx context.Context, in *resumeIn) (Webhook, error) { return b.ResumeWebhook(ctx, in.Ref, in.Body) })
	add(r, "POST /v1/webhooks/{ref}/test", access.Admin, "Send a test to a receiver, once",
		func(ctx context.Context, in *WebhookIn) (WebhookTest, error) { return b.TestWebhook(ctx, in.Ref) })
	type againIn struct {
		WebhookIn
		Body RedeliverRequest
	}
	add(r, "POST /v1/webhooks/{ref}/redeliver", access.Admin, "Send dead letters again",
		func(ctx context.Context, in *againIn) (Webhook, error) {
			return b.RedeliverWebhook(ctx, in.Ref, in.Body)
		})
	add(r, "DELETE /v1/webhooks/{ref}/dead-letters", access.Admin, "Remove dead letters without sending them",
		func(ctx context.Context, in *WebhookIn) (Webhook, error) { return b.DiscardDeadLetters(ctx, in.Ref) })
	r.describeEvents()
}

// describeEvents adds what receivers get to the OpenAPI document, as its webhooks.
func (r *routes) describeEvents() {
	doc := r.huma.OpenAPI()
	header := func(name, about string) *huma.Param {
		return &huma.Param{Name: name, In: "header", Required: true, Description: about, Schema: &huma.Schema{Type: "string"}}
	}
	doc.Webhooks = map[string]*huma.PathItem{"event": {Post: &huma.Operation{OperationID: "webhook-event",
		Summary: "An event, to each webhook that wants it (Standard Webhooks)",
		Parameters: []*huma.Param{
			header("webhook-id", "Id of the event: the same in each attempt."),
			header("webhook-timestamp", "Seconds since 1970, of the attempt."),
			header("webhook-signature", "v1, and the HMAC-SHA256 of id, timestamp and body with dots between, in "+
				"base64; another one by the former secret may follow after a space."),
		},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {
			Schema: doc.Components.Schemas.Schema(reflect.TypeFor[WebhookEvent](), true, "")}}},
		Responses: map[string]*huma.Response{"2XX": {Description: "The event was accepted."},
			"410":     {Description: "Nothing more is wanted: the webhook is paused."},
			"default": {Description: "The event is sent again, or becomes a dead letter."}}}}}
}

func webhookPath(ref string) string { return "webhooks/" + url.PathEscape(ref) }

// Webhooks lists all receivers of events.
func (c *Client) Webhooks(ctx context.Context) ([]Webhook, error) {
	return list[Webhook](ctx, c, "webhooks")
}

// Webhook returns one receiver of events.
func (c *Client) Webhook(ctx context.Context, ref string) (w Webhook, err error) {
	return w, c.call(ctx, http.MethodGet, webhookPath(ref), nil, &w)
}

// CreateWebhook sends events to a receiver from now on.
func (c *Client) CreateWebhook(ctx context.Context, q WebhookRequest) (w NewWebhook, err error) {
	return w, c.call(ctx, http.MethodPost, "webhooks", q, &w)
}

// EditWebhook changes a receiver of events.
func (c *Client) EditWebhook(ctx context.Context, ref string, q EditWebhookRequest) (w NewWebhook, err error) {
	return w, c.call(ctx, http.MethodPost, webhookPath(ref)+"/edit", q, &w)
}

// RemoveWebhook sends no more events to a receiver.
func (c *Client) RemoveWebhook(ctx context.Context, ref string) (w Webhook, err error) {
	return w, c.call(ctx, http.MethodDelete, webhookPath(ref), nil, &w)
}

// PauseWebhook sends nothing to a receiver until it is resumed.
func (c *Client) PauseWebhook(ctx context.Context, ref, why string) (w Webhook, err error) {
	return w, c.call(ctx, http.MethodPost, webhookPath(ref)+"/pause", WhyRequest{why}, &w)
}

// ResumeWebhook goes on sending events.
func (c *Client) ResumeWebhook(ctx context.Context, ref string, q ResumeWebhookRequest) (w Webhook, err error) {
	return w, c.call(ctx, http.MethodPost, webhookPath(ref)+"/resume", q, &w)
}

// TestWebhook sends a test to a receiver.
func (c *Client) TestWebhook(ctx context.Context, ref string) (t WebhookTest, err error) {
	return t, c.call(ctx, http.MethodPost, webhookPath(ref)+"/test", nil, &t)
}

// RedeliverWebhook sends dead letters again: those with the ids, or all.
func (c *Client) RedeliverWebhook(ctx context.Context, ref string, events []string) (w Webhook, err error) {
	return w, c.call(ctx, http.MethodPost, webhookPath(ref)+"/redeliver", RedeliverRequest{events}, &w)
}

// DiscardDeadLetters removes dead letters without sending them.
func (c *Client) DiscardDeadLetters(ctx context.Context, ref string) (w Webhook, err error) {
	return w, c.call(ctx, http.MethodDelete, webhookPath(ref)+"/dead-letters", nil, &w)
}
