package fleet

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// KindPacket entries are DHCP packets that matter to who explains a boot: what
// we answered, what the machine made of it, and what others answered.
const KindPacket Kind = "packet"

// Other is what a DHCP server that is not ours said to a client; or the client
// to it, which names the server that it chose.
type Other struct {
	Address  netip.Addr `json:"address,omitzero"`   // by which the server calls itself
	DUID     string     `json:"duid,omitempty"`     // by which one of DHCPv6 does, hexadecimal
	MAC      string     `json:"mac,omitempty"`      // of the server, or the relay before it
	Kind     string     `json:"kind,omitempty"`     // DHCPOFFER, DHCPACK, DHCPNAK; of the client's own DHCPREQUEST, REQUEST, RENEW
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

// weights say how much a packet tells of whom a client obeyed.
var weights = map[string]int{"DHCPNAK": 1, "DHCPREQUEST": 2, "REQUEST": 2, "RENEW": 2, "DHCPACK": 3}

// ByWeight sorts others: the one that a client obeyed comes last.
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

// Words tells of a packet, and whether it is worth a look.
func (p Packet) Words() (text string, bad bool) {
	if p.Other != nil {
		return p.Other.words(), !p.Other.Expected
	}
	text = p.Kind
	switch {
	case p.Refused != "" && p.asked():
		return fmt.Sprintf("no answer to its %s: %s", p.Kind, p.Refused), true
	case p.Refused != "":
		text += forAddress(p.Address) + ": " + p.Refused
	case p.Address.IsValid():
		text += " of " + p.Address.String()
	case p.Loader != "":
		text += " of " + p.Loader + ", without an address"
	default:
		text += " without an address"
	}
	if p.Unsent != "" {
		text += " could not be sent: " + p.Unsent
	}
	return text, p.Refused != "" || p.Unsent != ""
}

// asked reports whether it is a packet by which machines ask for addresses.
func (p Packet) asked() bool {
	return slices.Contains([]string{"DHCPDISCOVER", "DHCPREQUEST", "DHCPINFORM", "SOLICIT", "REQUEST", "RENEW", "REBIND", "CONFIRM", "INFORMATION-REQUEST"}, p.Kind)
}

// Answers reports whether it is what a machine gets when all is well.
func (p Packet) Answers() bool {
	return p.Other == nil && p.Refused == "" && p.Unsent == "" && slices.Contains([]string{"DHCPOFFER", "DHCPACK", "ADVERTISE", "REPLY"}, p.Kind)
}

func forAddress(ip netip.Addr) string {
	if !ip.IsValid() {
		return ""
	}
	return " for " + ip.String()
}

func (o Other) words() string {
	name := o.Name()
	if o.MAC != "" {
		name += " (MAC " + o.MAC + ")"
	}
	if weights[o.Kind] == 2 { // the client says so
		return o.Kind + forAddress(o.Given) + " to another server, " + name
	}
	text := o.Kind
	if o.Given.IsValid() {
		text += " of " + o.Given.String()
	}
	text += " by another server, " + name
	if o.File != "" {
		text += ", booting " + o.File
	}
	return text
}
