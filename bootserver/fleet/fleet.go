// Package fleet holds what the boot server knows of machines and decides what
// they do: plain types and plain functions from values to values. It does no
// I/O and asks no clock; package state remembers, package bootserver acts.
package fleet

import (
	"net/netip"
	"time"

	"ingot"
)

// State is how far a machine has come.
type State string

// The states of a machine.
const (
	Pending  State = "pending"  // seen, and waiting for an operator
	Approved State = "approved" // may boot what it is assigned
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
}

// Machine is one computer.
type Machine struct {
	ID          ingot.MachineID `json:"id"`
	Name        string          `json:"name,omitempty"` // host name given by the operator
	State       State           `json:"state"`
	UUID        string          `json:"uuid,omitempty"` // plausible SMBIOS UUID
	Serial      string          `json:"serial,omitempty"`
	MACs        []string        `json:"macs"`
	MachineKey  string          `json:"machineKey"` // machine-id(5) of its systems, 32 hex digits
	Firmware    ingot.Firmware  `json:"firmware,omitempty"`
	Address     netip.Addr      `json:"address,omitzero"`
	FirstSeen   time.Time       `json:"firstSeen"`
	LastSeen    time.Time       `json:"lastSeen"`
	Facts       ingot.Facts     `json:"facts"` // as told at the last boot
	Assignment  Assignment      `json:"assignment"`
	LastHealthy ImageRef        `json:"lastHealthy"`
	Healthy     []ImageRef      `json:"healthy,omitempty"` // images healthy here, the latest last, each once
	Grants      []Grant         `json:"grants,omitempty"`
	Boot        ingot.BootID    `json:"boot,omitempty"` // the latest boot
}

// Hostname is the name that the machine's system gets.
func (m *Machine) Hostname() string {
	if m.Name != "" {
		return m.Name
	}
	return string(m.ID)
}

// Event is one step of a boot as the server recorded it.
type Event struct {
	ingot.Event
	At time.Time `json:"at"`
}

// Boot is one attempt of one machine.
type Boot struct {
	ID       ingot.BootID     `json:"id"`
	Machine  ingot.MachineID  `json:"machine"`
	Firmware ingot.Firmware   `json:"firmware,omitempty"`
	Image    ImageRef         `json:"image"`             // empty until the script names one
	Root     ingot.Digest     `json:"root,omitempty"`    // that the machine should measure
	Started  time.Time        `json:"started"`           // first packet
	Deadline time.Time        `json:"deadline,omitzero"` // by which it must report; zero while no image is decided
	Ended    time.Time        `json:"ended,omitzero"`
	Outcome  ingot.Outcome    `json:"outcome"`
	Reason   string           `json:"reason,omitempty"`
	Events   []Event          `json:"events"`
	Served   map[string]int64 `json:"served,omitempty"` // bytes by artifact
	Report   *ingot.Report    `json:"report,omitempty"` // the first one, and then the latest heartbeat
}

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

// Lease is an address lent to one network card. It is keyed by MAC address and
// not by client identifier, so that ROM, loader, initramfs and system are one
// client.
type Lease struct {
	MAC      string     `json:"mac"`
	Address  netip.Addr `json:"address"`
	Expires  time.Time  `json:"expires"`
	Hostname string     `json:"hostname,omitempty"`
}
