package dhcp4

import (
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// tell passes a note on.
func (s *Server) tell(n client.Packet) {
	if s.note != nil {
		s.note(n)
	}
}

// packet is a note of the client's, with what is known of every packet.
func (t *talk) packet(kind dhcpv4.MessageType, p fleet.Packet) client.Packet {
	p.At, p.Kind = t.now, kindName(kind)
	return client.Packet{Packet: p, MAC: t.client.MAC, UUID: t.client.UUID}
}

// kindName is a type of messages as RFC 2131 calls it.
func kindName(k dhcpv4.MessageType) string { return "DHCP" + strings.ToUpper(k.String()) }

// noteOf is what there is to note of our answer, nil for nothing: what one
// is told that has its address already decides nothing.
func (t *talk) noteOf(a *dhcpv4.DHCPv4) *client.Packet {
	p := fleet.Packet{Address: address(a.YourIPAddr), Refused: t.refused}
	switch {
	case p.Refused != "":
		p.Address = t.wants()
	case p.Address.IsValid():
	case t.port.Mode != Proxy:
		return nil
	default:
		if p.Loader = a.BootFileName; p.Loader == "" || strings.Contains(p.Loader, "://") {
			p.Loader = "what to boot" // in a URL is the key of the machine's boot
		}
	}
	n := t.packet(a.MessageType(), p)
	return &n
}

// wants is the address that the client asks for, or uses.
func (t *talk) wants() netip.Addr {
	if ip := address(t.Message.RequestedIPAddress()); ip.IsValid() {
		return ip
	}
	return address(t.Message.ClientIPAddr)
}

// sent notes an answer that left, or did not.
func (s *Server) sent(r *Reply, err error) {
	if r.note == nil {
		return
	}
	if err != nil {
		r.note.Unsent = err.Error()
	}
	s.tell(*r.note)
}

// offered notes once more what others said to a client that was a stranger then.
func (t *talk) offered() {
	if t.who.ID != "" {
		return
	}
	for _, o := range t.observer.Others(t.Interface, t.client.MAC) {
		if !o.Expected && t.now.Sub(o.At) < network.SameAttempt {
			t.tell(client.Packet{Packet: fleet.Packet{At: o.At, Other: &o}, MAC: t.client.MAC, UUID: t.client.UUID})
		}
	}
}

// elsewhere notes the server that the client chose instead of us: it tells more
// than that server's answers, which go to the client alone, and are heard on the
// client's link only.
func (t *talk) elsewhere() {
	id := address(t.Message.ServerIdentifier())
	if t.site.owns(id) {
		return // it chose us, by another of our interfaces
	}
	o := fleet.Other{Address: id, Kind: kindName(t.Message.MessageType()), Given: t.wants(), At: t.now}
	t.observer.AddOther(t.Interface, t.client.MAC, o)
	t.tell(client.Packet{Packet: fleet.Packet{At: t.now, Other: &o}, MAC: t.client.MAC, UUID: t.client.UUID})
}

// unanswered notes why a packet is not answered.
func (s *Server) unanswered(p Packet, err error) {
	c := Parse(p.Message)
	s.tell(client.Packet{Packet: fleet.Packet{At: s.now(), Kind: kindName(p.Message.MessageType()), Refused: err.Error()}, MAC: c.MAC, UUID: c.UUID})
}

// refusal says why a client may not have an address.
func (t *talk) refusal(a lease.Ask, st lease.Standing, want netip.Addr) string {
	switch {
	case t.network.Subnet(want) == nil:
		return "it is no address of network " + t.network.Name
	case a.Reserved.IsValid() && a.Reserved != want:
		return a.Reserved.String() + " is reserved for it"
	case st.May && st.Has.IsValid():
		return "it has " + st.Has.String()
	}
	return "it is another's, or in no pool"
}

// Others returns what other servers said to some cards.
func (s *Server) Others(macs []string) (list []fleet.Other) {
	for iface := range s.site.Load().ports {
		for _, mac := range macs {
			list = append(list, s.observer.Others(iface, mac)...)
		}
	}
	return list
}
