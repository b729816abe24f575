package dhcp

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/lease"
)

// Range is addresses that may be lent.
type Range = lease.Range

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
	Prefix  netip.Prefix `yaml:"prefix" json:"prefix"`
	Pools   []Range      `yaml:"pools,omitempty" json:"pools,omitempty"` // none: reserved addresses only
	Options `yaml:",inline"`
}

// Match says which clients something is for: all that is given must fit, and
// of each list one entry.
type Match struct {
	Names    []string         `yaml:"names,omitempty" json:"names,omitempty"`       // host names that operators gave
	MACs     []string         `yaml:"macs,omitempty" json:"macs,omitempty"`         // or their beginning: "b8:59:9f"
	UUIDs    []string         `yaml:"uuids,omitempty" json:"uuids,omitempty"`       // SMBIOS
	Firmware []ingot.Firmware `yaml:"firmware,omitempty" json:"firmware,omitempty"` // "bios", "uefi-x64", …
	Classes  []string         `yaml:"classes,omitempty" json:"classes,omitempty"`   // beginning of option 60
	Networks []string         `yaml:"networks,omitempty" json:"networks,omitempty"` // names of networks
}

// Group gives options to all clients that it matches.
type Group struct {
	Name    string `yaml:"name" json:"name"`
	Match   Match  `yaml:"match" json:"match"`
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

// key is how people know the machine.
func (m Machine) key() string {
	switch {
	case m.MAC != "":
		return m.MAC
	case m.UUID != "":
		return m.UUID
	}
	return m.Name
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
	// Extra options are told as they are; the nearest of a code wins.
	Extra []Option `yaml:"options,omitempty" json:"options,omitempty"`
}

// Route is one classless static route.
type Route struct {
	To  netip.Prefix `yaml:"to" json:"to"`
	Via netip.Addr   `yaml:"via" json:"via"`
}

// Option is any option by its code, with one of the values.
type Option struct {
	Code      uint8        `yaml:"code" json:"code"`
	Text      string       `yaml:"text,omitempty" json:"text,omitempty"`
	Hex       string       `yaml:"hex,omitempty" json:"hex,omitempty"` // "01:02:ff" or "0102ff"
	Addresses []netip.Addr `yaml:"addresses,omitempty" json:"addresses,omitempty"`
}

// DefaultLease is how long addresses are lent when nothing says otherwise.
const DefaultLease = 12 * time.Hour

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
	if len(n.Extra) > 0 {
		merged := slices.DeleteFunc(slices.Clone(o.Extra), func(e Option) bool {
			return slices.ContainsFunc(n.Extra, func(f Option) bool { return f.Code == e.Code })
		})
		o.Extra = append(merged, n.Extra...)
	}
	return o
}

// bytes returns the option's value.
func (o Option) bytes() ([]byte, error) {
	given := 0
	for _, is := range []bool{o.Text != "", o.Hex != "", len(o.Addresses) > 0} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, fmt.Errorf("option %d needs one of text, hex and addresses", o.Code)
	}
	switch {
	case o.Text != "":
		return []byte(o.Text), nil
	case o.Hex != "":
		return unhex(o.Hex)
	}
	var b []byte
	for _, a := range o.Addresses {
		if !a.Is4() {
			return nil, fmt.Errorf("option %d: %q is not an IPv4 address", o.Code, a)
		}
		b = append(b, a.AsSlice()...)
	}
	return b, nil
}

// owned are the options that the protocol itself decides about.
var owned = map[uint8]string{0: "padding", 1: "the subnet's prefix", 50: "the client's", 51: "lease", 52: "the packet's own", 53: "the packet's own",
	54: "the server's address", 55: "the client's", 61: "the client's", 82: "the relay's", 97: "the client's", 121: "routes", 255: "the end"}

// ErrConfig: DHCP cannot be configured like that. The error is a list of all
// faults.
var ErrConfig = errors.New("the DHCP configuration is wrong")

// faults collects what is wrong, each with its place.
type faults []error

func (f *faults) add(where, format string, args ...any) {
	*f = append(*f, fmt.Errorf("%s: "+format, append([]any{where}, args...)...))
}

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return fmt.Errorf("%w:\n%w", ErrConfig, errors.Join(f...))
}

// Check returns all faults of a configuration at once.
func (c *Config) Check() error {
	var f faults
	c.checkInterfaces(&f)
	c.checkNetworks(&f)
	c.checkMachines(&f)
	checkOptions(&f, "dhcp", c.Options)
	for i, g := range c.Groups {
		where := fmt.Sprintf("groups[%d] %q", i, g.Name)
		for _, what := range g.Match.Faults(c.names()) {
			f.add(where, "%s", what)
		}
		checkOptions(&f, where, g.Options)
	}
	return f.err()
}

