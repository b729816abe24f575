package web

import (
	"slices"

	"ingot"
	"ingot/bootserver/api"
	"ingot/bootserver/web/format"
)

// networkData is what the page Network shows.
type networkData struct {
	*query
	api.Network
	Names   map[ingot.MachineID]string
	Leases  []api.Lease
	Asked   []api.NetworkClient // clients that were heard, the latest first
	Hidden  int                 // leases and clients beyond those that are shown
	Working bool                // every interface is served, and nothing is wrong
}

const mostRows = 500 // of a table

func (s *Server) network(q *query) (page, error) {
	n := s.backend.Network()
	d := networkData{query: q, Network: n, Names: s.names(q), Leases: n.Leases, Asked: n.Clients}
	slices.SortFunc(d.Leases, func(a, b api.Lease) int { return a.Address.Compare(b.Address) })
	slices.SortFunc(d.Asked, func(a, b api.NetworkClient) int { return b.Last.Compare(a.Last) })
	d.Hidden = max(0, len(d.Leases)-mostRows) + max(0, len(d.Asked)-mostRows)
	d.Leases, d.Asked = d.Leases[:min(len(d.Leases), mostRows)], d.Asked[:min(len(d.Asked), mostRows)]
	d.Working = len(n.Warnings) == 0 && len(n.Refused) == 0 && len(n.Interfaces) > 0
	for _, i := range n.Interfaces {
		d.Working = d.Working && i.Served
	}
	p := page{title: "Network", nav: "network", body: "network", data: d, command: format.Command("network")}
	p.parts = []part{{"interfaces", "network-interfaces", d}, {"servers", "network-servers", d},
		{"clients", "network-clients", d}, {"leases", "network-leases", d}}
	return p, nil
}

// names are those of machines by id.
func (s *Server) names(q *query) map[ingot.MachineID]string {
	names := map[ingot.MachineID]string{}
	for _, m := range s.machines(q) {
		names[m.ID] = m.Hostname()
	}
	return names
}

// Name is what the machine of a lease is called.
func (d networkData) Name(id ingot.MachineID) string { return d.Names[id] }
