package web

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
)

// Pages that are open follow the ledger by one stream of server-sent events each: what changed on the
// page comes as HTML, by the ids of its elements. All streams of one address and scope share a view,
// which makes the page once for all of them, and sends the parts that are not as they were. A stream
// that cannot go on where it was gets a reload.

// eventStream is the media type of a stream (HTML standard, section 9.2).
const eventStream = "text/event-stream"

const (
	ledgerWait  = 20 * time.Second // for changes of the ledger
	quietest    = 10 * time.Second // between two looks at a page on which time alone passes
	pause       = 200 * time.Millisecond
	share       = 25                     // a view makes its page in a 25th of the time, when much happens
	burst       = 500 * time.Millisecond // of making it, before that counts
	checkEvery  = time.Second
	keepAlive   = 15 * time.Second
	writeWithin = 20 * time.Second
	maxStreams  = 500
	atOnce      = 1000 // entries of the ledger
	backlog     = 4    // messages that wait for a slow browser; then it reloads
)

// hub has the views that are open.
type hub struct {
	server  *Server
	turn    sync.Mutex // held by the view that makes its page
	mu      sync.Mutex
	views   map[string]*view
	streams int
	stop    context.CancelFunc // ends watch, which runs while there are streams
}

// view is one page as some streams see it.
type view struct {
	hub     *hub
	key     string
	url     *url.URL
	who     access.Who // its scope is that of all of the streams
	streams map[*stream]bool
	stop    context.CancelFunc
	changed chan struct{}   // something happened, or a stream came
	machine ingot.MachineID // see page; empty as long as the page was not made

	// of the goroutine of the view alone
	sums   map[string]uint64 // of the parts
	order  string            // see orderOf
	cursor string
}

// stream is one open page.
type stream struct {
	messages chan []byte
	cursor   string // where the browser is
	order    string // of the parts that it has
	late     bool   // it just came, and has missed what came after its cursor
}

// cursor is where the ledger is. Nothing but this package takes it apart.
func (s *Server) cursor(ctx context.Context) string {
	e, err := s.backend.Events(ctx, api.EventsRequest{Newest: true, Limit: 1})
	if err != nil {
		return ""
	}
	return cursorOf(e)
}

func cursorOf(e api.Events) string {
	return base64.RawURLEncoding.EncodeToString([]byte("1." + e.Ledger + "." + strconv.FormatUint(e.Last, 10)))
}

// placeOf takes a cursor apart.
func placeOf(cursor string) (ledger string, seq uint64, ok bool) {
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return "", 0, false
	}
	version, rest, _ := strings.Cut(string(text), ".")
	ledger, number, _ := strings.Cut(rest, ".")
	seq, err = strconv.ParseUint(number, 10, 64)
	return ledger, seq, err == nil && version == "1"
}

// viewPath is the address of a page without what changes nothing of it.
func viewPath(u *url.URL) string {
	v := u.Query()
	v.Del("did")
	return (&url.URL{Path: u.Path, RawQuery: v.Encode()}).String()
}

// orderOf names the parts of a page and their order: a page with others is made anew.
func orderOf(parts []part) string {
	var ids strings.Builder
	for _, p := range parts {
		ids.WriteString(p.id + "\n")
	}
	return ingot.DigestOf([]byte(ids.String())).Short()
}

// live answers the stream of a page: ?of=ADDRESS&order=ORDER&cursor=CURSOR, or Last-Event-ID.
func (s *Server) live(w http.ResponseWriter, r *http.Request) {
	of, err := url.Parse(localPath(r.URL.Query().Get("of")))
	if err != nil {
		s.plainProblem(w, http.StatusBadRequest, "There is no such page.")
		return
	}
	target := &http.Request{Method: http.MethodGet, URL: of, Host: r.Host}
	_, pattern := s.mux.Handler(target)
	if route := s.routes[pattern]; route.page == nil || !access.From(r.Context()).Scope.Covers(route.scope()) {
		s.plainProblem(w, http.StatusNotFound, "There is no such page.")
		return
	}
	cursor := r.Header.Get("Last-Event-ID")
	if cursor == "" {
		cursor = r.URL.Query().Get("cursor")
	}
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // a stream lasts; a connection without deadlines needs none
	st, leave := s.hub.join(of, access.From(r.Context()), cursor, r.URL.Query().Get("order"))
	if st == nil {
		s.plainProblem(w, http.StatusServiceUnavailable, "Too many pages are open.")
		return
	}
	defer leave()
	w.Header().Set("Content-Type", eventStream)
	w.WriteHeader(http.StatusOK)
	if !s.send(w, out, []byte("retry: 2000\n\n")) {
		return
	}
	s.follow(w, out, r, st)
}

