package network

import (
	"cmp"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"ingot/bootserver/client"
	"ingot/bootserver/lease"
)

// word is the options of a made-up family: a text, which the nearer one replaces.
type word struct {
	family Family
	Text   string `json:"text,omitempty"`
}

func (w word) Family() Family              { return w.family }
func (w word) Override(near word) word     { return word{w.family, cmp.Or(near.Text, w.Text)} }
func (word) Check(*Faults, string)         {}
func (word) RouterAddresses() []netip.Addr { return nil }
func (w word) FirstStages() []string       { return nil }

// assigning is an interface, by its name, that assigns addresses.
type assigning string

func (i assigning) Settings() InterfaceSettings {
	return InterfaceSettings{Name: string(i), Assigns: true}
}
func (assigning) Check(*Faults, string) {}

// machine is a reservation without options.
type machine struct{ kept Reservation }

func (m machine) Reservation() Reservation { return m.kept }
func (machine) OwnOptions() word           { return word{Text: "machine"} }
func (machine) Check(*Faults, string)      {}

func configOf(family Family, networks ...Network[word]) Config[assigning, machine, word] {
	return Config[assigning, machine, word]{Interfaces: []assigning{"eth0"}, Networks: networks,
		Options: word{family, "server"}}
}

func subnet(prefix string) Subnet[word] { return Subnet[word]{Prefix: netip.MustParsePrefix(prefix)} }

// families are addresses for the tests of sites.
var families = []struct {
	family                         Family
	own, near, far, relay, nowhere string
	pools                          string
}{
	{IPv4, "10.99.0.1/24", "10.99.0.0/24", "10.98.0.0/24", "192.0.2.1", "192.0.2.2", "10.99.0.128-10.99.0.254"},
	{IPv6, "fd00:99::1/64", "fd00:99::/64", "fd00:98::/64", "2001:db8::1", "2001:db8::2", "fd00:99::1:0-fd00:99::1:ffff"},
}

// TestSite: an interface gets its network, one of its own prefix when there is none; a
// subnet gets what it inherits; clients are found by address or relay.
func TestSite(t *testing.T) {
	for _, c := range families {
		t.Run(c.family.String(), func(t *testing.T) {
			cards := map[string]Card{"eth0": {Index: 2, Prefixes: []netip.Prefix{netip.MustParsePrefix(c.own)}}}
			far := Network[word]{Name: "far", Relays: relaysOf(t, c.relay),
				Subnets: []Subnet[word]{subnet(c.far)},
				Options: word{Text: "network"}}
			conf := configOf(c.family, far)
			s, err := NewSite(conf, cards)
			if err != nil {
				t.Fatal(err)
			}
			if text := conf.Networks[0].Subnets[0].Options.Text; text != "" {
				t.Errorf("the configuration was changed: its subnet has the options %q", text)
			}
			served := s.Interfaces["eth0"]
			n, sub := served.Attached()
			if n == nil || n.Name != "eth0" || sub == nil || sub.Prefix.String() != c.near || sub.Options.Text != "server" {
				t.Errorf("an interface without a network has %+v, %+v; want %s with the server's options", n, sub, c.near)
			}
			if got := served.Network.Pools(); len(got) != 1 || got[0].String() != c.pools {
				t.Errorf("its pools are %v; want %s", got, c.pools)
			}
			if n, sub := s.Networks.At(netip.MustParsePrefix(c.far).Addr().Next()); n == nil || n.Name != "far" || sub == nil ||
				sub.Options.Text != "network" {
				t.Errorf("an address of a subnet is of %+v, %+v", n, sub)
			}
			if n, sub := s.Networks.At(netip.MustParseAddr(c.relay)); n == nil || n.Name != "far" || sub != nil {
				t.Errorf("the relay is of %+v, %+v; want the network, and no subnet", n, sub)
			}
			if n, sub := s.Networks.At(netip.MustParseAddr(c.nowhere)); n != nil || sub != nil {
				t.Errorf("an address of no network is of %+v, %+v", n, sub)
			}
			l := s.Networks.Layout()
			if len(l.Pools) != 1 || l.Pools[0].Network != "eth0" || l.Of(netip.MustParseAddr(c.relay)) != "far" ||
				l.Of(netip.MustParseAddr(c.nowhere)) != "" {
				t.Errorf("the layout has the pools %v", l.Pools)
			}
		})
	}
}

