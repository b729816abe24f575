package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
)

// worker sends events to one webhook.
type worker struct {
	n      *Notifier
	id     string
	client *http.Client // nil before the record was read, see setUp
	labels fleet.Selector
	keys   [][]byte
	keyed  time.Time // keys change then; zero: never
	edited int       // of the record that was read

	p       webhook.Progress // also what is not stored yet
	shown   atomic.Pointer[webhook.Progress]
	stored  time.Time // when p was stored
	unsaved int       // events that were sent since
	skimmed bool      // p moved since, over entries that are not wanted

	queue []fleet.Change // entries after p.Seq that were not looked at
	to    uint64         // up to this one, queue is all of them

	resent bool      // a dead letter was sent again: what is new has its turn
	tries  int       // of dead letters in a row that failed because of the receiver
	rests  time.Time // no dead letter is sent again before
}

// run sends events until ctx ends or the webhook is removed.
func (x *worker) run(ctx context.Context) {
	x.p, _ = x.n.State.WebhookProgress(x.id)
	x.stored = x.n.Now()
	defer func() {
		if x.client != nil {
			x.client.CloseIdleConnections()
		}
	}()
	defer x.save()
	for ctx.Err() == nil {
		changed, news := x.n.changed.next(), x.n.feed.news.next()
		hook, known := x.n.State.Webhook(x.id)
		if !known {
			return
		}
		pause, on := x.step(ctx, hook)
		if x.show(); pause > 0 {
			if !on { // nothing to send that time alone would bring
				wait(ctx, pause, changed, news)
			} else {
				wait(ctx, pause, changed)
			}
		}
	}
}

// setUp makes what the record of the webhook says how to send: once, and again after it was edited.
func (x *worker) setUp(hook webhook.Webhook) error {
	if x.client != nil && hook.Edited == x.edited {
		return nil
	}
	var labels fleet.Selector
	if hook.Selector != "" {
		var err error
		if labels, err = fleet.ParseSelector(hook.Selector); err != nil {
			return err
		}
	}
	keys, err := x.n.keysOf(hook)
	if err != nil {
		return err
	}
	client, err := clientOf(hook)
	if err != nil {
		return err
	}
	if x.client != nil {
		x.client.CloseIdleConnections()
	}
	x.client, x.labels, x.keys, x.keyed, x.edited = client, labels, keys, x.changeOf(hook), hook.Edited
	return nil
}

// changeOf returns when the next former secret is not used any more; zero: there is none.
func (x *worker) changeOf(hook webhook.Webhook) (at time.Time) {
	for _, f := range hook.FormerAt(x.n.Now()) {
		if at.IsZero() || f.Until.Before(at) {
			at = f.Until
		}
	}
	return at
}

func (x *worker) show() {
	p := x.p
	x.shown.Store(&p)
}

// step does what is next for a webhook. It returns how long to wait before the next step; timed says that
// new entries of the ledger do not shorten that.
func (x *worker) step(ctx context.Context, hook webhook.Webhook) (pause time.Duration, timed bool) {
	now := x.n.Now()
	if hook.Retry != x.p.Retry { // an operator wants that it is tried at once
		x.p = x.p.Anew()
		x.p.Retry, x.p.Failures = hook.Retry, 0
		x.unsaved++
		x.tries, x.rests = 0, time.Time{}
	}
	if hook.Skip != x.p.Skip {
		if err := x.skip(hook); err != nil {
			return lookAfter, true
		}
	}
	if x.rebase(hook) || hook.Paused != nil {
		if err := x.save(); err != nil || hook.Paused != nil {
			return lookAfter, true
		}
	}
	if d := x.n.Policy.Wait(x.p, now); d > 0 {
		_ = x.save() // logged
		return d, true
	}
	if err := x.setUp(hook); err != nil {
		x.hold(err)
		return lookAfter, true
	}
	l, again := x.again(now)
	if again && !x.resent {
		x.resent = true
		x.resend(ctx, hook, l)
		return 0, false
	}
	x.resent = false
	e, is, err := x.next(hook)
	switch {
	case err != nil:
		x.n.Log.Error("reading the ledger for a webhook", "webhook", hook.Name, "err", err)
		return lookAfter, true
	case !is && again:
		return 0, false
	case !is:
		return x.idle(now), false
	}
	r, err := x.attempt(ctx, hook, e)
	if ctx.Err() != nil { // the server ends: the event is sent again
		return lookAfter, true
	}
	if err == nil {
		err = x.conclude(hook, e, r)
	}
	if err != nil {
		x.n.Log.Error("sending an event to a webhook", "webhook", hook.Name, "err", err)
		return lookAfter, true
	}
	return 0, false
}

