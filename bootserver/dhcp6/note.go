package dhcp6

import (
	"encoding/hex"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/bootserver/client"
	"ingot/bootserver/fleet"
)

// tell passes a note on.
func (s *Server) tell(n client.Packet) {
	if s.note != nil {
		s.note(n)
	}
}

// packet is a note of the client's, with what is known of every packet.
func (t *talk) packet(kind dhcpv6.MessageType, p fleet.Packet) client.Packet {
	p.At = t.now
	if p.Kind = kind.String(); p.Other != nil {
		p.Kind = ""
	}
	return client.Packet{Packet: p, MAC: t.client.MAC, UUID: t.client.UUID}
}

// noteOf is what there is to note of our answer, nil for nothing: that an
// address is given or refused, or beside another server what to boot.
func (t *talk) noteOf(a *dhcpv6.Message) *client.Packet {
	p := fleet.Packet{Address: t.gets}
	switch {
	case t.port.Mode == Boot:
		p.Address, p.Loader = netip.Addr{}, "what to boot" // in its URL is the key of the machine's boot
	case !p.Address.IsValid():
		if p.Refused = refusal(a); p.Refused == "" {
			return nil
		}
		if list := associations(t.m); len(list) > 0 && len(list[0].addresses) > 0 {
			p.Address = list[0].addresses[0]
		}
	}
	n := t.packet(a.MessageType, p)
	return &n
}

// refusal is why an answer gives no address, or empty.
func refusal(a *dhcpv6.Message) string {
	st := a.Options.Status()
	if ia := a.Options.OneIANA(); ia != nil && ia.Options.Status() != nil {
		st = ia.Options.Status()
	}
	if st == nil || st.StatusCode == iana.StatusSuccess {
		return ""
	}
	return st.StatusCode.String() + ", " + st.StatusMessage
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

// unanswered notes why a packet is not answered.
func (s *Server) unanswered(p Packet, err error) {
	chain, m := unwrap(p.Message)
	if m == nil {
		return
	}
	t := &talk{Server: s, Packet: p, chain: chain, m: m, now: s.now()}
	t.client = Parse(m, chain, t.peer())
	s.tell(t.packet(m.MessageType, fleet.Packet{Refused: err.Error()}))
}

// chosen notes that the client chose another server; it is known by its DUID.
func (t *talk) chosen(id []byte) {
	o := fleet.Other{DUID: hex.EncodeToString(id[:min(len(id), 32)]), Kind: t.m.MessageType.String(), At: t.now, Expected: t.port.Mode != Full || t.network == nil}
	if list := associations(t.m); len(list) > 0 && len(list[0].addresses) > 0 {
		o.Given = list[0].addresses[0]
	}
	t.observer.AddOther(t.Interface, t.observed().MAC, o)
	if !o.Expected {
		t.tell(t.packet(t.m.MessageType, fleet.Packet{Other: &o}))
	}
}

// Others returns what clients with some cards said to other servers.
func (s *Server) Others(macs []string) (list []fleet.Other) {
	for iface := range s.site.Load().ports {
		for _, mac := range macs {
			list = append(list, s.observer.Others(iface, mac)...)
		}
	}
	return list
}
