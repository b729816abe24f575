package api

import (
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"ingot/bootserver/access"
)

// Problem is an error with a status and the next step (RFC 9457). Where only
// Status and Detail are given, Type and Title are those of the status.
type Problem struct {
	Type   string `json:"type" format:"uri" doc:"What kind of problem it is; programs tell problems apart by it." example:"urn:ingot:problem:not-found"`
	Title  string `json:"title" doc:"The kind in words, always the same."`
	Status int    `json:"status" doc:"The HTTP status of the answer."`
	Detail string `json:"detail" doc:"What went wrong this time, for people."`
	Next   string `json:"next,omitempty" doc:"What to do or type next."`
}

func (p Problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (Problem) ContentType(string) string { return "application/problem+json" }

// typePrefix begins the types of problems. They name, they are not fetched.
const typePrefix = "urn:ingot:problem:"

// kinds are the problems that there are, by status.
var kinds = map[int][2]string{
	http.StatusBadRequest:            {"invalid", "The request is not right"},
	http.StatusUnauthorized:          {"unauthenticated", "Who asks is not known"},
	http.StatusForbidden:             {"forbidden", "Who asks may not do this"},
	http.StatusNotFound:              {"not-found", "What was asked for is not there"},
	http.StatusMethodNotAllowed:      {"method", "This cannot be done with it"},
	http.StatusConflict:              {"conflict", "The present state does not allow it"},
	http.StatusUnprocessableEntity:   {"invalid", "The request is not right"},
	http.StatusRequestEntityTooLarge: {"too-large", "The request is too large"},
	http.StatusInternalServerError:   {"internal", "The server failed"},
	http.StatusServiceUnavailable:    {"unavailable", "The server cannot answer now"},
}

// complete fills in what a status implies.
func (p Problem) complete() Problem {
	if p.Status == 0 {
		p.Status = http.StatusInternalServerError
	}
	kind, known := kinds[p.Status]
	if !known {
		kind = [2]string{"http-" + strings.ToLower(strings.ReplaceAll(http.StatusText(p.Status), " ", "-")), http.StatusText(p.Status)}
	}
	if p.Type == "" {
		p.Type = typePrefix + kind[0]
	}
	if p.Title == "" {
		p.Title = kind[1]
	}
	return p
}

// problem is what is answered for an error.
func problem(err error) Problem {
	p := Problem{Detail: err.Error()}
	var model *huma.ErrorModel
	switch {
	case errors.As(err, &p):
	case errors.As(err, &model):
		p = invalid(model)
	case errors.Is(err, access.ErrCredential):
		p.Status = http.StatusBadRequest
	}
	return p.complete()
}

// invalid says all that huma found wrong with a request, with its place.
func invalid(m *huma.ErrorModel) Problem {
	p := Problem{Status: m.Status, Detail: m.Detail, Next: "ingot api openapi describes what is wanted"}
	var all []string
	for _, e := range m.Errors {
		text := e.Message
		if e.Location != "" {
			text = e.Location + ": " + text
		}
		all = append(all, text)
	}
	if len(all) > 0 {
		p.Detail += ": " + strings.Join(all, "; ")
	}
	return p
}

// refused is what somebody gets who is not let in.
func refused(err error) Problem {
	p := Problem{Status: http.StatusUnauthorized, Detail: err.Error(), Next: "ask the administrator of the server: ingot token create NAME"}
	switch {
	case errors.Is(err, access.ErrNobody):
		p.Next = "give a token: ingot context add NAME URL; an administrator makes one: ingot token create NAME"
	case errors.Is(err, access.ErrPlain):
		p.Type, p.Next = typePrefix+"plain", "ingot token revoke NAME, and use https"
	case errors.Is(err, access.ErrExpired):
		p.Type = typePrefix + "expired"
	case errors.Is(err, access.ErrRevoked):
		p.Type = typePrefix + "revoked"
	}
	return p.complete()
}

// tooSmall is what somebody gets whose scope does not suffice.
func tooSmall(who access.Who, want access.Scope) Problem {
	return Problem{Status: http.StatusForbidden, Type: typePrefix + "scope", Detail: who.String() + " has scope " + string(who.Scope) + "; this takes " + string(want),
		Next: "ask the administrator of the server: ingot token create NAME --scope " + string(want)}.complete()
}