// idle saves what is not saved, when it is time, and returns when to look again.
func (x *worker) idle(now time.Time) time.Duration {
	look := lookAfter
	if d := x.rests.Sub(now); d > 0 {
		look = min(look, d)
	}
	after := look
	switch {
	case x.unsaved > 0:
		after = flushAfter
	case x.skimmed:
		after = skimAfter
	default:
		return look
	}
	d := after - x.n.Now().Sub(x.stored)
	if d > 0 && d <= after { // else the clock was set
		return min(d, look)
	}
	_ = x.save() // logged, and tried again
	return look
}

// hold notes that nothing can be sent. It is no attempt: the fault is on this side.
func (x *worker) hold(err error) {
	if x.p.Last == nil || x.p.Last.Why != err.Error() {
		x.n.Log.Error("a webhook cannot be used", "webhook", x.id, "err", err)
	}
	x.p.Last = &webhook.Failure{At: x.n.Now(), Why: err.Error()}
}

// attempt sends an event once.
func (x *worker) attempt(ctx context.Context, hook webhook.Webhook, e event) (webhook.Result, error) {
	body, err := x.n.body(e)
	if err != nil {
		return webhook.Result{}, fmt.Errorf("encoding entry %d: %w", e.seq, err)
	}
	if !x.keyed.IsZero() && !x.n.Now().Before(x.keyed) { // a former secret is not used any more
		if x.keys, err = x.n.keysOf(hook); err != nil {
			return webhook.Result{}, err
		}
		x.keyed = x.changeOf(hook)
	}
	r := x.n.post(ctx, x.client, hook, x.keys, e.id, body)
	if ctx.Err() != nil {
		return r, nil
	}
	if r.OK() {
		x.n.sent.Add(1)
	} else {
		x.n.failed.Add(1)
		x.n.Log.Debug("an event was not accepted", "webhook", hook.Name, "event", e.id, "err", r.Text())
	}
	return r, nil
}

// rebase makes the progress one of the ledger as it is now. It reports whether that changed it.
func (x *worker) rebase(hook webhook.Webhook) bool {
	name, end := x.n.State.LedgerName()
	if x.p.Ledger == name {
		return false
	}
	x.queue, x.to = nil, 0
	from := min(x.p.Seq, end)
	g := webhook.Gap{From: from + 1, To: max(end, from+1), Reason: webhook.GapRestored, At: x.n.Now()}
	x.p.Ledger, x.p.Seq, x.p.Gap = name, from, x.p.Gap.Join(g)
	x.unsaved++
	_ = x.record(gapChange(hook, g)) // it is saved again if it was not
	return true
}

// skip goes on with what happens from now on.
func (x *worker) skip(hook webhook.Webhook) error {
	name, _ := x.n.State.LedgerName()
	_, last, err := x.n.State.Changes(state.Query{Newest: true, Limit: 1})
	if err != nil {
		return err
	}
	from := x.p.Seq
	x.queue, x.to = nil, 0
	x.p.Skip, x.p.Ledger, x.p.Seq = hook.Skip, name, last
	if x.unsaved++; last <= from {
		return x.save()
	}
	g := webhook.Gap{From: from + 1, To: last, Entries: last - from, Reason: webhook.GapSkipped, At: x.n.Now()}
	x.p.Gap = x.p.Gap.Join(g)
	return x.record(gapChange(hook, g))
}

// next returns the event that is to be sent next, if there is one.
func (x *worker) next(hook webhook.Webhook) (e event, is bool, err error) {
	for {
		if x.p.Gap != nil {
			return gapEvent(hook, *x.p.Gap), true, nil
		}
		for ; len(x.queue) > 0; x.queue = x.queue[1:] {
			c := x.queue[0]
			if c.Seq <= x.p.Seq {
				continue
			}
			if x.wants(hook, c) {
				return eventOf(hook.ID, c), true, nil
			}
			x.p.Seq, x.skimmed = c.Seq, true
		}
		if x.p.Seq < x.to {
			x.p.Seq, x.skimmed = x.to, true
		}
		more, err := x.read(hook)
		if err != nil || !more {
			return event{}, false, err
		}
	}
}