func (c *Config) checkInterfaces(f *faults) {
	seen := map[string]bool{}
	for i, n := range c.Interfaces {
		where := fmt.Sprintf("interfaces[%d] %q", i, n.Name)
		switch {
		case n.Name == "":
			f.add(where, "it needs a name")
		case seen[n.Name]:
			f.add(where, "the interface is named twice")
		}
		seen[n.Name] = true
		if n.Mode != "" && n.Mode != Full && n.Mode != Proxy && n.Mode != Observe {
			f.add(where, "unknown mode %q; choose full, proxy or observe", n.Mode)
		}
		if n.Probe > 5*time.Second {
			f.add(where, "a probe of %s is longer than clients wait; 5s is the most", n.Probe)
		}
	}
}

func (c *Config) checkNetworks(f *faults) {
	names, relays := map[string]bool{}, map[netip.Addr]string{}
	var subnets []Subnet
	for i, n := range c.Networks {
		where := fmt.Sprintf("networks[%d] %q", i, n.Name)
		if n.Name == "" || names[n.Name] {
			f.add(where, "every network needs a name of its own")
		}
		names[n.Name] = true
		if n.Interface != "" && !slices.ContainsFunc(c.Interfaces, func(i Interface) bool { return i.Name == n.Interface }) {
			f.add(where, "interface %q is not listed under interfaces", n.Interface)
		}
		for _, r := range n.Relays {
			if other, taken := relays[r]; taken {
				f.add(where, "the relay %s belongs to network %q already", r, other)
			}
			relays[r] = n.Name
		}
		if len(n.Subnets) == 0 {
			f.add(where, "it needs a subnet")
		}
		for _, s := range n.Subnets {
			where := where + " subnet " + s.Prefix.String()
			for _, o := range subnets {
				if s.Prefix.IsValid() && o.Prefix.IsValid() && s.Prefix.Overlaps(o.Prefix) {
					f.add(where, "it overlaps the subnet %s", o.Prefix)
				}
			}
			s.check(f, where, n)
			subnets = append(subnets, s)
		}
		checkOptions(f, where, n.Options)
	}
}

func (s Subnet) check(f *faults, where string, n Network) {
	switch {
	case !s.Prefix.IsValid():
		f.add(where, "it needs a prefix such as 10.99.0.0/24")
		return
	case !s.Prefix.Addr().Is4():
		f.add(where, "only IPv4 networks can be served so far")
		return
	case s.Prefix != s.Prefix.Masked():
		f.add(where, "the prefix has bits set behind its length; write %s", s.Prefix.Masked())
	}
	for i, p := range s.Pools {
		if err := p.Inside(s.Prefix); err != nil {
			f.add(where, "%w", err)
		}
		for _, o := range s.Pools[:i] {
			if p.Overlaps(o) {
				f.add(where, "the pools %s and %s overlap", o, p)
			}
		}
		for _, r := range slices.Concat(s.Routers, n.Routers, n.Relays) {
			if p.Contains(r) {
				f.add(where, "the pool %s contains the router or relay %s", p, r)
			}
		}
	}
	checkOptions(f, where, s.Options)
}

// checkMachines refuses addresses that two could hold.
func (c *Config) checkMachines(f *faults) {
	keys, addresses := map[string]bool{}, map[netip.Addr]string{}
	for i, m := range c.Machines {
		where := fmt.Sprintf("machines[%d] %q", i, m.key())
		m.checkKey(f, where, keys)
		checkOptions(f, where, m.Options)
		if m.Hostname != "" && !ingot.ValidProfileName(m.Hostname) {
			f.add(where, "%q cannot be a host name; use lower-case letters, digits and dashes", m.Hostname)
		}
		if !m.Address.IsValid() {
			continue
		}
		if other, taken := addresses[m.Address]; taken {
			f.add(where, "the address %s is reserved for %q already", m.Address, other)
		}
		addresses[m.Address] = m.key()
		c.checkReserved(f, where, m.Address)
	}
}

func (m Machine) checkKey(f *faults, where string, keys map[string]bool) {
	given := 0
	for _, k := range []string{m.MAC, m.UUID, m.Name} {
		if k != "" {
			given++
		}
	}
	if given != 1 {
		f.add(where, "a machine needs exactly one of mac, uuid and name")
	}
	if _, err := ingot.ParseMAC(m.MAC); m.MAC != "" && err != nil {
		f.add(where, "%w; write 52:54:00:12:34:56", err)
	}
	if m.UUID != "" && ingot.PlausibleUUID(m.UUID) == "" {
		f.add(where, "%q is no UUID that tells machines apart; use the MAC address", m.UUID)
	}
	k := strings.ToLower(m.key())
	if mac, err := ingot.ParseMAC(k); err == nil {
		k = mac
	}
	if keys[k] {
		f.add(where, "the machine is listed twice")
	}
	keys[k] = true
}

