package dhcp4

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ingot"
	"ingot/bootserver/client"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// Mode is what the server does on one interface.
type Mode string

// The modes of an interface.
const (
	// Full lends addresses: it must be the only DHCP server of the network, or
	// know its own machines (see Interface.Known).
	Full Mode = "full"
	// Proxy leaves addresses to the DHCP server that is there already, and only
	// tells machines what to boot (PXE 2.1 section 2.2.3, "proxyDHCP").
	Proxy Mode = "proxy"
	// Observe answers nothing and notes who asks, what other servers answer,
	// and what we would.
	Observe Mode = "observe"
)

// Config is all that DHCP is told. The zero Config serves nothing.
type Config struct {
	Interfaces []Interface `yaml:"interfaces,omitempty" json:"interfaces,omitempty"`
	// Networks are what addresses are lent on. An interface in full mode
	// without one lends the upper half of its own network.
	Networks []Network `yaml:"networks,omitempty" json:"networks,omitempty"`
	// Options are told to everybody, unless something nearer says otherwise:
	// server, network, subnet, group (the later group wins), machine.
	Options  `yaml:",inline"`
	Groups   []Group   `yaml:"groups,omitempty" json:"groups,omitempty"`
	Machines []Machine `yaml:"machines,omitempty" json:"machines,omitempty"`
}

// Interface is a network card, VLAN or bridge that is listened on.
type Interface struct {
	Name string `yaml:"name" json:"name"`
	Mode Mode   `yaml:"mode,omitempty" json:"mode,omitempty"` // empty: full
	// Known answers machines alone that are in Config.Machines or approved; it
	// is for sharing a network with another full server.
	Known bool `yaml:"known,omitempty" json:"known,omitempty"`
	// Probe is how long an address that is new to us is tested for a holder
	// before it is offered. Zero means 200 ms, a negative one: not at all.
	Probe time.Duration `yaml:"probe,omitempty" json:"probe,omitempty"`
	// Quiet asks the network for no other servers; ones that are overheard are
	// still named. In observe mode nothing is ever asked.
	Quiet bool `yaml:"quiet,omitempty" json:"quiet,omitempty"`
}

// Network is one link with one or more subnets (RFC 2131 calls several a
// shared network). Machines get addresses of any of its subnets.
type Network struct {
	Name string `yaml:"name" json:"name"`
	// Interface is the card that the network is attached to; empty when it is
	// reached through relays alone.
	Interface string `yaml:"interface,omitempty" json:"interface,omitempty"`
	// Relays are addresses that relays send as theirs (giaddr) and that lie in
	// none of the subnets. Those inside a subnet need not be listed.
	Relays  []netip.Addr `yaml:"relays,omitempty" json:"relays,omitempty"`
	Subnets []Subnet     `yaml:"subnets" json:"subnets"`
	Options `yaml:",inline"`
}

// Subnet is one prefix of a network.
type Subnet struct {
	Prefix  netip.Prefix  `yaml:"prefix" json:"prefix"`
	Pools   []lease.Range `yaml:"pools,omitempty" json:"pools,omitempty"` // none: reserved addresses only
	Options `yaml:",inline"`
}

// Group gives options to all clients that it matches.
type Group struct {
	Name    string       `yaml:"name" json:"name"`
	Match   client.Match `yaml:"match" json:"match"`
	Options `yaml:",inline"`
}

// Machine is one machine that is known beforehand, by MAC address, SMBIOS UUID
// or the name that the operator gave it; one of the three.
type Machine struct {
	MAC      string     `yaml:"mac,omitempty" json:"mac,omitempty"`
	UUID     string     `yaml:"uuid,omitempty" json:"uuid,omitempty"`
	Name     string     `yaml:"name,omitempty" json:"name,omitempty"`
	Address  netip.Addr `yaml:"address,omitempty" json:"address,omitzero"` // reserved; none: from a pool
	Hostname string     `yaml:"hostname,omitempty" json:"hostname,omitempty"`
	Options  `yaml:",inline"`
}

// Options is what clients are told. A nil list or zero value is inherited, an
// empty list means none.
type Options struct {
	Routers []netip.Addr  `yaml:"routers,omitempty" json:"routers,omitempty"` // option 3
	DNS     []netip.Addr  `yaml:"dns,omitempty" json:"dns,omitempty"`         // 6
	NTP     []netip.Addr  `yaml:"ntp,omitempty" json:"ntp,omitempty"`         // 42
	Domain  string        `yaml:"domain,omitempty" json:"domain,omitempty"`   // 15
	Search  []string      `yaml:"search,omitempty" json:"search,omitempty"`   // 119, RFC 3397
	MTU     int           `yaml:"mtu,omitempty" json:"mtu,omitempty"`         // 26
	Routes  []Route       `yaml:"routes,omitempty" json:"routes,omitempty"`   // 121, RFC 3442
	Lease   time.Duration `yaml:"lease,omitempty" json:"lease,omitempty"`     // 51; zero at all levels: 12 h
	// Loaders are the files of the first stage to try, the next after one that
	// stalled. None: by firmware, see Loaders.
	Loaders []string `yaml:"loaders,omitempty" json:"loaders,omitempty"`
	// Extra options are told as they are; the nearest of a code wins. A proxy
	// tells none of them.
	Extra []Option `yaml:"options,omitempty" json:"options,omitempty"`
}

