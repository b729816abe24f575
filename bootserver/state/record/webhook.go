package record

import (
	"encoding/json"
	"net/netip"
	"time"

	"ingot"
	"ingot/bootserver/fleet/webhook"
)

// webhookVersion is that of webhooks, their progress and dead letters that this program writes.
const webhookVersion = 1

type webhookRecord struct {
	V        int            `json:"v"`
	ID       string         `json:"id"`
	Name     string         `json:"name"`
	URL      string         `json:"url"`
	Events   []string       `json:"events"`
	Selector string         `json:"selector,omitempty"`
	CA       string         `json:"ca,omitempty"`
	Allow    []netip.Prefix `json:"allow,omitempty"`
	Secret   []byte         `json:"secret"` // sealed
	Created  time.Time      `json:"created"`
	By       string         `json:"by"`
	Paused   *webhookPause  `json:"paused,omitempty"`
	Retry    int            `json:"retry,omitempty"`
	Skip     int            `json:"skip,omitempty"`
	Edited   int            `json:"edited,omitempty"`
	Former   []byte         `json:"former,omitempty"` // likewise; of programs that knew one
	Until    time.Time      `json:"formerUntil,omitzero"`
	Formers  []formerSecret `json:"formers,omitempty"`
}

type formerSecret struct {
	Secret []byte    `json:"secret"` // likewise
	Until  time.Time `json:"until"`
}

type webhookPause struct {
	At  time.Time `json:"at"`
	By  string    `json:"by,omitempty"`
	Why string    `json:"why,omitempty"`
}

type webhookProgress struct {
	V        int             `json:"v"`
	Webhook  string          `json:"webhook"`
	Ledger   string          `json:"ledger"`
	Seq      uint64          `json:"seq"`
	Gap      *webhookGap     `json:"gap,omitempty"`
	Attempts int             `json:"attempts,omitempty"`
	Began    time.Time       `json:"began,omitzero"`
	Failures int             `json:"failures,omitempty"`
	Next     time.Time       `json:"next,omitzero"`
	Last     *webhookFailure `json:"last,omitempty"`
	Reported bool            `json:"reported,omitempty"`
	Sent     uint64          `json:"sent,omitempty"`
	SentAt   time.Time       `json:"sentAt,omitzero"`
	Dropped  uint64          `json:"dropped,omitempty"`
	Retry    int             `json:"retry,omitempty"`
	Skip     int             `json:"skip,omitempty"`
	Refusals int             `json:"refusals,omitempty"`
	Stuck    bool            `json:"stuck,omitempty"`
}

type webhookFailure struct {
	At     time.Time `json:"at"`
	Status int       `json:"status,omitempty"`
	Why    string    `json:"why,omitempty"`
}

type webhookGap struct {
	From    uint64    `json:"from"`
	To      uint64    `json:"to"`
	Entries uint64    `json:"entries,omitempty"`
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"`
}

type deadLetter struct {
	V        int             `json:"v"`
	Webhook  string          `json:"webhook"`
	Seq      uint64          `json:"seq"`
	Event    string          `json:"event"`
	Gap      *webhookGap     `json:"gap,omitempty"`
	Code     string          `json:"code"`
	Machine  ingot.MachineID `json:"machine,omitempty"`
	At       time.Time       `json:"at"`
	Died     time.Time       `json:"died"`
	Attempts int             `json:"attempts"`
	Failure  webhookFailure  `json:"failure"`
	Again    bool            `json:"again,omitempty"`
}

// converted converts what may be absent.
func converted[F, T any](v *F, convert func(F) T) *T {
	if v == nil {
		return nil
	}
	out := convert(*v)
	return &out
}

func gapOf(g webhook.Gap) webhookGap { return webhookGap(g) }

func (r webhookGap) value() webhook.Gap { return webhook.Gap(r) }

func failureRecordOf(f webhook.Failure) webhookFailure { return webhookFailure(f) }

