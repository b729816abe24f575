package api

import (
	"context"
	"net/http"
	"time"

	"ingot/bootserver/access"
)

// Desired is what the server can do about the desired state of the fleet.
type Desired interface {
	// Desired returns the desired state as a file.
	Desired(ctx context.Context) (DesiredState, error)
	// ApplyDesired makes the fleet as files say, or with DryRun says what would change.
	ApplyDesired(ctx context.Context, q DesiredRequest) (DesiredPlan, error)
}

// DesiredState is the fleet as a file that can be applied.
type DesiredState struct {
	YAML       string    `json:"yaml"`
	Generation uint64    `json:"generation"` // of what was applied last; 0: nothing was
	At         time.Time `json:"at,omitzero"`
	By         string    `json:"by,omitempty"`
	Following  bool      `json:"following,omitempty"` // machines do not have all of it yet
	Problems   []string  `json:"problems,omitempty"`  // why some machines could not follow
}

// DesiredRequest has files with the desired state.
type DesiredRequest struct {
	Files  []DesiredFile `json:"files" minItems:"1" maxItems:"1000"`
	Prune  bool          `json:"prune,omitempty" doc:"Remove labels, pins and rules that these files lack."`
	Forget bool          `json:"forget,omitempty" doc:"With prune, also delete machines."`
	Force  bool          `json:"force,omitempty" doc:"As in AssignRequest."`
	Retry  bool          `json:"retry,omitempty" doc:"Start rollouts again that were aborted."`
	Basis  string        `json:"basis,omitempty" maxLength:"80" doc:"Of a plan: carry out that one, or nothing."`
	DryRun bool          `json:"dryRun,omitempty"`
}

// DesiredFile is one file.
type DesiredFile struct {
	Name    string `json:"name" maxLength:"4096"` // for places of faults
	Content string `json:"content"`
}

// DesiredPlan is what files change.
type DesiredPlan struct {
	Changes []DesiredChange `json:"changes"`
	Notes   []string        `json:"notes,omitempty"`
	Basis   string          `json:"basis"`
	DryRun  bool            `json:"dryRun,omitempty"`
	// ids of rollouts that were started
	Rollouts []string `json:"rollouts,omitempty"`
	// why some machines could not follow
	Problems []string `json:"problems,omitempty"`
}

// DesiredChange is one change.
type DesiredChange struct {
	Do   string   `json:"do" enum:"add,change,remove,rollout"`
	Kind string   `json:"kind" enum:"machine,rule,assignment,policy"`
	Name string   `json:"name"`
	What []string `json:"what,omitempty"`
}

// maxDesired bounds the body of a request with files, in bytes.
const maxDesired = 16 << 20

func desiredRoutes(r *routes, b Backend) {
	type applyIn struct{ Body DesiredRequest }
	add(r, "GET /v1/fleet", access.Read, "The fleet as a file that can be applied",
		func(ctx context.Context, _ *nothingIn) (DesiredState, error) { return b.Desired(ctx) })
	add(r, "POST /v1/fleet", access.Operate, "Make the fleet as files say",
		func(ctx context.Context, in *applyIn) (DesiredPlan, error) { return b.ApplyDesired(ctx, in.Body) },
		bodyOf(maxDesired))
	add(r, "POST /v1/fleet/diff", access.Read, "What files would change; nothing is changed",
		func(ctx context.Context, in *applyIn) (DesiredPlan, error) {
			in.Body.DryRun = true
			return b.ApplyDesired(ctx, in.Body)
		}, bodyOf(maxDesired))
}

// Desired returns the fleet as a file.
func (c *Client) Desired(ctx context.Context) (s DesiredState, err error) {
	return s, c.patient(longPatience).call(ctx, http.MethodGet, "fleet", nil, &s)
}

// DiffDesired returns what files would change.
func (c *Client) DiffDesired(ctx context.Context, q DesiredRequest) (p DesiredPlan, err error) {
	return p, c.patient(longPatience).call(ctx, http.MethodPost, "fleet/diff", q, &p)
}

// ApplyDesired makes the fleet as files say.
func (c *Client) ApplyDesired(ctx context.Context, q DesiredRequest) (p DesiredPlan, err error) {
	return p, c.patient(longPatience).call(ctx, http.MethodPost, "fleet", q, &p)
}