func (c *Config) checkReserved(f *faults, where string, a netip.Addr) {
	for _, n := range c.Networks {
		for _, s := range n.Subnets {
			if !s.Prefix.Contains(a) {
				continue
			}
			for _, p := range s.Pools {
				if p.Contains(a) {
					f.add(where, "the reserved address %s lies in the pool %s of network %q, which could lend it to others; move one of them", a, p, n.Name)
				}
			}
			if first, last := lease.Bounds(s.Prefix); s.Prefix.Bits() < 31 && (a == first || a == last) {
				f.add(where, "%s is the network's or broadcast address of %s", a, s.Prefix)
			}
			return
		}
	}
	if len(c.Networks) > 0 {
		f.add(where, "the address %s lies in none of the networks", a)
	}
}

// names are those of the networks.
func (c *Config) names() (list []string) {
	for _, n := range c.Networks {
		list = append(list, n.Name)
	}
	return list
}

// Faults says what is wrong with a match, given the names of all networks.
func (m Match) Faults(networks []string) (list []string) {
	if len(m.Names)+len(m.MACs)+len(m.UUIDs)+len(m.Firmware)+len(m.Classes)+len(m.Networks) == 0 {
		list = append(list, "it matches nothing; give one of names, macs, uuids, firmware, classes and networks")
	}
	for _, mac := range m.MACs {
		if canonicalMACPrefix(mac) == "" {
			list = append(list, fmt.Sprintf("%q is not a MAC address or the beginning of one", mac))
		}
	}
	for _, u := range m.UUIDs {
		if ingot.PlausibleUUID(u) == "" {
			list = append(list, fmt.Sprintf("%q is no UUID that tells machines apart", u))
		}
	}
	known := []ingot.Firmware{ingot.FirmwareBIOS, ingot.FirmwareUEFIx64, ingot.FirmwareUEFIarm64, ingot.FirmwareUEFIx64HTTP, ingot.FirmwareUEFIarm64HTTP}
	for _, w := range m.Firmware {
		if !slices.Contains(known, w) {
			list = append(list, fmt.Sprintf("unknown firmware %q; choose of %v", w, known))
		}
	}
	for _, n := range m.Networks {
		if !slices.Contains(networks, n) {
			list = append(list, fmt.Sprintf("there is no network %q", n))
		}
	}
	return list
}

func checkOptions(f *faults, where string, o Options) {
	for _, a := range slices.Concat(o.Routers, o.DNS, o.NTP) {
		if !a.Is4() {
			f.add(where, "%q is not an IPv4 address", a)
		}
	}
	for _, r := range o.Routes {
		if !r.To.IsValid() || !r.To.Addr().Is4() || !r.Via.Is4() {
			f.add(where, "a route needs an IPv4 prefix `to` and an address `via`")
		}
	}
	for _, d := range append(slices.Clone(o.Search), o.Domain) {
		if len(d) > 253 || strings.ContainsFunc(d, func(r rune) bool { return r <= ' ' || r > '~' }) {
			f.add(where, "%q is not a domain", d)
		}
	}
	if o.MTU != 0 && (o.MTU < 576 || o.MTU > 65535) {
		f.add(where, "an MTU of %d is not between 576 and 65535", o.MTU)
	}
	if o.Lease != 0 && (o.Lease < time.Minute || o.Lease > 366*24*time.Hour) {
		f.add(where, "a lease of %s is not between 1m and 8784h", o.Lease)
	}
	for _, l := range o.Loaders {
		if l == "" || strings.ContainsAny(l, "/\\\x00") || len(l) > maxFile {
			f.add(where, "%q is not the name of a loader; see ingot loaders", l)
		}
	}
	for _, e := range o.Extra {
		if why, is := owned[e.Code]; is {
			f.add(where, "option %d cannot be set: it is %s", e.Code, why)
		}
		if b, err := e.bytes(); err != nil {
			f.add(where, "%w", err)
		} else if len(b) > 255 {
			f.add(where, "option %d has %d bytes; 255 is the most, since many ROMs do not join split options (RFC 3396)", e.Code, len(b))
		}
	}
}

func (o Options) lease() time.Duration {
	if o.Lease == 0 {
		return DefaultLease
	}
	return o.Lease
}

// canonicalMACPrefix returns the beginning of a MAC address, 1 to 6 bytes, in
// lower case with colons, or nothing when it is none.
func canonicalMACPrefix(s string) string {
	m := strings.ToLower(strings.ReplaceAll(strings.TrimRight(s, ":*-"), "-", ":"))
	if b, err := hex.DecodeString(strings.ReplaceAll(m, ":", "")); err != nil || len(b) == 0 || len(b) > 6 || len(m) != 3*len(b)-1 {
		return ""
	}
	return m
}

func unhex(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil {
		return nil, fmt.Errorf("%q is not hexadecimal", s)
	}
	return b, nil
}
