package dhcp4

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ingot"
	"ingot/bootserver/network"
)

// Mode is what the server does on one interface.
type Mode string

// The modes of an interface.
const (
	// Full assigns addresses: the server must be the only DHCP server of the
	// network, or answer its own machines only (see Interface.Known).
	Full Mode = "full"
	// Proxy leaves addresses to the DHCP server that is there already, and only
	// offers what to boot (PXE 2.1 section 2.2.3, "proxyDHCP").
	Proxy Mode = "proxy"
	// Observe answers nothing and records the clients, what other servers answer,
	// and what this server would have answered.
	Observe Mode = "observe"
)

// Config is the configuration of DHCP. The zero Config serves nothing.
type Config = network.Config[Interface, Machine, Options]

// Network is one link with one or more subnets.
type Network = network.Network[Options]

// Subnet is one prefix of a network.
type Subnet = network.Subnet[Options]

// Group gives options to all clients that it matches.
type Group = network.Group[Options]

// Interface is a network card, VLAN or bridge to listen on.
type Interface struct {
	Name string `yaml:"name" json:"name"`
	Mode Mode   `yaml:"mode,omitempty" json:"mode,omitempty"` // empty: full
	// Known answers only machines that are configured or approved; it is for sharing
	// a network with another full server.
	Known bool `yaml:"known,omitempty" json:"known,omitempty"`
	// Probe is how long an address that is new to the server is probed for a user
	// before it is offered. Zero means DefaultProbe.
	Probe ProbeTime `yaml:"probe,omitempty" json:"probe,omitempty"`
	// Quiet sends no queries for other servers; answers that are overheard are still
	// recorded. In observe mode no queries are sent anyway.
	Quiet bool `yaml:"quiet,omitempty" json:"quiet,omitempty"`
}

// ProbeTime is the time of a probe: a duration such as 500ms, or NoProbe.
type ProbeTime time.Duration

// NoProbe means that addresses are not probed. Its text is "off".
const NoProbe ProbeTime = -1

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *ProbeTime) UnmarshalText(b []byte) error {
	if string(b) == "off" {
		*p = NoProbe
		return nil
	}
	d, err := time.ParseDuration(string(b))
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is not a time; write 500ms, or off", b)
	}
	*p = ProbeTime(d)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (p ProbeTime) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

func (p ProbeTime) String() string {
	if p == NoProbe {
		return "off"
	}
	return time.Duration(p).String()
}

// Machine is one machine that is known beforehand, by one of MAC address, SMBIOS
// UUID and the name that the operator gave it.
type Machine struct {
	MAC      string     `yaml:"mac,omitempty" json:"mac,omitempty"`
	UUID     string     `yaml:"uuid,omitempty" json:"uuid,omitempty"`
	Name     string     `yaml:"name,omitempty" json:"name,omitempty"`
	Address  netip.Addr `yaml:"address,omitempty" json:"address,omitzero"` // reserved; none: from a pool
	Hostname string     `yaml:"hostname,omitempty" json:"hostname,omitempty"`
	Options  `yaml:",inline"`
}

// Options are what clients get besides an address. A nil list or zero value is
// inherited, an empty list means none.
type Options struct {
	Routers []netip.Addr `yaml:"routers,omitempty" json:"routers,omitempty"` // option 3
	DNS     []netip.Addr `yaml:"dns,omitempty" json:"dns,omitempty"`         // 6
	NTP     []netip.Addr `yaml:"ntp,omitempty" json:"ntp,omitempty"`         // 42
	Domain  string       `yaml:"domain,omitempty" json:"domain,omitempty"`   // 15
	Search  []string     `yaml:"search,omitempty" json:"search,omitempty"`   // 119, RFC 3397
	MTU     int          `yaml:"mtu,omitempty" json:"mtu,omitempty"`         // 26
	Routes  []Route      `yaml:"routes,omitempty" json:"routes,omitempty"`   // 121, RFC 3442
	// 51; zero at all levels: network.DefaultLease
	Lease time.Duration `yaml:"lease,omitempty" json:"lease,omitempty"`
	// Loaders are the files of the first stage to try, the next after one that
	// stalled. None: by firmware, see client.DefaultLoaders.
	Loaders []string `yaml:"loaders,omitempty" json:"loaders,omitempty"`
	// Extra options are sent unchanged; the nearest of a code wins. A proxy sends none
	// of them.
	Extra []Option `yaml:"options,omitempty" json:"options,omitempty"`
}

