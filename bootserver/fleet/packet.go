package fleet

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"ingot"
)

// Other is a packet between a client and another DHCP server: an answer of that server, or
// a request of the client that names it.
type Other struct {
	Address netip.Addr `json:"address,omitzero"` // server identifier
	DUID    string     `json:"duid,omitempty"`   // server identifier of DHCPv6, hexadecimal
	MAC     string     `json:"mac,omitempty"`    // of the server, or of its relay
	// DHCPOFFER, DHCPACK, DHCPNAK; of the client's own DHCPREQUEST, REQUEST, RENEW
	Kind     string     `json:"kind,omitempty"`
	Given    netip.Addr `json:"given,omitzero"`     // the client address in the packet
	File     string     `json:"file,omitempty"`     // the boot file in the packet
	Expected bool       `json:"expected,omitempty"` // the network's own DHCP server, in proxy mode
	First    time.Time  `json:"first,omitzero"`
	At       time.Time  `json:"at"` // the last time
	Times    int        `json:"times,omitempty"`
}

// Name returns the address of the server, else its DUID.
func (o Other) Name() string {
	if !o.Address.IsValid() {
		return "DUID " + o.DUID
	}
	return o.Address.String()
}

// Is reports whether two records are of the same server and kind.
func (o Other) Is(p Other) bool {
	return o.Kind == p.Kind && o.DUID == p.DUID && o.Address == p.Address
}

// MaxOthers limits the records of other servers for one client or boot.
const MaxOthers = 8

// Hear returns a copy of a list with a packet added, or counted again if it is in the list.
// The list holds at most MaxOthers. isNew reports whether it was added.
func Hear(list []Other, o Other) (after []Other, isNew bool) {
	after = slices.Clone(list)
	if i := slices.IndexFunc(after, o.Is); i >= 0 {
		o.First, o.Times = after[i].First, after[i].Times+1
		after[i] = o
		return after, false
	}
	if len(after) >= MaxOthers {
		return list, false
	}
	o.First, o.Times = o.At, 1
	return append(after, o), true
}

// weights rank packets by how strongly they show which server a client chose.
var weights = map[string]int{"DHCPNAK": 1, "DHCPREQUEST": 2, "REQUEST": 2, "RENEW": 2, "DHCPACK": 3}

// ByWeight orders others so that the server that the client chose is last.
func ByWeight(a, b Other) int {
	if w := weights[a.Kind] - weights[b.Kind]; w != 0 {
		return w
	}
	return a.At.Compare(b.At)
}

// Packet is a DHCP packet of this server, of a machine or of another server.
type Packet struct {
	At      time.Time
	Kind    string     // name in RFC 2131 or RFC 8415; empty for packets in Other
	Address netip.Addr // the client address in the packet; may be invalid
	Loader  string     // the boot file of an answer without an address
	Refused string     // why the request was refused
	Unsent  string     // why our answer could not be sent
	Other   *Other     // a packet of or for another server
}

// Change returns the packet as a Change.
func (p Packet) Change(m ingot.MachineID, boot ingot.BootID) Change {
	return Change{At: p.At, Code: CodePacket, Machine: m, Boot: boot, To: p.values()}
}

// Words renders a packet as text, and reports whether it needs attention.
func (p Packet) Words() (text string, bad bool) {
	c := p.Change("", "")
	return c.String(), c.Bad()
}

// values returns the fields of the Change: kind, address, loader, refused, unsent; for
// another server also server, mac, file, expected.
func (p Packet) values() Values {
	v := Values{"kind": p.Kind, "loader": p.Loader, "refused": p.Refused, "unsent": p.Unsent,
		"address": addressText(p.Address)}
	if o := p.Other; o != nil {
		v = Values{"kind": o.Kind, "server": o.Name(), "mac": o.MAC, "address": addressText(o.Given), "file": o.File}
		if o.Expected {
			v["expected"] = true
		}
	}
	maps.DeleteFunc(v, func(_ string, v any) bool { return v == "" })
	return v
}

func addressText(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return ip.String()
}

func badPacket(c Change) bool {
	if c.To.Text("server") != "" {
		return !c.To.Bool("expected")
	}
	return c.To.Text("refused") != "" || c.To.Text("unsent") != ""
}

func packetText(c Change) string {
	if c.To.Text("server") != "" {
		return otherText(c.To)
	}
	text, address, refused := c.To.Text("kind"), c.To.Text("address"), c.To.Text("refused")
	switch {
	case refused != "" && asks(text):
		return fmt.Sprintf("no answer to its %s: %s", text, refused)
	case refused != "":
		text += after(" for ", address) + ": " + refused
	case address != "":
		text += " of " + address
	case c.To.Text("loader") != "":
		text += " of " + c.To.Text("loader") + ", without an address"
	default:
		text += " without an address"
	}
	if unsent := c.To.Text("unsent"); unsent != "" {
		text += " could not be sent: " + unsent
	}
	return text
}

// asks reports whether a packet of a kind is a request of a client.
func asks(kind string) bool {
	return slices.Contains([]string{"DHCPDISCOVER", "DHCPREQUEST", "DHCPINFORM", "SOLICIT", "REQUEST", "RENEW", "REBIND",
		"CONFIRM", "INFORMATION-REQUEST"}, kind)
}

// Answers reports whether the packet is a successful answer of this server.
func (p Packet) Answers() bool {
	return p.Other == nil && p.Refused == "" && p.Unsent == "" &&
		slices.Contains([]string{"DHCPOFFER", "DHCPACK", "ADVERTISE", "REPLY"}, p.Kind)
}

// after returns text with a prefix, or "" if text is empty.
func after(word, text string) string {
	if text == "" {
		return ""
	}
	return word + text
}

// otherText renders a packet of or to another server.
func otherText(v Values) string {
	name, kind := v.Text("server"), v.Text("kind")
	if mac := v.Text("mac"); mac != "" {
		name += " (MAC " + mac + ")"
	}
	if weights[kind] == 2 { // from the client, which names the server
		return kind + after(" for ", v.Text("address")) + " to another server, " + name
	}
	return kind + after(" of ", v.Text("address")) + " by another server, " + name + after(", booting ", v.Text("file"))
}