// read reads more of the ledger. It reports whether there was more.
func (x *worker) read(hook webhook.Webhook) (more bool, err error) {
	list, to, fed := x.n.feed.after(x.p.Ledger, x.p.Seq)
	var gap *webhook.Gap
	if !fed {
		if list, to, gap, err = fromDisk(x.n.State, x.p.Seq); err != nil {
			return false, err
		}
	}
	if name, _ := x.n.State.LedgerName(); name != x.p.Ledger {
		return false, nil // a backup was restored: the next step begins anew
	}
	if gap != nil {
		gap.At = x.n.Now()
		x.p.Gap, x.p.Seq = x.p.Gap.Join(*gap), gap.To
		if len(list) > 0 { // an action of an operator may be among what is missing
			x.p.Seq = min(x.p.Seq, list[0].Seq-1)
		}
		if err := x.record(gapChange(hook, *gap)); err != nil {
			return false, err
		}
	}
	more = to > x.p.Seq || gap != nil
	x.queue, x.to = list, to
	return more, nil
}

// wants reports whether a webhook gets an entry. It does not get those about itself, or an event that it
// does not accept would bring the next one.
func (x *worker) wants(hook webhook.Webhook, c fleet.Change) bool {
	if c.Subject == hook.ID && strings.HasPrefix(string(c.Code), "webhook") || !hook.Wants(string(c.Code), c.Topics()) {
		return false
	}
	if x.labels == nil || c.Machine == "" {
		return true
	}
	m, _ := x.n.State.Machine(c.Machine)
	return x.labels.Matches(m.Labels)
}

// conclude draws the consequences of an attempt.
func (x *worker) conclude(hook webhook.Webhook, e event, r webhook.Result) error {
	before, now := x.p, x.n.Now()
	p, verdict := x.n.Policy.After(before, r, now, x.n.random())
	x.p = p
	switch verdict {
	case webhook.Delivered:
		x.advance(e)
		if x.unsaved++; !before.Reported {
			return x.saveAfter(flushAfter)
		}
		x.p.Reported = false
		return x.record(stateChange(hook, "ok", "", now))
	case webhook.Gone:
		return x.pauseHook(hook, now)
	case webhook.Dead:
		return x.bury(hook, e, r, before.Attempts+1, before, now)
	}
	if p.Failures >= x.n.Policy.Report && !p.Reported {
		x.p.Reported = true
		return x.record(stateChange(hook, "failing", r.Why, now))
	}
	x.unsaved++
	return x.save()
}

// advance moves on over an event.
func (x *worker) advance(e event) {
	if e.gap != nil {
		x.p.Gap = nil
		return
	}
	x.p.Seq = e.seq
}

func stateChange(w webhook.Webhook, is, why string, now time.Time) fleet.Change {
	return fleet.Change{At: now, Code: fleet.CodeWebhookState, Subject: w.ID, Name: w.Name,
		To: fleet.Values{"state": is}, Detail: why}
}

// bury makes a dead letter of an event, and moves on when it is stored. Of many, the oldest are removed, and one whose
// place in the ledger another event has since a restore. Both are counted.
func (x *worker) bury(hook webhook.Webhook, e event, r webhook.Result, attempts int, before webhook.Progress,
	now time.Time) error {
	x.advance(e)
	l := webhook.Letter{Webhook: hook.ID, Seq: e.seq, Event: e.id, Gap: e.gap, Code: string(e.from.Code),
		Machine: e.from.Machine, At: e.from.At, Died: now, Attempts: attempts,
		Failure: webhook.Failure{At: now, Status: r.Status, Why: r.Text()}}
	c := fleet.Change{At: now, Code: fleet.CodeWebhookDead, Subject: hook.ID, Name: hook.Name, Machine: e.from.Machine,
		To: fleet.Values{"seq": int64(e.seq), "code": string(e.from.Code)}, Detail: r.Why}
	p := x.p
	err := x.update(func(tx state.Tx) {
		x.p = p
		letters := tx.DeadLetters(hook.ID)
		if i := slices.IndexFunc(letters, func(o webhook.Letter) bool { return o.Seq == l.Seq }); i >= 0 {
			if letters[i].Event != l.Event {
				x.p.Dropped++
			}
			letters = slices.Delete(letters, i, i+1)
		}
		for len(letters) >= webhook.MaxLetters {
			tx.DropDeadLetter(hook.ID, letters[0].Seq)
			letters = letters[1:]
			x.p.Dropped++
		}
		tx.PutDeadLetter(l)
		tx.PutWebhookProgress(x.p)
		tx.Record(c)
	})
	if err != nil { // without a dead letter the event stays next
		x.p = before
		return err
	}
	x.n.dead.Add(1)
	x.report(c)
	return nil
}

// pauseHook pauses the webhook of a receiver that wants nothing more.
func (x *worker) pauseHook(hook webhook.Webhook, now time.Time) error {
	const why = "the receiver answered 410 Gone"
	c := stateChange(hook, "paused", why, now)
	err := x.update(func(tx state.Tx) {
		w, _ := tx.Webhook(hook.ID)
		if w.Paused == nil {
			w.Paused = &webhook.Pause{At: now, Why: why}
			tx.PutWebhook(w)
		}
		tx.PutWebhookProgress(x.p)
		tx.Record(c)
	})
	x.report(c)
	return err
}

