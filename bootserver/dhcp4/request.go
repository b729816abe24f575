package dhcp4

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/client"
	"ingot/bootserver/lease"
)

// PortDHCP is the UDP port of DHCP servers.
const PortDHCP = dhcpv4.ServerPort

// Packet is a message as it arrived.
type Packet struct {
	Interface string
	From      netip.AddrPort
	To        netip.Addr // as the sender addressed it
	Port      uint16     // PortDHCP or client.PortPXE
	Message   *dhcpv4.DHCPv4
}

// Reply is a message as it leaves.
type Reply struct {
	Interface string
	From      netip.AddrPort
	To        netip.AddrPort
	Hardware  net.HardwareAddr // not nil: of a client that does not answer ARP yet
	Message   *dhcpv4.DHCPv4
	record    *client.Packet // to be recorded when it has been sent; may be nil
}

// request is one packet of a client with everything known about it.
type request struct {
	*Server
	Packet
	exchange
	relayed
	routed  bool   // it came from another network without a relay
	refusal string // why the client does not get what it asks for
}

// Handle returns the answer to a packet, nil for none. What it acknowledges is
// durable. It may take as long as probing an address does.
func (s *Server) Handle(ctx context.Context, p Packet) (*Reply, error) {
	switch id, at := readIngot(p.Message); id {
	case "":
	case trialID:
		return s.answerTrial(p), nil
	default:
		return s.answerQuery(p, id, at), nil
	}
	r := s.newRequest(p)
	if r == nil || r.refused() {
		return nil, nil
	}
	r.Observer.AddClient(r.Observed(r.hostname()), r.Client.Kind != client.System, r.Now)
	r.identify()
	r.warnNoLoader()
	var a *dhcpv4.DHCPv4
	var err error
	switch r.Served.Config.mode() {
	case Full:
		a, err = r.full(ctx)
	case Proxy:
		a, err = r.proxy()
	case Observe:
		r.observe()
	}
	if a == nil || err != nil {
		return nil, err
	}
	reply := r.reply(a)
	reply.record = r.recordOf(a)
	return reply, nil
}

// answerQuery answers another ingot that looks for servers: with the identity of
// this one, and no address.
func (s *Server) answerQuery(p Packet, id, at string) *Reply {
	r := s.newRequest(p)
	if r == nil || id == s.id || p.Message.MessageType() != dhcpv4.MessageTypeDiscover || r.refused() || r.routed {
		return nil
	}
	r.identify()
	s.Observer.Warn(p.Interface, "ingot "+r.Client.MAC, "a second ingot serves this network: "+at+" (MAC "+r.Client.MAC+
		"); stop one of them, or use mode observe for one", r.Now)
	if r.Served.Config.mode() == Observe {
		return nil
	}
	a := Answer(p.Message, dhcpv4.MessageTypeOffer, client.Client{}, Settings{Server: r.Address, Proxy: true})
	a.UpdateOption(ingotOption(s.id))
	return r.reply(a)
}

// newRequest reads a packet. It returns nil if the interface is not served.
func (s *Server) newRequest(p Packet) *request {
	site := s.Site()
	on := site.Interfaces[p.Interface]
	if on == nil {
		return nil
	}
	r := &request{Server: s, Packet: p, relayed: readRelay(p.Message)}
	c := Parse(p.Message)
	r.exchange = exchange{Now: s.Now(), Site: site, Served: on, Client: c, Key: c.MAC}
	return r
}

// refused finds out where the client is, and reports whether its packet is refused.
// In observe mode, the client of an unknown relay is listed all the same.
func (r *request) refused() bool {
	why := r.place()
	if why == nil {
		return false
	}
	why.Interface = r.Interface
	r.Observer.Refuse(*why, r.Now)
	if r.Served.Config.mode() == Observe && r.Message.MessageType() == dhcpv4.MessageTypeDiscover {
		r.Observer.AddClient(r.Observed(r.hostname()), r.Client.Kind != client.System, r.Now)
		r.Observer.SetWouldAnswer(r.Interface, r.Client.MAC, "nothing: its relay is not listed")
	}
	return true
}

// identify finds out which machine sent the packet, and by which address it reaches
// the server.
func (r *request) identify() {
	r.Identify(r.Booter)
	switch {
	case r.Served.Owns(r.To):
		r.Address = r.To
	case r.Subnet != nil:
		r.Address = serverAddress(r.Served, r.Subnet.Prefix.Addr())
	default:
		r.Address = serverAddress(r.Served, r.relay)
	}
}

