package api

import (
	"context"
	"net/http"
	"net/url"

	"ingot"
	"ingot/bootserver/access"
)

// Machinery is what operators do with machines.
type Machinery interface {
	Label(ctx context.Context, ref string, q LabelRequest) (Machine, error)
	Rename(ctx context.Context, ref, name string) (Machine, error)
	Retire(ctx context.Context, ref string) (Machine, error)
	Forget(ctx context.Context, ref string, force bool) (Machine, error)
	Merge(ctx context.Context, from, into string, force bool) (Machine, error)
	Import(ctx context.Context, q ImportRequest) (Imported, error)
	// Reboot orders the running system of a machine to reboot, and returns its boot with the order.
	Reboot(ctx context.Context, ref string, q RebootRequest) (Boot, error)
	// CancelReboot withdraws such an order.
	CancelReboot(ctx context.Context, ref string) (Boot, error)
}

// RebootRequest orders a machine to reboot.
type RebootRequest struct {
	Drain ingot.Drain `json:"drain,omitempty" enum:"required,best-effort" doc:"Run the drain hooks of its image first."`
	Why   string      `json:"why,omitempty" maxLength:"400"`
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
	Into  string `json:"into"`
	Force bool   `json:"force,omitempty"` // although the one that vanishes ran later than the other
}

// ImportRequest is a list of machines that are expected.
type ImportRequest struct {
	Machines []Planned `json:"machines"`
	DryRun   bool      `json:"dryRun,omitempty"` // say what would be done
	Force    bool      `json:"force,omitempty" doc:"As in AssignRequest."`
}

// Imported says what a list changed.
type Imported struct {
	Actions []Action `json:"actions"`
	DryRun  bool     `json:"dryRun,omitempty"`
}

// maxImport bounds the body of a list, in bytes.
const maxImport = 16 << 20

func machineryRoutes(r *routes, b Machinery) {
	add(r, "POST /v1/machines/{ref}/label", access.Operate, "Change the labels of a machine",
		func(ctx context.Context, in *changeIn[LabelRequest]) (Machine, error) {
			return b.Label(ctx, in.Ref, in.Body)
		})
	add(r, "POST /v1/machines/{ref}/rename", access.Operate, "Give a machine another host name",
		func(ctx context.Context, in *changeIn[RenameRequest]) (Machine, error) {
			return b.Rename(ctx, in.Ref, in.Body.Name)
		})
	add(r, "POST /v1/machines/{ref}/retire", access.Operate, "Let a machine not boot any more",
		func(ctx context.Context, in *MachineIn) (Machine, error) {
			return b.Retire(ctx, in.Ref)
		})
	add(r, "POST /v1/machines/{ref}/forget", access.Operate, "Forget a machine and its boots",
		func(ctx context.Context, in *changeIn[ForgetRequest]) (Machine, error) {
			return b.Forget(ctx, in.Ref, in.Body.Force)
		})
	add(r, "POST /v1/machines/{ref}/merge", access.Operate, "Say that a machine is the same as another one",
		func(ctx context.Context, in *changeIn[MergeRequest]) (Machine, error) {
			return b.Merge(ctx, in.Ref, in.Body.Into, in.Body.Force)
		})
	add(r, "POST /v1/machines/{ref}/reboot", access.Operate, "Order the running system of a machine to reboot",
		func(ctx context.Context, in *changeIn[RebootRequest]) (Boot, error) {
			return b.Reboot(ctx, in.Ref, in.Body)
		})
	add(r, "DELETE /v1/machines/{ref}/reboot", access.Operate, "Withdraw the order to reboot, as long as that is possible",
		func(ctx context.Context, in *MachineIn) (Boot, error) { return b.CancelReboot(ctx, in.Ref) })
	type importIn struct{ Body ImportRequest }
	add(r, "POST /v1/import", access.Operate, "Make machines known before they boot",
		func(ctx context.Context, in *importIn) (Imported, error) {
			return b.Import(ctx, in.Body)
		}, bodyOf(maxImport))
}

// MachinesBrief lists all machines with what a table shows of them.
func (c *Client) MachinesBrief(ctx context.Context) (list []Machine, err error) {
	return pages[Machine](ctx, c, "machines", url.Values{"limit": {"10000"}, "brief": {"true"}})
}

// Label changes the labels of a machine.
func (c *Client) Label(ctx context.Context, ref string, q LabelRequest) (Machine, error) {
	return c.change(ctx, ref, "label", q)
}

// Rename gives a machine another host name.
func (c *Client) Rename(ctx context.Context, ref, name string) (Machine, error) {
	return c.change(ctx, ref, "rename", RenameRequest{name})
}

// Retire lets a machine not boot any more.
func (c *Client) Retire(ctx context.Context, ref string) (Machine, error) {
	return c.change(ctx, ref, "retire", nil)
}

// Forget forgets a machine and its boots.
func (c *Client) Forget(ctx context.Context, ref string, force bool) (Machine, error) {
	return c.change(ctx, ref, "forget", ForgetRequest{force})
}

// Merge says that a machine is the same as another one.
func (c *Client) Merge(ctx context.Context, ref, into string) (Machine, error) {
	return c.change(ctx, ref, "merge", MergeRequest{Into: into})
}

// ForceMerge is Merge although the machine that vanishes ran later than the other.
func (c *Client) ForceMerge(ctx context.Context, ref, into string) (Machine, error) {
	return c.change(ctx, ref, "merge", MergeRequest{Into: into, Force: true})
}

// Reboot orders the running system of a machine to reboot.
func (c *Client) Reboot(ctx context.Context, ref string, q RebootRequest) (b Boot, err error) {
	return b, c.call(ctx, http.MethodPost, "machines/"+url.PathEscape(ref)+"/reboot", q, &b)
}

// CancelReboot withdraws the order to reboot.
func (c *Client) CancelReboot(ctx context.Context, ref string) (b Boot, err error) {
	return b, c.call(ctx, http.MethodDelete, "machines/"+url.PathEscape(ref)+"/reboot", nil, &b)
}

// Import makes machines known before they boot.
func (c *Client) Import(ctx context.Context, q ImportRequest) (done Imported, err error) {
	return done, c.call(ctx, http.MethodPost, "import", q, &done)
}
