package notify

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"ingot/bootserver/fleet"
	"ingot/bootserver/fleet/webhook"
	"ingot/bootserver/state"
)

// Bounds of reading the ledger.
const (
	part   = 500                    // entries that are read at once
	window = 4 * part               // of the newest entries, which are kept for all webhooks
	pause  = 200 * time.Millisecond // between two looks: much happens at once
)

// feed has the newest entries of the ledger, which it reads once for all webhooks.
type feed struct {
	state state.Store
	news  signal // there are more entries

	mu     sync.Mutex
	ledger string
	from   uint64 // the entries of list are those after it
	to     uint64 // up to this one
	list   []fleet.Change
}

// run follows the ledger as long as somebody wants that, until ctx ends.
func (f *feed) run(ctx context.Context, wanted func() bool, changed *signal) {
	for ctx.Err() == nil {
		again := changed.next()
		if !wanted() {
			f.clear()
			wait(ctx, lookAfter, again)
			continue
		}
		if last, err := f.fill(); err != nil {
			wait(ctx, lookAfter) // the state has said so; webhooks read on their own
		} else {
			f.state.Await(ctx, last)
			wait(ctx, pause)
		}
	}
}

// clear forgets everything: entries that nobody wanted are not read later.
func (f *feed) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ledger, f.from, f.to, f.list = "", 0, 0, nil
}

// fill reads what is new, and returns the last sequence number.
func (f *feed) fill() (last uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.news.send()
	name, _ := f.state.LedgerName()
	if f.ledger != name || f.to == 0 {
		_, last, err := f.state.Changes(state.Query{Newest: true, Limit: 1})
		if err != nil {
			return 0, err
		}
		f.ledger, f.from, f.to, f.list = name, last, last, nil
	}
	for {
		list, to, err := read(f.state, f.to, part)
		if err != nil {
			return f.to, err
		}
		f.list, f.to = append(f.list, list...), to
		if n := len(f.list) - window; n > 0 {
			f.from = f.list[n-1].Seq
			f.list = slices.Clone(f.list[n:])
		}
		if len(list) == 0 {
			return f.to, nil
		}
	}
}

// after returns entries after a sequence number, and up to which one that is all of them. It reports false
// if it does not have them.
func (f *feed) after(ledger string, seq uint64) (list []fleet.Change, to uint64, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ledger != ledger || f.to == 0 || seq < f.from {
		return nil, 0, false
	}
	i, _ := slices.BinarySearchFunc(f.list, seq+1, func(c fleet.Change, n uint64) int { return cmp.Compare(c.Seq, n) })
	list = f.list[i:]
	if len(list) > part {
		return list[:part:part], list[part-1].Seq, true
	}
	return slices.Clip(list), max(f.to, seq), true
}

// read returns entries of the ledger and the audit log after a sequence number, and up to which one that
// is all of them. Both share their numbers: the audit log is read only where the ledger has none.
func read(st state.Observations, after uint64, limit int) (list []fleet.Change, to uint64, err error) {
	list, to, err = st.Changes(state.Query{After: after, Limit: limit})
	if err != nil {
		return nil, 0, err
	}
	if len(list) == limit {
		to = list[limit-1].Seq
	}
	if to <= after {
		return nil, after, nil
	}
	if uint64(len(list)) == to-after {
		return list, to, nil
	}
	actions, _, err := st.Changes(state.Query{Audit: true, After: after, Limit: limit})
	if err != nil {
		return nil, 0, err
	}
	if len(actions) == limit {
		to = min(to, actions[limit-1].Seq)
	}
	list = slices.DeleteFunc(append(list, actions...), func(c fleet.Change) bool { return c.Seq > to })
	slices.SortFunc(list, func(a, b fleet.Change) int { return cmp.Compare(a.Seq, b.Seq) })
	return list, to, nil
}

// fromDisk reads entries as read does, and returns the gap before or between them: entries that the ledger
// dropped, because it has a bound.
func fromDisk(st state.Observations, after uint64) (list []fleet.Change, to uint64, gap *webhook.Gap, err error) {
	for {
		oldest, err := oldestOf(st)
		if err != nil {
			return nil, 0, nil, err
		}
		if list, to, err = read(st, after, part); err != nil {
			return nil, 0, nil, err
		}
		now, err := oldestOf(st)
		if err != nil {
			return nil, 0, nil, err
		}
		if now == oldest { // else entries were dropped meanwhile
			return list, to, gapIn(list, after, to, oldest), nil
		}
	}
}

// gapIn returns what is missing of the entries from after to to, of a ledger whose first entry is oldest.
func gapIn(list []fleet.Change, after, to, oldest uint64) *webhook.Gap {
	end := to
	if oldest > 0 {
		end = min(to, oldest-1)
	}
	if end <= after {
		return nil
	}
	missing := end - after
	for _, c := range list {
		if c.Seq <= end {
			missing--
		}
	}
	if missing == 0 {
		return nil
	}
	return &webhook.Gap{From: after + 1, To: end, Entries: missing, Reason: webhook.GapRetention}
}

// oldestOf returns the sequence number of the ledger's first entry; 0 if it has none.
func oldestOf(st state.Observations) (uint64, error) {
	list, _, err := st.Changes(state.Query{Limit: 1})
	if err != nil || len(list) == 0 {
		return 0, err
	}
	return list[0].Seq, nil
}
