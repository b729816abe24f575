package network

import (
	"bytes"
	"encoding/json"
	"net/netip"

	"ingot/bootserver/client"
	"ingot/bootserver/lease"
)

// Config is what operators write about DHCP of one family. I is the type of its
// interfaces, M of its machines, O of the options that clients get. The zero
// Config serves nothing.
type Config[I Interface, M Machine[O], O Options[O]] struct {
	Interfaces []I `yaml:"interfaces,omitempty" json:"interfaces,omitempty"`
	// Networks have the addresses for clients. An interface in full mode without a
	// network assigns a part of its own prefix, see lease.Default.
	Networks []Network[O] `yaml:"networks,omitempty" json:"networks,omitempty"`
	// Options apply to all clients unless something nearer overrides them: network,
	// subnet, group (the later group wins), machine.
	Options  O          `yaml:",inline" json:"-"`
	Groups   []Group[O] `yaml:"groups,omitempty" json:"groups,omitempty"`
	Machines []M        `yaml:"machines,omitempty" json:"machines,omitempty"`
}

// Network is one link with one or more subnets (RFC 2131 calls several a shared
// network). Clients get addresses of any of them.
type Network[O any] struct {
	Name string `yaml:"name" json:"name"`
	// Interface is the card that the network is attached to; empty if it is only
	// reached through relays.
	Interface string `yaml:"interface,omitempty" json:"interface,omitempty"`
	// Relays are the relays of the network besides its routers: addresses, or prefixes in which
	// only relays have addresses. A relayed packet is believed if the address that the relay
	// gives itself (giaddr, or the link-address of DHCPv6) and the packet's source both belong
	// to them.
	Relays []Relay `yaml:"relays,omitempty" json:"relays,omitempty"`
	// Snooping believes the switch ports that switches add without being relays: option 82
	// with giaddr 0 on the interface's own link, or the Relay-forward of a Lightweight DHCPv6
	// Relay Agent (RFC 6221). These switches must replace or drop what clients send.
	Snooping bool `yaml:"snooping,omitempty" json:"snooping,omitempty"`
	// NAT gives up that the key of a boot works only from addresses of its machine, for
	// machines that reach the server through address translation.
	NAT     bool        `yaml:"nat,omitempty" json:"nat,omitempty"`
	Subnets []Subnet[O] `yaml:"subnets" json:"subnets"`
	Options O           `yaml:",inline" json:"-"`
}

// Subnet is one prefix of a network.
type Subnet[O any] struct {
	Prefix  netip.Prefix  `yaml:"prefix" json:"prefix"`
	Pools   []lease.Range `yaml:"pools,omitempty" json:"pools,omitempty"` // none: reserved addresses only
	Options O             `yaml:",inline" json:"-"`
}

// Group gives options to all clients that it matches.
type Group[O any] struct {
	Name    string       `yaml:"name" json:"name"`
	Match   client.Match `yaml:"match" json:"match"`
	Options O            `yaml:",inline" json:"-"`
}

// Interface is the configuration of a network card, VLAN or bridge.
type Interface interface {
	// Settings returns what both families have in common.
	Settings() InterfaceSettings
	// Check adds what is wrong with the rest.
	Check(f *Faults, where string)
}

// InterfaceSettings is the part of an interface's configuration that both families
// have.
type InterfaceSettings struct {
	Name    string
	Assigns bool // addresses, so it needs a network
	Silent  bool // it answers nothing, so it needs no address
}

// Machine is the configuration of one machine.
type Machine[O any] interface {
	Reservation() Reservation
	OwnOptions() O
	// Check adds what is wrong with the options and everything else but the reservation.
	Check(f *Faults, where string)
}

// Options are what clients get besides an address and what they boot.
type Options[O any] interface {
	Family() Family
	// Override returns the options with those that near sets replaced.
	Override(near O) O
	Check(f *Faults, where string)
	// RouterAddresses returns the routers in the options, which no pool may contain.
	RouterAddresses() []netip.Addr
	// FirstStages returns the loaders to try, nil for the default.
	FirstStages() []string
}

// MarshalJSON implements json.Marshaler: options are inline, as in YAML.
func (c Config[I, M, O]) MarshalJSON() ([]byte, error) {
	type plain Config[I, M, O]
	return marshalInline(plain(c), c.Options)
}

// MarshalJSON implements json.Marshaler: options are inline, as in YAML.
func (n Network[O]) MarshalJSON() ([]byte, error) {
	type plain Network[O]
	return marshalInline(plain(n), n.Options)
}

// MarshalJSON implements json.Marshaler: options are inline, as in YAML.
func (s Subnet[O]) MarshalJSON() ([]byte, error) {
	type plain Subnet[O]
	return marshalInline(plain(s), s.Options)
}

// MarshalJSON implements json.Marshaler: options are inline, as in YAML.
func (g Group[O]) MarshalJSON() ([]byte, error) {
	type plain Group[O]
	return marshalInline(plain(g), g.Options)
}

// marshalInline encodes two structs as one JSON object. encoding/json inlines
// embedded structs only, and a type parameter cannot be embedded.
func marshalInline(outer, inline any) ([]byte, error) {
	a, err := json.Marshal(outer)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(inline)
	if err != nil || bytes.Equal(b, []byte("{}")) {
		return a, err
	}
	if bytes.Equal(a, []byte("{}")) {
		return b, nil
	}
	return append(append(a[:len(a)-1], ','), b[1:]...), nil
}
