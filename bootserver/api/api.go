// Package api is how operators speak to a running server: REST with JSON over
// the server's Unix socket, and the client that the command line uses.
// Whoever can open the socket (mode 0600) administers the server. Errors are
// problem details (RFC 9457) with the next step to take.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"ingot/bootserver/dhcp"
	"ingot/bootserver/fleet"
)

// Backend is what the server can do for operators.
type Backend interface {
	Version() string
	Network() Network
	Machines() []fleet.Machine
	Machine(ref string) (fleet.Machine, error)
	Boots(ref string, limit int) ([]fleet.Boot, error)
	Ledger
	Approve(ctx context.Context, ref string, q ApproveRequest) (fleet.Machine, error)
	Assign(ctx context.Context, ref, image, why string) (fleet.Machine, error)
	Rollback(ctx context.Context, ref string) (fleet.Machine, error)
	Resume(ref string) (fleet.Machine, error)
	Grant(ref, volume, disk string, ttl time.Duration) (fleet.Machine, error)
	Reload(ctx context.Context) (Reloaded, error)
}

// Reloaded says what reading the configuration again changed.
type Reloaded struct {
	Changed []string `json:"changed,omitempty"` // sections that are in force now
	Restart []string `json:"restart,omitempty"` // what differs and takes a restart of the server
}

// Network is what the server heard and lent on the networks that it serves.
type Network struct {
	dhcp.Heard
	Leases []fleet.Lease `json:"leases"`
}

// ApproveRequest says how a machine is approved; both fields may be empty.
type ApproveRequest struct {
	Name  string `json:"name,omitempty"`
	Image string `json:"image,omitempty"`
}

// AssignRequest names an image for a machine.
type AssignRequest struct {
	Image string `json:"image"`
	Why   string `json:"why,omitempty"`
}

// GrantRequest names the disk that one boot may initialise.
type GrantRequest struct {
	Volume string        `json:"volume"`
	Disk   string        `json:"disk"`
	For    time.Duration `json:"for"` // nanoseconds
}

// Problem is an error with a status and the next step (RFC 9457).
type Problem struct {
	Status int    `json:"status"`
	Title  string `json:"title"`
	Next   string `json:"next,omitempty"`
}

func (p Problem) Error() string { return p.Title }

// Handler serves the API.
func Handler(b Backend) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]string{"version": b.Version()}, nil)
	})
	mux.HandleFunc("GET /v1/network", func(w http.ResponseWriter, _ *http.Request) { answer(w, b.Network(), nil) })
	mux.HandleFunc("GET /v1/machines", func(w http.ResponseWriter, _ *http.Request) { answer(w, b.Machines(), nil) })
	mux.HandleFunc("GET /v1/machines/{ref}", func(w http.ResponseWriter, r *http.Request) {
		m, err := b.Machine(r.PathValue("ref"))
		answer(w, m, err)
	})
	mux.HandleFunc("GET /v1/boots", func(w http.ResponseWriter, r *http.Request) {
		limit, err := strconv.Atoi(r.FormValue("limit"))
		if err != nil || limit < 0 {
			limit = 0
		}
		if r.FormValue("latest") != "" {
			answer(w, b.LatestBoots(), nil)
			return
		}
		list, err := b.Boots(r.FormValue("machine"), limit)
		if list == nil {
			list = []fleet.Boot{}
		}
		answer(w, list, err)
	})
	mux.HandleFunc("POST /v1/machines/{ref}/approve", post(func(r *http.Request, q ApproveRequest) (fleet.Machine, error) {
		return b.Approve(r.Context(), r.PathValue("ref"), q)
	}))
	mux.HandleFunc("POST /v1/machines/{ref}/assign", post(func(r *http.Request, q AssignRequest) (fleet.Machine, error) {
		return b.Assign(r.Context(), r.PathValue("ref"), q.Image, q.Why)
	}))
	mux.HandleFunc("POST /v1/machines/{ref}/rollback", post(func(r *http.Request, _ struct{}) (fleet.Machine, error) {
		return b.Rollback(r.Context(), r.PathValue("ref"))
	}))
	mux.HandleFunc("POST /v1/machines/{ref}/resume", post(func(r *http.Request, _ struct{}) (fleet.Machine, error) {
		return b.Resume(r.PathValue("ref"))
	}))
	mux.HandleFunc("POST /v1/machines/{ref}/grants", post(func(r *http.Request, q GrantRequest) (fleet.Machine, error) {
		return b.Grant(r.PathValue("ref"), q.Volume, q.Disk, q.For)
	}))
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, r *http.Request) {
		done, err := b.Reload(r.Context())
		answer(w, done, err)
	})
	ledgerRoutes(mux, b)
	return mux
}

func post[Q any](f func(*http.Request, Q) (fleet.Machine, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			answer(w, nil, Problem{Status: 400, Title: "the request is not the JSON that is wanted: " + err.Error()})
			return
		}
		m, err := f(r, q)
		answer(w, m, err)
	}
}

func answer(w http.ResponseWriter, v any, err error) {
	kind, status := "application/json", http.StatusOK
	if err != nil {
		p := Problem{Status: http.StatusInternalServerError, Title: err.Error()}
		errors.As(err, &p)
		v, kind, status = p, "application/problem+json", p.Status
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that hung up wants no answer
}
