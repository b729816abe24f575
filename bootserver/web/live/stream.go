package live

import (
	"net/http"
	"net/url"
	"time"

	"ingot/bootserver/access"
)

// stream is one open page.
type stream struct {
	messages chan []byte
	cursor   string // where the browser is
	order    string // of the parts that it has
	late     bool   // it just came, and has missed what came after its cursor
}

// Serve answers the stream of the page at an address: ?order=ORDER&cursor=CURSOR, or Last-Event-ID. The
// operator of the request may see the page for as long as may says so. It reports false, and answers
// nothing, if too many pages are open.
func (h *Hub) Serve(w http.ResponseWriter, r *http.Request, of *url.URL, may func() bool) bool {
	cursor := r.Header.Get("Last-Event-ID")
	if cursor == "" {
		cursor = r.URL.Query().Get("cursor")
	}
	out := http.NewResponseController(w)
	_ = out.SetReadDeadline(time.Time{}) // a stream lasts; a connection without deadlines needs none
	st, leave := h.join(of, access.From(r.Context()), cursor, r.URL.Query().Get("order"))
	if st == nil {
		return false
	}
	defer leave()
	w.Header().Set("Content-Type", MediaType)
	w.WriteHeader(http.StatusOK)
	if send(w, out, []byte("retry: 2000\n\n")) {
		h.follow(w, out, r, st, may)
	}
	return true
}

// follow sends what comes for a stream until the browser leaves, or its operator may see the page no
// more.
func (h *Hub) follow(w http.ResponseWriter, out *http.ResponseController, r *http.Request, st *stream,
	may func() bool) {
	check, alive := time.NewTicker(checkEvery), time.NewTicker(keepAlive)
	defer check.Stop()
	defer alive.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-h.Done:
			return
		case <-check.C:
			if !may() {
				send(w, out, []byte("event: end\ndata:\n\n"))
				return
			}
		case <-alive.C:
			if !send(w, out, []byte(": still here\n\n")) {
				return
			}
		case m, open := <-st.messages:
			if !open { // it was too slow, or the page is gone
				send(w, out, []byte("event: reload\ndata:\n\n"))
				return
			}
			if !send(w, out, m) {
				return
			}
		}
	}
}

// send writes a message; false: the browser takes it no more.
func send(w http.ResponseWriter, out *http.ResponseController, m []byte) bool {
	_ = out.SetWriteDeadline(time.Now().Add(writeWithin)) // what is no connection has none
	if _, err := w.Write(m); err != nil {
		return false
	}
	return out.Flush() == nil
}
