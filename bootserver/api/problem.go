package api

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"ingot/bootserver/access"
)

// Problem is an error with a status and a code (RFC 9457). NewProblem makes one.
type Problem struct {
	Type   string            `json:"type" format:"uri" doc:"Coarser than code." example:"urn:ingot:problem:not-found"`
	Title  string            `json:"title" doc:"The kind in words, always the same."`
	Status int               `json:"status" doc:"The HTTP status of the answer."`
	Code   Code              `json:"code,omitempty"`
	Detail string            `json:"detail" doc:"What went wrong this time, for people."`
	Params map[string]string `json:"params,omitempty" doc:"What advice about the problem needs, by name; see the codes."`
}

// NewProblem returns the problem of a code. params are names and values, one after the other: those
// that the code's explanation names.
func NewProblem(code Code, detail string, params ...string) Problem {
	m, _ := meaningOf(code)
	p := Problem{Status: m.status, Code: code, Detail: detail}
	for i := 0; i+1 < len(params); i += 2 {
		if p.Params == nil {
			p.Params = map[string]string{}
		}
		p.Params[params[i]] = params[i+1]
	}
	return p.complete()
}

func (p Problem) Error() string { return p.Detail }

// GetStatus implements huma.StatusError.
func (p Problem) GetStatus() int { return p.Status }

// ContentType implements huma.ContentTypeFilter.
func (Problem) ContentType(string) string { return "application/problem+json" }

// typePrefix begins the types of problems. They name, they are not fetched.
const typePrefix = "urn:ingot:problem:"

// kinds are the types and titles of problems, by status.
var kinds = map[int][2]string{
	http.StatusBadRequest:            {"invalid", "Invalid request"},
	http.StatusUnauthorized:          {"unauthenticated", "Authentication required"},
	http.StatusForbidden:             {"forbidden", "Forbidden"},
	http.StatusNotFound:              {"not-found", "Not found"},
	http.StatusMethodNotAllowed:      {"method", "Method not allowed"},
	http.StatusConflict:              {"conflict", "Conflict with the present state"},
	http.StatusUnprocessableEntity:   {"invalid", "Invalid request"},
	http.StatusRequestEntityTooLarge: {"too-large", "Request too large"},
	http.StatusInternalServerError:   {"internal", "Internal server error"},
	http.StatusServiceUnavailable:    {"unavailable", "Service unavailable"},
}

// codeKinds are the types and titles of codes that have their own.
var codeKinds = map[Code][2]string{
	CodePlain:   {"plain", "Authentication required"},
	CodeExpired: {"expired", "Authentication required"},
	CodeRevoked: {"revoked", "Authentication required"},
	CodeScope:   {"scope", "Insufficient scope"},
}

// statusCodes are the codes of problems of which only the status is known.
var statusCodes = map[int]Code{
	http.StatusBadRequest:            CodeInvalidRequest,
	http.StatusUnprocessableEntity:   CodeInvalidRequest,
	http.StatusUnauthorized:          CodeWrongCredential,
	http.StatusRequestEntityTooLarge: CodeTooLarge,
	http.StatusInternalServerError:   CodeInternal,
	http.StatusServiceUnavailable:    CodeUnavailable,
}

// complete fills in what a status and a code imply.
func (p Problem) complete() Problem {
	if p.Status == 0 {
		p.Status = http.StatusInternalServerError
	}
	if p.Code == "" {
		p.Code = statusCodes[p.Status]
	}
	kind, known := codeKinds[p.Code]
	if !known {
		kind, known = kinds[p.Status]
	}
	if !known {
		text := http.StatusText(p.Status)
		kind = [2]string{"http-" + strings.ToLower(strings.ReplaceAll(text, " ", "-")), text}
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
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		p = tooLarge(large.Limit)
	case errors.As(err, &p):
	case errors.As(err, &model):
		p = invalid(model)
	case errors.Is(err, access.ErrCredential):
		p = NewProblem(CodeInvalidCredential, err.Error())
	}
	return p.complete()
}

// tooLarge is the problem of a body of more bytes than a route takes.
func tooLarge(limit int64) Problem {
	size := fmt.Sprintf("%d KiB", limit>>10)
	if limit >= 1<<20 {
		size = fmt.Sprintf("%d MiB", limit>>20)
	}
	return NewProblem(CodeTooLarge, "the body of the request is too large: this route takes less than "+size)
}

// humaLimit is how huma says that a body is too large, and what its limit is.
var humaLimit = regexp.MustCompile(`limit=(\d+) bytes`)

// invalid says all that huma found wrong with a request, with its place.
func invalid(m *huma.ErrorModel) Problem {
	if found := humaLimit.FindStringSubmatch(m.Detail); m.Status == http.StatusRequestEntityTooLarge && found != nil {
		if limit, err := strconv.ParseInt(found[1], 10, 64); err == nil {
			return tooLarge(limit)
		}
	}
	p := Problem{Status: m.Status, Detail: m.Detail}
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

// refused is the problem of a request that is not let in.
func refused(err error) Problem {
	code := CodeWrongCredential
	switch {
	case errors.Is(err, access.ErrNobody):
		code = CodeUnauthenticated
	case errors.Is(err, access.ErrPlain):
		code = CodePlain
	case errors.Is(err, access.ErrExpired):
		code = CodeExpired
	case errors.Is(err, access.ErrRevoked):
		code = CodeRevoked
	case errors.Is(err, access.ErrPeer):
		code = CodeLocalUser
	case errors.Is(err, access.ErrTooManyWrong):
		code = CodeTooManyWrong
	}
	return NewProblem(code, err.Error())
}

// insufficient is the problem of a request whose scope does not cover it.
func insufficient(who access.Who, want access.Scope) Problem {
	return NewProblem(CodeScope, who.String()+" has scope "+string(who.Scope)+"; this takes "+string(want), "scope",
		string(want))
}
