// Package live keeps open pages of the dashboard up to date. A page that is open follows the ledger by
// one stream of server-sent events: what changed on the page comes as HTML, by the ids of its elements.
// All streams of one address and scope share a view, which makes the page once for all of them, and
// sends the parts that are not as they were. A stream that cannot go on where it was gets a reload.
package live

import (
	"context"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
)

// MediaType is that of a stream (HTML standard, section 9.2).
const MediaType = "text/event-stream"

const (
	ledgerWait  = 20 * time.Second // for changes of the ledger
	quietest    = 10 * time.Second // between two looks at a page on which time alone passes
	pause       = 200 * time.Millisecond
	gather      = 50 * time.Millisecond  // of changes, before views are woken
	share       = 33                     // of processor time, all views together take one part when much happens
	burst       = 100 * time.Millisecond // of making pages, before that counts
	checkEvery  = time.Second
	keepAlive   = 15 * time.Second
	writeWithin = 20 * time.Second
	maxStreams  = 500
	atOnce      = 1000 // entries of the ledger
	backlog     = 4    // messages that wait for a slow browser; then it reloads
)

// Page is what an open page shows of itself: the elements that change.
type Page struct {
	Parts   []Part
	Machine ingot.MachineID // what happens to others changes nothing of the page; empty: it does
	Every   time.Duration   // how often it is made at most; 0: as often as something happens
}

// Part is an element of a page, with its id.
type Part struct {
	ID string
	// Key is a comparable value. As long as it is what it was, so is the element, and Make is not called; nil: it
	// is called each time.
	Key  any
	Make func() (html string, err error)
}

// Ledger tells what happens.
type Ledger interface {
	Events(ctx context.Context, q api.EventsRequest) (api.Events, error)
}

// Hub has the views that are open. Ledger and Render are required.
type Hub struct {
	Ledger Ledger
	// Render makes the page at an address as an operator would get it.
	Render func(ctx context.Context, of *url.URL, who access.Who) (Page, error)
	Done   <-chan struct{} // closed when the server ends: open pages do not hold it up; nil: never

	generation atomic.Uint64

	turn   sync.Mutex    // held by the view that makes its page, and around the fields below
	credit time.Duration // of processor time to make pages in
	made   time.Time     // when a page was made last

	mu      sync.Mutex
	views   map[string]*view
	streams int
	stop    context.CancelFunc // ends watch, which runs while there are streams
}

// Generation counts what may have changed pages: what Render reads of the server's state stays as it is, for
// pages, until it changes.
func (h *Hub) Generation() uint64 { return h.generation.Load() }

// spend takes the processor time that making a page took, and returns how long its view waits before it may
// make it again. All views share one account, however many there are.
func (h *Hub) spend(began time.Time, took time.Duration) time.Duration {
	if h.made.IsZero() {
		h.credit, h.made = burst, began
	}
	h.credit = min(burst, h.credit+began.Sub(h.made)/share) - took
	h.made = began
	return max(pause, -h.credit*share)
}

// join adds a stream to the view of a page; nil if there are too many.
func (h *Hub) join(of *url.URL, who access.Who, cursor, order string) (*stream, func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams >= maxStreams {
		return nil, nil
	}
	if h.streams++; h.streams == 1 {
		ctx, stop := context.WithCancel(context.Background())
		h.stop = stop
		go h.watch(ctx, h.Cursor(ctx))
	}
	key := string(who.Scope) + " " + of.String()
	v := h.views[key]
	if v == nil {
		ctx, stop := context.WithCancel(context.Background())
		// What a page shows depends on the scope of its reader alone.
		v = &view{hub: h, key: key, url: of, who: access.Who{Kind: who.Kind, Scope: who.Scope},
			streams: map[*stream]bool{}, stop: stop, changed: make(chan struct{}, 1), cursor: cursor}
		if h.views == nil {
			h.views = map[string]*view{}
		}
		h.views[key] = v
		go v.run(ctx)
	}
	h.generation.Add(1) // its browser may have what pages were not made of
	st := &stream{messages: make(chan []byte, backlog), cursor: cursor, order: order, late: true}
	v.streams[st] = true
	v.wake()
	return st, func() { h.leave(v, st) }
}

// leave removes a stream, and the view that nobody looks at any more.
func (h *Hub) leave(v *view, st *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams--; h.streams == 0 {
		h.stop()
	}
	delete(v.streams, st)
	if len(v.streams) == 0 {
		v.stop()
		if h.views[v.key] == v {
			delete(h.views, v.key)
		}
	}
}

// watch follows the ledger from a cursor, and wakes the views that something concerns.
func (h *Hub) watch(ctx context.Context, last string) {
	for ctx.Err() == nil {
		ledger, seq, _ := placeOf(last)
		// The last entry is enough to know that there are others, and they are many when much happens.
		e, err := h.Ledger.Events(ctx, api.EventsRequest{After: seq, Ledger: ledger, Newest: true, Limit: 1,
			Wait: ledgerWait})
		if now := cursorOf(e); err == nil && now != last {
			h.wake(ctx, seq, e.Ledger != ledger)
			last = now
		}
		wait(ctx, gather)
	}
}

// wake wakes the views of the machines that entries of the ledger after seq are about, and those of all; or
// every view.
func (h *Hub) wake(ctx context.Context, seq uint64, every bool) {
	h.generation.Add(1)
	var single []string
	h.mu.Lock()
	for _, v := range h.views {
		if v.machine != "" {
			single = append(single, string(v.machine))
		}
	}
	h.mu.Unlock()
	about := map[ingot.MachineID]bool{}
	if len(single) > 0 && !every {
		e, err := h.Ledger.Events(ctx, api.EventsRequest{After: seq, Machines: single, Limit: atOnce})
		every = err != nil || len(e.Events) == atOnce // one of them was forgotten, or there are more
		for _, one := range e.Events {
			about[one.Machine] = true
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.views {
		if every || v.machine == "" || about[v.machine] {
			v.wake()
		}
	}
}
