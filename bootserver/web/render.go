package web

import (
	"bytes"
	"compress/gzip"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"ingot"
	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
	"ingot/bootserver/web/live"
	"ingot/bootserver/web/login"
	"ingot/internal/harmless"
)

//go:embed templates static
var files embed.FS

// query is a request of a page or a form by an operator.
type query struct {
	ctx  context.Context
	who  access.Who
	now  time.Time
	path func(name string) string // parameters of the path
	url.Values
	open bool      // the page is made for those who have it open
	seen *snapshot // see snapshotOf
}

// machines returns all machines, as they were when the request asked first. They must not be changed.
func (s *Server) machines(q *query) []api.Machine { return s.snapshotOf(q).machines }

// Who returns the operator.
func (q *query) Who() access.Who { return q.who }

// Now is when the page was asked for.
func (q *query) Now() time.Time { return q.now }

// Can reports whether the operator may ask for a route of the API: a page has no button for what its
// reader may not do.
func (q *query) Can(apiRoute string) bool { return q.who.Scope.Covers(scopeOf(apiRoute)) }

// page is what a page shows.
type page struct {
	title   string
	nav     string // the entry of the navigation
	crumbs  []crumb
	command string // that says the same
	body    string // template of the content
	data    any
	parts   []part // what is replaced while the page is open
	// the machine that the page is about: what happens to others changes nothing of it; empty: it does
	machine ingot.MachineID
	every   time.Duration // see live.Page
}

// crumb is one step of the way to a page.
type crumb struct{ Name, Link string }

// part is an element of a page that changes while the page is open: a template and what it gets. The
// outermost element of the template has the id.
type part struct {
	id, template string
	data         any
}

// frame is what the layout of all pages gets.
type frame struct {
	*query
	Title   string
	Nav     string
	Crumbs  []crumb
	Command string
	Main    template.HTML
	Counts  counts
	Host    string // that the page was asked of
	Version string
	Cursor  string // of the ledger, when the page was made
	Order   string // of the parts, see orderOf
	View    string // the path to ask changes for; empty: the page does not change
	Note    string // what a form did
	Logout  bool   // there is a session to end
	Assets  string // version of the files in static
}

// counts are beside the entries of the navigation.
type counts struct{ Machines, Pending, Rollouts int }

// assets names the content of the files in static, so that a browser asks for changed ones.
var assets = sync.OnceValue(func() string {
	var all []byte
	_ = fs.WalkDir(files, "static", func(name string, d fs.DirEntry, _ error) error {
		if !d.IsDir() {
			text, _ := files.ReadFile(name) // it is embedded
			all = append(all, text...)
		}
		return nil
	})
	return ingot.DigestOf(all).Short()
})

// templates are all of them.
var templates = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("").Funcs(functions).ParseFS(files, "templates/*.html"))
})

// functions are those of templates.
var functions = template.FuncMap{
	"size": format.Size, "mib": format.Mebibytes, "seconds": format.Seconds, "ago": format.Ago, "clock": format.Clock,
	"day": format.Day, "stamp": format.Stamp, "short": format.Short, "plural": format.Plural,
	"cell": cell, "mark": mark, "join": strings.Join, "add": func(a, b int) int { return a + b }, "signed": signed,
	"neg": func(a int) int { return -a }, "brief": format.Brief, "sentence": format.Sentence,
	"chartOf": func(picture any, first, last, label string) framed { return framed{picture, first, last, label} },
}

// framed is a picture over time with what is around it: the names of the first and the last bucket, and what
// it shows in words.
type framed struct {
	Chart              any
	First, Last, Label string
}

// execute renders a template. What machines said cannot harm in it: see package harmless.
func execute(name string, data any) ([]byte, error) {
	if m, is := data.(status); is && cells[name] != nil {
		return []byte(harmless.Lines(string(cells[name](m)))), nil
	}
	var b bytes.Buffer
	if err := templates().ExecuteTemplate(&b, name, data); err != nil {
		return nil, fmt.Errorf("rendering %q: %w", name, err)
	}
	return []byte(harmless.Lines(b.String())), nil
}

