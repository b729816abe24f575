package view

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"ingot/bootserver/fleet/webhook"
)

// LetterKey is the key of a dead letter.
func LetterKey(id string, seq uint64) string { return id + "\x00" + SeqKey(seq) }

// LetterOf returns the webhook of a LetterKey.
func LetterOf(key string) (id string) {
	id, _, _ = strings.Cut(key, "\x00")
	return id
}

// AddWebhook adds a webhook that is stored.
func (v *View) AddWebhook(w webhook.Webhook) { v.webhooks[w.ID] = w }

// AddProgress adds the progress of a webhook that is stored.
func (v *View) AddProgress(p webhook.Progress) { v.progress[p.Webhook] = p }

// AddLetter adds a dead letter that is stored.
func (v *View) AddLetter(l webhook.Letter) { v.setLetter(l) }

func (v *View) setLetter(l webhook.Letter) {
	if v.letters[l.Webhook] == nil {
		v.letters[l.Webhook] = map[uint64]webhook.Letter{}
	}
	v.letters[l.Webhook][l.Seq] = l
}

func (v *View) dropLetter(id string, seq uint64) {
	if delete(v.letters[id], seq); len(v.letters[id]) == 0 {
		delete(v.letters, id)
	}
}

// Webhooks returns all webhooks, the oldest first.
func (v *View) Webhooks() []webhook.Webhook {
	return slices.SortedFunc(maps.Values(v.webhooks), func(a, b webhook.Webhook) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
}

// Webhook returns one webhook.
func (v *View) Webhook(id string) (webhook.Webhook, bool) {
	w, ok := v.webhooks[id]
	return w, ok
}

// WebhookProgress returns how far the ledger was sent to a webhook.
func (v *View) WebhookProgress(id string) (webhook.Progress, bool) {
	p, ok := v.progress[id]
	return p, ok
}

// DeadLetters returns the dead letters of a webhook, by sequence number.
func (v *View) DeadLetters(id string) []webhook.Letter {
	return slices.SortedFunc(maps.Values(v.letters[id]), func(a, b webhook.Letter) int {
		return cmp.Compare(a.Seq, b.Seq)
	})
}

// Webhooks implements state.Tx.
func (tx *Tx) Webhooks() []webhook.Webhook {
	tx.read(Key{Numbers, WebhooksKey})
	list := tx.v.Webhooks()
	for _, w := range list {
		tx.read(Key{Webhooks, w.ID})
	}
	return list
}

// Webhook implements state.Tx.
func (tx *Tx) Webhook(id string) (webhook.Webhook, bool) {
	tx.read(Key{Webhooks, id})
	return tx.v.Webhook(id)
}

// DeadLetters implements state.Tx.
func (tx *Tx) DeadLetters(id string) []webhook.Letter {
	tx.read(Key{ByWebhook, id})
	return tx.v.DeadLetters(id)
}

// PutWebhook implements state.Tx.
func (tx *Tx) PutWebhook(w webhook.Webhook) {
	undoPut(tx, tx.v.webhooks, w.ID)
	tx.v.webhooks[w.ID] = w
	tx.put(Webhooks, w.ID, w)
}

// PutWebhookProgress implements state.Tx.
func (tx *Tx) PutWebhookProgress(p webhook.Progress) {
	undoPut(tx, tx.v.progress, p.Webhook)
	tx.v.progress[p.Webhook] = p
	tx.put(Progress, p.Webhook, p)
}

// PutDeadLetter implements state.Tx.
func (tx *Tx) PutDeadLetter(l webhook.Letter) {
	tx.undoLetter(l.Webhook, l.Seq)
	tx.v.setLetter(l)
	tx.put(Letters, LetterKey(l.Webhook, l.Seq), l)
}

// DropDeadLetter implements state.Tx.
func (tx *Tx) DropDeadLetter(id string, seq uint64) {
	if _, had := tx.v.letters[id][seq]; !had {
		return
	}
	tx.undoLetter(id, seq)
	tx.v.dropLetter(id, seq)
	tx.put(Letters, LetterKey(id, seq), nil)
}

// DropWebhook implements state.Tx.
func (tx *Tx) DropWebhook(id string) {
	for _, l := range tx.DeadLetters(id) {
		tx.DropDeadLetter(id, l.Seq)
	}
	if _, had := tx.v.progress[id]; had {
		undoPut(tx, tx.v.progress, id)
		delete(tx.v.progress, id)
		tx.put(Progress, id, nil)
	}
	if _, had := tx.v.webhooks[id]; had {
		undoPut(tx, tx.v.webhooks, id)
		delete(tx.v.webhooks, id)
		tx.put(Webhooks, id, nil)
	}
}

// undoPut lets a roll-back restore an entry of a map.
func undoPut[T any](tx *Tx, m map[string]T, key string) {
	old, had := m[key]
	tx.undo = append(tx.undo, func() {
		if delete(m, key); had {
			m[key] = old
		}
	})
}

func (tx *Tx) undoLetter(id string, seq uint64) {
	old, had := tx.v.letters[id][seq]
	tx.undo = append(tx.undo, func() {
		if tx.v.dropLetter(id, seq); had {
			tx.v.setLetter(old)
		}
	})
}
