// Package webhooks carries out what operators ask about receivers of events: it implements api.Webhooks
// over the state and the notifier that sends them.
package webhooks

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/notify"
	"ingot/bootserver/operator"
	"ingot/bootserver/state"
)

// Config is what Webhooks work with. All but Log are required.
type Config struct {
	State    state.Store
	Notifier *notify.Notifier
	Now      func() time.Time
	Log      *slog.Logger // nil is quiet
}

// Webhooks carries out what operators ask. It implements api.Webhooks.
type Webhooks struct{ Config }

var _ api.Webhooks = (*Webhooks)(nil)

// New returns Webhooks.
func New(c Config) *Webhooks {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Webhooks{c}
}

// DefaultEvents are the topics of a webhook that names none.
var DefaultEvents = []string{fleet.TopicBoot, fleet.TopicMachine, fleet.TopicRollout, fleet.TopicImage}

// Webhooks implements api.Webhooks.
func (x *Webhooks) Webhooks() (list []api.Webhook) {
	last := x.last()
	for _, w := range x.State.Webhooks() {
		list = append(list, x.shown(w, last))
	}
	return list
}

// last is the ledger's last sequence number; 0 if it cannot be read.
func (x *Webhooks) last() uint64 {
	_, last, _ := x.State.Changes(state.Query{Newest: true, Limit: 1})
	return last
}

// Webhook implements api.Webhooks.
func (x *Webhooks) Webhook(ref string) (api.Webhook, error) {
	w, err := x.find(ref)
	if err != nil {
		return api.Webhook{}, err
	}
	out := x.shown(w, x.last())
	for _, l := range x.State.DeadLetters(w.ID) {
		out.Letters = append(out.Letters, api.DeadLetter{Event: l.Event, Seq: l.Seq, Code: l.Code, Machine: l.Machine,
			At: l.At, Died: l.Died, Attempts: l.Attempts, Failure: api.WebhookFailure(l.Failure), Again: l.Again})
	}
	return out, nil
}

// find returns a webhook by its id or name.
func (x *Webhooks) find(ref string) (webhook.Webhook, error) {
	if w, known := x.State.Webhook(ref); known {
		return w, nil
	}
	for _, w := range x.State.Webhooks() {
		if w.Name == ref {
			return w, nil
		}
	}
	return webhook.Webhook{}, missing(ref)
}

func missing(ref string) error {
	return api.NewProblem(api.CodeWebhookNotFound, fmt.Sprintf("no webhook is called %q", ref))
}

// described is a webhook without how far it is: what the audit log compares.
func described(w webhook.Webhook) api.Webhook {
	out := api.Webhook{ID: w.ID, Name: w.Name, URL: w.URL, Events: w.Events, Selector: w.Selector, CA: w.CA,
		Allow: w.Allow, Created: w.Created, By: w.By, Encrypted: strings.HasPrefix(w.URL, "https:"), State: "waiting"}
	for _, f := range w.Former {
		if f.Until.After(out.FormerUntil) {
			out.FormerUntil = f.Until
		}
	}
	if w.Paused != nil {
		p := api.WebhookPause(*w.Paused)
		out.Paused, out.State = &p, "paused"
	}
	return out
}

// shown is a webhook as the API shows it. Its secret is not.
func (x *Webhooks) shown(w webhook.Webhook, last uint64) api.Webhook {
	out, p := described(w), x.Notifier.Progress(w.ID)
	if p.Seq < last {
		out.Behind = last - p.Seq
	}
	out.Sent, out.SentAt, out.Attempts, out.Failures, out.Next = p.Sent, p.SentAt, p.Attempts, p.Failures, p.Next
	out.Dropped, out.Dead = p.Dropped, len(x.State.DeadLetters(w.ID))
	if p.Last != nil {
		f := api.WebhookFailure(*p.Last)
		out.Last = &f
	}
	if p.Gap != nil {
		g := api.WebhookGap(*p.Gap)
		out.Gap = &g
	}
	if err := x.Notifier.CheckSecret(w); err != nil {
		out.Unusable = err.Error()
	}
	switch {
	case w.Paused != nil:
	case out.Last != nil || out.Unusable != "":
		out.State = "failing"
	case p.Sent > 0:
		out.State = "ok"
	}
	return out
}

