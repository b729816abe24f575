package web

import (
	"net/http"
	"slices"
	"strings"
	"sync"

	"ingot/bootserver/access"
	"ingot/bootserver/api"
	"ingot/bootserver/web/login"
)

// route is a page, a form, or something beside them. It has the scope of the routes of the API that it
// stands for; one that stands for none has no scope and is closed, unless it is public.
type route struct {
	pattern string
	takes   []string // routes of the API: "GET /v1/machines"
	public  bool     // everybody may ask: the login page, and the files that it needs
	handle  func(s *Server, w http.ResponseWriter, r *http.Request)
	page    func(s *Server, q *query) (page, error) // a page
	form    func(s *Server, q *query) (done, error) // what a form changes
}

// scopes are those of the routes of the API, by "METHOD PATH".
var scopes = sync.OnceValue(func() map[string]access.Scope {
	all := map[string]access.Scope{}
	for _, r := range api.Routes() {
		all[r.Method+" "+r.Path] = r.Scope
	}
	return all
})

// scopeOf returns the scope of a route of the API; none if there is no such route.
func scopeOf(apiRoute string) access.Scope { return scopes()[apiRoute] }

// scope is the largest of those that a route takes.
func (r route) scope() access.Scope {
	if len(r.takes) == 0 {
		return ""
	}
	largest := access.Read
	for _, t := range r.takes {
		s := scopeOf(t)
		if !access.Admin.Covers(s) {
			return "" // there is no such route
		}
		if s.Covers(largest) {
			largest = s
		}
	}
	return largest
}

// table is all that can be asked of the dashboard.
func table() []route {
	return slices.Concat(pageRoutes(), formRoutes(), rolloutRoutes(), otherRoutes())
}

func pageRoutes() []route {
	return []route{
		{pattern: "GET /{$}", takes: []string{"GET /v1/machines", "GET /v1/boots", "GET /v1/events",
			"GET /v1/rollouts"}, page: (*Server).fleet},
		{pattern: "GET /machines/{ref}", takes: []string{"GET /v1/machines/{ref}", "GET /v1/boots",
			"GET /v1/machines/{ref}/why"}, page: (*Server).machine},
		{pattern: "GET /machines/{ref}/boots/{boot}", takes: []string{"GET /v1/machines/{ref}/console", "GET /v1/boots"},
			page: (*Server).boot},
		{pattern: "GET /pending", takes: []string{"GET /v1/machines"}, page: (*Server).pending},
		{pattern: "GET /images", takes: []string{"GET /v1/images", "GET /v1/images/{ref}/contents"}, page: (*Server).images},
		{pattern: "GET /network", takes: []string{"GET /v1/network"}, page: (*Server).network},
		{pattern: "GET /events", takes: []string{"GET /v1/events"}, page: (*Server).events},
		{pattern: "GET /trends", takes: []string{"GET /v1/boots"}, page: (*Server).trends},
		{pattern: "GET /settings", takes: []string{"GET /v1/authority"}, page: (*Server).settings},
	}
}

// The machines' forms stand for the routes of the same name.
func formRoutes() []route {
	const machine, on = "POST /machines/{ref}/", "POST /v1/machines/{ref}/"
	list := []route{
		{pattern: "POST /pending", takes: []string{on + "approve"}, form: (*Server).approveMany},
		{pattern: "POST /images/gc", takes: []string{"POST /v1/images/gc"}, form: (*Server).collect},
		{pattern: "POST /settings/reload", takes: []string{"POST /v1/reload"}, form: (*Server).reload},
		{pattern: "POST /settings/tokens/{ref}/revoke", takes: []string{"POST /v1/tokens/{ref}/revoke"},
			form: (*Server).revoke},
		{pattern: "POST /settings/webhooks/{ref}/redeliver", takes: []string{"POST /v1/webhooks/{ref}/redeliver"},
			form: (*Server).redeliver},
		{pattern: "POST /settings/webhooks/{ref}/discard", takes: []string{"DELETE /v1/webhooks/{ref}/dead-letters"},
			form: (*Server).discard},
		{pattern: "POST /settings/sessions/{ref}/end", takes: []string{"DELETE /v1/sessions/{ref}"},
			form: (*Server).endSession},
	}
	for verb, f := range map[string]func(*Server, *query) (done, error){"reboot": (*Server).cancelReboot,
		"pin": (*Server).unpin, "off": (*Server).switchOn} {
		list = append(list, route{pattern: machine + verb + "/cancel", takes: []string{"DELETE /v1/machines/{ref}/" + verb},
			form: f})
	}
	for verb, f := range machineForms {
		list = append(list, route{pattern: machine + verb, takes: []string{on + verb}, form: f})
	}
	return list
}

func otherRoutes() []route {
	return []route{
		{pattern: "POST /settings/tokens", takes: []string{"POST /v1/tokens"}, handle: (*Server).createToken},
		{pattern: "GET /live", takes: []string{"GET /v1/events"}, handle: (*Server).live},
		{pattern: "GET /find", takes: []string{"GET /v1/machines", "GET /v1/images"}, handle: (*Server).find},
		{pattern: "GET /images/{ref}/sbom", takes: []string{"GET /v1/images/{ref}/sbom"}, handle: (*Server).sbom},
		{pattern: "POST /logout", takes: []string{"GET /v1/version"}, handle: (*Server).logout},
		{pattern: "GET /login", public: true, handle: (*Server).getLogin},
		{pattern: "POST /login", public: true, handle: (*Server).login},
		{pattern: "GET /login/oidc", public: true, handle: (*Server).startProvider},
		{pattern: "GET " + login.CallbackPath, public: true, handle: (*Server).finishProvider},
		{pattern: "GET /static/{file}", public: true, handle: (*Server).static},
	}
}

// Route is one thing that can be asked of the dashboard.
type Route struct {
	Method, Path string
	Scope        access.Scope // empty: everybody may ask
	Takes        []string     // the routes of the API that it stands for
}

// Routes lists all that can be asked, by path.
func Routes() []Route {
	var list []Route
	for _, r := range table() {
		method, path, _ := strings.Cut(r.pattern, " ")
		list = append(list, Route{method, strings.TrimSuffix(path, "{$}"), r.scope(), r.takes})
	}
	slices.SortFunc(list, func(a, b Route) int { return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method) })
	return list
}

// serve answers a request that may ask for the route.
func (r route) serve(s *Server, w http.ResponseWriter, q *http.Request) {
	switch {
	case r.page != nil:
		s.servePage(r, w, q)
	case r.form != nil:
		s.serveForm(r, w, q)
	default:
		r.handle(s, w, q)
	}
}
