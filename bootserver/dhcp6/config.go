package dhcp6

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"ingot/bootserver/network"
)

// Mode is what the server does on one interface.
type Mode string

// The modes of an interface.
const (
	// Full assigns addresses and offers what to boot. Machines that do not boot may
	// have addresses from router advertisements all the same.
	Full Mode = "full"
	// Boot leaves addresses to the DHCPv6 server that is there already, and offers to
	// firmware and to ingot-init what they boot. docs/NETWORKS.md lists the firmware
	// that accepts that.
	Boot Mode = "boot"
	// Observe answers nothing and records the clients and what this server would have
	// answered.
	Observe Mode = "observe"
)

// Config is the configuration of DHCPv6. The zero Config serves nothing.
type Config = network.Config[Interface, Machine, Options]

// Network is one link with one or more prefixes.
type Network = network.Network[Options]

// Subnet is one prefix of a network.
type Subnet = network.Subnet[Options]

// Group gives options to all clients that it matches.
type Group = network.Group[Options]

// Interface is a network card, VLAN or bridge to listen on.
type Interface struct {
	Name string `yaml:"name" json:"name"`
	Mode Mode   `yaml:"mode,omitempty" json:"mode,omitempty"` // empty: full
	// Known answers only machines that are configured or approved.
	Known bool `yaml:"known,omitempty" json:"known,omitempty"`
	// Preference is by what clients compare servers (option 7); they take a server of
	// 255 without waiting for others.
	Preference uint8 `yaml:"preference,omitempty" json:"preference,omitempty"`
	// RapidCommit assigns addresses with the first message to clients that ask for it:
	// two messages instead of four, for networks with one server.
	RapidCommit bool `yaml:"rapidCommit,omitempty" json:"rapidCommit,omitempty"`
}

// Machine is one machine that is known beforehand, by one of MAC address, SMBIOS
// UUID, DUID and the name that the operator gave it.
type Machine struct {
	MAC     string     `yaml:"mac,omitempty" json:"mac,omitempty"`
	UUID    string     `yaml:"uuid,omitempty" json:"uuid,omitempty"`
	DUID    string     `yaml:"duid,omitempty" json:"duid,omitempty"` // hexadecimal
	Name    string     `yaml:"name,omitempty" json:"name,omitempty"`
	Address netip.Addr `yaml:"address,omitempty" json:"address,omitzero"` // reserved; none: from a pool
	Options `yaml:",inline"`
}

// Options are what clients get besides an address. A nil list or zero value is
// inherited, an empty list means none.
type Options struct {
	DNS    []netip.Addr `yaml:"dns,omitempty" json:"dns,omitempty"`       // option 23, RFC 3646
	Search []string     `yaml:"search,omitempty" json:"search,omitempty"` // 24
	NTP    []netip.Addr `yaml:"ntp,omitempty" json:"ntp,omitempty"`       // 56, RFC 5908, and 31
	// valid lifetime; zero at all levels: network.DefaultLease
	Lease time.Duration `yaml:"lease,omitempty" json:"lease,omitempty"`
	// Loaders are the files of the first stage to try, the next after one that
	// stalled. None: by firmware, see client.DefaultLoaders.
	Loaders []string `yaml:"loaders,omitempty" json:"loaders,omitempty"`
	// Params are the parameters of the boot file (option 60). None: for UEFI the size of
	// the loader, for others nothing.
	Params []string `yaml:"params,omitempty" json:"params,omitempty"`
	// Extra options are sent unchanged; the nearest of a code wins.
	Extra []Option `yaml:"options,omitempty" json:"options,omitempty"`
}

// Option is any option by its code, with one of the values.
type Option = network.Option[uint16]

// Family implements network.Options.
func (o Options) Family() network.Family { return network.IPv6 }

// Override implements network.Options.
func (o Options) Override(near Options) Options {
	o.DNS = network.Nearest(o.DNS, near.DNS)
	o.Search = network.Nearest(o.Search, near.Search)
	o.NTP = network.Nearest(o.NTP, near.NTP)
	o.Lease = cmp.Or(near.Lease, o.Lease)
	o.Loaders = network.Nearest(o.Loaders, near.Loaders)
	o.Params = network.Nearest(o.Params, near.Params)
	o.Extra = network.OverrideOptions(o.Extra, near.Extra)
	return o
}

// RouterAddresses implements network.Options: routers advertise themselves.
func (o Options) RouterAddresses() []netip.Addr { return nil }

// FirstStages implements network.Options.
func (o Options) FirstStages() []string { return o.Loaders }

func (o Options) lease() time.Duration { return cmp.Or(o.Lease, network.DefaultLease) }

// reserved are the options that the protocol or another setting decides, and why
// they cannot be set.
var reserved = map[uint16]string{
	1: "sent by clients only", 2: "set by the server", 3: "set by the client's lease", 4: "not supported",
	5: "set by the client's lease",
	6: "sent by clients only", 7: "set by `preference`", 8: "sent by clients only", 9: "set by relays",
	11: "not supported",
	12: "not supported", 13: "set by the server", 14: "set by `rapidCommit`", 15: "sent by clients only",
	16: "sent by clients only",
	18: "set by relays", 19: "not supported", 20: "not supported", 25: "not supported", 26: "not supported",
	59: "decided by what the machine boots", 60: "set by `params`", 61: "sent by clients only",
	62: "sent by clients only", 79: "set by relays",
}

// Check implements network.Options.
func (o Options) Check(f *network.Faults, where string) {
	network.CheckAddresses(f, where, network.IPv6, slices.Concat(o.DNS, o.NTP))
	for _, d := range o.Search {
		if d == "" || !network.ValidDomain(d) {
			f.Add(where, "%q is not a domain", d)
		}
	}
	network.CheckLease(f, where, o.Lease)
	network.CheckLoaders(f, where, o.Loaders)
	params := 0
	for _, p := range o.Params {
		params += 2 + len(p)
	}
	if params > network.MaxOption || len(o.DNS) > 8 || len(o.NTP) > 8 || len(o.Search) > 8 {
		f.Add(where, "an answer has room for 8 servers or domains of a kind, and for %d bytes of params", network.MaxOption)
	}
	network.CheckOptions(f, where, network.IPv6, o.Extra, reserved, "")
}

// mode returns the mode, full if none is configured.
func (i Interface) mode() Mode { return cmp.Or(i.Mode, Full) }

// Settings implements network.Interface.
func (i Interface) Settings() network.InterfaceSettings {
	return network.InterfaceSettings{Name: i.Name, Assigns: i.mode() == Full, Silent: i.mode() == Observe}
}

// Check implements network.Interface.
func (i Interface) Check(f *network.Faults, where string) {
	if m := i.mode(); m != Full && m != Boot && m != Observe {
		f.Add(where, "unknown mode %q; choose full, boot or observe", m)
	}
	if i.mode() != Full && (i.Preference != 0 || i.RapidCommit) {
		f.Add(where, "preference and rapidCommit are for mode full; remove them")
	}
}

// Reservation implements network.Machine.
func (m Machine) Reservation() network.Reservation {
	return network.Reservation{MAC: m.MAC, UUID: m.UUID, DUID: m.DUID, Name: m.Name, Address: m.Address}
}

// OwnOptions implements network.Machine.
func (m Machine) OwnOptions() Options { return m.Options }
