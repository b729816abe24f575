package dhcp6

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ingot"
	"ingot/bootserver/dhcp"
	"ingot/bootserver/lease"
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
	Name    string     `yaml:"name" json:"name"`
	Match   dhcp.Match `yaml:"match" json:"match"` // its classes are of option 16
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
	// stalled. None: by firmware, see dhcp.Loaders.
	Loaders []string `yaml:"loaders,omitempty" json:"loaders,omitempty"`
	// Params are the parameters of the boot file (option 60). None: for UEFI the
	// size of the loader, for others nothing.
	Params []string `yaml:"params,omitempty" json:"params,omitempty"`
	// Extra options are told as they are; the nearest of a code wins.
	Extra []Option `yaml:"options,omitempty" json:"options,omitempty"`
}

// Option is any option by its code, with one of the values.
type Option struct {
	Code      uint16       `yaml:"code" json:"code"`
	Text      string       `yaml:"text,omitempty" json:"text,omitempty"`
	Hex       string       `yaml:"hex,omitempty" json:"hex,omitempty"` // "01:02:ff" or "0102ff"
	Addresses []netip.Addr `yaml:"addresses,omitempty" json:"addresses,omitempty"`
}

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
	if len(n.Extra) > 0 {
		merged := slices.DeleteFunc(slices.Clone(o.Extra), func(e Option) bool {
			return slices.ContainsFunc(n.Extra, func(f Option) bool { return f.Code == e.Code })
		})
		o.Extra = append(merged, n.Extra...)
	}
	return o
}

func (o Options) lease() time.Duration {
	if o.Lease == 0 {
		return dhcp.DefaultLease
	}
	return o.Lease
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
		if !six(a) {
			return nil, fmt.Errorf("option %d: %q is not an IPv6 address", o.Code, a)
		}
		b = append(b, a.AsSlice()...)
	}
	return b, nil
}

func unhex(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil {
		return nil, fmt.Errorf("%q is not hexadecimal", s)
	}
	return b, nil
}

// owned are the options that the protocol itself decides about.
var owned = map[uint16]string{1: "the client's", 2: "the server's", 3: "the client's address", 4: "an address", 5: "an address", 6: "the client's", 7: "preference",
	8: "the client's", 9: "the relay's", 11: "authentication, which there is none of", 12: "left out", 13: "the packet's own", 14: "rapidCommit", 15: "the client's", 16: "the client's",
	18: "the relay's", 19: "left out", 20: "left out", 25: "a prefix, which none is lent of", 26: "a prefix", 59: "what the machine boots", 60: "params", 61: "the client's", 62: "the client's", 79: "the relay's"}