// CreateWebhook implements api.Webhooks.
func (x *Webhooks) CreateWebhook(ctx context.Context, q api.WebhookRequest) (made api.NewWebhook, err error) {
	w, err := x.parse(q)
	if err != nil {
		return made, api.NewProblem(api.CodeInvalidWebhook, err.Error())
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	w.ID, w.Created, w.By = hex.EncodeToString(random[:]), x.Now(), access.From(ctx).String()
	secret, given, err := secretOf(q.Secret)
	if err != nil {
		return made, api.NewProblem(api.CodeInvalidWebhook, err.Error())
	}
	if w.Secret, err = x.Notifier.Seal(w.ID, secret); err != nil {
		return made, err
	}
	name, _ := x.State.LedgerName()
	_, last, err := x.State.Changes(state.Query{Newest: true, Limit: 1})
	if err != nil {
		return made, err
	}
	action := onWebhook(w, operator.Action(ctx, x.Now(), fleet.ActionWebhookCreate, nil, described(w)))
	err = x.State.Update(func(tx state.Tx) error {
		all := tx.Webhooks()
		if slices.ContainsFunc(all, func(o webhook.Webhook) bool { return o.Name == w.Name }) {
			return api.NewProblem(api.CodeWebhookTaken, fmt.Sprintf("there is a webhook %q already", w.Name), "name", w.Name)
		}
		if len(all) >= webhook.Max {
			return api.NewProblem(api.CodeTooManyWebhooks, fmt.Sprintf("there are %d webhooks already", len(all)))
		}
		tx.PutWebhook(w)
		tx.PutWebhookProgress(webhook.Progress{Webhook: w.ID, Ledger: name, Seq: last})
		tx.Record(action)
		return nil
	})
	if err != nil {
		return made, err
	}
	x.done(action)
	made.Webhook = x.shown(w, last)
	if !given {
		made.Secret = webhook.FormatSecret(secret)
	}
	return made, nil
}

// secretOf parses a secret that was given, or draws one.
func secretOf(text string) (secret []byte, given bool, err error) {
	if text != "" {
		secret, err = webhook.ParseSecret(text)
		return secret, true, err
	}
	secret = make([]byte, webhook.NewSecret)
	_, _ = rand.Read(secret) // never fails, see crypto/rand
	return secret, false, nil
}

// parse checks what a webhook is to be.
func (x *Webhooks) parse(q api.WebhookRequest) (w webhook.Webhook, err error) {
	w = webhook.Webhook{Name: q.Name, URL: q.URL, Events: q.Events, Selector: q.Selector, CA: q.CA}
	if len(w.Events) == 0 {
		w.Events = DefaultEvents
	}
	if w.Allow, err = webhook.ParseAllowed(q.Allow); err != nil {
		return w, err
	}
	if q.Selector != "" {
		if _, err := fleet.ParseSelector(q.Selector); err != nil {
			return w, err
		}
	}
	if q.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(q.CA)) {
		return w, errors.New("the CA is no certificate in PEM")
	}
	if err := cmp.Or(webhook.CheckName(q.Name), webhook.CheckURL(q.URL), webhook.CheckEvents(w.Events, knownEvent),
		checkHost(q.URL, w.Allow)); err != nil {
		return w, err
	}
	return w, nil
}

// knownEvent reports whether there is a topic or code.
func knownEvent(name string) bool {
	_, known := slices.BinarySearch(fleet.Codes(), fleet.Code(name))
	return known || slices.Contains(fleet.Topics(), name)
}

// checkHost returns why the address in a URL is not reached, if it has one: of a name, that is seen when it
// is resolved.
func checkHost(url string, allow []netip.Prefix) error {
	if ip, is := webhook.HostAddress(url); is {
		return webhook.Reachable(ip, allow)
	}
	return nil
}

// onWebhook returns an action on a webhook.
func onWebhook(w webhook.Webhook, c fleet.Change) fleet.Change {
	c.Subject, c.Name = w.ID, w.Name
	return c
}

// done logs an action that was stored, and makes the notifier look at it.
func (x *Webhooks) done(c fleet.Change) {
	operator.LogActions(x.Log, c)
	x.Notifier.Wake()
}

