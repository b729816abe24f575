package api

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"ingot/bootserver/access"
	"ingot/internal/harmless"
)

// maxBody bounds the body of a request in bytes, where a route does not say
// otherwise.
const maxBody = 64 << 10

// routes is the table of what can be asked. A pattern that is not in it is
// answered to nobody: nothing is served that has no scope.
type routes struct {
	huma   huma.API
	mux    *http.ServeMux
	scopes map[string]access.Scope // by pattern of the mux: "GET /v1/machines"
	public map[string]bool         // patterns that everybody may ask
	plain  map[string]string       // summaries of those outside of the OpenAPI document
}

func newRoutes(version string) *routes {
	mux := http.NewServeMux()
	c := huma.Config{
		OpenAPI: &huma.OpenAPI{OpenAPI: "3.1.0",
			Info: &huma.Info{Title: "ingot", Version: version,
				Description: "A running ingot server: its machines, boots and access. Errors are problem details (RFC 9457)."},
			Components: &huma.Components{Schemas: huma.NewMapRegistry("#/components/schemas/", schemaName),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"token": {Type: "http", Scheme: "bearer",
						Description: "Made by: ingot token create NAME --scope SCOPE"},
					"certificate": {Type: "mutualTLS",
						Description: "Made by: ingot token create NAME --scope SCOPE --cert FILE"}}}},
		Formats:       map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat},
		DefaultFormat: "application/json", RejectUnknownQueryParameters: true,
		Transformers: []huma.Transformer{func(_ huma.Context, _ string, v any) (any, error) {
			if m, is := v.(*huma.ErrorModel); is {
				return problem(m), nil
			}
			return v, nil
		}},
	}
	return &routes{huma: humago.New(mux, c), mux: mux, scopes: map[string]access.Scope{}, public: map[string]bool{},
		plain: map[string]string{}}
}

// jsonFormat writes JSON that is harmless where it is shown.
var jsonFormat = huma.Format{
	Marshal: func(w io.Writer, v any) error {
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(append(harmless.JSON(text), '\n'))
		return err
	},
	Unmarshal: json.Unmarshal,
}

// schemaName names a type in the OpenAPI document: the dictionary's types and
// those of other packages by both names where they could be confused.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	pkg := t.PkgPath()[strings.LastIndex(t.PkgPath(), "/")+1:]
	if pkg == "fleet" || pkg == "api" || pkg == "access" {
		return huma.DefaultSchemaNamer(t, hint)
	}
	if pkg == "" {
		return huma.DefaultSchemaNamer(t, hint)
	}
	return strings.ToUpper(pkg[:1]) + pkg[1:] + huma.DefaultSchemaNamer(t, hint)
}

// answered is what huma takes an answer from.
type answered[T any] struct {
	Link string `header:"Link" doc:"The next page, where there is one (RFC 8288)."`
	Body T
}

// option changes what a route says of itself.
type option func(*huma.Operation)

// bodyOf allows larger bodies.
func bodyOf(bytes int64) option { return func(o *huma.Operation) { o.MaxBodyBytes = bytes } }

// add adds a route. In names what it takes: path, query and Body; out is the
// answer's JSON. Of Next, an answer may name the page that follows it.
func add[In, Out any](r *routes, pattern string, scope access.Scope, summary string,
	f func(context.Context, *In) (Out, error), options ...option) {
	addPage(r, pattern, scope, summary, func(ctx context.Context, in *In) (Out, string, error) {
		out, err := f(ctx, in)
		return out, "", err
	}, options...)
}

// addPage adds a route that answers one page of a list, and the query of the
// next one; none on the last.
func addPage[In, Out any](r *routes, pattern string, scope access.Scope, summary string,
	f func(context.Context, *In) (Out, string, error), options ...option) {
	method, path, _ := strings.Cut(pattern, " ")
	o := huma.Operation{OperationID: operationID(method, path), Method: method, Path: path, Summary: summary,
		Description:  "Scope: " + string(scope) + ".",
		MaxBodyBytes: maxBody, BodyReadTimeout: 30 * time.Second,
		Security:   []map[string][]string{{"token": {string(scope)}}, {"certificate": {string(scope)}}},
		Responses:  map[string]*huma.Response{"default": r.problemResponse()},
		Extensions: map[string]any{"x-scope": string(scope)}}
	for _, f := range options {
		f(&o)
	}
	r.scopes[pattern] = scope
	huma.Register(r.huma, o, func(ctx context.Context, in *In) (*answered[Out], error) {
		out, next, err := f(ctx, in)
		if err != nil {
			return nil, problem(err)
		}
		a := &answered[Out]{Body: out}
		if next != "" {
			a.Link = "<" + path + "?" + next + `>; rel="next"`
		}
		return a, nil
	})
}

// problemResponse describes how errors are answered.
func (r *routes) problemResponse() *huma.Response {
	s := r.huma.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[Problem](), true, "")
	return &huma.Response{Description: "A problem (RFC 9457). What to do about it depends on its code.",
		Content: map[string]*huma.MediaType{"application/problem+json": {Schema: s}}}
}

// operationID is "get-machines-boots" for GET /v1/machines/{ref}/boots.
func operationID(method, path string) string {
	words := []string{strings.ToLower(method)}
	for _, w := range strings.Split(strings.TrimPrefix(path, "/v1/"), "/") {
		if name, is := strings.CutPrefix(w, "{"); is {
			w = "by-" + strings.TrimSuffix(name, "}")
		}
		words = append(words, w)
	}
	return strings.Join(words, "-")
}

// addPlain adds a route that is not of the OpenAPI document. Without a scope
// everybody may ask it.
func (r *routes) addPlain(pattern string, scope access.Scope, summary string, h http.HandlerFunc) {
	r.plain[pattern] = summary
	if scope == "" {
		r.public[pattern] = true
	} else {
		r.scopes[pattern] = scope
	}
	r.mux.HandleFunc(pattern, h)
}

// OpenAPI is the document that describes the API (OpenAPI 3.1), as JSON.
func OpenAPI(version string) ([]byte, error) {
	text, err := json.Marshal(table(nil, version).huma.OpenAPI())
	if err != nil {
		return nil, err
	}
	return text, nil
}

// Route is one thing that can be asked.
type Route struct {
	Method  string       `json:"method"`
	Path    string       `json:"path"`
	Scope   access.Scope `json:"scope,omitempty"` // empty: everybody may ask
	Summary string       `json:"summary"`
}

// Routes lists all that can be asked, by path.
func Routes() []Route {
	t := table(nil, "")
	var list []Route
	for pattern, scope := range t.scopes {
		list = append(list, t.route(pattern, scope))
	}
	for pattern := range t.public {
		list = append(list, t.route(pattern, ""))
	}
	slices.SortFunc(list, func(a, b Route) int { return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method) })
	return list
}

func (r *routes) route(pattern string, scope access.Scope) Route {
	method, path, _ := strings.Cut(pattern, " ")
	out := Route{Method: method, Path: path, Scope: scope, Summary: r.plain[pattern]}
	if item := r.huma.OpenAPI().Paths[path]; item != nil {
		for m, o := range map[string]*huma.Operation{"GET": item.Get, "POST": item.Post, "PUT": item.Put,
			"DELETE": item.Delete, "PATCH": item.Patch} {
			if m == method && o != nil {
				out.Summary = o.Summary
			}
		}
	}
	return out
}
