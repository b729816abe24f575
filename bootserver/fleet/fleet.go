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

// State is how far a machine has come.
type State string

// The states of a machine.
const (
	Pending  State = "pending"  // seen, and waiting for an operator
	Approved State = "approved" // may boot what it is assigned
	Retired  State = "retired"  // known, and may not boot any more
)

// ImageRef pins an image and keeps its name for people.
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
	Boot  ingot.BootID `json:"boot,omitempty"` // the one boot that may use it
	Over  bool         `json:"over,omitempty"` // it expired, no boot used it, and the ledger says so
}

// Machine is one computer.
type Machine struct {
	ID     ingot.MachineID   `json:"id"`
	Name   string            `json:"name,omitempty"`   // host name given by the operator
	Labels map[string]string `json:"labels,omitempty"` // never changed, only replaced
	Ask    *Question         `json:"ask,omitempty"`    // what an operator must answer before it boots
	// what operators were asked about it, the latest answer last; never changed, only replaced
	Answered   []Answered     `json:"answered,omitempty"`
	State      State          `json:"state"`
	UUID       string         `json:"uuid,omitempty"` // plausible SMBIOS UUID
	Serial     string         `json:"serial,omitempty"`
	MACs       []string       `json:"macs"`
	MachineKey string         `json:"machineKey"` // machine-id(5) of its systems, 32 hex digits
	Firmware   ingot.Firmware `json:"firmware,omitempty"`
	Address    netip.Addr     `json:"address,omitzero"`
	Port       SwitchPort     `json:"port,omitzero"` // where it was plugged in when it last booted through a relay
	// Loaders are the first stages that the machine was moved to, by firmware,
	// because those before stalled.
	Loaders     map[ingot.Firmware]string `json:"loaders,omitempty"`
	FirstSeen   time.Time                 `json:"firstSeen"`
	LastSeen    time.Time                 `json:"lastSeen"`
	Facts       ingot.Facts               `json:"facts"` // as reported at the last boot
	Assignment  Assignment                `json:"assignment"`
	LastHealthy ImageRef                  `json:"lastHealthy"`
	Healthy     []ImageRef                `json:"healthy,omitempty"` // images healthy here, the latest last, each once
	Trial       Trial                     `json:"trial,omitzero"`    // failures of the image that it boots now
	// the assigned image was given up; never changed, only replaced
	Setback *Setback     `json:"setback,omitempty"`
	Orders  int          `json:"orders,omitempty"` // how often an operator said what it is to boot
	Grants  []Grant      `json:"grants,omitempty"`
	Boot    ingot.BootID `json:"boot,omitempty"` // the latest boot
}

// Hostname is the name that the machine's system gets.
func (m *Machine) Hostname() string {
	if m.Name != "" {
		return m.Name
	}
	return string(m.ID)
}

// Brief is the machine without what a table of thousands does not show: its
// hardware but for vendor and product, its past, its grants.
func (m Machine) Brief() Machine {
	m.Facts = ingot.Facts{Vendor: m.Facts.Vendor, Product: m.Facts.Product}
	m.Healthy, m.Grants, m.Trial, m.MachineKey, m.Loaders, m.Answered = nil, nil, Trial{}, "", nil, nil
	if m.Setback != nil {
		s := *m.Setback
		s.Failures = nil
		m.Setback = &s
	}
	return m
}

// Event is one step of a boot as the server recorded it.
type Event struct {
	ingot.Event
	At time.Time `json:"at"`
}

// Boot is one attempt of one machine.
type Boot struct {
	ID       ingot.BootID    `json:"id"`
	Machine  ingot.MachineID `json:"machine"`
	Number   int             `json:"number"`           // 1 for the machine's first; clocks jump, numbers do not
	Before   ingot.BootID    `json:"before,omitempty"` // the machine's boot before this one
	Firmware ingot.Firmware  `json:"firmware,omitempty"`
	Image    ImageRef        `json:"image"`           // empty until the script names one
	Order    int             `json:"order,omitempty"` // the machine's Orders when its image was decided
	Root     ingot.Digest    `json:"root,omitempty"`  // that the machine should measure
	// the first stage that it is offered: a loader's file, or FirstUKI
	First    string        `json:"first,omitempty"`
	Proxy    bool          `json:"proxy,omitempty"`   // another server gives the address, and we say what to boot
	Accepted time.Time     `json:"told,omitzero"`     // when the machine accepted that last
	Back     bool          `json:"back,omitempty"`    // the first stage ran: it asked us for an address
	Started  time.Time     `json:"started"`           // first packet
	Deadline time.Time     `json:"deadline,omitzero"` // by which it must report; zero while no image is decided
	Ended    time.Time     `json:"ended,omitzero"`
	Outcome  ingot.Outcome `json:"outcome"`
	Cause    Cause         `json:"cause,omitempty"` // what ended it; empty of boots that older versions ended
	Reason   string        `json:"reason,omitempty"`
	Ticket   time.Time     `json:"ticket,omitzero"` // when it was given its first ticket
	// the boot that reported this hardware first, this one or one before it
	Facts   ingot.BootID `json:"facts,omitempty"`
	Changes []string     `json:"changes,omitempty"` // of the hardware since the boot before
	Crash   string       `json:"crash,omitempty"`   // how the kernel said, in pstore, that it could not go on
	// it reported what the firmware kept of a crash of the boot before, which it does once
	Pstore bool             `json:"pstore,omitempty"`
	Events []Event          `json:"events"`
	Served map[string]int64 `json:"served,omitempty"` // bytes by artifact
	Report *ingot.Report    `json:"report,omitempty"` // the first one, and then the latest heartbeat
	// other DHCP servers that answered, while the boot was open; never changed, only replaced
	Others []Other `json:"others,omitempty"`
}

// FirstUKI stands for the image's own UKI as first stage.
const FirstUKI = "uki"

// Stage is the furthest stage that the boot has reached.
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

// Lease is an address assigned to one network card. It is keyed by MAC address and
// not by client identifier, so that ROM, loader, initramfs and system are one
// client.
type Lease struct {
	MAC      string          `json:"mac,omitempty"`
	DUID     string          `json:"duid,omitempty"` // hexadecimal; of a DHCPv6 client whose MAC address is unknown
	Address  netip.Addr      `json:"address"`
	Expires  time.Time       `json:"expires"`
	Hostname string          `json:"hostname,omitempty"`
	Machine  ingot.MachineID `json:"machine,omitempty"` // when it is approved: its address is not given to strangers
	Port     SwitchPort      `json:"port,omitzero"`
	// in use by an unknown host, until Expires; MAC is the client that declined it
	Declined bool `json:"declined,omitempty"`
}

// Client identifies the holder of the lease: the MAC address, else the DUID.
func (l Lease) Client() string {
	if l.MAC == "" && l.DUID != "" {
		return duidPrefix + l.DUID
	}
	return l.MAC
}

const duidPrefix = "duid:"

// LeaseOf is the lease of an address to a client, as Lease.Client names it.
func LeaseOf(client string, address netip.Addr) Lease {
	if duid, ok := strings.CutPrefix(client, duidPrefix); ok {
		return Lease{DUID: duid, Address: address}
	}
	return Lease{MAC: client, Address: address}
}

// SwitchPort is where a machine is plugged in, as the relay of its network
// reported (RFC 3046): bytes that the switch's vendor chose, shown as text when
// they are text, and else as hexadecimal digits after "0x".
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