// hostname returns the name that the client gives itself.
func (r *request) hostname() string {
	h := r.Message.Options.Get(dhcpv4.OptionHostName)
	return client.Readable(unterminated(h[:min(len(h), 64)]))
}

// serverID returns the address by which the client identifies the server.
func (r *request) serverID() netip.Addr {
	if r.override.IsValid() {
		return r.override
	}
	return r.Address
}

// chosen reports whether the client names a server, and whether that is this one. A
// client that names none asks all servers.
func (r *request) chosen() (named, us bool) {
	id := address(r.Message.ServerIdentifier())
	return id.IsValid(), id.IsValid() && (r.Served.Owns(id) || id == r.override)
}

// requested returns the address that the client asks for with option 50.
func (r *request) requested() netip.Addr { return address(r.Message.RequestedIPAddress()) }

// wanted returns the address that the client asks for, or else uses.
func (r *request) wanted() netip.Addr {
	if ip := r.requested(); ip.IsValid() {
		return ip
	}
	return address(r.Message.ClientIPAddr)
}

// full answers as the network's DHCP server.
func (r *request) full(ctx context.Context) (*dhcpv4.DHCPv4, error) {
	if r.Network == nil || r.Served.Config.Known && !r.Known() {
		return nil, nil
	}
	if r.routed { // it renews the lease of an address that it has, and boots nothing
		r.Client.Kind = client.System
	}
	switch r.Message.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if r.routed {
			return nil, nil
		}
		return r.discover(ctx)
	case dhcpv4.MessageTypeRequest:
		return r.request(ctx)
	case dhcpv4.MessageTypeDecline:
		return nil, r.decline()
	case dhcpv4.MessageTypeRelease:
		return nil, r.release()
	case dhcpv4.MessageTypeInform:
		return r.inform()
	}
	return nil, nil
}

func (r *request) discover(ctx context.Context) (*dhcpv4.DHCPv4, error) {
	ip, err := r.choose(ctx)
	if err != nil {
		return nil, err
	}
	a, err := r.answer(dhcpv4.MessageTypeOffer, ip)
	r.recordEarlier()
	return a, err
}

// request answers a DHCPREQUEST in each of the client's states (RFC 2131 section
// 4.3.2): SELECTING, INIT-REBOOT, RENEWING, REBINDING. A client that selects an
// address of this server has an offer, or had one before the server restarted: then
// the address is probed now.
func (r *request) request(ctx context.Context) (*dhcpv4.DHCPv4, error) {
	named, us := r.chosen()
	if named && !us { // the client took another server's offer
		r.Book.WithdrawOffer(r.Card())
		r.recordChosen()
		if r.Site.Owns(address(r.Message.ServerIdentifier())) { // it chose this server, by another interface
			return nil, nil
		}
		return nil, r.took()
	}
	want := r.wanted()
	if !want.IsValid() {
		return nil, nil
	}
	a := r.LeaseRequest(r.requested())
	st := r.Book.Status(a, want, r.Now)
	if !named && !st.Current.IsValid() && r.Network.Subnet(want) != nil {
		return nil, nil // a client that this server does not know may have the address from another one
	}
	if !st.Allowed || (!named && st.Current != want) {
		return r.nak(r.whyNot(a, st, want)), nil
	}
	if why, err := r.probeRequested(ctx, a, want); err != nil {
		return nil, err
	} else if why != "" {
		return r.nak(why), nil
	}
	return r.acknowledge(a, want)
}

// whyNot returns why a client may not have an address.
func (r *request) whyNot(a lease.Request, st lease.Status, want netip.Addr) string {
	switch {
	case r.Network.Subnet(want) == nil:
		return "it is not an address in network " + r.Network.Name
	case a.Reserved.IsValid() && a.Reserved != want:
		return a.Reserved.String() + " is reserved for it"
	case st.Allowed && st.Current.IsValid():
		return "it has " + st.Current.String()
	}
	return "it belongs to another client, or is in no pool"
}

// acknowledge makes an address the client's. The lease is durable before it is
// acknowledged, and so is what the client boots: both share a write to the disk.
func (r *request) acknowledge(a lease.Request, want netip.Addr) (*dhcpv4.DHCPv4, error) {
	options, _ := r.Options(want)
	hostname := client.Clip(string(unterminated(r.Message.Options.Get(dhcpv4.OptionHostName))))
	if !r.Assign(r.Book, a, want, options.lease(), hostname) {
		return r.nak(justTaken), nil
	}
	ack, err := r.answer(dhcpv4.MessageTypeAck, want)
	return ack, cmp.Or(r.Commit(), err)
}

