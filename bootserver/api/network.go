package api

import (
	"net/netip"
	"time"

	"ingot"
)

// Network is what the server observed on the networks that it serves, and the
// leases.
type Network struct {
	Interfaces []NetworkInterface `json:"interfaces"`
	Clients    []NetworkClient    `json:"askers"`
	Servers    []NetworkServer    `json:"servers"`
	Warnings   []NetworkWarning   `json:"warnings"`
	Refused    []RefusedRelay     `json:"refused"`
	Leases     []Lease            `json:"leases"`
}

// NetworkInterface is an interface of the configuration, in one of the two families.
type NetworkInterface struct {
	Name      string       `json:"name"`
	IPv6      bool         `json:"ipv6,omitempty"`
	Mode      string       `json:"mode"`
	Addresses []netip.Addr `json:"addresses,omitempty"` // that machines are told
	Served    bool         `json:"served"`
	Why       string       `json:"why,omitempty"` // it is not served
}

// RefusedRelay is a relay whose packets are neither answered nor believed.
type RefusedRelay struct {
	Interface string     `json:"interface,omitempty"`
	Code      string     `json:"code"`              // why, as in network.RefusalCode
	Relay     netip.Addr `json:"relay,omitzero"`    // giaddr of DHCP, link-address of DHCPv6; none: no relay
	Link      netip.Addr `json:"link,omitzero"`     // that it selects instead of its own (RFC 3527)
	From      netip.Addr `json:"from,omitzero"`     // source of its packets
	Network   string     `json:"network,omitempty"` // that it names
	Section   string     `json:"section"`           // of the configuration: dhcp or dhcp6
	Add       string     `json:"add,omitempty"`     // what to add there if the relay is the operator's
	Text      string     `json:"text"`              // all of it as a sentence
	First     time.Time  `json:"first"`
	Last      time.Time  `json:"last"`
	Packets   int        `json:"packets"`
}

// NetworkClient is a client that sent DHCP packets.
type NetworkClient struct {
	Interface   string         `json:"interface"`
	MAC         string         `json:"mac"` // of a DHCPv6 client whose card is not known: "duid:" and the DUID
	UUID        string         `json:"uuid,omitempty"`
	Class       string         `json:"class,omitempty"` // option 60 of DHCP, option 16 of DHCPv6
	Firmware    ingot.Firmware `json:"firmware,omitempty"`
	Hostname    string         `json:"hostname,omitempty"`
	Quirk       string         `json:"quirk,omitempty"`
	Port        SwitchPort     `json:"port,omitzero"`
	Answers     []string       `json:"answers,omitempty"` // what other servers answered it, as text
	Others      []Other        `json:"others,omitempty"`  // the same, one for each server and kind of message
	WouldAnswer string         `json:"would,omitempty"`   // what this server would have answered, in observe mode
	First       time.Time      `json:"first"`
	Last        time.Time      `json:"last"`
	Packets     int            `json:"packets"`
}

// NetworkServer is another DHCP server.
type NetworkServer struct {
	Interface string     `json:"interface"`
	Address   netip.Addr `json:"address"` // its server identifier (option 54)
	From      netip.Addr `json:"from"`    // source address of its packet
	MAC       string     `json:"mac"`
	Proxy     bool       `json:"proxy,omitempty"` // it gives no address
	Class     string     `json:"class,omitempty"` // option 60 in its answers
	File      string     `json:"file,omitempty"`  // boot file that it names
	Next      netip.Addr `json:"next,omitzero"`   // server of that file
	Ingot     string     `json:"ingot,omitempty"` // identity of another ingot
	// of a DHCPv6 server, hexadecimal; then a client named it, and nothing else is known
	DUID    string    `json:"duid,omitempty"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Packets int       `json:"packets"`
}

// NetworkWarning is a problem of a network that an operator should know.
type NetworkWarning struct {
	Interface string    `json:"interface"`
	Text      string    `json:"text"`
	First     time.Time `json:"first"`
	Last      time.Time `json:"last"`
	Times     int       `json:"times"`
}