// Route is one classless static route.
type Route struct {
	To  netip.Prefix `yaml:"to" json:"to"`
	Via netip.Addr   `yaml:"via" json:"via"`
}

// Option is any option by its code, with one of the values.
type Option = network.Option[uint8]

// Family implements network.Options.
func (o Options) Family() network.Family { return network.IPv4 }

// Override implements network.Options.
func (o Options) Override(near Options) Options {
	o.Routers = network.Nearest(o.Routers, near.Routers)
	o.DNS = network.Nearest(o.DNS, near.DNS)
	o.NTP = network.Nearest(o.NTP, near.NTP)
	o.Domain = cmp.Or(near.Domain, o.Domain)
	o.Search = network.Nearest(o.Search, near.Search)
	o.MTU = cmp.Or(near.MTU, o.MTU)
	o.Routes = network.Nearest(o.Routes, near.Routes)
	o.Lease = cmp.Or(near.Lease, o.Lease)
	o.Loaders = network.Nearest(o.Loaders, near.Loaders)
	o.Extra = network.OverrideOptions(o.Extra, near.Extra)
	return o
}

// RouterAddresses implements network.Options.
func (o Options) RouterAddresses() []netip.Addr { return o.Routers }

// FirstStages implements network.Options.
func (o Options) FirstStages() []string { return o.Loaders }

func (o Options) lease() time.Duration { return cmp.Or(o.Lease, network.DefaultLease) }

// bootOption is why options about booting cannot be set: firmware takes them
// together or not at all, and differently by firmware and stage.
const bootOption = "decided by what machines boot; use `loaders` instead"

// reserved are the options that the protocol or another setting decides, and why
// they cannot be set.
var reserved = map[uint8]string{
	0: "padding", 1: "set by the subnet's prefix", 50: "sent by clients only", 51: "set by `lease`",
	52: "part of the packet's format",
	53: "set by the server", 54: "set by the server", 55: "sent by clients only", 61: "sent by clients only",
	82: "set by relays",
	97: "sent by clients only", 121: "set by `routes`", 255: "the end of the options",
	43: bootOption, 60: bootOption, 66: bootOption, 67: bootOption, 175: bootOption,
}

// Check implements network.Options.
func (o Options) Check(f *network.Faults, where string) {
	network.CheckAddresses(f, where, network.IPv4, slices.Concat(o.Routers, o.DNS, o.NTP))
	for _, r := range o.Routes {
		if !r.To.IsValid() || !r.To.Addr().Is4() || !r.Via.Is4() {
			f.Add(where, "a route needs an IPv4 prefix `to` and an address `via`")
		}
	}
	for _, d := range append(slices.Clone(o.Search), o.Domain) {
		if !network.ValidDomain(d) {
			f.Add(where, "%q is not a domain", d)
		}
	}
	if o.MTU != 0 && (o.MTU < 576 || o.MTU > 65535) {
		f.Add(where, "an MTU of %d is not between 576 and 65535", o.MTU)
	}
	network.CheckLease(f, where, o.Lease)
	network.CheckLoaders(f, where, o.Loaders)
	network.CheckOptions(f, where, network.IPv4, o.Extra, reserved,
		", since many ROMs do not join split options (RFC 3396)")
}

// mode returns the mode, full if none is configured.
func (i Interface) mode() Mode { return cmp.Or(i.Mode, Full) }

// Settings implements network.Interface.
func (i Interface) Settings() network.InterfaceSettings {
	return network.InterfaceSettings{Name: i.Name, Assigns: i.mode() == Full, Silent: i.mode() == Observe}
}

// Check implements network.Interface.
func (i Interface) Check(f *network.Faults, where string) {
	if m := i.mode(); m != Full && m != Proxy && m != Observe {
		f.Add(where, "unknown mode %q; choose full, proxy or observe", m)
	}
	if i.Probe > ProbeTime(5*time.Second) {
		f.Add(where, "a probe of %s is longer than clients wait; 5s is the most", i.Probe)
	}
}

// Reservation implements network.Machine.
func (m Machine) Reservation() network.Reservation {
	return network.Reservation{MAC: m.MAC, UUID: m.UUID, Name: m.Name, Address: m.Address}
}

// OwnOptions implements network.Machine.
func (m Machine) OwnOptions() Options { return m.Options }

// Check implements network.Machine.
func (m Machine) Check(f *network.Faults, where string) {
	m.Options.Check(f, where)
	if m.Hostname != "" && !ingot.ValidProfileName(m.Hostname) {
		f.Add(where, "%q cannot be a host name; use lower-case letters, digits and dashes", m.Hostname)
	}
}