// write answers with a whole document.
func (s *Server) write(w http.ResponseWriter, r *http.Request, status int, name string, data any) {
	text, err := execute(name, data)
	if err != nil {
		s.log.Error("rendering a page of the dashboard", "err", err)
		s.plainProblem(w, http.StatusInternalServerError, "The page could not be made; the server's log says why.")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		var b bytes.Buffer
		z, _ := gzip.NewWriterLevel(&b, gzip.BestSpeed) // the level is right
		_, _ = z.Write(text)                            // a buffer takes all
		_ = z.Close()
		h.Set("Content-Encoding", "gzip")
		text = b.Bytes()
	}
	h.Set("Vary", "Accept-Encoding")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(text) // a client that hung up wants no answer
	}
}

// plainProblem answers a sentence, to one that may see nothing else.
func (s *Server) plainProblem(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	fmt.Fprintln(w, harmless.Text(text))
}

// queryOf is the query of a request that was let in.
func (s *Server) queryOf(r *http.Request) *query {
	_, open := r.Context().Value(capturedKey{}).(*captured)
	return &query{ctx: r.Context(), who: access.From(r.Context()), now: s.now(), path: r.PathValue, Values: r.URL.Query(),
		open: open}
}

// captured is in the context of a request of which the page is wanted, not its document.
type captured struct {
	page page
	err  error
}

type capturedKey struct{}

// servePage answers a page.
func (s *Server) servePage(r route, w http.ResponseWriter, q *http.Request) {
	in := s.queryOf(q)
	cursor := s.hub.Cursor(q.Context()) // before the page: what changes meanwhile comes later
	p, err := r.page(s, in)
	if len(p.parts) > 0 {
		n := countsOf(s.machines(in))
		p.parts = append(p.parts, part{"n-fleet", "nav-count", navCount{"fleet", n.Machines}},
			part{"n-pending", "nav-count", navCount{"pending", n.Pending}},
			part{"n-rollouts", "nav-count", navCount{"rollouts", len(s.backend.OpenRollouts())}})
	}
	if c, is := q.Context().Value(capturedKey{}).(*captured); is {
		c.page, c.err = p, err
		return
	}
	if err != nil {
		s.problem(w, q, err)
		return
	}
	s.writePage(w, q, http.StatusOK, in, p, cursor)
}

// writePage answers a page in its frame.
func (s *Server) writePage(w http.ResponseWriter, r *http.Request, status int, in *query, p page, cursor string) {
	main, err := execute(p.body, p.data)
	if err != nil {
		s.log.Error("rendering a page of the dashboard", "err", err)
		s.plainProblem(w, http.StatusInternalServerError, "The page could not be made; the server's log says why.")
		return
	}
	f := s.frame(r, in, p)
	f.Main = template.HTML(main) //nolint:gosec // html/template made it
	if len(p.parts) > 0 {
		f.Cursor, f.View, f.Order = cursor, viewPath(r.URL), orderOf(p.parts)
	}
	s.write(w, r, status, "frame", f)
}

// frame is that of a page.
func (s *Server) frame(r *http.Request, in *query, p page) frame {
	f := frame{query: in, Title: p.title, Nav: p.nav, Crumbs: p.crumbs, Command: p.command,
		Counts: countsOf(s.machines(in)), Host: r.Host, Version: s.backend.Version(), Assets: assets(),
		Note: notes[in.Get("did")]}
	f.Counts.Rollouts = len(s.backend.OpenRollouts())
	if _, err := r.Cookie(login.CookieName); err == nil {
		f.Logout = true
	}
	return f
}

// navCount is a number beside an entry of the navigation.
type navCount struct {
	Nav string
	N   int
}

// Count is the number beside an entry of the navigation; nil: none.
func (f frame) Count(nav string) *navCount {
	switch nav {
	case "fleet":
		return &navCount{nav, f.Counts.Machines}
	case "pending":
		return &navCount{nav, f.Counts.Pending}
	case "rollouts":
		return &navCount{nav, f.Counts.Rollouts}
	}
	return nil
}