// errRemoved is returned for a webhook that an operator removed meanwhile.
var errRemoved = errors.New("the webhook was removed")

// update stores something of the webhook, if it is there.
func (x *worker) update(f func(tx state.Tx)) error {
	err := x.n.State.Update(func(tx state.Tx) error {
		if _, known := tx.Webhook(x.id); !known {
			return errRemoved
		}
		f(tx)
		return nil
	})
	if errors.Is(err, errRemoved) {
		err = nil
	}
	if err == nil {
		x.unsaved, x.skimmed, x.stored = 0, false, x.n.Now()
	}
	return err
}

// record stores the progress, and an entry of the ledger about the webhook.
func (x *worker) record(c fleet.Change) error {
	x.report(c)
	return x.update(func(tx state.Tx) {
		tx.PutWebhookProgress(x.p)
		tx.Record(c)
	})
}

func (x *worker) report(c fleet.Change) {
	level := slog.LevelInfo
	if c.Bad() {
		level = slog.LevelWarn
	}
	x.n.Log.Log(context.Background(), level, c.String())
}

// save stores the progress, if it is not.
func (x *worker) save() error {
	if x.unsaved == 0 && !x.skimmed {
		return nil
	}
	err := x.update(func(tx state.Tx) { tx.PutWebhookProgress(x.p) })
	if err != nil {
		x.n.Log.Error("storing how far events were sent to a webhook", "webhook", x.id, "err", err)
	}
	return err
}

// saveAfter stores the progress if it was stored so long ago.
func (x *worker) saveAfter(d time.Duration) error {
	if since := x.n.Now().Sub(x.stored); since >= 0 && since < d {
		return nil
	}
	return x.save()
}

// again returns a dead letter that an operator wants to be sent again.
func (x *worker) again(now time.Time) (webhook.Letter, bool) {
	if d := x.rests.Sub(now); d > 0 && d <= x.n.Policy.Longest { // else the clock was set
		return webhook.Letter{}, false
	}
	for _, l := range x.n.State.DeadLetters(x.id) {
		if l.Again {
			return l, true
		}
	}
	return webhook.Letter{}, false
}

// resend sends a dead letter once more. It is removed if it is accepted, or if the ledger has dropped what
// it is about, and stays if the receiver refuses it or fails at it again. If the receiver is away or has too much to
// do, all that were to be sent again are, after a pause.
func (x *worker) resend(ctx context.Context, hook webhook.Webhook, l webhook.Letter) {
	e, found, err := x.lookUp(hook, l)
	var r webhook.Result
	if err == nil && found {
		r, err = x.attempt(ctx, hook, e)
	}
	if ctx.Err() != nil {
		return
	}
	lost := err == nil && !found
	if err != nil {
		r = webhook.Result{Why: err.Error()}
	}
	now, p := x.n.Now(), x.p
	away := !lost && !r.OK() && !r.Refused() && !r.Fails()
	err = x.update(func(tx state.Tx) {
		x.p = p
		switch {
		case lost:
			x.p.Dropped++
			tx.DropDeadLetter(x.id, l.Seq)
		case r.OK():
			x.p.Sent++
			x.p.SentAt = now
			tx.DropDeadLetter(x.id, l.Seq)
		default:
			for _, o := range tx.DeadLetters(x.id) {
				if o.Seq == l.Seq && o.Event == l.Event {
					o.Attempts++
					o.Again, o.Failure = away, webhook.Failure{At: now, Status: r.Status, Why: r.Text()}
					tx.PutDeadLetter(o)
				}
			}
		}
		tx.PutWebhookProgress(x.p)
	})
	if x.tries++; !away {
		x.tries = 0
	}
	if err != nil {
		x.n.Log.Error("sending a dead letter again", "webhook", hook.Name, "err", err)
		x.rests = now.Add(lookAfter)
	} else if away {
		x.rests = now.Add(min(x.n.Policy.Pause(x.tries, r, x.n.random()), x.n.Policy.Longest))
	}
}

// lookUp returns the event of a dead letter, if the ledger has it.
func (x *worker) lookUp(hook webhook.Webhook, l webhook.Letter) (e event, found bool, err error) {
	if l.Gap != nil {
		return gapEvent(hook, *l.Gap), true, nil
	}
	list, _, err := read(x.n.State, l.Seq-1, 1)
	if err != nil || len(list) == 0 {
		return event{}, false, err
	}
	e = eventOf(hook.ID, list[0])
	return e, e.id == l.Event, nil
}