// change changes the record of a webhook, and what f changes besides.
func (x *Webhooks) change(ctx context.Context, ref string, code fleet.Code,
	f func(tx state.Tx, w *webhook.Webhook) error) (api.Webhook, error) {
	found, err := x.find(ref)
	if err != nil {
		return api.Webhook{}, err
	}
	var action fleet.Change
	now := x.Now()
	err = x.State.Update(func(tx state.Tx) error {
		before, known := tx.Webhook(found.ID)
		if !known {
			return missing(ref)
		}
		w := before
		if err := f(tx, &w); err != nil {
			return err
		}
		action = onWebhook(w, operator.Action(ctx, now, code, described(before), described(w)))
		tx.PutWebhook(w)
		tx.Record(action)
		return nil
	})
	if err != nil {
		return api.Webhook{}, err
	}
	x.done(action)
	return x.Webhook(found.ID)
}

// EditWebhook implements api.Webhooks.
func (x *Webhooks) EditWebhook(ctx context.Context, ref string, q api.EditWebhookRequest) (made api.NewWebhook,
	err error) {
	found, err := x.find(ref)
	if err != nil {
		return made, err
	}
	invalid := func(err error) error { return api.NewProblem(api.CodeInvalidWebhook, err.Error()) }
	overlap := webhook.Overlap
	if q.Overlap != nil {
		overlap = *q.Overlap
	}
	if overlap < 0 || overlap > webhook.MaxOverlap {
		return made, invalid(fmt.Errorf("overlap: use a time of up to %s", webhook.MaxOverlap))
	}
	var secret, sealed []byte
	given, renewed := false, q.NewSecret || q.Secret != ""
	if q.Overlap != nil && !renewed {
		return made, invalid(errors.New("overlap: it is how long the former secret is used beside a new one; ask for a " +
			"new secret as well"))
	}
	if renewed {
		if secret, given, err = secretOf(q.Secret); err != nil {
			return made, invalid(err)
		}
		if sealed, err = x.Notifier.Seal(found.ID, secret); err != nil {
			return made, err
		}
	}
	now := x.Now()
	made.Webhook, err = x.change(ctx, ref, fleet.ActionWebhookEdit, func(_ state.Tx, w *webhook.Webhook) error {
		edited, err := x.parse(editOf(*w, q))
		if err != nil {
			return invalid(err)
		}
		w.URL, w.Events, w.Selector, w.CA, w.Allow = edited.URL, edited.Events, edited.Selector, edited.CA, edited.Allow
		if sealed != nil {
			if w.Former, err = formerOf(*w, now, overlap); err != nil {
				return err
			}
			w.Secret = sealed
		}
		w.Edited++
		w.Retry++ // what failed may work now
		return nil
	})
	if err == nil && sealed != nil && !given {
		made.Secret = webhook.FormatSecret(secret)
	}
	return made, err
}

// formerOf returns the former secrets of a webhook that gets a new one. The receiver may have any of those whose time
// has not come; without an overlap it has the new one already.
func formerOf(w webhook.Webhook, now time.Time, overlap time.Duration) ([]webhook.FormerSecret, error) {
	if overlap == 0 {
		return nil, nil
	}
	list := w.FormerAt(now)
	if len(list) >= webhook.MaxFormer {
		first := slices.MinFunc(list, func(a, b webhook.FormerSecret) int { return a.Until.Compare(b.Until) })
		return nil, api.NewProblem(api.CodeInvalidWebhook, fmt.Sprintf("webhook %s has %d former secrets that are still in "+
			"use, the first until %s: wait for that, or end them all by an overlap of 0 when the receiver has the new one",
			w.Name, len(list), first.Until.UTC().Format(time.RFC3339)), "name", w.Name)
	}
	return append(list, webhook.FormerSecret{Secret: w.Secret, Until: now.Add(overlap)}), nil
}

