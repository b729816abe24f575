package live

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net/url"
	"time"

	"ingot"
	"ingot/bootserver/access"
)

// view is one page as some streams see it.
type view struct {
	hub     *Hub
	key     string
	url     *url.URL
	who     access.Who // its scope is that of all of the streams
	streams map[*stream]bool
	stop    context.CancelFunc
	changed chan struct{}   // something happened, or a stream came
	machine ingot.MachineID // see Page; empty as long as the page was not made

	// of the goroutine of the view alone
	sums   map[string]uint64 // of the parts
	order  string            // see Order
	cursor string
}

// run makes the page again whenever something happened that concerns it, and sends what differs.
func (v *view) run(ctx context.Context) {
	credit, last := burst, time.Now() // of time to make the page in
	for {
		v.hub.turn.Lock() // however many views there are, they take one processor at most
		began := time.Now()
		v.update(ctx)
		took := time.Since(began)
		v.hub.turn.Unlock()
		credit, last = min(burst, credit+began.Sub(last)/share)-took, began
		if !wait(ctx, max(pause, -credit*share)) {
			return
		}
		idle := time.NewTimer(quietest)
		select {
		case <-ctx.Done():
			idle.Stop()
			return
		case <-v.changed:
		case <-idle.C:
		}
		idle.Stop()
	}
}

// wait waits; false: ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// wake makes a view look at its page soon.
func (v *view) wake() {
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// update makes the page, and sends each stream what it lacks.
func (v *view) update(ctx context.Context) {
	cursor := v.hub.Cursor(ctx)
	p, err := v.hub.Render(ctx, v.url, v.who)
	if err != nil {
		v.close()
		return
	}
	sums, all, some, ids := map[string]uint64{}, [][2]string{}, [][2]string{}, []string{}
	for _, part := range p.Parts {
		sum := maphash.String(seed, part.HTML)
		one := [2]string{part.ID, part.HTML}
		if v.sums[part.ID] != sum {
			some = append(some, one)
		}
		all, ids = append(all, one), append(ids, part.ID)
		sums[part.ID] = sum
	}
	if v.sums == nil { // every stream just came
		some = nil
	}
	v.sums, v.order, v.cursor = sums, Order(ids), cursor
	v.hub.mu.Lock()
	v.machine = p.Machine
	v.hub.mu.Unlock()
	v.deliver(cursor, all, some)
}

var seed = maphash.MakeSeed()

// deliver sends the parts that changed, all of them to streams that just came and may have missed some,
// and a reload where the page has other parts than before. A page may be ahead of its cursor: the state has
// what the ledger does not list yet. So a stream that just came gets all parts with the first change, too.
func (v *view) deliver(cursor string, all, some [][2]string) {
	v.hub.mu.Lock()
	defer v.hub.mu.Unlock()
	var whole, changed []byte // made when needed
	for st := range v.streams {
		var m []byte
		switch {
		case st.order != v.order, st.late && st.cursor != cursor && gap(st.cursor, cursor):
			m = message("reload", cursor, nil)
		case st.late && st.cursor != cursor:
			if whole == nil {
				whole = message("parts", cursor, all)
			}
			m = whole
		case len(some) > 0:
			if changed == nil {
				changed = message("parts", cursor, some)
			}
			m = changed
		}
		st.late = st.late && st.cursor == cursor && st.order == v.order
		st.cursor, st.order = cursor, v.order
		if m == nil {
			continue
		}
		select {
		case st.messages <- m:
		default:
			close(st.messages)
			delete(v.streams, st)
		}
	}
}

// close ends all streams: their page is not there any more.
func (v *view) close() {
	v.hub.mu.Lock()
	defer v.hub.mu.Unlock()
	for st := range v.streams {
		close(st.messages)
		delete(v.streams, st)
	}
}

// message is a server-sent event.
func message(event, cursor string, parts [][2]string) []byte {
	if parts == nil {
		parts = [][2]string{}
	}
	data, _ := json.Marshal(parts) // strings always can be
	return fmt.Appendf(nil, "id: %s\nevent: %s\ndata: %s\n\n", cursor, event, data)
}
