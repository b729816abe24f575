package dhcp6

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"ingot/bootserver/client"
	"ingot/bootserver/lease"
	"ingot/bootserver/network"
)

// Mode is what the server does on one interface.
type Mode string

// The modes of an interface.
const (
	// Full lends addresses and says what to boot. Machines that do not boot may
	// have theirs from router advertisements all the same.
	Full Mode = "full"
	// Boot leaves addresses to the DHCPv6 server that is there already, and says
	// to firmware and to ingot-init what they boot. docs/NETWORKS.md tells which
	// firmware takes that.
	Boot Mode = "boot"
	// Observe answers nothing and notes who asks and what we would answer.
	Observe Mode = "observe"
)

// Config is all that DHCPv6 is told. The zero Config serves nothing.
type Config struct {
	Interfaces []Interface `yaml:"interfaces,omitempty" json:"interfaces,omitempty"`
	// Networks are what addresses are lent on. An interface in full mode
	// without one lends 65,536 addresses of its own prefix.
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
	// Known answers machines alone that are in Config.Machines or approved.
	Known bool `yaml:"known,omitempty" json:"known,omitempty"`
	// Preference is what clients compare servers by (option 7); they take one of
	// 255 without waiting for others.
	Preference uint8 `yaml:"preference,omitempty" json:"preference,omitempty"`
	// RapidCommit lends at the first question to clients that ask for it: two
	// packets in place of four, for networks with one server.
	RapidCommit bool `yaml:"rapidCommit,omitempty" json:"rapidCommit,omitempty"`
}

// Network is one link with one or more prefixes.
type Network struct {
	Name string `yaml:"name" json:"name"`
	// Interface is the card that the network is attached to; empty when it is
	// reached through relays alone.
	Interface string `yaml:"interface,omitempty" json:"interface,omitempty"`
	// Relays are link-addresses of relays that lie in none of the subnets.
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
	Match   client.Match `yaml:"match" json:"match"` // its classes are of option 16
	Options `yaml:",inline"`
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

// Options is what clients are told. A nil list or zero value is inherited, an
// empty list means none.
type Options struct {
	DNS    []netip.Addr  `yaml:"dns,omitempty" json:"dns,omitempty"`       // option 23, RFC 3646
	Search []string      `yaml:"search,omitempty" json:"search,omitempty"` // 24
	NTP    []netip.Addr  `yaml:"ntp,omitempty" json:"ntp,omitempty"`       // 56, RFC 5908, and 31
	Lease  time.Duration `yaml:"lease,omitempty" json:"lease,omitempty"`   // valid lifetime; zero at all levels: 12 h
	// Loaders are the files of the first stage to try, the next after one that
	// stalled. None: by firmware, see dhcp4.Loaders.
	Loaders []string `yaml:"loaders,omitempty" json:"loaders,omitempty"`
	// Params are the parameters of the boot file (option 60). None: for UEFI the
	// size of the loader, for others nothing.
	Params []string `yaml:"params,omitempty" json:"params,omitempty"`
	// Extra options are told as they are; the nearest of a code wins.
	Extra []Option `yaml:"options,omitempty" json:"options,omitempty"`
}

// Option is any option by its code, with one of the values.
type Option = network.Option[uint16]

// over returns o with what n says in place of it.
func (o Options) over(n Options) Options {
	if n.DNS != nil {
		o.DNS = n.DNS
	}
	if n.Search != nil {
		o.Search = n.Search
	}
	if n.NTP != nil {
		o.NTP = n.NTP
	}
	if n.Lease != 0 {
		o.Lease = n.Lease
	}
	if n.Loaders != nil {
		o.Loaders = n.Loaders
	}
	if n.Params != nil {
		o.Params = n.Params
	}
	o.Extra = network.Over(o.Extra, n.Extra)
	return o
}

func (o Options) lease() time.Duration { return cmp.Or(o.Lease, network.DefaultLease) }

// owned are the options that the protocol itself decides about.
var owned = map[uint16]string{1: "the client's", 2: "the server's", 3: "the client's address", 4: "an address", 5: "an address", 6: "the client's", 7: "preference",
	8: "the client's", 9: "the relay's", 11: "authentication, which there is none of", 12: "left out", 13: "the packet's own", 14: "rapidCommit", 15: "the client's", 16: "the client's",
	18: "the relay's", 19: "left out", 20: "left out", 25: "a prefix, which none is lent of", 26: "a prefix", 59: "what the machine boots", 60: "params", 61: "the client's", 62: "the client's", 79: "the relay's"}

// ErrConfig: DHCPv6 cannot be configured like that. The error is a list of all
// faults.
var ErrConfig = errors.New("the DHCPv6 configuration is wrong")

// Check returns all faults of a configuration at once.
func (c *Config) Check() error {
	var f network.Faults
	s := c.settings()
	s.CheckInterfaces(&f, func(i int, where string) { c.Interfaces[i].check(&f, where) })
	s.CheckNetworks(&f)
	s.CheckMachines(&f, func(i int, where string) { checkOptions(&f, where, c.Machines[i].Options) })
	checkOptions(&f, "dhcp6", c.Options)
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
	s := &network.Settings[Options]{Family: network.IPv6, Options: c.Options, Over: Options.over, CheckOptions: checkOptions}
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
	return network.Reservation{MAC: m.MAC, UUID: m.UUID, DUID: m.DUID, Name: m.Name, Address: m.Address}
}

func (i Interface) check(f *network.Faults, where string) {
	if i.Mode != "" && i.Mode != Full && i.Mode != Boot && i.Mode != Observe {
		f.Add(where, "unknown mode %q; choose full, boot or observe", i.Mode)
	}
	if i.Mode != "" && i.Mode != Full && (i.Preference != 0 || i.RapidCommit) {
		f.Add(where, "preference and rapidCommit are for mode full; take them out")
	}
}

func checkOptions(f *network.Faults, where string, o Options) {
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
	network.CheckOptions(f, where, network.IPv6, o.Extra, owned, "")
}
