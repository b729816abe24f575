// Package fleet has the machines, boots, leases and typed Changes of a boot server,
// and decides what machines boot: plain functions from facts and a time to a
// Decision, which holds records and Changes. The same facts give the same Decision,
// so a transaction may compute it twice.
//
// Left out on purpose: I/O and clocks. Package state stores, packages booter and
// operator gather facts, commit decisions and act on them.
package fleet

import (
	"net/netip"
	"strings"
	"time"

	"ingot"
)

// State is the admission state of a machine.
type State string

// The states of a machine.
const (
	Pending  State = "pending"  // seen, waiting for approval
	Approved State = "approved" // may boot its assigned image
	Retired  State = "retired"  // known, no longer allowed to boot
)

// ImageRef identifies an image by digest, with its name for display.
type ImageRef struct {
	Image ingot.Digest `json:"image,omitempty"`
	Name  string       `json:"name,omitempty"`
}

// Assignment is the image that a machine should run, and why.
type Assignment struct {
	ImageRef
	Why   string    `json:"why,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Grant is an operator's one-shot permission to initialise a blank disk.
type Grant struct {
	ingot.Grant
	Given time.Time    `json:"given"`
	Lent  ingot.BootID `json:"lent,omitempty"` // the latest boot with it in its ticket
	Boot  ingot.BootID `json:"boot,omitempty"` // the boot that used it
	Over  bool         `json:"over,omitempty"` // expired unused, and recorded in the ledger
}

// Machine is one computer.
type Machine struct {
	ID     ingot.MachineID   `json:"id"`
	Name   string            `json:"name,omitempty"`   // host name given by the operator
	Labels map[string]string `json:"labels,omitempty"` // never modified, only replaced
	Ask    *Question         `json:"ask,omitempty"`    // an open question, which an operator must answer before it boots
	// answered questions, the latest last; never modified, only replaced
	Answered   []Answered     `json:"answered,omitempty"`
	State      State          `json:"state"`
	UUID       string         `json:"uuid,omitempty"` // plausible SMBIOS UUID
	Serial     string         `json:"serial,omitempty"`
	MACs       []string       `json:"macs"`
	MachineKey string         `json:"machineKey"` // machine-id(5) of its systems, 32 hex digits
	Firmware   ingot.Firmware `json:"firmware,omitempty"`
	Address    netip.Addr     `json:"address,omitzero"`
	Port       SwitchPort     `json:"port,omitzero"` // switch port of the last boot through a relay
	// Loaders are the first stages that the machine was moved to after others stalled, by
	// firmware.
	Loaders     map[ingot.Firmware]string `json:"loaders,omitempty"`
	FirstSeen   time.Time                 `json:"firstSeen"`
	LastSeen    time.Time                 `json:"lastSeen"`
	Facts       ingot.Facts               `json:"facts"` // as reported at the last boot
	Assignment  Assignment                `json:"assignment"`
	LastHealthy ImageRef                  `json:"lastHealthy"`
	Healthy     []ImageRef                `json:"healthy,omitempty"` // each once, the latest last
	Trial       Trial                     `json:"trial,omitzero"`    // failures of the image that it boots now
	// set after the assigned image failed too often; never modified, only replaced
	Setback *Setback `json:"setback,omitempty"`
	Orders  int      `json:"orders,omitempty"` // number of operators' decisions about its image
	// what its next boot does other than the assignment says; never modified, only replaced
	Once *Once `json:"once,omitempty"`
	// an operator keeps it out of rollouts; never modified, only replaced
	Pin *Mark `json:"pin,omitempty"`
	// an operator says that it is switched off; see IsOff; never modified, only replaced
	Off    *Mark   `json:"off,omitempty"`
	Grants []Grant `json:"grants,omitempty"`
	// disks with volumes that the machine used before volumes had owners
	Had  []ingot.Disk `json:"had,omitempty"`
	Boot ingot.BootID `json:"boot,omitempty"` // the latest boot
	// set while an earlier boot may still run; never modified, only replaced
	Claim *Claim `json:"claim,omitempty"`
	// the system that took the latest ticket authenticates its reports
	Authenticated bool `json:"authenticated,omitempty"`
	// when a message of its running system brought back what a restore had lost; until its next ticket
	Returned time.Time `json:"returned,omitzero"`
}

// Hostname returns the host name of the machine: its name, else its ID.
func (m *Machine) Hostname() string {
	if m.Name != "" {
		return m.Name
	}
	return string(m.ID)
}

// Brief returns the machine without fields that a table does not show: hardware except
// vendor and product, history, and grants.
func (m Machine) Brief() Machine {
	m.Facts = ingot.Facts{Vendor: m.Facts.Vendor, Product: m.Facts.Product}
	m.Healthy, m.Grants, m.Had, m.Trial, m.MachineKey, m.Loaders, m.Answered = nil, nil, nil, Trial{}, "", nil, nil
	m.Claim = nil
	if m.Setback != nil {
		s := *m.Setback
		s.Failures = nil
		m.Setback = &s
	}
	return m
}

// Mark is an operator's remark on a machine.
type Mark struct {
	Why   string    `json:"why,omitempty"`
	By    string    `json:"by"`
	Since time.Time `json:"since"`
}

// IsOff reports whether an operator says that the machine is switched off, and it did not boot since.
// latest is its latest boot.
func (m *Machine) IsOff(latest Boot) bool {
	return m.Off != nil && !latest.Started.After(m.Off.Since)
}

// Event is one step of a boot, with the time at which the server recorded it.
type Event struct {
	ingot.Event
	At time.Time `json:"at"`
}

// Boot is one boot attempt of a machine.
type Boot struct {
	ID       ingot.BootID    `json:"id"`
	Machine  ingot.MachineID `json:"machine"`
	Number   int             `json:"number"`           // 1 for the machine's first; unlike times, always increasing
	Before   ingot.BootID    `json:"before,omitempty"` // the machine's previous boot
	Firmware ingot.Firmware  `json:"firmware,omitempty"`
	Image    ImageRef        `json:"image"`           // empty until the script names one
	Order    int             `json:"order,omitempty"` // the machine's Orders when its image was decided
	// what this boot does other than the assignment says; never modified, only replaced
	Once *Once        `json:"once,omitempty"`
	Root ingot.Digest `json:"root,omitempty"` // digest that the machine should measure
	// the first stage that it is offered: a loader's file, or FirstUKI
	First    string        `json:"first,omitempty"`
	Proxy    bool          `json:"proxy,omitempty"`   // another server assigns the address; we name the boot file
	Accepted time.Time     `json:"told,omitzero"`     // when the machine last accepted our offer
	Back     bool          `json:"back,omitempty"`    // the first stage ran: it requested an address
	Started  time.Time     `json:"started"`           // first packet
	Deadline time.Time     `json:"deadline,omitzero"` // by which it must report; zero while no image is decided
	Ended    time.Time     `json:"ended,omitzero"`
	Outcome  ingot.Outcome `json:"outcome"`
	Cause    Cause         `json:"cause,omitempty"` // what ended it; empty for boots that older versions ended
	Reason   string        `json:"reason,omitempty"`
	Ticket   time.Time     `json:"ticket,omitzero"` // when the first ticket was issued
	// the first boot that reported this hardware, this one or an earlier one
	Facts   ingot.BootID `json:"facts,omitempty"`
	Changes []string     `json:"changes,omitempty"` // hardware changes since the previous boot
	Crash   string       `json:"crash,omitempty"`   // the reason of a kernel crash, from pstore
	// it reported a crash of the previous boot from pstore, which it does once
	Pstore bool             `json:"pstore,omitempty"`
	Events []Event          `json:"events"`
	Served map[string]int64 `json:"served,omitempty"` // bytes by artifact
	Report *ingot.Report    `json:"report,omitempty"` // the latest report or heartbeat
	// other DHCP servers that answered, while the boot was open; never modified, only replaced
	Others []Other `json:"others,omitempty"`
	// where it was requested, the latest last; never modified, only replaced
	Origins []Origin `json:"origins,omitempty"`
	// addresses that the machine took from other servers, or used first; until the ticket, the
	// key works from there and from the machine's leases; never modified, only replaced
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// what authenticates its messages
	Auth     Authentication `json:"auth,omitzero"`
	Conflict *Conflict      `json:"conflict,omitempty"` // with another host; never modified, only replaced
	// the latest order to its system; never modified, only replaced
	Ordered *Order `json:"ordered,omitempty"`
	// the largest number of the boots that began in its place before it came back, see Claim
	Newest int `json:"-"`
	// ledger entries that its messages caused besides those of events, and those of its reports
	Notes   int       `json:"-"`
	Reports ReportLog `json:"-"`
}

// FirstUKI stands for the image's own UKI as first stage.
const FirstUKI = "uki"

// Stage returns the furthest stage that the boot has reached.
func (b *Boot) Stage() ingot.Stage {
	var furthest ingot.Stage
	for _, e := range b.Events {
		if e.Error == "" && e.Stage.Rank() >= furthest.Rank() {
			furthest = e.Stage
		}
	}
	return furthest
}

// Open reports whether the boot has not ended.
func (b *Boot) Open() bool { return b.Outcome == ingot.OutcomeOpen }

// Lease is an address assigned to a network card. It is keyed by MAC address, not by client
// identifier, so that firmware, loader, initramfs and system are the same client.
type Lease struct {
	MAC      string          `json:"mac,omitempty"`
	DUID     string          `json:"duid,omitempty"` // hexadecimal; of a DHCPv6 client whose MAC address is unknown
	Address  netip.Addr      `json:"address"`
	Expires  time.Time       `json:"expires"`
	Hostname string          `json:"hostname,omitempty"`
	Machine  ingot.MachineID `json:"machine,omitempty"` // if approved: the address is reserved for it
	Port     SwitchPort      `json:"port,omitzero"`
	// in use by an unknown host, until Expires; MAC is that of the client that declined it
	Declined bool `json:"declined,omitempty"`
}

// Client returns the key of the lease holder: the MAC address, else the DUID.
func (l Lease) Client() string {
	if l.MAC == "" && l.DUID != "" {
		return duidPrefix + l.DUID
	}
	return l.MAC
}

const duidPrefix = "duid:"

// LeaseOf returns the lease of an address to a client, in the form of Lease.Client.
func LeaseOf(client string, address netip.Addr) Lease {
	if duid, ok := strings.CutPrefix(client, duidPrefix); ok {
		return Lease{DUID: duid, Address: address}
	}
	return Lease{MAC: client, Address: address}
}

// SwitchPort is the switch port of a machine, as reported by a DHCP relay (RFC 3046). Circuit
// and Remote have a vendor-specific format: text if printable, otherwise "0x" and
// hexadecimal digits.
type SwitchPort struct {
	Relay   netip.Addr `json:"relay,omitzero"` // giaddr, or the link-address of DHCPv6
	Circuit string     `json:"circuit,omitempty"`
	Remote  string     `json:"remote,omitempty"`
}

func (p SwitchPort) String() string {
	if !p.Relay.IsValid() {
		return ""
	}
	return strings.TrimSpace(p.Circuit+" "+p.Remote) + " via " + p.Relay.String()
}