// ErrConfig: DHCPv6 cannot be configured like that. The error is a list of all
// faults.
var ErrConfig = errors.New("the DHCPv6 configuration is wrong")

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
	c.Options.check(&f, "dhcp6")
	var networks []string
	for _, n := range c.Networks {
		networks = append(networks, n.Name)
	}
	for i, g := range c.Groups {
		where := fmt.Sprintf("groups[%d] %q", i, g.Name)
		for _, what := range g.Match.Faults(networks) {
			f.add(where, "%s", what)
		}
		g.Options.check(&f, where)
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
		if n.Mode != "" && n.Mode != Full && n.Mode != Boot && n.Mode != Observe {
			f.add(where, "unknown mode %q; choose full, boot or observe", n.Mode)
		}
		if n.Mode != "" && n.Mode != Full && (n.Preference != 0 || n.RapidCommit) {
			f.add(where, "preference and rapidCommit are for mode full; take them out")
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
			if !six(r) || r.IsLinkLocalUnicast() {
				f.add(where, "%q is no address by which a relay names a link", r)
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
		n.Options.check(f, where)
	}
}

func (s Subnet) check(f *faults, where string, n Network) {
	switch {
	case !s.Prefix.IsValid():
		f.add(where, "it needs a prefix such as fd00:99::/64")
		return
	case !six(s.Prefix.Addr()):
		f.add(where, "it is not IPv6; write it under dhcp.networks")
		return
	case s.Prefix.Addr().IsLinkLocalUnicast() || s.Prefix.Addr().IsMulticast():
		f.add(where, "addresses of it cannot be lent; use a prefix of your own, or a local one such as fd00:99::/64")
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
		for _, r := range n.Relays {
			if p.Contains(r) {
				f.add(where, "the pool %s contains the relay %s", p, r)
			}
		}
	}
	s.Options.check(f, where)
}

// key is how people know the machine.
func (m Machine) key() string {
	for _, k := range []string{m.MAC, m.UUID, m.DUID} {
		if k != "" {
			return k
		}
	}
	return m.Name
}

// canonical is the key as clients are looked up by.
func (m Machine) canonical() string {
	switch {
	case m.MAC != "":
		if mac, err := ingot.ParseMAC(m.MAC); err == nil {
			return mac
		}
	case m.UUID != "":
		if u := ingot.PlausibleUUID(m.UUID); u != "" {
			return u
		}
	case m.DUID != "":
		return "duid:" + strings.ToLower(strings.ReplaceAll(m.DUID, ":", ""))
	}
	return strings.ToLower(m.key())
}

// checkMachines refuses addresses that two could hold.
func (c *Config) checkMachines(f *faults) {
	keys, addresses := map[string]bool{}, map[netip.Addr]string{}
	for i, m := range c.Machines {
		where := fmt.Sprintf("machines[%d] %q", i, m.key())
		m.checkKey(f, where)
		if keys[m.canonical()] {
			f.add(where, "the machine is listed twice")
		}
		keys[m.canonical()] = true
		m.Options.check(f, where)
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

func (m Machine) checkKey(f *faults, where string) {
	given := 0
	for _, k := range []string{m.MAC, m.UUID, m.DUID, m.Name} {
		if k != "" {
			given++
		}
	}
	if given != 1 {
		f.add(where, "a machine needs exactly one of mac, uuid, duid and name")
	}
	if _, err := ingot.ParseMAC(m.MAC); m.MAC != "" && err != nil {
		f.add(where, "%w; write 52:54:00:12:34:56", err)
	}
	if m.UUID != "" && ingot.PlausibleUUID(m.UUID) == "" {
		f.add(where, "%q is no UUID that tells machines apart; use the MAC address", m.UUID)
	}
	if b, err := unhex(m.DUID); err != nil || m.DUID != "" && (len(b) < 3 || len(b) > 130) {
		f.add(where, "%q is not a DUID; write 3 to 130 bytes in hexadecimal (RFC 8415 section 11)", m.DUID)
	}
}

func (c *Config) checkReserved(f *faults, where string, a netip.Addr) {
	if !six(a) {
		f.add(where, "%s is not an IPv6 address; write it under dhcp.machines", a)
		return
	}
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
			if first, _ := lease.Bounds(s.Prefix); s.Prefix.Bits() < 127 && a == first {
				f.add(where, "%s is every router's of %s", a, s.Prefix)
			}
			return
		}
	}
	if len(c.Networks) > 0 {
		f.add(where, "the address %s lies in none of the networks", a)
	}
}

// maxOption bounds what of one option goes into an answer, so that all of it
// stays below the MTU that every IPv6 link has.
const maxOption = 255

func (o Options) check(f *faults, where string) {
	for _, a := range slices.Concat(o.DNS, o.NTP) {
		if !six(a) {
			f.add(where, "%q is not an IPv6 address", a)
		}
	}
	for _, d := range o.Search {
		if d == "" || len(d) > 253 || strings.ContainsFunc(d, func(r rune) bool { return r <= ' ' || r > '~' }) {
			f.add(where, "%q is not a domain", d)
		}
	}
	if o.Lease != 0 && (o.Lease < time.Minute || o.Lease > 366*24*time.Hour) {
		f.add(where, "a lease of %s is not between 1m and 8784h", o.Lease)
	}
	for _, l := range o.Loaders {
		if l == "" || strings.ContainsAny(l, "/\\\x00") || len(l) > 127 {
			f.add(where, "%q is not the name of a loader; see ingot loaders", l)
		}
	}
	params := 0
	for _, p := range o.Params {
		params += 2 + len(p)
	}
	if params > maxOption || len(o.DNS) > 8 || len(o.NTP) > 8 || len(o.Search) > 8 {
		f.add(where, "an answer has room for 8 servers or domains of a kind, and for %d bytes of params", maxOption)
	}
	for _, e := range o.Extra {
		if why, is := owned[e.Code]; is {
			f.add(where, "option %d cannot be set: it is %s", e.Code, why)
		}
		if b, err := e.bytes(); err != nil {
			f.add(where, "%w", err)
		} else if len(b) > maxOption {
			f.add(where, "option %d has %d bytes; %d is the most", e.Code, len(b), maxOption)
		}
	}
}

// six reports whether an address is one of IPv6 that can be written down for
// others.
func six(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.Zone() == "" }