// Route is one classless static route.
type Route struct {
	To  netip.Prefix `yaml:"to" json:"to"`
	Via netip.Addr   `yaml:"via" json:"via"`
}

// Option is any option by its code, with one of the values.
type Option = network.Option[uint8]

// over returns o with what n says in place of it.
func (o Options) over(n Options) Options {
	list := func(a, b []netip.Addr) []netip.Addr {
		if b != nil {
			return b
		}
		return a
	}
	o.Routers, o.DNS, o.NTP = list(o.Routers, n.Routers), list(o.DNS, n.DNS), list(o.NTP, n.NTP)
	if n.Domain != "" {
		o.Domain = n.Domain
	}
	if n.Search != nil {
		o.Search = n.Search
	}
	if n.MTU != 0 {
		o.MTU = n.MTU
	}
	if n.Routes != nil {
		o.Routes = n.Routes
	}
	if n.Lease != 0 {
		o.Lease = n.Lease
	}
	if n.Loaders != nil {
		o.Loaders = n.Loaders
	}
	o.Extra = network.Over(o.Extra, n.Extra)
	return o
}

// boots is why options about what is booted cannot be set: firmware takes them
// together or not at all, and differently by firmware and stage.
const boots = "what machines boot; say `loaders` instead"

// owned are the options that the protocol itself decides about.
var owned = map[uint8]string{0: "padding", 1: "the subnet's prefix", 50: "the client's", 51: "lease", 52: "the packet's own", 53: "the packet's own",
	54: "the server's address", 55: "the client's", 61: "the client's", 82: "the relay's", 97: "the client's", 121: "routes", 255: "the end",
	43: boots, 60: boots, 66: boots, 67: boots, 175: boots}

// ErrConfig: DHCP cannot be configured like that. The error is a list of all
// faults.
var ErrConfig = errors.New("the DHCP configuration is wrong")

// Check returns all faults of a configuration at once.
func (c *Config) Check() error {
	var f network.Faults
	s := c.settings()
	s.CheckInterfaces(&f, func(i int, where string) { c.Interfaces[i].check(&f, where) })
	s.CheckNetworks(&f)
	s.CheckMachines(&f, func(i int, where string) { c.Machines[i].check(&f, where) })
	checkOptions(&f, "dhcp", c.Options)
	for i, g := range c.Groups {
		where := fmt.Sprintf("groups[%d] %q", i, g.Name)
		for _, what := range g.Match.Check(s.Networks.Names()) {
			f.Add(where, "%s", what)
		}
		checkOptions(&f, where, g.Options)
	}
	return f.Err(ErrConfig)
}

// settings are what of a configuration both families have.
func (c *Config) settings() *network.Settings[Options] {
	s := &network.Settings[Options]{Family: network.IPv4, Options: c.Options, Over: Options.over, CheckOptions: checkOptions, Routers: routers}
	for _, i := range c.Interfaces {
		s.Interfaces = append(s.Interfaces, network.Interface{Name: i.Name, Lends: i.Mode == "" || i.Mode == Full, Mute: i.Mode == Observe})
	}
	for _, n := range c.Networks {
		made := &network.Network[Options]{Name: n.Name, Interface: n.Interface, Relays: n.Relays, Options: n.Options}
		for _, sub := range n.Subnets {
			made.Subnets = append(made.Subnets, &network.Subnet[Options]{Prefix: sub.Prefix, Pools: sub.Pools, Options: sub.Options})
		}
		s.Networks = append(s.Networks, made)
	}
	for _, m := range c.Machines {
		s.Machines = append(s.Machines, m.reservation())
	}
	return s
}

func (m Machine) reservation() network.Reservation {
	return network.Reservation{MAC: m.MAC, UUID: m.UUID, Name: m.Name, Address: m.Address}
}

func (i Interface) check(f *network.Faults, where string) {
	if i.Mode != "" && i.Mode != Full && i.Mode != Proxy && i.Mode != Observe {
		f.Add(where, "unknown mode %q; choose full, proxy or observe", i.Mode)
	}
	if i.Probe > 5*time.Second {
		f.Add(where, "a probe of %s is longer than clients wait; 5s is the most", i.Probe)
	}
}

func (m Machine) check(f *network.Faults, where string) {
	checkOptions(f, where, m.Options)
	if m.Hostname != "" && !ingot.ValidProfileName(m.Hostname) {
		f.Add(where, "%q cannot be a host name; use lower-case letters, digits and dashes", m.Hostname)
	}
}

func checkOptions(f *network.Faults, where string, o Options) {
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
	network.CheckOptions(f, where, network.IPv4, o.Extra, owned, ", since many ROMs do not join split options (RFC 3396)")
}

// routers are what no pool may contain.
func routers(o Options) []netip.Addr { return o.Routers }

func (o Options) lease() time.Duration { return cmp.Or(o.Lease, network.DefaultLease) }
