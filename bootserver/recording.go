package bootserver

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"

	"ingot/bootserver/api"
	"ingot/bootserver/capture"
	"ingot/bootserver/state"
)

// maxCaptures bounds how many frames are copied for people at once.
const maxCaptures = 4

// Capture implements api.Backend. It changes nothing, and is noted all the
// same: the key of the machine's boot is in what it sees.
func (a admin) Capture(ctx context.Context, ref string, w io.Writer, most int64) error {
	m, err := a.Machine(ref)
	if err != nil {
		return err
	}
	if a.server.captures.Add(1) > maxCaptures {
		a.server.captures.Add(-1)
		return api.Problem{Status: 503, Detail: fmt.Sprintf("%d captures are under way", maxCaptures), Next: "end one of them"}
	}
	defer a.server.captures.Add(-1)
	who := capture.Machine{Address: m.Address}
	for _, s := range m.MACs {
		if mac, err := net.ParseMAC(s); err == nil {
			who.MACs = append(who.MACs, mac)
		}
	}
	a.server.reloading.Lock()
	var interfaces []string
	for _, l := range a.server.site.links {
		interfaces = append(interfaces, l.name)
	}
	slices.Sort(interfaces)
	interfaces = slices.Compact(interfaces)
	a.server.reloading.Unlock()
	if err := a.state.Update(func(tx *state.Tx) error {
		tx.Audit(a.noted(ctx, "machine.capture", string(m.ID), m.Hostname(), nil, nil))
		return nil
	}); err != nil {
		return err
	}
	a.log.Info("capturing", "machine", m.ID, "interfaces", interfaces)
	return capture.Run(ctx, w, interfaces, who, most)
}
