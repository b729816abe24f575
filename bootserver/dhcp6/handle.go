package dhcp6

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// The ports of DHCPv6, and of boot servers beside another DHCP server.
const (
	PortServer = dhcpv6.DefaultServerPort
	PortClient = dhcpv6.DefaultClientPort
	PortPXE    = client.PortPXE
)

// Packet is a message as it arrived.
type Packet struct {
	Interface string
	From      netip.AddrPort
	To        netip.Addr // as the sender addressed it
	Port      uint16     // PortServer or PortPXE
	Message   dhcpv6.DHCPv6
}

// Reply is a message as it leaves. From is invalid where any address of the
// interface that fits will do, as towards link-local addresses.
type Reply struct {
	Interface string
	From      netip.Addr
	Port      uint16
	To        netip.AddrPort
	Message   dhcpv6.DHCPv6
	note      *client.Packet // when it has left; may be nil
}

// talk is one packet with all that is known of it.
type talk struct {
	*Server
	Packet
	m       *dhcpv6.Message
	chain   []relay
	site    *site
	port    *port
	client  Client
	who     client.Identity
	machine *Machine // as configured
	network *network.Network[Options]
	subnet  *network.Subnet[Options] // to prefer; may be nil
	ours    netip.Addr
	now     time.Time
	gets    netip.Addr // the address that the answer gives
}

// Handle makes the answer to a packet, nil for none. What it lends is durable.
func (s *Server) Handle(p Packet) (*Reply, error) {
	t, ok := s.listen(p)
	if !ok {
		return nil, nil
	}
	var a *dhcpv6.Message
	var err error
	switch t.port.Mode {
	case Full:
		a, err = t.lends()
	case Boot:
		a, err = t.boots()
	case Observe:
		t.observe()
	}
	if a == nil || err != nil {
		return nil, err
	}
	r := t.reply(a)
	r.note = t.noteOf(a)
	return r, nil
}

// listen says what a packet is and where it came from. What RFC 8415 section 16
// wants thrown away comes to nothing.
func (s *Server) listen(p Packet) (*talk, bool) {
	t := &talk{Server: s, Packet: p, site: s.site.Load(), now: s.now()}
	t.chain, t.m = unwrap(p.Message)
	if t.port = t.site.ports[p.Interface]; t.port == nil || t.m == nil {
		return nil, false
	}
	t.client = Parse(t.m, t.chain, t.peer())
	if len(t.client.DUID) > 130 || len(t.client.DUID) < 3 && t.m.MessageType != dhcpv6.MessageTypeInformationRequest {
		return nil, false
	}
	t.who = s.booter.Lookup(t.client.MAC, t.client.UUID)
	if t.client.UUID == "" {
		t.client.UUID = t.who.UUID
	}
	t.network, t.subnet = t.site.locate(t.port, t.chain)
	t.machine = t.site.machine(t.client, t.who.Name)
	t.observer.AddClient(t.observed(), t.client.Kind != client.System, t.now)
	t.elsewhere()
	if t.ours = t.port.server(t.subnet); t.port.Owns(p.To) {
		t.ours = p.To
	}
	if unknown := linkOf(t.chain); t.network == nil && unknown.IsValid() && t.port.Mode == Full {
		t.observer.Warn(t.Interface, "unknown-relay "+unknown.String(), "a relay of no network that is configured asks: "+unknown.String()+
			"; add its subnet to dhcp6.networks, or its address to a network's relays", t.now)
	}
	return t, true
}

// peer is the client's own address on its link.
func (t *talk) peer() netip.Addr {
	if n := len(t.chain); n > 0 {
		a, _ := netip.AddrFromSlice(t.chain[n-1].PeerAddr)
		return a
	}
	return t.From.Addr().WithZone("")
}

func (t *talk) observed() network.ObservedClient {
	a := network.ObservedClient{Interface: t.Interface, MAC: t.client.key(), UUID: t.client.UUID, Class: t.client.Class, Firmware: t.client.Firmware, Quirk: t.client.Quirk, Port: t.switchPort()}
	if len(a.MAC) > 64 {
		a.MAC = a.MAC[:64]
	}
	if f := t.m.Options.FQDN(); f != nil && len(f.DomainName.Labels) > 0 {
		a.Hostname = client.Clip(client.Readable([]byte(f.DomainName.Labels[0])))
	}
	return a
}

