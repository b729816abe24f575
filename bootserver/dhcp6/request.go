package dhcp6

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/client"
)

// The UDP ports of DHCPv6.
const (
	PortServer = dhcpv6.DefaultServerPort
	PortClient = dhcpv6.DefaultClientPort
)

// Packet is a message as it arrived.
type Packet struct {
	Interface string
	From      netip.AddrPort
	To        netip.Addr // as the sender addressed it
	Port      uint16     // PortServer or client.PortPXE
	Message   dhcpv6.DHCPv6
}

// Reply is a message as it leaves. From is invalid where any address of the interface
// that fits will do, as towards link-local addresses.
type Reply struct {
	Interface string
	From      netip.Addr
	Port      uint16
	To        netip.AddrPort
	Message   dhcpv6.DHCPv6
	record    *client.Packet // to be recorded when it has been sent; may be nil
}

// request is one packet of a client with everything known about it.
type request struct {
	*Server
	Packet
	exchange
	m     *dhcpv6.Message // without the relays'
	chain []relay
	extra string     // key of the client's DUID, see duidKey
	given netip.Addr // the address that the answer gives
}

// Handle returns the answer to a packet, nil for none. What it assigns is durable.
func (s *Server) Handle(p Packet) (*Reply, error) {
	r := s.newRequest(p)
	if r != nil && isTrial(r.m) {
		return r.answerTrial(), nil
	}
	if r == nil || r.refused() {
		return nil, nil
	}
	r.identify()
	var a *dhcpv6.Message
	err := r.took()
	if err != nil {
		return nil, err
	}
	switch r.Served.Config.mode() {
	case Full:
		a, err = r.full()
	case Boot:
		a, err = r.beside()
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

// newRequest reads a packet. It returns nil for packets that must be discarded (RFC
// 8415 section 16), and if the interface is not served.
func (s *Server) newRequest(p Packet) *request {
	site := s.Site()
	on := site.Interfaces[p.Interface]
	chain, m := unwrap(p.Message)
	if on == nil || m == nil {
		return nil
	}
	c := Parse(m, chain, peerOf(chain, p.From.Addr()))
	if len(c.DUID) > 130 || len(c.DUID) < 3 && m.MessageType != dhcpv6.MessageTypeInformationRequest {
		return nil
	}
	r := &request{Server: s, Packet: p, m: m, chain: chain}
	r.exchange = exchange{Now: s.Now(), Site: site, Served: on, Client: c.Client, Key: c.key()}
	r.extra = duidKey(c.DUID)
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
	if r.Served.Config.mode() == Observe && r.m.MessageType == dhcpv6.MessageTypeSolicit {
		r.Observer.AddClient(r.Observed(r.hostname()), r.Client.Kind != client.System, r.Now)
		r.Observer.SetWouldAnswer(r.Interface, client.Clip(r.Key), "nothing: its relay is not listed")
	}
	return true
}

// identify finds out which machine sent the packet, and by which address it reaches
// the server.
func (r *request) identify() {
	r.Identify(r.Booter, r.extra)
	r.Observer.AddClient(r.Observed(r.hostname()), r.Client.Kind != client.System, r.Now)
	r.recordChosen()
	inSubnet := func(own netip.Prefix) bool { return r.Subnet != nil && r.Subnet.Prefix.Contains(own.Addr()) }
	r.Address = r.Served.Card.Address(inSubnet)
	if r.Served.Owns(r.To) {
		r.Address = r.To
	}
}

// hostname returns the name that the client gives itself.
func (r *request) hostname() string {
	if f := r.m.Options.FQDN(); f != nil && len(f.DomainName.Labels) > 0 {
		return client.Clip(client.Readable([]byte(f.DomainName.Labels[0])))
	}
	return ""
}

// chosen reports whether the message names a server, and whether that is this one.
func (r *request) chosen() (named, us bool) {
	o := r.m.GetOneOption(dhcpv6.OptionServerID)
	return o != nil, o != nil && bytes.Equal(o.ToBytes(), r.duid)
}

// full answers as the network's DHCPv6 server.
func (r *request) full() (*dhcpv6.Message, error) {
	if r.Network == nil || r.Served.Config.Known && !r.Known() {
		return nil, nil
	}
	named, us := r.chosen()
	unicast := len(r.chain) == 0 && !r.To.IsMulticast()
	switch r.m.MessageType {
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		if !us {
			r.Book.WithdrawOffer(r.Card())
			return nil, nil
		}
		if unicast {
			return r.replyWith(status(iana.StatusUseMulticast, "send to the multicast address")), nil
		}
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		if named || unicast {
			return nil, nil
		}
	case dhcpv6.MessageTypeInformationRequest:
		if named && !us || unicast {
			return nil, nil
		}
	}
	switch r.m.MessageType {
	case dhcpv6.MessageTypeSolicit:
		return r.solicit()
	case dhcpv6.MessageTypeRequest:
		return r.assign(dhcpv6.MessageTypeReply, r.lease)
	case dhcpv6.MessageTypeRenew:
		return r.assign(dhcpv6.MessageTypeReply, func(ia association) (dhcpv6.Option, error) { return r.extend(ia, false) })
	case dhcpv6.MessageTypeRebind:
		return r.rebind()
	case dhcpv6.MessageTypeConfirm:
		return r.confirm(), nil
	case dhcpv6.MessageTypeRelease:
		return r.end(r.Release, "released")
	case dhcpv6.MessageTypeDecline:
		return r.end(r.Decline, "declined")
	case dhcpv6.MessageTypeInformationRequest:
		return r.inform()
	}
	return nil, nil
}

// replyWith is a Reply without associations.
func (r *request) replyWith(options ...dhcpv6.Option) *dhcpv6.Message {
	return Answer(r.m, dhcpv6.MessageTypeReply, r.duid, client.Client{}, Settings{Server: r.Address,
		Proxy: true}, options...)
}

// assign is a message with the associations that f makes, more options, what belongs
// to the addresses, and what the client boots. Leases are durable before it is sent.
func (r *request) assign(kind dhcpv6.MessageType, f func(association) (dhcpv6.Option, error),
	more ...dhcpv6.Option) (*dhcpv6.Message, error) {
	list, err := r.eachAssociation(f)
	var boot client.Boot
	if err == nil {
		boot, err = r.boot(r.given)
	}
	if err = cmp.Or(r.Commit(), err); err != nil {
		return nil, err
	}
	return Answer(r.m, kind, r.duid, r.Client, r.settings(r.given, boot), append(list, more...)...), nil
}

func (r *request) solicit() (*dhcpv6.Message, error) {
	if r.Served.Config.RapidCommit && r.m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
		return r.assign(dhcpv6.MessageTypeReply, func(ia association) (dhcpv6.Option, error) {
			return r.lease(association{ia.OptIANA, nil})
		}, raw(dhcpv6.OptionRapidCommit, nil))
	}
	if p := r.Served.Config.Preference; p > 0 {
		return r.assign(dhcpv6.MessageTypeAdvertise, r.offer, dhcpv6.OptPreference(p))
	}
	return r.assign(dhcpv6.MessageTypeAdvertise, r.offer)
}

// rebind answers if the client is known to this server, or if its addresses cannot be
// right on its link.
func (r *request) rebind() (*dhcpv6.Message, error) {
	a, err := r.assign(dhcpv6.MessageTypeReply, func(ia association) (dhcpv6.Option, error) { return r.extend(ia, true) })
	if err != nil || a.Options.OneIANA() == nil {
		return nil, err
	}
	return a, nil
}

// confirm says whether addresses belong to the client's link (RFC 8415 section
// 18.3.3), whoever has them.
func (r *request) confirm() *dhcpv6.Message {
	asked := false
	for _, ia := range associations(r.m) {
		for _, ip := range ia.addresses {
			if asked = true; r.Network.Subnet(ip) == nil {
				return r.replyWith(status(iana.StatusNotOnLink, ip.String()+" is not on this link"))
			}
		}
	}
	if !asked {
		return nil
	}
	return r.replyWith(status(iana.StatusSuccess, "all addresses are on this link"))
}

// ending frees an address, or takes it out of use: network.Server's Release or Decline.
type ending = func(x *exchange, kind string, ip netip.Addr) (wait func() error, ok bool)

// end answers Release and Decline.
func (r *request) end(end ending, text string) (*dhcpv6.Message, error) {
	var list []dhcpv6.Option
	for _, ia := range associations(r.m) {
		o, err := r.endAssociation(ia, end)
		if err != nil {
			return nil, err
		}
		if o != nil {
			list = append(list, o)
		}
	}
	return r.replyWith(append(list, status(iana.StatusSuccess, text))...), nil
}

// inform answers an Information-request: no address, no lease. One with an association
// must be discarded (RFC 8415 section 16.12).
func (r *request) inform() (*dhcpv6.Message, error) {
	if len(r.m.Options.IANA())+len(r.m.Options.IATA())+len(r.m.Options.IAPD()) > 0 {
		return nil, nil
	}
	return r.assign(dhcpv6.MessageTypeReply, nil)
}

// beside stands beside other servers, which give addresses. Firmware takes an Advertise
// without an address beside one that has it, and asks for the boot file once more on
// port 4011; HTTP boot takes the URL from the Advertise. An iPXE takes the first
// Advertise, so none is sent to it: it is answered where router advertisements make it
// ask for information only.
func (r *request) beside() (*dhcpv6.Message, error) {
	if r.Served.Config.Known && !r.Known() || r.Client.Kind == client.System {
		return nil, nil
	}
	named, us := r.chosen()
	kind := dhcpv6.MessageTypeReply
	var list []dhcpv6.Option
	switch {
	case r.m.MessageType == dhcpv6.MessageTypeSolicit && r.Client.Kind == client.Firmware && !r.Client.IPXE && !named:
		kind = dhcpv6.MessageTypeAdvertise
		for _, ia := range associations(r.m) {
			list = append(list, refusedAssociation(ia.IaId, iana.StatusNoAddrsAvail, "another server lends addresses here"))
		}
	case r.m.MessageType == dhcpv6.MessageTypeInformationRequest && (!named || us) && len(r.m.Options.IANA()) == 0:
	case r.Packet.Port == client.PortPXE && us && (r.m.MessageType == dhcpv6.MessageTypeRequest ||
		r.m.MessageType == dhcpv6.MessageTypeSolicit):
		r.given = r.peer()
	default:
		return nil, nil
	}
	boot, err := r.boot(r.own())
	if err != nil || boot == (client.Boot{}) {
		return nil, err
	}
	settings := r.settings(r.given, boot)
	settings.Proxy = true
	return Answer(r.m, kind, r.duid, r.Client, settings, list...), nil
}

// peer returns the client's own address on its link.
func (r *request) peer() netip.Addr { return peerOf(r.chain, r.From.Addr()) }

// own returns the address that the client has, invalid if the packet does not show it.
func (r *request) own() netip.Addr {
	if a := r.peer(); a.IsGlobalUnicast() {
		return a
	}
	return netip.Addr{}
}

// observe answers nothing, and records what the answer would have been.
func (r *request) observe() {
	if r.m.MessageType != dhcpv6.MessageTypeSolicit {
		return
	}
	wouldBoot := func(ip netip.Addr) (client.Boot, error) { return r.Booter.WouldAnswer(r.sighting(ip)) }
	if r.Client.Kind == client.System || r.Client.MAC == "" {
		wouldBoot = nil
	}
	r.Observer.SetWouldAnswer(r.Interface, client.Clip(r.Key), r.WouldAnswer(r.Book, netip.Addr{}, wouldBoot))
}

// settings joins what the client gets with an address, which may be invalid.
func (r *request) settings(ip netip.Addr, boot client.Boot) Settings {
	options, _ := r.Options(ip)
	return Settings{Server: r.Address, Options: options, Boot: boot}
}

// boot returns what the client boots.
func (r *request) boot(ip netip.Addr) (client.Boot, error) {
	s := r.sighting(ip)
	if s.MAC == "" && s.Kind != client.System {
		r.Observer.Warn(r.Interface, "no-mac "+r.exchange.Port.String(),
			fmt.Sprintf("the machine %s wants to boot and its packet does not "+
				"reveal its MAC address; configure the relay to send it (option 79, RFC 6939)", client.Clip(r.Key)), r.Now)
		return client.Boot{}, nil
	}
	return r.Boot(r.Booter, s)
}

func (r *request) sighting(ip netip.Addr) client.Sighting {
	s := r.Sighting(ip)
	s.Begins = r.m.MessageType == dhcpv6.MessageTypeSolicit
	s.Foreign = ip.IsValid() && (r.Served.Config.mode() != Full || s.MAC == "")
	if s.MAC == "" && len(r.Identity.MACs) > 0 { // the machine was found by its UUID
		s.MAC = r.Identity.MACs[0]
	}
	return s
}

// reply addresses an answer: to the client's link-local address or to the relay, from
// the address that the packet was sent to.
func (r *request) reply(a *dhcpv6.Message) *Reply {
	reply := &Reply{Interface: r.Interface, Port: r.Packet.Port, Message: wrap(a, r.chain),
		To: netip.AddrPortFrom(r.From.Addr(), PortClient)}
	if r.Served.Owns(r.To) {
		reply.From = r.To
	}
	if len(r.chain) > 0 {
		reply.To = netip.AddrPortFrom(r.From.Addr(), PortServer)
		if r.chain[0].GetOneOption(dhcpv6.OptionRelayPort) != nil { // RFC 8357 section 5.3
			reply.To = r.From
		}
	}
	if r.Packet.Port == client.PortPXE { // a boot server answers to the port that the packet came from
		reply.To = r.From
	}
	return reply
}
