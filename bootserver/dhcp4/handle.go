package dhcp4

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// The ports of DHCP and of boot servers beside another DHCP server (PXE 2.1).
const (
	PortDHCP = dhcpv4.ServerPort
)

// Packet is a message as it arrived.
type Packet struct {
	Interface string
	From      netip.AddrPort
	To        netip.Addr // as the sender addressed it
	Port      uint16     // PortDHCP or PortPXE
	Message   *dhcpv4.DHCPv4
}

// Reply is a message as it leaves.
type Reply struct {
	Interface string
	From      netip.AddrPort
	To        netip.AddrPort
	Hardware  net.HardwareAddr // not nil: of a client that does not answer ARP yet
	Message   *dhcpv4.DHCPv4
	note      *client.Packet // when it has left; may be nil
}

// talk is one packet with all that is known of it.
type talk struct {
	*Server
	Packet
	site    *site
	port    *port
	client  client.Client
	who     client.Identity
	machine *Machine // as configured
	relayed
	network *network.Network[Options]
	subnet  *network.Subnet[Options] // to prefer; may be nil
	ours    netip.Addr
	now     time.Time
	refused string // why the client does not get what it asks for
}

// Handle makes the answer to a packet, nil for none. What it acknowledges is
// durable. It may take as long as testing an address does.
func (s *Server) Handle(ctx context.Context, p Packet) (*Reply, error) {
	if id, at := readIngot(p.Message); id != "" {
		return s.greet(p, id, at), nil
	}
	t, ok := s.listen(p)
	if !ok {
		return nil, nil
	}
	var a *dhcpv4.DHCPv4
	var err error
	switch t.port.Mode {
	case Full:
		a, err = t.full(ctx)
	case Proxy:
		a, err = t.proxy()
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

// greet answers another ingot that looks for servers: with what we are, and no
// address.
func (s *Server) greet(p Packet, id, at string) *Reply {
	t, ok := s.listen(p)
	if !ok || id == s.id || p.Message.MessageType() != dhcpv4.MessageTypeDiscover {
		return nil
	}
	s.observer.Warn(p.Interface, "ingot "+t.client.MAC, "a second ingot serves this network: "+at+" (MAC "+t.client.MAC+"); stop one of them, or let one observe", t.now)
	if t.port.Mode == Observe {
		return nil
	}
	a := Answer(p.Message, dhcpv4.MessageTypeOffer, client.Client{}, Told{Server: t.ours, Proxy: true})
	a.UpdateOption(ingotOption(s.id))
	return t.reply(a)
}

// observed describes the client of a packet.
func (t *talk) observed() network.ObservedClient {
	c := network.ObservedClient{Interface: t.Interface, MAC: t.client.MAC, UUID: t.client.UUID, Class: t.client.Class,
		Firmware: t.client.Firmware, Quirk: t.client.Quirk, Port: t.switchPort()}
	if h := t.Message.Options.Get(dhcpv4.OptionHostName); len(h) > 0 {
		c.Hostname = client.Readable(unterminated(h[:min(len(h), 64)]))
	}
	return c
}

// listen says what a packet is and where it came from.
func (s *Server) listen(p Packet) (*talk, bool) {
	t := &talk{Server: s, Packet: p, site: s.site.Load(), client: Parse(p.Message), relayed: readRelay(p.Message), now: s.now()}
	if t.port = t.site.ports[p.Interface]; t.port == nil {
		return nil, false
	}
	if id, _ := readIngot(p.Message); id == "" {
		s.observer.AddClient(t.observed(), t.client.Kind != client.System, t.now)
	}
	unicast := t.port.Owns(p.To)
	t.network, t.subnet = t.site.locate(t.port, t.relayed, address(p.Message.ClientIPAddr), unicast)
	t.who = s.booter.Lookup(t.client.MAC, t.client.UUID)
	if t.client.UUID == "" {
		t.client.UUID = t.who.UUID
	}
	t.machine = t.site.machine(t.client, t.who.Name)
	switch {
	case unicast:
		t.ours = p.To
	case t.subnet != nil:
		t.ours = t.port.server(t.subnet.Prefix.Addr())
	default:
		t.ours = t.port.server(t.relay)
	}
	return t, true
}

// identity is what the client takes for its server.
func (t *talk) identity() netip.Addr {
	if t.override.IsValid() {
		return t.override
	}
	return t.ours
}

// chose reports whether the client's choice of a server is us; who names none
// asks everybody.
func (t *talk) chose() (named, us bool) {
	id := address(t.Message.ServerIdentifier())
	return id.IsValid(), id.IsValid() && (t.port.Owns(id) || id == t.override)
}

func (t *talk) known() bool { return t.machine != nil || t.who.Approved }

func (t *talk) card() lease.Card { return lease.Card{Network: t.network.Name, Client: t.client.MAC} }

// ask is what the client needs of the book.
func (t *talk) ask() lease.Ask {
	a := lease.Ask{Card: t.card(), Known: t.known(), Wish: address(t.Message.RequestedIPAddress()), Siblings: t.who.MACs, Reset: t.client.Kind == client.Firmware}
	if t.subnet != nil {
		a.Near = t.subnet.Prefix
	}
	if t.machine != nil && t.machine.Address.IsValid() && t.network.Subnet(t.machine.Address) != nil {
		a.Reserved = t.machine.Address
	}
	return a
}

// full answers as the network's DHCP server.
func (t *talk) full(ctx context.Context) (*dhcpv4.DHCPv4, error) {
	if t.network == nil {
		if t.relay.IsValid() {
			t.observer.Warn(t.Interface, "unknown-relay "+t.relay.String(), "a relay of no network that is configured asks: "+t.relay.String()+
				"; add its subnet to networks, or its address to a network's relays", t.now)
		}
		return nil, nil
	}
	if t.port.Known && !t.known() {
		return nil, nil
	}
	switch t.Message.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return t.discover(ctx)
	case dhcpv4.MessageTypeRequest:
		return t.request(ctx)
	case dhcpv4.MessageTypeDecline:
		return nil, t.decline()
	case dhcpv4.MessageTypeRelease:
		return nil, t.release()
	case dhcpv4.MessageTypeInform:
		return t.inform()
	}
	return nil, nil
}

func (t *talk) discover(ctx context.Context) (*dhcpv4.DHCPv4, error) {
	ip, err := t.choose(ctx)
	if err != nil {
		return nil, err
	}
	a, err := t.answer(dhcpv4.MessageTypeOffer, ip)
	t.offered()
	return a, err
}

// request answers a DHCPREQUEST in each of the client's states (RFC 2131
// section 4.3.2): SELECTING, INIT-REBOOT, RENEWING, REBINDING. Who selects an
// address of ours has an offer, or had one before we were restarted: that one is
// tested now.
func (t *talk) request(ctx context.Context) (*dhcpv4.DHCPv4, error) {
	named, us := t.chose()
	if named && !us { // the client took another server's offer
		t.book.Withdraw(t.card())
		t.elsewhere()
		return nil, nil
	}
	want := t.wants()
	if !want.IsValid() {
		return nil, nil
	}
	a := t.ask()
	st := t.book.Standing(a, want, t.now)
	if !named && !st.Has.IsValid() && t.network.Subnet(want) != nil {
		return nil, nil // who we know nothing of is not ours to refuse
	}
	if !st.May || (!named && st.Has != want) {
		return t.nak(t.refusal(a, st, want)), nil
	}
	if why, err := t.tried(ctx, a, want); err != nil {
		return nil, err
	} else if why != "" {
		return t.nak(why), nil
	}
	return t.lend(a, want)
}

// lend acknowledges an address when it is on disk that the client has it.
func (t *talk) lend(a lease.Ask, want netip.Addr) (*dhcpv4.DHCPv4, error) {
	wanted := fleet.Lease{MAC: t.client.MAC, Address: want, Expires: t.now.Add(t.told(want).lease()), Port: t.switchPort(),
		Hostname: client.Clip(string(unterminated(t.Message.Options.Get(dhcpv4.OptionHostName))))}
	if t.known() {
		if wanted.Machine = t.who.ID; wanted.Machine == "" {
			wanted.Machine = configured
		}
	}
	l, ok := t.book.Take(a, wanted, t.now)
	if !ok {
		return t.nak(faster), nil
	}
	err := l.Wait()
	t.book.Settle(l, err == nil)
	if err != nil {
		return nil, err // no ACK for what is not on disk
	}
	return t.answer(dhcpv4.MessageTypeAck, want)
}

// configured stands in a lease for a machine that is configured and that the
// fleet has not seen boot.
const configured = "configured"

// faster is why who may have an address does not get it.
const faster = "somebody else just took it"

// nak refuses, and notes why.
func (t *talk) nak(why string) *dhcpv4.DHCPv4 {
	t.refused = why
	return Answer(t.Message, dhcpv4.MessageTypeNak, client.Client{}, Told{Server: t.identity()})
}

// decline takes an address out of use that the client found taken.
func (t *talk) decline() error {
	if named, us := t.chose(); named && !us {
		return nil
	}
	ip := address(t.Message.RequestedIPAddress())
	wait, ok := t.book.Decline(t.card(), ip, t.now)
	if !ok {
		return nil // only who holds an address can decline it
	}
	t.observer.Warn(t.Interface, "used "+ip.String(), "the address "+ip.String()+", that we lent to "+t.client.MAC+
		", is used by somebody else; find the machine, or take the address out of the pool", t.now)
	t.tell(t.packet(dhcpv4.MessageTypeDecline, fleet.Packet{Address: ip, Refused: "somebody else uses it"}))
	return wait()
}

// release frees an address. It stays the card's own until another needs it.
func (t *talk) release() error {
	if named, us := t.chose(); named && !us {
		return nil
	}
	ip := address(t.Message.ClientIPAddr)
	if wait, ok := t.book.End(t.card(), ip, t.now); ok {
		t.tell(t.packet(dhcpv4.MessageTypeRelease, fleet.Packet{Address: ip}))
		return wait()
	}
	return nil
}

// inform tells a client that has its address from elsewhere (RFC 2131 section
// 4.3.5): no address, no lease.
func (t *talk) inform() (*dhcpv4.DHCPv4, error) {
	own := address(t.Message.ClientIPAddr)
	if t.network.Subnet(own) == nil && t.client.Kind != client.Init {
		return nil, nil
	}
	n := t.told(own)
	n.Address = netip.Addr{}
	boot, err := t.seen(own)
	if err != nil {
		return nil, err
	}
	n.Boot = boot
	return Answer(t.Message, dhcpv4.MessageTypeAck, t.client, n), nil
}

// told joins what the client is told with an address.
func (t *talk) told(ip netip.Addr) Told {
	n := Told{Server: t.identity(), Address: ip}
	sub := t.subnet
	if t.network != nil && t.network.Subnet(ip) != nil {
		sub = t.network.Subnet(ip)
	}
	var base Options
	var name string
	if sub != nil {
		n.Prefix, base, name = sub.Prefix, sub.Options, t.network.Name
	} else {
		base = t.site.Options
	}
	n.Options = t.site.options(base, t.client, t.who.Name, name, t.machine)
	n.Hostname = t.who.Name
	if t.machine != nil && t.machine.Hostname != "" {
		n.Hostname = t.machine.Hostname
	}
	return n
}

func (t *talk) answer(kind dhcpv4.MessageType, ip netip.Addr) (*dhcpv4.DHCPv4, error) {
	boot, err := t.seen(ip)
	if err != nil {
		return nil, err
	}
	n := t.told(ip)
	n.Boot = boot
	return Answer(t.Message, kind, t.client, n), nil
}

// seen asks what the client boots.
func (t *talk) seen(ip netip.Addr) (client.Boot, error) {
	if t.client.Kind == client.System {
		return client.Boot{}, nil
	}
	return t.booter.Observe(t.sighting(ip))
}

func (t *talk) sighting(ip netip.Addr) client.Sighting {
	loaders := t.told(ip).Loaders
	if loaders == nil {
		loaders = client.DefaultLoaders[t.client.Firmware]
	}
	if t.client.Kind == client.Init {
		loaders = nil
	}
	return client.Sighting{Client: t.client, Address: ip, Server: t.ours, Port: t.switchPort(), Loaders: loaders,
		Proxy: t.port.Mode == Proxy, Begins: t.Message.MessageType() == dhcpv4.MessageTypeDiscover}
}

func (t *talk) switchPort() fleet.SwitchPort {
	if !t.relay.IsValid() || t.circuit+t.remote == "" {
		return fleet.SwitchPort{}
	}
	return fleet.SwitchPort{Relay: t.relay, Circuit: t.circuit, Remote: t.remote}
}

// reply says how an answer leaves: from the address that was asked.
func (t *talk) reply(a *dhcpv4.DHCPv4) *Reply {
	r := &Reply{Interface: t.Interface, From: netip.AddrPortFrom(t.ours, t.Port), Message: a}
	var direct bool
	if r.To, direct = Destination(t.Message, a); direct {
		r.Hardware = t.Message.ClientHWAddr
	}
	if t.Port == client.PortPXE { // a boot server answers the port that it was asked from
		r.To = t.From
	}
	return r
}

// proxy stands beside another DHCP server: it gives no addresses, and says what
// to boot, with the offers (port 67) and as boot server (port 4011).
func (t *talk) proxy() (*dhcpv4.DHCPv4, error) {
	if t.port.Known && !t.known() || t.client.Kind == client.System {
		return nil, nil
	}
	own := address(t.Message.ClientIPAddr)
	if !own.IsValid() {
		own = address(t.Message.RequestedIPAddress())
	}
	kind, toUs := dhcpv4.MessageTypeAck, t.Port == client.PortPXE || t.port.Owns(t.To)
	switch t.Message.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		if t.client.Kind == client.Init {
			return nil, nil // it needs an address first, and asks with DHCPINFORM then
		}
		kind, own = dhcpv4.MessageTypeOffer, netip.Addr{}
	case dhcpv4.MessageTypeRequest:
		if named, us := t.chose(); !toUs && (!named || !us) {
			_, err := t.seen(own) // it takes an address from the other server: now we know which
			return nil, err
		}
	case dhcpv4.MessageTypeInform:
		if !toUs && t.client.Kind != client.Init {
			return nil, nil
		}
	default:
		return nil, nil
	}
	boot, err := t.seen(own)
	if err != nil || boot == (client.Boot{}) {
		return nil, err
	}
	n := t.told(own)
	n.Address, n.Proxy, n.Boot = netip.Addr{}, true, boot
	a := Answer(t.Message, kind, t.client, n)
	if item := bootItem(t.Message); item != nil && t.Port == client.PortPXE {
		a.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, append(append([]byte{subBootItem, byte(len(item))}, item...), 255)))
	}
	return a, nil
}