// follow sends what comes for a stream until the browser leaves, or its operator may see the page no
// more.
func (s *Server) follow(w http.ResponseWriter, out *http.ResponseController, r *http.Request, st *stream) {
	check, alive := time.NewTicker(checkEvery), time.NewTicker(keepAlive)
	defer check.Stop()
	defer alive.Stop()
	scope := access.From(r.Context()).Scope
	for {
		select {
		case <-r.Context().Done():
			return
		case <-s.done:
			return
		case <-check.C:
			if who, err := s.identify(r); err != nil || who.Scope != scope {
				s.send(w, out, []byte("event: end\ndata:\n\n"))
				return
			}
		case <-alive.C:
			if !s.send(w, out, []byte(": still here\n\n")) {
				return
			}
		case m, open := <-st.messages:
			if !open { // it was too slow, or the page is gone
				s.send(w, out, []byte("event: reload\ndata:\n\n"))
				return
			}
			if !s.send(w, out, m) {
				return
			}
		}
	}
}

// send writes a message; false: the browser takes it no more.
func (s *Server) send(w http.ResponseWriter, out *http.ResponseController, m []byte) bool {
	_ = out.SetWriteDeadline(time.Now().Add(writeWithin)) // what is no connection has none
	if _, err := w.Write(m); err != nil {
		return false
	}
	return out.Flush() == nil
}

// join adds a stream to the view of a page; nil if there are too many.
func (h *hub) join(of *url.URL, who access.Who, cursor, order string) (*stream, func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams >= maxStreams {
		return nil, nil
	}
	if h.streams++; h.streams == 1 {
		ctx, stop := context.WithCancel(context.Background())
		h.stop = stop
		go h.watch(ctx, h.server.cursor(ctx))
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
	st := &stream{messages: make(chan []byte, backlog), cursor: cursor, order: order, late: true}
	v.streams[st] = true
	v.wake()
	return st, func() { h.leave(v, st) }
}

// leave removes a stream, and the view that nobody looks at any more.
func (h *hub) leave(v *view, st *stream) {
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

// watch follows the ledger from a cursor, and wakes the views that something concerns.
func (h *hub) watch(ctx context.Context, last string) {
	for ctx.Err() == nil {
		ledger, seq, _ := placeOf(last)
		e, err := h.server.backend.Events(ctx, api.EventsRequest{After: seq, Ledger: ledger, Limit: atOnce, Wait: ledgerWait})
		if now := cursorOf(e); err == nil && now != last {
			h.wake(e, e.Ledger != ledger || len(e.Events) == 0 || len(e.Events) == atOnce)
			last = now
		}
		wait(ctx, pause/2)
	}
}

// wake wakes the views of the machines that events are about, and those of all; or every view.
func (h *hub) wake(e api.Events, every bool) {
	about := map[ingot.MachineID]bool{}
	for _, one := range e.Events {
		about[one.Machine] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.views {
		if every || v.machine == "" || about[v.machine] {
			v.wake()
		}
	}
}

// update makes the page, and sends each stream what it lacks.
func (v *view) update(ctx context.Context) {
	s := v.hub.server
	cursor := s.cursor(ctx)
	p, err := s.pageAt(ctx, v.url, v.who)
	if err != nil {
		v.close()
		return
	}
	sums, all, some := map[string]uint64{}, [][2]string{}, [][2]string{}
	for _, part := range p.parts {
		html, err := execute(part.template, part.data)
		if err != nil {
			s.log.Error("rendering a part of a page of the dashboard", "err", err)
			v.close()
			return
		}
		sum := maphash.Bytes(seed, html)
		one := [2]string{part.id, string(bytes.TrimSpace(html))}
		if v.sums[part.id] != sum {
			some = append(some, one)
		}
		all = append(all, one)
		sums[part.id] = sum
	}
	if v.sums == nil { // every stream just came
		some = nil
	}
	v.sums, v.order, v.cursor = sums, orderOf(p.parts), cursor
	v.hub.mu.Lock()
	v.machine = p.machine
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

// mostMissed is how many entries of the ledger a browser may have missed before its page is made anew.
const mostMissed = 10_000

// gap reports whether a browser at one place of the ledger cannot go on from there.
func gap(from, to string) bool {
	ledger, seq, ok := placeOf(from)
	now, last, _ := placeOf(to)
	return !ok || ledger != now || seq > last || last-seq > mostMissed
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

// pageAt makes the page at an address as an operator would get it.
func (s *Server) pageAt(ctx context.Context, of *url.URL, who access.Who) (page, error) {
	c := &captured{err: api.NewProblem(api.CodeRouteNotFound, "there is no such page")}
	r, err := http.NewRequestWithContext(context.WithValue(access.With(ctx, who), capturedKey{}, c), http.MethodGet,
		of.String(), nil)
	if err != nil {
		return page{}, err
	}
	s.mux.ServeHTTP(nowhere{}, r)
	return c.page, c.err
}

// nowhere takes an answer that nobody reads.
type nowhere struct{}

func (nowhere) Header() http.Header         { return http.Header{} }
func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) WriteHeader(int)             {}