// editOf is the request for a webhook as it would be after an edit.
func editOf(w webhook.Webhook, q api.EditWebhookRequest) api.WebhookRequest {
	r := api.WebhookRequest{Name: w.Name, URL: w.URL, Events: w.Events, Selector: w.Selector, CA: w.CA}
	for _, p := range w.Allow {
		r.Allow = append(r.Allow, p.String())
	}
	for to, value := range map[*string]*string{&r.URL: q.URL, &r.Selector: q.Selector, &r.CA: q.CA} {
		if value != nil {
			*to = *value
		}
	}
	if len(q.Events) > 0 {
		r.Events = q.Events
	}
	if q.Allow != nil {
		r.Allow = *q.Allow
	}
	return r
}

// PauseWebhook implements api.Webhooks.
func (x *Webhooks) PauseWebhook(ctx context.Context, ref string, q api.WhyRequest) (api.Webhook, error) {
	now, by := x.Now(), access.From(ctx).String()
	return x.change(ctx, ref, fleet.ActionWebhookPause, func(_ state.Tx, w *webhook.Webhook) error {
		w.Paused = &webhook.Pause{At: now, By: by, Why: q.Why}
		return nil
	})
}

// ResumeWebhook implements api.Webhooks.
func (x *Webhooks) ResumeWebhook(ctx context.Context, ref string, q api.ResumeWebhookRequest) (api.Webhook, error) {
	return x.change(ctx, ref, fleet.ActionWebhookResume, func(_ state.Tx, w *webhook.Webhook) error {
		w.Paused = nil
		w.Retry++
		if q.Skip {
			w.Skip++
		}
		return nil
	})
}

// TestWebhook implements api.Webhooks.
func (x *Webhooks) TestWebhook(ctx context.Context, ref string) (t api.WebhookTest, err error) {
	w, err := x.find(ref)
	if err != nil {
		return t, err
	}
	action := onWebhook(w, operator.Action(ctx, x.Now(), fleet.ActionWebhookTest, nil, nil))
	if err := x.State.Append(action); err != nil {
		return t, err
	}
	operator.LogActions(x.Log, action)
	r, took, err := x.Notifier.Test(ctx, w)
	if errors.Is(err, notify.ErrKey) {
		return t, api.NewProblem(api.CodeWebhookSecret, err.Error(), "name", w.Name)
	}
	return api.WebhookTest{OK: r.OK(), Status: r.Status, Why: r.Text(), Took: took}, err
}

// RedeliverWebhook implements api.Webhooks.
func (x *Webhooks) RedeliverWebhook(ctx context.Context, ref string, q api.RedeliverRequest) (api.Webhook, error) {
	return x.change(ctx, ref, fleet.ActionWebhookAgain, func(tx state.Tx, w *webhook.Webhook) error {
		letters := tx.DeadLetters(w.ID)
		for _, id := range q.Events {
			if !slices.ContainsFunc(letters, func(l webhook.Letter) bool { return l.Event == id }) {
				return api.NewProblem(api.CodeNoDeadLetter, fmt.Sprintf("webhook %s has no dead letter %.60q", w.Name, id), "name",
					w.Name)
			}
		}
		for _, l := range letters {
			if len(q.Events) == 0 || slices.Contains(q.Events, l.Event) {
				l.Again = true
				tx.PutDeadLetter(l)
			}
		}
		w.Retry++
		return nil
	})
}

// DiscardDeadLetters implements api.Webhooks.
func (x *Webhooks) DiscardDeadLetters(ctx context.Context, ref string) (api.Webhook, error) {
	return x.change(ctx, ref, fleet.ActionWebhookDrop, func(tx state.Tx, w *webhook.Webhook) error {
		for _, l := range tx.DeadLetters(w.ID) {
			tx.DropDeadLetter(w.ID, l.Seq)
		}
		return nil
	})
}

// RemoveWebhook implements api.Webhooks.
func (x *Webhooks) RemoveWebhook(ctx context.Context, ref string) (out api.Webhook, err error) {
	w, err := x.find(ref)
	if err != nil {
		return out, err
	}
	out = x.shown(w, x.last())
	action := onWebhook(w, operator.Action(ctx, x.Now(), fleet.ActionWebhookRemove, described(w), nil))
	err = x.State.Update(func(tx state.Tx) error {
		if _, known := tx.Webhook(w.ID); !known {
			return missing(ref)
		}
		tx.DropWebhook(w.ID)
		tx.Record(action)
		return nil
	})
	if err == nil {
		x.done(action)
	}
	return out, err
}
