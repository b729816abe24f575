package bootserver

import (
	"cmp"

	"ingot/bootserver/api"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
	"ingot/bootserver/fleet"
	"ingot/bootserver/network"
	"ingot/bootserver/operator"
)

// networkOf converts leases and what the DHCP servers of both families observed to
// the API's types. Its lists are never nil: they are encoded as [].
func networkOf(leases []fleet.Lease, families ...network.Observations) api.Network {
	n := api.Network{Interfaces: []api.NetworkInterface{}, Clients: []api.NetworkClient{},
		Servers: []api.NetworkServer{}, Warnings: []api.NetworkWarning{},
		Refused: []api.RefusedRelay{}, Leases: []api.Lease{}}
	for _, l := range leases {
		n.Leases = append(n.Leases, operator.LeaseOf(l))
	}
	for _, o := range families {
		for _, c := range o.Clients {
			n.Clients = append(n.Clients, clientOf(c))
		}
		for _, s := range o.Servers {
			n.Servers = append(n.Servers, api.NetworkServer(s))
		}
		for _, w := range o.Warnings {
			n.Warnings = append(n.Warnings, api.NetworkWarning(w))
		}
		for _, r := range o.Refusals {
			n.Refused = append(n.Refused, api.RefusedRelay{Interface: r.Interface, Code: string(r.Code), Relay: r.Relay,
				Link: r.Link, From: r.From, Network: r.Network, Section: r.Section, Add: r.Add, Text: r.String(),
				First: r.First, Last: r.Last, Packets: r.Packets})
		}
	}
	return n
}

// interfaces are those of the configuration.
func (s site) interfaces(answers func(key string) bool) (list []api.NetworkInterface) {
	for _, l := range s.links {
		i := api.NetworkInterface{Name: l.name, Addresses: l.addresses, IPv6: l.six != nil}
		if l.six != nil {
			i.Mode = cmp.Or(string(l.six.Mode), string(dhcp6.Full))
		} else {
			i.Mode = cmp.Or(string(l.four.Mode), string(dhcp4.Full))
		}
		if i.Served = answers(l.key()); !i.Served {
			i.Why = "it has no link; DHCP is answered as soon as it has one and no other server is heard there"
		}
		list = append(list, i)
	}
	for _, a := range s.absent {
		list = append(list, api.NetworkInterface{Name: a.name, IPv6: a.six, Mode: cmp.Or(a.mode, string(dhcp4.Full)),
			Why: a.why})
	}
	return list
}

// clientOf converts what was observed of a client.
func clientOf(c network.ObservedClient) api.NetworkClient {
	out := api.NetworkClient{Interface: c.Interface, MAC: c.MAC, UUID: c.UUID, Class: c.Class, Firmware: c.Firmware,
		Hostname: c.Hostname, Quirk: c.Quirk, Port: api.SwitchPort(c.Port), Answers: c.Answers, WouldAnswer: c.WouldAnswer,
		First: c.First, Last: c.Last, Packets: c.Packets}
	for _, o := range c.Others {
		out.Others = append(out.Others, operator.OtherOf(o))
	}
	return out
}