func (r webhookFailure) value() webhook.Failure { return webhook.Failure(r) }

func webhookOf(w webhook.Webhook) webhookRecord {
	r := webhookRecord{V: webhookVersion, ID: w.ID, Name: w.Name, URL: w.URL, Events: w.Events, Selector: w.Selector,
		CA: w.CA, Allow: w.Allow, Secret: w.Secret, Created: w.Created, By: w.By, Retry: w.Retry, Skip: w.Skip,
		Edited: w.Edited, Paused: converted(w.Paused, func(p webhook.Pause) webhookPause { return webhookPause(p) })}
	for _, f := range w.Former {
		r.Formers = append(r.Formers, formerSecret(f))
	}
	return r
}

func (r webhookRecord) value() webhook.Webhook {
	w := webhook.Webhook{ID: r.ID, Name: r.Name, URL: r.URL, Events: r.Events, Selector: r.Selector, CA: r.CA,
		Allow: r.Allow, Secret: r.Secret, Created: r.Created, By: r.By, Retry: r.Retry, Skip: r.Skip, Edited: r.Edited,
		Paused: converted(r.Paused, func(p webhookPause) webhook.Pause { return webhook.Pause(p) })}
	if len(r.Former) > 0 {
		w.Former = append(w.Former, webhook.FormerSecret{Secret: r.Former, Until: r.Until})
	}
	for _, f := range r.Formers {
		w.Former = append(w.Former, webhook.FormerSecret(f))
	}
	return w
}

func progressOf(p webhook.Progress) webhookProgress {
	return webhookProgress{webhookVersion, p.Webhook, p.Ledger, p.Seq, converted(p.Gap, gapOf), p.Attempts, p.Began,
		p.Failures, p.Next, converted(p.Last, failureRecordOf), p.Reported, p.Sent, p.SentAt, p.Dropped, p.Retry, p.Skip,
		p.Refusals, p.Stuck}
}

func (r webhookProgress) value() webhook.Progress {
	return webhook.Progress{Webhook: r.Webhook, Ledger: r.Ledger, Seq: r.Seq, Gap: converted(r.Gap, webhookGap.value),
		Attempts: r.Attempts, Began: r.Began, Failures: r.Failures, Next: r.Next,
		Last: converted(r.Last, webhookFailure.value), Reported: r.Reported, Sent: r.Sent, SentAt: r.SentAt,
		Dropped: r.Dropped, Retry: r.Retry, Skip: r.Skip, Refusals: r.Refusals, Stuck: r.Stuck}
}

func letterOf(l webhook.Letter) deadLetter {
	return deadLetter{webhookVersion, l.Webhook, l.Seq, l.Event, converted(l.Gap, gapOf), l.Code, l.Machine, l.At, l.Died,
		l.Attempts, failureRecordOf(l.Failure), l.Again}
}

func (r deadLetter) value() webhook.Letter {
	return webhook.Letter{Webhook: r.Webhook, Seq: r.Seq, Event: r.Event, Gap: converted(r.Gap, webhookGap.value),
		Code: r.Code, Machine: r.Machine, At: r.At, Died: r.Died, Attempts: r.Attempts, Failure: r.Failure.value(),
		Again: r.Again}
}

// DecodeWebhook reads the record of a webhook.
func DecodeWebhook(b []byte) (webhook.Webhook, error) {
	var r webhookRecord
	err := json.Unmarshal(b, &r)
	return r.value(), err
}

// DecodeProgress reads the record of how far the ledger was sent to a webhook.
func DecodeProgress(b []byte) (webhook.Progress, error) {
	var r webhookProgress
	err := json.Unmarshal(b, &r)
	return r.value(), err
}

// DecodeLetter reads the record of a dead letter.
func DecodeLetter(b []byte) (webhook.Letter, error) {
	var r deadLetter
	err := json.Unmarshal(b, &r)
	return r.value(), err
}