// TestSiteFaults: an interface that cannot be served is refused.
func TestSiteFaults(t *testing.T) {
	for _, c := range families {
		own := netip.MustParsePrefix(c.own)
		near := subnet(c.near)
		near.Pools = []lease.Range{{First: own.Addr(), Last: own.Addr().Next()}}
		cards := map[string]Card{"eth0": {Prefixes: []netip.Prefix{own}}}
		reserved := configOf(c.family)
		reserved.Machines = []machine{{Reservation{Name: "a", Address: own.Addr()}}}
		for _, x := range []struct {
			config Config[assigning, machine, word]
			cards  map[string]Card
			want   string
		}{
			{configOf(c.family, Network[word]{Name: "elsewhere", Subnets: []Subnet[word]{subnet(c.near)}}), cards,
				"write `interface: eth0` there"},
			{configOf(c.family, Network[word]{Name: "n", Interface: "eth0", Subnets: []Subnet[word]{near}}), cards,
				"the server's own address"},
			{reserved, cards, "is the server's own"},
		} {
			if _, err := NewSite(x.config, x.cards); !errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), x.want) {
				t.Errorf("%s: NewSite = %v; want %q", c.family, err, x.want)
			}
		}
	}
}

// TestSiteLeavesOut: an interface that does not exist or has no address is left out, and
// the others are served. Its network stays known.
func TestSiteLeavesOut(t *testing.T) {
	for _, c := range families {
		conf := configOf(c.family, Network[word]{Name: "n", Interface: "eth0", Subnets: []Subnet[word]{subnet(c.near)}})
		for name, cards := range map[string]map[string]Card{"absent": nil, "without an address": {"eth0": {}}} {
			s, err := NewSite(conf, cards)
			if err != nil || len(s.Interfaces) != 0 || s.Networks.Named("n") == nil {
				t.Errorf("%s, %s: NewSite = %+v, %v; want a site with the network and without the interface", c.family, name, s,
					err)
			}
		}
	}
}

// TestOptionsOf: the nearer options count: machine before group, the later group
// before the earlier.
func TestOptionsOf(t *testing.T) {
	conf := configOf(IPv4)
	conf.Interfaces = nil
	for _, text := range []string{"one", "two"} {
		conf.Groups = append(conf.Groups, Group[word]{Name: text, Match: client.Match{MACs: []string{"52:54"}},
			Options: word{Text: text}})
	}
	conf.Machines = []machine{{Reservation{MAC: "52-54-00-00-00-01"}}}
	s, err := NewSite(conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	for mac, want := range map[string]string{"02:00:00:00:00:01": "server", "52:54:00:00:00:02": "two",
		"52:54:00:00:00:01": "machine"} {
		if got := s.OptionsOf(s.Options, client.Client{MAC: mac}, "", "", s.Machine("", mac)); got.Text != want {
			t.Errorf("%s gets the options %q; want %q", mac, got.Text, want)
		}
	}
}

// TestConfigJSON: options are inline in JSON, as they are in YAML.
func TestConfigJSON(t *testing.T) {
	conf := configOf(IPv4, Network[word]{Name: "n", Subnets: []Subnet[word]{subnet("10.99.0.0/24")},
		Options: word{Text: "near"}})
	conf.Groups = []Group[word]{{Name: "g"}}
	got, err := json.Marshal(conf)
	want := `{"interfaces":["eth0"],"networks":[{"name":"n","subnets":[{"prefix":"10.99.0.0/24"}],"text":"near"}],` +
		`"groups":[{"name":"g","match":{}}],"text":"server"}`
	if err != nil || string(got) != want {
		t.Errorf("Marshal = %s, %v\nwant %s", got, err, want)
	}
	if got, err := json.Marshal(Config[assigning, machine, word]{Options: word{Text: "x"}}); err != nil ||
		string(got) != `{"text":"x"}` {
		t.Errorf("Marshal of options alone = %s, %v", got, err)
	}
}

// TestKey: a machine is the same however its name is spelt.
func TestKey(t *testing.T) {
	for want, spellings := range map[string][]Reservation{
		"52:54:00:12:34:ab": {{MAC: "52:54:00:12:34:ab"}, {MAC: "52-54-00-12-34-AB"}},
		"4c4c4544-0042-3510-8052-b4c04f463232": {{UUID: "4C4C4544-0042-3510-8052-B4C04F463232"},
			{UUID: "4c4c4544004235108052b4c04f463232"}},
		"duid:00010203": {{DUID: "00:01:02:03"}, {DUID: "00010203"}},
		"node-7":        {{Name: "Node-7"}},
	} {
		for _, r := range spellings {
			if got := r.Key(); got != want {
				t.Errorf("%q has the key %q; want %q", r, got, want)
			}
		}
	}
}

// TestOverrideOptions: the nearer option of a code counts; the arguments are not changed.
func TestOverrideOptions(t *testing.T) {
	far := []Option[uint8]{{Code: 1, Text: "a"}, {Code: 2, Text: "b"}}
	got := OverrideOptions(far, []Option[uint8]{{Code: 1, Text: "c"}})
	texts := ""
	for _, o := range got {
		texts += o.Text
	}
	if texts != "bc" || far[0].Text != "a" || len(OverrideOptions(far, nil)) != 2 ||
		!slices.EqualFunc(far, OverrideOptions(far, nil), func(a, b Option[uint8]) bool { return a.Text == b.Text }) {
		t.Errorf("OverrideOptions = %+v; given were %+v", got, far)
	}
}