// switchPort is where the client is plugged in, as the relay nearest to it says:
// its link, the interface's name (option 18) and the relay's own (37).
func (t *talk) switchPort() fleet.SwitchPort {
	if len(t.chain) == 0 {
		return fleet.SwitchPort{}
	}
	r := t.chain[len(t.chain)-1]
	var p fleet.SwitchPort
	p.Circuit = client.Readable(r.Options.InterfaceID())
	if id := r.Options.RemoteID(); id != nil {
		p.Remote = client.Readable(id.RemoteID)
	}
	if p.Circuit+p.Remote == "" {
		return fleet.SwitchPort{}
	}
	if p.Relay = linkOf(t.chain); !p.Relay.IsValid() {
		p.Relay = t.From.Addr().WithZone("")
	}
	return p
}

func (t *talk) known() bool { return t.machine != nil || t.who.Approved }

// names reports what the message says of a server: whether it names one, and
// whether that is us.
func (t *talk) names() (named, us bool) {
	o := t.m.GetOneOption(dhcpv6.OptionServerID)
	return o != nil, o != nil && bytes.Equal(o.ToBytes(), t.duid)
}

// lends answers as the network's DHCPv6 server.
func (t *talk) lends() (*dhcpv6.Message, error) {
	if t.network == nil || t.port.Known && !t.known() {
		return nil, nil
	}
	named, us := t.names()
	switch t.m.MessageType {
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		if !us {
			t.book.Withdraw(t.card())
			return nil, nil
		}
		if len(t.chain) == 0 && !t.To.IsMulticast() {
			return t.answer(status(iana.StatusUseMulticast, "ask by multicast")), nil
		}
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		if named || len(t.chain) == 0 && !t.To.IsMulticast() {
			return nil, nil
		}
	case dhcpv6.MessageTypeInformationRequest:
		if named && !us || len(t.chain) == 0 && !t.To.IsMulticast() {
			return nil, nil
		}
	}
	switch t.m.MessageType {
	case dhcpv6.MessageTypeSolicit:
		return t.solicit()
	case dhcpv6.MessageTypeRequest:
		return t.addressed(dhcpv6.MessageTypeReply, t.lend)
	case dhcpv6.MessageTypeRenew:
		return t.addressed(dhcpv6.MessageTypeReply, func(ia association) (dhcpv6.Option, error) { return t.extend(ia, false) })
	case dhcpv6.MessageTypeRebind:
		return t.rebind()
	case dhcpv6.MessageTypeConfirm:
		return t.confirm(), nil
	case dhcpv6.MessageTypeRelease:
		return t.ended(t.release, "released")
	case dhcpv6.MessageTypeDecline:
		return t.ended(t.decline, "noted")
	case dhcpv6.MessageTypeInformationRequest:
		return t.inform()
	}
	return nil, nil
}

// elsewhere notes another server, when a client names it: servers answer clients
// alone, so nothing else tells of them. That it is another ingot is not known
// here; package dhcp4 asks for those over IPv4.
func (t *talk) elsewhere() {
	named, us := t.names()
	if !named || us || t.m.MessageType != dhcpv6.MessageTypeRequest && t.m.MessageType != dhcpv6.MessageTypeRenew {
		return
	}
	id := t.m.GetOneOption(dhcpv6.OptionServerID).ToBytes()
	duid := hex.EncodeToString(id[:min(len(id), 32)])
	t.observer.AddServer(network.ObservedServer{Interface: t.Interface, DUID: duid}, t.now)
	t.chosen(id)
	if t.port.Mode == Full && t.network != nil {
		t.observer.Warn(t.Interface, "foreign6 "+duid, "another DHCPv6 server (DUID "+duid+") lends addresses on this network; stop it, or serve in mode boot beside it", t.now)
	}
}

// answer is a Reply without associations.
func (t *talk) answer(options ...dhcpv6.Option) *dhcpv6.Message {
	return Answer(t.m, dhcpv6.MessageTypeReply, t.duid, Client{}, Told{Server: t.ours, Proxy: true}, options...)
}

// addressed is a message with the associations that f makes, more options, what
// belongs to the addresses, and what the client boots.
func (t *talk) addressed(kind dhcpv6.MessageType, f func(association) (dhcpv6.Option, error), more ...dhcpv6.Option) (*dhcpv6.Message, error) {
	list, err := t.each(f)
	if err != nil {
		return nil, err
	}
	n := t.told(t.gets)
	if n.Boot, err = t.seen(t.gets); err != nil {
		return nil, err
	}
	return Answer(t.m, kind, t.duid, t.client, n, append(list, more...)...), nil
}

