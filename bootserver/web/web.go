// Package web is the dashboard: pages for operators, made by the server and complete without script,
// at / of the port of the API. It sees the server as a client of the API does, through api.Backend:
// each page and form names the routes of the API that it stands for, and takes the scope that they
// take.
//
// A browser proves its operator by a session (see package login), by a client certificate, or by coming
// through the administrator's socket, as ingot dashboard does. What machines say reaches a page as
// text alone: html/template escapes it, and characters that would change how other text is read are
// replaced in all that is written (package harmless).
//
// Left out on purpose: a framework in the browser, and requests to other hosts.
package web

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/web/live"
	"ingot/bootserver/web/login"
)

// Config is what a dashboard works with. All but Log and Seen are required.
type Config struct {
	Backend api.Backend
	Logins  *login.Logins // authenticates requests
	Now     func() time.Time
	Log     *slog.Logger    // nil is quiet
	Seen    api.Seen        // called with each request after its answer; may be nil
	Done    <-chan struct{} // closed when the server ends: open pages do not hold it up; nil: never
}

// Server serves the dashboard.
type Server struct {
	backend  api.Backend
	now      func() time.Time
	log      *slog.Logger
	seen     api.Seen
	logins   *login.Logins
	cross    *http.CrossOriginProtection
	routes   map[string]route // by pattern
	mux      *http.ServeMux
	hub      live.Hub
	contents contentsCache
	shared   atomic.Pointer[snapshot] // of open pages
}

// New returns the dashboard of a server.
func New(c Config) *Server {
	s := &Server{backend: c.Backend, logins: c.Logins, now: c.Now, log: c.Log, seen: c.Seen,
		cross: http.NewCrossOriginProtection(), routes: map[string]route{}, mux: http.NewServeMux()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.hub.Ledger, s.hub.Render, s.hub.Done = c.Backend, s.renderParts, c.Done
	for _, r := range table() {
		s.routes[r.pattern] = r
		s.mux.HandleFunc(r.pattern, func(w http.ResponseWriter, q *http.Request) { r.serve(s, w, q) })
	}
	return s
}

// policy is the Content-Security-Policy of every answer: nothing of another host, nothing inline.
const policy = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// secure sets the headers that every answer has.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
}

// maxForm bounds the body of a form in bytes.
const maxForm = 256 << 10

// ServeHTTP implements http.Handler. A request that is not authenticated sees the login page and
// nothing else, whatever it asks for.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	_, pattern := s.mux.Handler(r)
	out := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	if s.seen != nil {
		defer func() { s.seen(cmp.Or(pattern, "none"), out.status, time.Since(began)) }()
	}
	secure(w.Header())
	r.Body = http.MaxBytesReader(out, r.Body, maxForm)
	if err := s.cross.Check(r); err != nil {
		w.Header().Set("Connection", "close")
		s.plainProblem(out, http.StatusForbidden, "This request came from another site, and was refused.")
		return
	}
	if s.routes[pattern].public {
		if access.Stranger(r.Context()) {
			w.Header().Set("Connection", "close")
		}
		s.mux.ServeHTTP(out, r)
		return
	}
	who, err := s.logins.Identify(r)
	if err != nil {
		s.refuse(out, r, err)
		return
	}
	ctx := access.With(r.Context(), who)
	route, known := s.routes[pattern]
	switch scope := route.scope(); {
	case !known:
		s.missing(out, r.WithContext(ctx), pattern)
	case !who.Scope.Covers(scope):
		s.problem(out, r.WithContext(ctx), insufficient(who, scope))
	default:
		s.mux.ServeHTTP(out, r.WithContext(ctx))
	}
}

// refuse answers a request that is not authenticated: a page with the login page, all else with 401.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	h := w.Header()
	h.Set("Connection", "close")
	if errors.Is(err, login.ErrOver) {
		http.SetCookie(w, login.Ended())
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead || r.Header.Get("Accept") == live.MediaType {
		h.Set("WWW-Authenticate", `Bearer realm="ingot"`)
		s.plainProblem(w, http.StatusUnauthorized, "Log in first: this request has no session, or one that has ended.")
		return
	}
	s.loginPage(w, r, http.StatusUnauthorized, login.Note(err))
}

// missing answers a request that no route takes.
func (s *Server) missing(w http.ResponseWriter, r *http.Request, pattern string) {
	if pattern == "" && r.Method != http.MethodGet {
		probe := r.Clone(r.Context())
		probe.Method = http.MethodGet
		if _, p := s.mux.Handler(probe); p != "" {
			w.Header().Set("Allow", "GET, HEAD")
			s.problem(w, r, api.NewProblem(api.CodeMethod, r.URL.Path+" takes GET"))
			return
		}
	}
	s.problem(w, r, api.NewProblem(api.CodeRouteNotFound, "There is no page "+r.URL.Path+"."))
}

// insufficient is the problem of a request whose scope does not cover it.
func insufficient(who access.Who, want access.Scope) api.Problem {
	return api.NewProblem(api.CodeScope, who.String()+" has scope "+string(who.Scope)+"; this takes "+string(want)+".",
		"scope", string(want))
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

// Serves reports whether a path belongs to the dashboard, and not to the API.
func Serves(path string) bool {
	return path != "/metrics" && path != "/healthz" && path != "/readyz" && path != "/v1" &&
		!strings.HasPrefix(path, "/v1/")
}
