package api

import (
	"cmp"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"ingot/bootserver/access"
)

// Gate authenticates requests; see access.Keeper.
type Gate interface {
	Who(r *http.Request) (access.Who, error)
}

// Seen is told of each request after its answer: the route, as in the OpenAPI
// document with its method, or "none".
type Seen func(route string, status int, took time.Duration)

// Handler serves the API to whom the gate knows, as far as their scope goes.
// seen may be nil.
func Handler(b Backend, gate Gate, seen Seen) http.Handler {
	t := table(b, b.Version())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		handler, pattern := t.mux.Handler(r)
		out := &statusWriter{ResponseWriter: w, status: http.StatusOK}
		if seen != nil {
			defer func() { seen(cmp.Or(pattern, "none"), out.status, time.Since(began)) }()
		}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		if t.public[pattern] {
			if access.Stranger(r.Context()) {
				h.Set("Connection", "close")
			}
			handler.ServeHTTP(out, r)
			return
		}
		who, err := gate.Who(r)
		if err != nil {
			h.Set("Connection", "close")
			h.Set("WWW-Authenticate", `Bearer realm="ingot"`) // RFC 6750 section 3
			write(out, refused(err))
			return
		}
		scope, known := t.scopes[pattern]
		switch {
		case pattern == "":
			write(out, nothing(handler, r, h))
		case !known:
			write(out, NewProblem(CodeRouteClosed, "this route has no scope and is closed"))
		case !who.Scope.Covers(scope):
			write(out, insufficient(who, scope))
		default:
			t.mux.ServeHTTP(out, r.WithContext(access.With(r.Context(), who)))
		}
	})
}

// statusWriter keeps the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (t *statusWriter) WriteHeader(status int) {
	t.status = status
	t.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (t *statusWriter) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// write answers a problem.
func write(w http.ResponseWriter, p Problem) {
	text, err := json.Marshal(p)
	if err != nil {
		text = []byte("{}")
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(p.Status)
	_, _ = w.Write(text) // a client that hung up wants no answer
}

// nothing is the problem of a request that no route takes: the mux's own
// handler knows whether it was the path or the method.
func nothing(h http.Handler, r *http.Request, into http.Header) Problem {
	probe := &probe{header: http.Header{}}
	h.ServeHTTP(probe, r)
	if allow := probe.header.Get("Allow"); probe.status == http.StatusMethodNotAllowed {
		into.Set("Allow", allow)
		return NewProblem(CodeMethod, r.URL.Path+" takes "+strings.ReplaceAll(allow, ", ", " and "))
	}
	return NewProblem(CodeRouteNotFound, "there is no "+r.Method+" "+r.URL.Path)
}

// probe keeps the head of an answer and drops its body.
type probe struct {
	header http.Header
	status int
}

func (p *probe) Header() http.Header         { return p.header }
func (p *probe) WriteHeader(status int)      { p.status = status }
func (p *probe) Write(b []byte) (int, error) { return len(b), nil }

// Metrics serves /metrics, /healthz and /readyz to everybody, and nothing else:
// none of them names a machine or holds a secret.
func Metrics(b Backend) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", b.Metrics())
	mux.HandleFunc("GET /healthz", health(func() error { return nil }))
	mux.HandleFunc("GET /readyz", health(b.Ready))
	return mux
}