func (t *talk) solicit() (*dhcpv6.Message, error) {
	if t.port.RapidCommit && t.m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
		return t.addressed(dhcpv6.MessageTypeReply, func(ia association) (dhcpv6.Option, error) {
			return t.lend(association{ia.OptIANA, nil})
		}, raw(dhcpv6.OptionRapidCommit, nil))
	}
	if t.port.Preference > 0 {
		return t.addressed(dhcpv6.MessageTypeAdvertise, t.offer, dhcpv6.OptPreference(t.port.Preference))
	}
	return t.addressed(dhcpv6.MessageTypeAdvertise, t.offer)
}

// rebind answers when we know the client, or know better than it where it is.
func (t *talk) rebind() (*dhcpv6.Message, error) {
	a, err := t.addressed(dhcpv6.MessageTypeReply, func(ia association) (dhcpv6.Option, error) { return t.extend(ia, true) })
	if err != nil || a.Options.OneIANA() == nil {
		return nil, err
	}
	return a, nil
}

// confirm says whether addresses are of the client's link (RFC 8415 section
// 18.3.3); it does not matter whose they are.
func (t *talk) confirm() *dhcpv6.Message {
	asked := false
	for _, ia := range associations(t.m) {
		for _, ip := range ia.addresses {
			if asked = true; t.network.Subnet(ip) == nil {
				return t.answer(status(iana.StatusNotOnLink, ip.String()+" is not of this link"))
			}
		}
	}
	if !asked {
		return nil
	}
	return t.answer(status(iana.StatusSuccess, "all addresses are of this link"))
}

// ended answers Release and Decline.
func (t *talk) ended(end func(lease.Card, netip.Addr) (func() error, bool), text string) (*dhcpv6.Message, error) {
	var list []dhcpv6.Option
	for _, ia := range associations(t.m) {
		o, err := t.giveUp(ia, end)
		if err != nil {
			return nil, err
		}
		if o != nil {
			list = append(list, o)
		}
	}
	return t.answer(append(list, status(iana.StatusSuccess, text))...), nil
}

// release frees an address. It stays the card's own until another needs it.
func (t *talk) release(c lease.Card, ip netip.Addr) (func() error, bool) {
	wait, ok := t.book.End(c, ip, t.now)
	if ok {
		t.tell(t.packet(t.m.MessageType, fleet.Packet{Address: ip}))
	}
	return wait, ok
}

// decline takes an address out of use that the client found taken.
func (t *talk) decline(c lease.Card, ip netip.Addr) (func() error, bool) {
	wait, ok := t.book.Decline(c, ip, t.now)
	if ok {
		t.observer.Warn(t.Interface, "used "+ip.String(), "the address "+ip.String()+", that we lent to "+t.client.key()+
			", is used by somebody else; find the machine, or take the address out of the pool", t.now)
		t.tell(t.packet(t.m.MessageType, fleet.Packet{Address: ip, Refused: "somebody else uses it"}))
	}
	return wait, ok
}

// inform answers an Information-request: no address, no lease. An association
// in it makes it one that is thrown away (RFC 8415 section 16.12).
func (t *talk) inform() (*dhcpv6.Message, error) {
	if len(t.m.Options.IANA())+len(t.m.Options.IATA())+len(t.m.Options.IAPD()) > 0 {
		return nil, nil
	}
	return t.addressed(dhcpv6.MessageTypeReply, nil)
}

// boots stands beside others that give addresses. Firmware takes an Advertise
// without an address beside one that has it, and asks for the boot file once
// more on port 4011; HTTP boot takes the URL from the Advertise. An iPXE takes
// whichever Advertise comes first, so that one is never sent to it: it is
// answered where router advertisements make it ask for information alone.
func (t *talk) boots() (*dhcpv6.Message, error) {
	if t.port.Known && !t.known() || t.client.Kind == client.System {
		return nil, nil
	}
	named, us := t.names()
	kind := dhcpv6.MessageTypeReply
	var list []dhcpv6.Option
	switch {
	case t.m.MessageType == dhcpv6.MessageTypeSolicit && t.client.Kind == client.Firmware && !t.client.IPXE && !named:
		kind = dhcpv6.MessageTypeAdvertise
		for _, ia := range associations(t.m) {
			list = append(list, refused(ia.IaId, iana.StatusNoAddrsAvail, "another server lends addresses here"))
		}
	case t.m.MessageType == dhcpv6.MessageTypeInformationRequest && (!named || us) && len(t.m.Options.IANA()) == 0:
	case t.Port == PortPXE && us && (t.m.MessageType == dhcpv6.MessageTypeRequest || t.m.MessageType == dhcpv6.MessageTypeSolicit):
		t.gets = t.peer()
	default:
		return nil, nil
	}
	boot, err := t.seen(t.own())
	if err != nil || boot == (client.Boot{}) {
		return nil, err
	}
	n := t.told(t.gets)
	n.Proxy, n.Boot = true, boot
	return Answer(t.m, kind, t.duid, t.client, n, list...), nil
}

