package api

import (
	"context"
	"encoding/json"
	"net/http"

	"ingot/bootserver/fleet"
)

// Machinery is what operators do with machines.
type Machinery interface {
	Label(ref string, q LabelRequest) (fleet.Machine, error)
	Rename(ref, name string) (fleet.Machine, error)
	Retire(ref string) (fleet.Machine, error)
	Forget(ref string, force bool) (fleet.Machine, error)
	Merge(from, into string) (fleet.Machine, error)
	Import(ctx context.Context, q ImportRequest) (Imported, error)
}

// LabelRequest changes labels.
type LabelRequest struct {
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// RenameRequest gives a machine another host name; empty takes it away.
type RenameRequest struct {
	Name string `json:"name"`
}

// ForgetRequest forgets a machine.
type ForgetRequest struct {
	Force bool `json:"force,omitempty"` // although it is approved
}

// MergeRequest names the machine that another one is the same as.
type MergeRequest struct {
	Into string `json:"into"`
}

// ImportRequest is a list of machines that are expected.
type ImportRequest struct {
	Machines []fleet.Planned `json:"machines"`
	DryRun   bool            `json:"dryRun,omitempty"` // say what would be done
}

// Imported says what a list changed.
type Imported struct {
	Actions []fleet.Action `json:"actions"`
	DryRun  bool           `json:"dryRun,omitempty"`
}

// maxImport bounds the body of a list, in bytes.
const maxImport = 16 << 20

func machineRoutes(mux *http.ServeMux, b Machinery) {
	mux.HandleFunc("POST /v1/machines/{ref}/label", post(func(r *http.Request, q LabelRequest) (fleet.Machine, error) {
		return b.Label(r.PathValue("ref"), q)
	}))
	mux.HandleFunc("POST /v1/machines/{ref}/rename", post(func(r *http.Request, q RenameRequest) (fleet.Machine, error) {
		return b.Rename(r.PathValue("ref"), q.Name)
	}))
	mux.HandleFunc("POST /v1/machines/{ref}/retire", post(func(r *http.Request, _ struct{}) (fleet.Machine, error) {
		return b.Retire(r.PathValue("ref"))
	}))
	mux.HandleFunc("POST /v1/machines/{ref}/forget", post(func(r *http.Request, q ForgetRequest) (fleet.Machine, error) {
		return b.Forget(r.PathValue("ref"), q.Force)
	}))
	mux.HandleFunc("POST /v1/machines/{ref}/merge", post(func(r *http.Request, q MergeRequest) (fleet.Machine, error) {
		return b.Merge(r.PathValue("ref"), q.Into)
	}))
	mux.HandleFunc("POST /v1/import", func(w http.ResponseWriter, r *http.Request) {
		var q ImportRequest
		d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxImport))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil {
			answer(w, nil, Problem{Status: 400, Title: "the request is not the JSON that is wanted: " + err.Error()})
			return
		}
		done, err := b.Import(r.Context(), q)
		answer(w, done, err)
	})
}

// MachinesBrief lists all machines with what a table shows of them.
func (c *Client) MachinesBrief(ctx context.Context) (list []fleet.Machine, err error) {
	return list, c.call(ctx, http.MethodGet, "machines?brief=1", nil, &list)
}

// Label changes the labels of a machine.
func (c *Client) Label(ctx context.Context, ref string, q LabelRequest) (fleet.Machine, error) {
	return c.change(ctx, ref, "label", q)
}

// Rename gives a machine another host name.
func (c *Client) Rename(ctx context.Context, ref, name string) (fleet.Machine, error) {
	return c.change(ctx, ref, "rename", RenameRequest{name})
}

// Retire lets a machine not boot any more.
func (c *Client) Retire(ctx context.Context, ref string) (fleet.Machine, error) {
	return c.change(ctx, ref, "retire", struct{}{})
}

// Forget forgets a machine and its boots.
func (c *Client) Forget(ctx context.Context, ref string, force bool) (fleet.Machine, error) {
	return c.change(ctx, ref, "forget", ForgetRequest{force})
}

// Merge says that a machine is the same as another one.
func (c *Client) Merge(ctx context.Context, ref, into string) (fleet.Machine, error) {
	return c.change(ctx, ref, "merge", MergeRequest{into})
}

// Import makes machines known before they boot.
func (c *Client) Import(ctx context.Context, q ImportRequest) (done Imported, err error) {
	return done, c.call(ctx, http.MethodPost, "import", q, &done)
}