// countsOf counts for the navigation.
func countsOf(machines []api.Machine) (c counts) {
	for _, m := range machines {
		switch {
		case m.State == api.Pending || m.Ask != nil:
			c.Pending++
		case m.State == api.Approved:
			c.Machines++
		}
	}
	return c
}

// problem answers with what went wrong, and what to do next.
func (s *Server) problem(w http.ResponseWriter, r *http.Request, err error) {
	var p api.Problem
	if !errors.As(err, &p) {
		p = api.NewProblem(api.CodeInternal, err.Error())
		if errors.Is(err, access.ErrCredential) {
			p = api.NewProblem(api.CodeInvalidCredential, err.Error())
		}
	}
	back := "/"
	if u, err := url.Parse(r.Referer()); err == nil && u.Host == r.Host && r.Method != http.MethodGet {
		back = login.LocalPath(u.RequestURI())
	}
	data := struct {
		Title, Detail, Hint, Back string
	}{p.Title, p.Detail, p.Hint(), back}
	s.writePage(w, r, p.Status, s.queryOf(r), page{title: p.Title, crumbs: []crumb{{p.Title, ""}}, body: "problem",
		data: data}, "")
}

// viewPath is the address of a page without what changes nothing of it.
func viewPath(u *url.URL) string {
	v := u.Query()
	v.Del("did")
	return (&url.URL{Path: u.Path, RawQuery: v.Encode()}).String()
}

// live answers the stream of a page: ?of=ADDRESS, and see live.Hub.
func (s *Server) live(w http.ResponseWriter, r *http.Request) {
	of, err := url.Parse(login.LocalPath(r.URL.Query().Get("of")))
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
	who := access.From(r.Context())
	may := func() bool {
		now, err := s.logins.Identify(r)
		return err == nil && now.Scope == who.Scope
	}
	if !s.hub.Serve(w, r, of, may) {
		s.plainProblem(w, http.StatusServiceUnavailable, "Too many pages are open.")
	}
}

// orderOf names the parts of a page and their order.
func orderOf(parts []part) string {
	var ids []string
	for _, p := range parts {
		ids = append(ids, p.id)
	}
	return live.Order(ids)
}

// renderParts makes the parts of the page at an address, for those who have it open.
func (s *Server) renderParts(ctx context.Context, of *url.URL, who access.Who) (live.Page, error) {
	p, err := s.pageAt(ctx, of, who)
	list := live.Page{Machine: p.machine, Every: p.every, Parts: make([]live.Part, 0, len(p.parts))}
	for _, part := range p.parts {
		one := live.Part{ID: part.id, Make: func() (string, error) {
			html, err := execute(part.template, part.data)
			if err != nil {
				s.log.Error("rendering a part of a page of the dashboard", "err", err)
			}
			return string(bytes.TrimSpace(html)), err
		}}
		switch d := part.data.(type) { // not by a method: data of other pages embeds these
		case status:
			one.Key = d.key(part.template)
		case rack:
			one.Key = d.key(part.template)
		}
		list.Parts = append(list.Parts, one)
	}
	return list, err
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

// static answers a file of the pages. Its address has its version, so browsers keep it.
func (s *Server) static(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	text, err := files.ReadFile("static/" + name)
	if err != nil {
		s.plainProblem(w, http.StatusNotFound, "There is no such file.")
		return
	}
	kinds := map[string]string{".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
	kind := kinds[path.Ext(name)]
	if kind == "" {
		s.plainProblem(w, http.StatusNotFound, "There is no such file.")
		return
	}
	h := w.Header()
	h.Set("Content-Type", kind+"; charset=utf-8")
	if r.URL.RawQuery == "v="+assets() {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	}
	h.Set("Content-Length", strconv.Itoa(len(text)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(text) // a client that hung up wants no answer
	}
}
