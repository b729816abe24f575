package fleet

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"ingot"
)

// Other is what a DHCP server that is not ours said to a client; or the client
// to it, which names the server that it chose.
type Other struct {
	Address netip.Addr `json:"address,omitzero"` // by which the server calls itself
	DUID    string     `json:"duid,omitempty"`   // by which one of DHCPv6 does, hexadecimal
	MAC     string     `json:"mac,omitempty"`    // of the server, or the relay before it
	// DHCPOFFER, DHCPACK, DHCPNAK; of the client's own DHCPREQUEST, REQUEST, RENEW
	Kind     string     `json:"kind,omitempty"`
	Given    netip.Addr `json:"given,omitzero"`     // the address that it is about
	File     string     `json:"file,omitempty"`     // what it names to boot
	Expected bool       `json:"expected,omitempty"` // the network's own server, beside which we stand
	First    time.Time  `json:"first,omitzero"`
	At       time.Time  `json:"at"` // the last time
	Times    int        `json:"times,omitempty"`
}

// Name is the server as people find it.
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

// MaxOthers bounds what is kept of other servers, for one client or boot.
const MaxOthers = 8

// Hear adds what another server said to a list, or counts it once more; there is
// room for MaxOthers. The list that is given is not changed. isNew: it was not
// heard before, and there was room.
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

// weights say how much a packet shows which server a client followed.
var weights = map[string]int{"DHCPNAK": 1, "DHCPREQUEST": 2, "REQUEST": 2, "RENEW": 2, "DHCPACK": 3}

// ByWeight sorts others: the one that a client followed comes last.
func ByWeight(a, b Other) int {
	if w := weights[a.Kind] - weights[b.Kind]; w != 0 {
		return w
	}
	return a.At.Compare(b.At)
}

// Packet is one that matters: ours, the machine's own, or another server's.
type Packet struct {
	At      time.Time
	Kind    string     // as RFC 2131 and RFC 8415 call it, unless it is of another server
	Address netip.Addr // that it is about; may be none
	Loader  string     // that an answer without an address names
	Refused string     // why the machine does not get what it asks for
	Unsent  string     // why our answer did not leave
	Other   *Other     // it is of another server, or for one
}

// Change is the packet as a Change: what the server answered, what the machine
// made of it, and what other servers answered.
func (p Packet) Change(m ingot.MachineID, boot ingot.BootID) Change {
	return Change{At: p.At, Code: CodePacket, Machine: m, Boot: boot, To: p.values()}
}

// Words is a packet in words, and whether it is worth a look.
func (p Packet) Words() (text string, bad bool) {
	c := p.Change("", "")
	return c.String(), c.Bad()
}

// values are what the Change of a packet holds: kind, address, loader, refused,
// unsent; of another server's server, mac, file, expected.
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

// asks reports whether machines ask for addresses by packets of a kind.
func asks(kind string) bool {
	return slices.Contains([]string{"DHCPDISCOVER", "DHCPREQUEST", "DHCPINFORM", "SOLICIT", "REQUEST", "RENEW", "REBIND",
		"CONFIRM", "INFORMATION-REQUEST"}, kind)
}

// Answers reports whether it is what a machine gets when all is well.
func (p Packet) Answers() bool {
	return p.Other == nil && p.Refused == "" && p.Unsent == "" &&
		slices.Contains([]string{"DHCPOFFER", "DHCPACK", "ADVERTISE", "REPLY"}, p.Kind)
}

// after is a text behind a word, or nothing.
func after(word, text string) string {
	if text == "" {
		return ""
	}
	return word + text
}

// otherText is a packet of another server, or to one.
func otherText(v Values) string {
	name, kind := v.Text("server"), v.Text("kind")
	if mac := v.Text("mac"); mac != "" {
		name += " (MAC " + mac + ")"
	}
	if weights[kind] == 2 { // of the client, which names the server
		return kind + after(" for ", v.Text("address")) + " to another server, " + name
	}
	return kind + after(" of ", v.Text("address")) + " by another server, " + name + after(", booting ", v.Text("file"))
}