// justTaken is why a client that may have an address does not get it.
const justTaken = "another client just took it"

// nak refuses an address, and remembers why.
func (r *request) nak(why string) *dhcpv4.DHCPv4 {
	r.refusal = why
	return Answer(r.Message, dhcpv4.MessageTypeNak, client.Client{}, Settings{Server: r.serverID()})
}

// decline handles a DHCPDECLINE: the client found its address in use.
func (r *request) decline() error {
	if named, us := r.chosen(); named && !us {
		return nil
	}
	if wait, ok := r.Decline(&r.exchange, "DHCPDECLINE", r.requested()); ok {
		return wait()
	}
	return nil // only the holder of an address can decline it
}

// release handles a DHCPRELEASE.
func (r *request) release() error {
	if named, us := r.chosen(); named && !us {
		return nil
	}
	if wait, ok := r.Release(&r.exchange, "DHCPRELEASE", address(r.Message.ClientIPAddr)); ok {
		return wait()
	}
	return nil
}

// inform answers a client that has its address from elsewhere (RFC 2131 section
// 4.3.5): no address, no lease.
func (r *request) inform() (*dhcpv4.DHCPv4, error) {
	own := address(r.Message.ClientIPAddr)
	if r.Network.Subnet(own) == nil && r.Client.Kind != client.Init {
		return nil, nil
	}
	boot, err := r.Boot(r.Booter, r.sighting(r.unlessLeased(own)))
	if err != nil {
		return nil, err
	}
	settings := r.settings(own, boot)
	settings.Address = netip.Addr{}
	return Answer(r.Message, dhcpv4.MessageTypeAck, r.Client, settings), nil
}

// unlessLeased returns the address that a client says it has, or none if it is leased to another
// one: such a packet does not change which machine has the address.
func (r *request) unlessLeased(own netip.Addr) netip.Addr {
	l, ok := r.Book.LeaseOf(own)
	if ok && !l.Declined && r.Now.Before(l.Expires) && l.Client() != r.Key &&
		!slices.Contains(r.Identity.MACs, l.Client()) {
		return netip.Addr{}
	}
	return own
}

// answer offers or acknowledges an address, with what the client boots.
func (r *request) answer(kind dhcpv4.MessageType, ip netip.Addr) (*dhcpv4.DHCPv4, error) {
	boot, err := r.Boot(r.Booter, r.sighting(ip))
	if err != nil {
		return nil, err
	}
	return Answer(r.Message, kind, r.Client, r.settings(ip, boot)), nil
}

// settings joins what the client gets with an address, which may be invalid.
func (r *request) settings(ip netip.Addr, boot client.Boot) Settings {
	s := Settings{Server: r.serverID(), Address: ip, Hostname: r.Identity.Name, Boot: boot}
	options, sub := r.Options(ip)
	if s.Options = options; sub != nil {
		s.Prefix = sub.Prefix
	}
	if r.Machine != nil && r.Machine.Hostname != "" {
		s.Hostname = r.Machine.Hostname
	}
	return s
}

func (r *request) sighting(ip netip.Addr) client.Sighting {
	s := r.Sighting(ip)
	s.Proxy = r.Served.Config.mode() == Proxy
	s.Foreign = s.Proxy && ip.IsValid()
	s.Begins = r.Message.MessageType() == dhcpv4.MessageTypeDiscover
	return s
}

// reply addresses an answer. It leaves from the address that the packet was sent to.
func (r *request) reply(a *dhcpv4.DHCPv4) *Reply {
	reply := &Reply{Interface: r.Interface, From: netip.AddrPortFrom(r.Address, r.Packet.Port), Message: a}
	var direct bool
	if reply.To, direct = Destination(r.Message, a); direct {
		reply.Hardware = r.Message.ClientHWAddr
	}
	if r.Packet.Port == client.PortPXE { // a boot server answers to the port that the packet came from
		reply.To = r.From
	}
	return reply
}

// observe answers nothing, and records what the answer would have been.
func (r *request) observe() {
	if r.Message.MessageType() != dhcpv4.MessageTypeDiscover {
		return
	}
	wouldBoot := func(ip netip.Addr) (client.Boot, error) { return r.Booter.WouldAnswer(r.sighting(ip)) }
	if r.Client.Kind == client.System {
		wouldBoot = nil
	}
	r.Observer.SetWouldAnswer(r.Interface, r.Client.MAC, r.WouldAnswer(r.Book, r.requested(), wouldBoot))
}
