package operator

import (
	"context"
	"fmt"
	"io"
	"net"

	"ingot/bootserver/api"
	"ingot/bootserver/capture"
	"ingot/bootserver/fleet"
)

// maxCaptures bounds how many frames are copied for people at once.
const maxCaptures = 4

// Capture implements api.Backend. It changes nothing, and is noted all the
// same: the keys of the machines' boots are in what it sees.
func (o *Operator) Capture(ctx context.Context, refs []string, w io.Writer, most int64) error {
	list, err := o.named(refs)
	if err != nil {
		return err
	}
	if o.captures.Add(1) > maxCaptures {
		o.captures.Add(-1)
		return api.NewProblem(api.CodeTooManyCaptures, fmt.Sprintf("%d captures are under way", maxCaptures))
	}
	defer o.captures.Add(-1)
	var who capture.Machines
	var names []string
	for _, m := range list {
		names = append(names, m.Hostname())
		if m.Address.IsValid() {
			who.Addresses = append(who.Addresses, m.Address.Unmap().WithZone(""))
		}
		if m.UUID != "" {
			who.UUIDs = append(who.UUIDs, m.UUID)
		}
		for _, s := range m.MACs {
			if mac, err := net.ParseMAC(s); err == nil {
				who.MACs = append(who.MACs, mac)
			}
		}
	}
	if err := who.Check(); err != nil {
		return api.NewProblem(api.CodeCaptureTooWide, err.Error())
	}
	interfaces := o.host.Interfaces()
	now := o.now()
	var changes []fleet.Change
	for _, m := range list {
		changes = append(changes, on(m, Action(ctx, now, fleet.ActionCapture, nil, nil)))
	}
	if err := o.state.Append(changes...); err != nil {
		return err
	}
	o.log.Info("capturing", "machines", names, "interfaces", interfaces)
	return capture.Run(ctx, w, interfaces, who, most)
}
