package client

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"ingot"
)

// Match selects clients. All criteria that are set must match; a list matches
// when one of its entries does.
type Match struct {
	Names    []string         `yaml:"names,omitempty" json:"names,omitempty"`       // machine names given by operators
	MACs     []string         `yaml:"macs,omitempty" json:"macs,omitempty"`         // or their beginning: "b8:59:9f"
	UUIDs    []string         `yaml:"uuids,omitempty" json:"uuids,omitempty"`       // SMBIOS
	Firmware []ingot.Firmware `yaml:"firmware,omitempty" json:"firmware,omitempty"` // "bios", "uefi-x64", …
	Classes  []string         `yaml:"classes,omitempty" json:"classes,omitempty"`   // beginning of the vendor class
	Networks []string         `yaml:"networks,omitempty" json:"networks,omitempty"` // names of networks
}

// Matches reports whether a client matches. name is what operators call its
// machine, and network the name of the network it is in; both may be empty.
func (m Match) Matches(c Client, name, network string) bool {
	has := func(list []string, f func(string) bool) bool { return len(list) == 0 || slices.ContainsFunc(list, f) }
	return has(m.Names, func(s string) bool { return name != "" && strings.EqualFold(s, name) }) &&
		has(m.MACs, func(s string) bool { return strings.HasPrefix(c.MAC, canonicalMACPrefix(s)) }) &&
		has(m.UUIDs, func(s string) bool { return c.UUID != "" && ingot.PlausibleUUID(s) == c.UUID }) &&
		has(m.Classes, func(s string) bool { return strings.HasPrefix(c.Class, s) }) &&
		has(m.Networks, func(s string) bool { return s == network }) &&
		(len(m.Firmware) == 0 || slices.Contains(m.Firmware, c.Firmware))
}

// Check returns what is wrong with a match, given the names of all networks.
func (m Match) Check(networks []string) (faults []string) {
	if len(m.Names)+len(m.MACs)+len(m.UUIDs)+len(m.Firmware)+len(m.Classes)+len(m.Networks) == 0 {
		faults = append(faults, "it matches nothing; give one of names, macs, uuids, firmware, classes and networks")
	}
	for _, mac := range m.MACs {
		if canonicalMACPrefix(mac) == "" {
			faults = append(faults, fmt.Sprintf("%q is not a MAC address or the beginning of one", mac))
		}
	}
	for _, u := range m.UUIDs {
		if ingot.PlausibleUUID(u) == "" {
			faults = append(faults, fmt.Sprintf("%q is not a UUID that identifies a machine", u))
		}
	}
	known := []ingot.Firmware{ingot.FirmwareBIOS, ingot.FirmwareUEFIx64, ingot.FirmwareUEFIarm64,
		ingot.FirmwareUEFIx64HTTP, ingot.FirmwareUEFIarm64HTTP}
	for _, w := range m.Firmware {
		if !slices.Contains(known, w) {
			faults = append(faults, fmt.Sprintf("unknown firmware %q; choose one of %v", w, known))
		}
	}
	for _, n := range m.Networks {
		if !slices.Contains(networks, n) {
			faults = append(faults, fmt.Sprintf("there is no network %q", n))
		}
	}
	return faults
}

// canonicalMACPrefix returns the beginning of a MAC address, 1 to 6 bytes, in
// lower case with colons. It returns "" if s is not one.
func canonicalMACPrefix(s string) string {
	m := strings.ToLower(strings.ReplaceAll(strings.TrimRight(s, ":*-"), "-", ":"))
	b, err := hex.DecodeString(strings.ReplaceAll(m, ":", ""))
	if err != nil || len(b) == 0 || len(b) > 6 || len(m) != 3*len(b)-1 {
		return ""
	}
	return m
}