// subBootItem is PXE_BOOT_ITEM in option 43: the boot server type and layer
// that a client asks for, to be told back (PXE 2.1 table 2-2).
const subBootItem = 71

func bootItem(p *dhcpv4.DHCPv4) []byte {
	b := p.Options.Get(dhcpv4.OptionVendorSpecificInformation)
	for len(b) >= 2 && b[0] != 255 {
		n := int(b[1])
		if len(b) < 2+n {
			return nil
		}
		if b[0] == subBootItem {
			return slices.Clone(b[2 : 2+n])
		}
		b = b[2+n:]
	}
	return nil
}

// observe answers nothing, and notes what it would have.
func (t *talk) observe() {
	if t.Message.MessageType() != dhcpv4.MessageTypeDiscover {
		return
	}
	var parts []string
	var ip netip.Addr
	if t.network != nil {
		var err error
		if ip, err = t.book.Peek(t.ask(), t.now); err != nil {
			parts = append(parts, err.Error())
		} else {
			parts = append(parts, ip.String())
		}
	}
	if t.client.Kind != client.System {
		switch boot, err := t.booter.WouldAnswer(t.sighting(ip)); {
		case err != nil:
			parts = append(parts, err.Error())
		case boot.URL != "":
			parts = append(parts, boot.URL)
		case boot.Loader != "":
			parts = append(parts, boot.Loader+" by TFTP")
		default:
			parts = append(parts, "nothing to boot: no loader for its firmware")
		}
	}
	if len(parts) == 0 {
		parts = []string{"nothing: no network is configured for it"}
	}
	t.observer.SetWouldAnswer(t.Interface, t.client.MAC, strings.Join(parts, ", "))
}
