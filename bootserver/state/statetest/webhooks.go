package statetest

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
)

func aWebhook(n int) webhook.Webhook {
	return webhook.Webhook{ID: fmt.Sprintf("%016d", n), Name: fmt.Sprint("w", n), URL: "https://receiver.example/",
		Events: []string{"boot"}, Secret: []byte("sealed"), Created: time.Unix(int64(n), 0).UTC(), By: "local root"}
}

func aLetter(w webhook.Webhook, seq uint64) webhook.Letter {
	return webhook.Letter{Webhook: w.ID, Seq: seq, Event: fmt.Sprint("evt_", seq), Code: "boot-ended",
		At: time.Unix(1, 0).UTC(), Died: time.Unix(2, 0).UTC(), Attempts: 10,
		Failure: webhook.Failure{At: time.Unix(2, 0).UTC(), Status: 400, Why: "no"}}
}

// testWebhooks: webhooks, their progress and as many dead letters as are kept are there after a restart,
// vanish in one transaction, and a transaction that fails leaves nothing.
func testWebhooks(t *testing.T, b Backend) {
	dir := filepath.Join(t.TempDir(), "state")
	s := b.open(t, dir)
	w, other := aWebhook(1), aWebhook(2)
	p := webhook.Progress{Webhook: w.ID, Ledger: "0", Seq: 7, Failures: 2}
	var letters []webhook.Letter
	update(t, s, func(tx state.Tx) {
		tx.PutWebhook(other)
		tx.PutWebhook(w)
		tx.PutWebhookProgress(p)
		tx.PutDeadLetter(aLetter(other, 3))
	})
	update(t, s, func(tx state.Tx) {
		for i := range uint64(webhook.MaxLetters) {
			l := aLetter(w, i+1)
			tx.PutDeadLetter(l)
			letters = append(letters, l)
		}
		letters = letters[len(letters)-webhook.MaxLetters:] // it may run twice
	})
	if err := s.Update(func(tx state.Tx) error {
		tx.DropDeadLetter(other.ID, 3)
		tx.DropWebhook(w.ID)
		tx.PutWebhook(aWebhook(3))
		tx.PutWebhookProgress(webhook.Progress{Webhook: other.ID, Seq: 9})
		return errRefused
	}); !errors.Is(err, errRefused) {
		t.Errorf("Update = %v; want the function's error", err)
	}
	for range 2 {
		if d := cmp.Diff([]webhook.Webhook{w, other}, s.Webhooks()); d != "" {
			t.Errorf("webhooks (-want +got):\n%s", d)
		}
		if got, known := s.WebhookProgress(w.ID); !known || got != p {
			t.Errorf("progress %+v, %t; want %+v", got, known, p)
		}
		if _, known := s.WebhookProgress(other.ID); known {
			t.Error("a webhook that nothing was sent to has progress")
		}
		if d := cmp.Diff(letters, s.DeadLetters(w.ID)); d != "" {
			t.Errorf("dead letters (-want +got):\n%s", d)
		}
		if err := s.Verify(); err != nil {
			t.Error(err)
		}
		closeStore(t, s)
		s = b.open(t, dir)
	}
	update(t, s, func(tx state.Tx) { tx.DropWebhook(w.ID); tx.DropWebhook("unknown") })
	closeStore(t, s)
	s = b.open(t, dir)
	defer closeStore(t, s)
	_, progress := s.WebhookProgress(w.ID)
	if _, known := s.Webhook(w.ID); known || progress || len(s.DeadLetters(w.ID)) > 0 {
		t.Error("a webhook that was removed is there after reopening, or something of it")
	}
	if _, known := s.Webhook(other.ID); !known || len(s.DeadLetters(other.ID)) != 1 {
		t.Error("another webhook lost something")
	}
}

// testRestoreKeepsWebhooks: a restore does not bring back a webhook that was removed since, nor what was
// sent already. A backup of another installation brings its own.
func testRestoreKeepsWebhooks(t *testing.T, b Backend) {
	s, elsewhere := b.fresh(t), b.fresh(t)
	removed, stays := aWebhook(1), aWebhook(2)
	update(t, s, func(tx state.Tx) {
		tx.PutWebhook(removed)
		tx.PutWebhook(stays)
		tx.PutWebhookProgress(webhook.Progress{Webhook: stays.ID, Seq: 5})
		tx.PutDeadLetter(aLetter(stays, 3))
	})
	var backup bytes.Buffer
	if err := s.Backup(&backup); err != nil {
		t.Fatal(err)
	}
	update(t, s, func(tx state.Tx) {
		tx.DropWebhook(removed.ID)
		tx.DropDeadLetter(stays.ID, 3)
		tx.PutWebhookProgress(webhook.Progress{Webhook: stays.ID, Seq: 9})
	})
	update(t, elsewhere, func(tx state.Tx) { tx.PutWebhook(aWebhook(7)) })
	for _, to := range []state.Store{s, elsewhere} {
		if _, err := to.Restore(bytes.NewReader(backup.Bytes()), time.Unix(5, 0)); err != nil {
			t.Fatal(err)
		}
	}
	p, _ := s.WebhookProgress(stays.ID)
	if d := cmp.Diff([]webhook.Webhook{stays}, s.Webhooks()); d != "" || p.Seq != 9 || len(s.DeadLetters(stays.ID)) > 0 {
		t.Errorf("after a restore: progress %+v, dead letters %+v, webhooks (-want +got):\n%s", p, s.DeadLetters(stays.ID), d)
	}
	p, _ = elsewhere.WebhookProgress(stays.ID)
	if d := cmp.Diff([]webhook.Webhook{removed, stays}, elsewhere.Webhooks()); d != "" || p.Seq != 5 ||
		len(elsewhere.DeadLetters(stays.ID)) != 1 {
		t.Errorf("the backup of another server brings: progress %+v, webhooks (-want +got):\n%s", p, d)
	}
}
