package bootserver

import (
	"ingot/bootserver/api"
	"ingot/bootserver/fleet"
	"ingot/bootserver/network"
)

// networkOf converts leases and what the DHCP servers of both families observed to
// the API's types. Its lists are never nil: they are encoded as [].
func networkOf(leases []fleet.Lease, families ...network.Observations) api.Network {
	n := api.Network{Clients: []api.NetworkClient{}, Servers: []api.NetworkServer{}, Warnings: []api.NetworkWarning{}, Leases: leases}
	for _, o := range families {
		for _, c := range o.Clients {
			n.Clients = append(n.Clients, api.NetworkClient(c))
		}
		for _, s := range o.Servers {
			n.Servers = append(n.Servers, api.NetworkServer(s))
		}
		for _, w := range o.Warnings {
			n.Warnings = append(n.Warnings, api.NetworkWarning(w))
		}
	}
	return n
}
