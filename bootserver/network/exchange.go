package network

import (
	"cmp"
	"net/netip"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
)

// Exchange is what is known about a packet of a client, whatever its family.
type Exchange[I Interface, M Machine[O], O Options[O]] struct {
	Now      time.Time
	Site     *Site[I, M, O]
	Served   *Served[I, O] // interface on which the packet arrived
	Client   client.Client
	Key      string          // of the client, see fleet.Lease.Client
	Identity client.Identity // of its machine in the fleet
	Machine  *M              // as configured; may be nil
	Network  *Network[O]     // that the client is in; may be nil
	Subnet   *Subnet[O]      // to prefer there; may be nil
	Address  netip.Addr      // of this server for the client
	Port     fleet.SwitchPort
	pending  []lease.Pending // assigned, and maybe not durable yet
}

// Identify looks the client's machine up in the fleet and in the configuration,
// where keys are further names of the client.
func (x *Exchange[I, M, O]) Identify(b client.Booter, keys ...string) {
	x.Identity = b.Lookup(x.Client.MAC, x.Client.UUID)
	if x.Client.UUID == "" {
		x.Client.UUID = x.Identity.UUID
	}
	if x.Machine = x.Site.Machine(x.Client.MAC, x.Client.UUID); x.Machine == nil {
		x.Machine = x.Site.Machine(append(keys, strings.ToLower(x.Identity.Name))...)
	}
}

// Known reports whether the client's machine is configured or approved.
func (x *Exchange[I, M, O]) Known() bool { return x.Machine != nil || x.Identity.Approved }

// Card returns the client as the holder of addresses of its network.
func (x *Exchange[I, M, O]) Card() lease.Card {
	return lease.Card{Network: x.Network.Name, Client: x.Key}
}

// Ask returns what the client needs of the lease book. wish is the address that it
// asks for; it may be invalid.
func (x *Exchange[I, M, O]) LeaseRequest(wish netip.Addr) lease.Request {
	a := lease.Request{Card: x.Card(), Known: x.Known(), Requested: wish, Siblings: x.Identity.MACs,
		Reset: x.Client.Kind == client.Firmware}
	if x.Subnet != nil {
		a.Near = x.Subnet.Prefix
	}
	if x.Machine != nil {
		if ip := (*x.Machine).Reservation().Address; ip.IsValid() && x.Network.Subnet(ip) != nil {
			a.Reserved = ip
		}
	}
	return a
}

// Options returns the options of the client with an address, which may be invalid,
// and the subnet whose options they include, nil for none.
func (x *Exchange[I, M, O]) Options(ip netip.Addr) (O, *Subnet[O]) {
	sub := x.Subnet
	if x.Network != nil {
		if own := x.Network.Subnet(ip); own != nil {
			sub = own
		}
	}
	base, name := x.Site.Options, ""
	if sub != nil {
		base, name = sub.Options, x.Network.Name
	}
	return x.Site.OptionsOf(base, x.Client, x.Identity.Name, name, x.Machine), sub
}

// Sighting describes the client for the Booter. ip is its address, which may be
// invalid.
func (x *Exchange[I, M, O]) Sighting(ip netip.Addr) client.Sighting {
	s := client.Sighting{Client: x.Client, Address: ip, Server: x.Address, Port: x.Port}
	s.Origin = fleet.Origin{Interface: x.Served.Config.Settings().Name, IPv6: x.Site.Options.Family() == IPv6}
	if x.Network != nil {
		s.Origin.Network = x.Network.Name
	}
	if x.Client.Kind == client.Init || x.Client.Kind == client.System {
		return s // they load no first stage
	}
	options, _ := x.Options(ip)
	if s.Loaders = options.FirstStages(); s.Loaders == nil {
		s.Loaders = client.DefaultLoaders[x.Client.Firmware]
	}
	return s
}

// configured is the machine of a lease whose machine is configured and has not
// booted yet.
const configured = ingot.MachineID("configured")

// Assign makes an address the client's for some time. It reports false if another client was faster.
// Nothing may be answered before Commit.
func (x *Exchange[I, M, O]) Assign(b *lease.Book, r lease.Request, ip netip.Addr, valid time.Duration,
	hostname string) bool {
	l := fleet.LeaseOf(x.Key, ip)
	l.Expires, l.Port, l.Hostname = x.Now.Add(valid), x.Port, hostname
	if x.Known() {
		if l.Machine = x.Identity.ID; l.Machine == "" {
			l.Machine = configured
		}
	}
	pending, ok := b.Take(r, l, x.Now)
	if ok {
		x.pending = append(x.pending, pending)
	}
	return ok
}

// Commit waits until all that was assigned is durable. What is recorded between Assign and Commit
// shares a write to the disk with the lease.
func (x *Exchange[I, M, O]) Commit() error {
	var failed error
	for _, p := range x.pending {
		failed = cmp.Or(failed, p.Commit())
	}
	x.pending = nil
	return failed
}

// Boot returns what the client boots, which is recorded and durable.
func (x *Exchange[I, M, O]) Boot(b client.Booter, s client.Sighting) (client.Boot, error) {
	if x.Client.Kind == client.System {
		return client.Boot{}, nil
	}
	return b.Observe(s)
}

// Observed describes the client for an Observer.
func (x *Exchange[I, M, O]) Observed(hostname string) ObservedClient {
	return ObservedClient{Interface: x.Served.Config.Settings().Name, MAC: client.Clip(x.Key), UUID: x.Client.UUID,
		Class:    x.Client.Class,
		Firmware: x.Client.Firmware, Quirk: x.Client.Quirk, Hostname: hostname, Port: x.Port}
}

// PacketRecord returns a record of a packet of the client.
func (x *Exchange[I, M, O]) PacketRecord(p fleet.Packet) client.Packet {
	p.At = x.Now
	return client.Packet{Packet: p, MAC: x.Client.MAC, UUID: x.Client.UUID}
}

// WouldAnswer returns what the server would give to a client that asks for an
// address, which may be invalid, as text. boots is nil if the client would be given
// nothing to boot.
func (x *Exchange[I, M, O]) WouldAnswer(book *lease.Book, wish netip.Addr, boots func(ip netip.Addr) (client.Boot,
	error)) string {
	var parts []string
	var ip netip.Addr
	if x.Network != nil {
		var err error
		if ip, err = book.Peek(x.LeaseRequest(wish), x.Now); err != nil {
			parts = append(parts, err.Error())
		} else {
			parts = append(parts, ip.String())
		}
	}
	if boots != nil {
		switch boot, err := boots(ip); {
		case err != nil:
			parts = append(parts, err.Error())
		case boot == client.Boot{}:
			parts = append(parts, "nothing to boot: no loader for its firmware")
		default:
			parts = append(parts, boot.String())
		}
	}
	if len(parts) == 0 {
		return "nothing: no network is configured for it"
	}
	return strings.Join(parts, ", ")
}