// own is the address that the client has, when it shows it.
func (t *talk) own() netip.Addr {
	if a := t.peer(); a.IsGlobalUnicast() {
		return a
	}
	return netip.Addr{}
}

// observe answers nothing, and notes what it would have.
func (t *talk) observe() {
	if t.m.MessageType != dhcpv6.MessageTypeSolicit {
		return
	}
	var ip netip.Addr
	var would string
	if t.network != nil {
		var err error
		if ip, err = t.book.Peek(t.ask(association{}), t.now); err != nil {
			would = err.Error()
		}
	}
	if t.client.Kind != client.System && t.client.MAC != "" {
		boot, err := t.booter.WouldAnswer(t.sighting(ip))
		if err != nil {
			would = err.Error()
		} else if would = summary(ip, boot); boot == (client.Boot{}) {
			would = "nothing to boot: no loader for its firmware"
		}
	} else if would == "" {
		would = summary(ip, client.Boot{})
	}
	if would == "" {
		would = "nothing: no network is configured for it"
	}
	t.observer.SetWouldAnswer(t.Interface, t.observed().MAC, would)
}

// told joins what the client is told.
func (t *talk) told(ip netip.Addr) Told {
	n := Told{Server: t.ours}
	sub := t.subnet
	if t.network != nil && t.network.Subnet(ip) != nil {
		sub = t.network.Subnet(ip)
	}
	base, name := t.site.Options, ""
	if sub != nil {
		base, name = sub.Options, t.network.Name
	}
	n.Options = t.site.options(base, t.client, t.who.Name, name, t.machine)
	return n
}

// seen asks what the client boots.
func (t *talk) seen(ip netip.Addr) (client.Boot, error) {
	if t.client.Kind == client.System {
		return client.Boot{}, nil
	}
	s := t.sighting(ip)
	if s.MAC == "" {
		t.observer.Warn(t.Interface, "no-mac "+t.switchPort().String(), "a machine ("+t.observed().MAC+") asks what to boot and nothing tells its MAC address; let the relay send it (option 79, RFC 6939)", t.now)
		return client.Boot{}, nil
	}
	return t.booter.Observe(s)
}

func (t *talk) sighting(ip netip.Addr) client.Sighting {
	c := t.client.Client
	if c.MAC == "" && len(t.who.MACs) > 0 { // its UUID told which machine it is
		c.MAC = t.who.MACs[0]
	}
	loaders := t.told(ip).Loaders
	if loaders == nil {
		loaders = client.DefaultLoaders[c.Firmware]
	}
	if c.Kind == client.Init {
		loaders = nil
	}
	return client.Sighting{Client: c, Address: ip, Server: t.ours, Port: t.switchPort(), Loaders: loaders, Begins: t.m.MessageType == dhcpv6.MessageTypeSolicit}
}

// reply says how an answer leaves: to the client's link-local address, or to the
// relay, from the address that was asked.
func (t *talk) reply(a *dhcpv6.Message) *Reply {
	r := &Reply{Interface: t.Interface, Port: t.Port, Message: wrap(a, t.chain), To: netip.AddrPortFrom(t.From.Addr(), PortClient)}
	if t.port.Owns(t.To) {
		r.From = t.To
	}
	if len(t.chain) > 0 {
		r.To = netip.AddrPortFrom(t.From.Addr(), PortServer)
		if t.chain[0].GetOneOption(dhcpv6.OptionRelayPort) != nil { // RFC 8357 section 5.3
			r.To = t.From
		}
	}
	if t.Port == PortPXE { // a boot server answers the port that it was asked from
		r.To = t.From
	}
	return r
}
