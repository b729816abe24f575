package dhcp6

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"ingot/bootserver/network"
)

const goodConfig = `
interfaces:
  - name: eth1
    preference: 10
  - {name: eth2, mode: boot}
  - {name: eth3, mode: observe}
dns: ["fd00:99::53"]
search: [lab.example]
networks:
  - name: rack1
    interface: eth1
    subnets:
      - prefix: fd00:99::/64
        pools: ["fd00:99::1000-fd00:99::1fff"]
        lease: 30m
  - name: far
    relays: ["fd00:ff::7"]
    subnets:
      - prefix: fd00:7::/64
        pools: ["fd00:7::10-fd00:7::99"]
groups:
  - name: mellanox
    match: {macs: ["b8:59:9f"]}
    loaders: [ipxe.efi, snponly.efi]
machines:
  - mac: 52:54:00:12:00:01
    address: fd00:99::5
    options: [{code: 223, hex: "01:02"}]
    dns: []
  - {duid: "00:02:00:00:00:09:01:02", address: "fd00:99::6"}
`

func load(t *testing.T, text string) Config {
	t.Helper()
	var c Config
	if err := yaml.Load([]byte(text), &c, yaml.WithKnownFields()); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestConfig(t *testing.T) {
	c := load(t, goodConfig)
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	o := c.Options.Override(c.Networks[0].Options).Override(c.Networks[0].Subnets[0].Options).Override(
		c.Machines[0].Options)
	if o.lease() != 30*time.Minute || len(o.Search) != 1 || o.DNS == nil || len(o.DNS) != 0 || len(o.Extra) != 1 {
		t.Errorf("options of the machine = %+v; want them inherited, and DNS switched off", o)
	}
}

// TestConfigFaults: whatever two machines could both get is refused, with the
// place and what to do.
func TestConfigFaults(t *testing.T) {
	for _, c := range []struct{ replace, by, want string }{
		{"address: fd00:99::5", "address: fd00:99::1500",
			`machines[0] "52:54:00:12:00:01": the reserved address fd00:99::1500 is in the pool ` +
				`fd00:99::1000-fd00:99::1fff of network "rack1"`},
		{"address: fd00:99::5", "address: 10.99.0.5", "write it under dhcp.machines"},
		{"address: fd00:99::5", "address: fd00:98::5", "is in none of the networks"},
		{"address: fd00:99::5", "address: \"fd00:99::\"", "the address of all routers"},
		{"address: fd00:99::5", "address: fd00:99::6", "is already reserved for"},
		{`"fd00:99::1000-fd00:99::1fff"`, `"fd00:99::1000-fd00:99::1fff", "fd00:99::1f00-fd00:99::2000"`, "overlap"},
		{`"fd00:99::1000-fd00:99::1fff"`, `"fd00:99::1000-fd00:99::ffff:ffff"`, "more than 262144 addresses"},
		{`"fd00:99::1000-fd00:99::1fff"`, `"fd00:98::1000-fd00:98::1fff"`, "is not inside the network"},
		{"prefix: fd00:99::/64", "prefix: 10.99.0.0/24", "it is not IPv6; write it under dhcp.networks"},
		{"prefix: fd00:99::/64", "prefix: fe80::/64", "cannot be assigned"},
		{"prefix: fd00:99::/64", "prefix: fd00:99::1/64", "write fd00:99::/64"},
		{"prefix: fd00:7::/64", "prefix: fd00:99::/48", "overlaps the subnet"},
		{`["fd00:ff::7"]`, `["10.7.0.1"]`, `networks[1] "far": "10.7.0.1" is not an IPv6 address of a relay`},
		{`["fd00:ff::7"]`, `["fd00:7::11"]`,
			"the relay fd00:7::11 is inside the pool fd00:7::10-fd00:7::99 of network \"far\""},
		{`["fd00:ff::7"]`, `["fd00:99::/120"]`, "contains the address fd00:99::5 that is reserved"},
		{"mode: boot", "mode: proxy", `interfaces[1] "eth2": unknown mode "proxy"; choose full, boot or observe`},
		{"mode: boot", "mode: boot, rapidCommit: true", "are for mode full"},
		{"interface: eth1", "interface: eth9", "is not listed under interfaces"},
		{`dns: ["fd00:99::53"]`, `dns: [10.0.0.1]`, `dhcp6: "10.0.0.1" is not an IPv6 address`},
		{"lease: 30m", "lease: 5s", "is not between"},
		{"code: 223", "code: 59", "option 59 cannot be set: it is decided by what the machine boots"},
		{"duid: \"00:02", "duid: \"zz:02", "is not a DUID"},
		{"macs: [\"b8:59:9f\"]", "macs: [x]", `groups[0] "mellanox": "x" is not a MAC address`},
		{"mac: 52:54:00:12:00:01", "name: a\n    mac: 52:54:00:12:00:01", "exactly one of mac, uuid, duid and name"},
	} {
		if !strings.Contains(goodConfig, c.replace) {
			t.Fatalf("nothing to replace: %q", c.replace)
		}
		conf := load(t, strings.Replace(goodConfig, c.replace, c.by, 1))
		if err := conf.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: %v; want %q", c.by, c.replace, err, c.want)
		}
	}
}

// TestSite: what a configuration says of this host's interfaces.
func TestSite(t *testing.T) {
	bare := Config{Interfaces: []Interface{{Name: "eth0"}}}
	s, err := network.NewSite(bare, testCards)
	if err != nil {
		t.Fatal(err)
	}
	if l := s.Networks.Layout(); len(l.Pools) != 1 || l.Pools[0].Range.String() != "fd00:99::1:0-fd00:99::1:ffff" {
		t.Errorf("without networks it assigns from %+v", l.Pools)
	}
	for want, c := range map[string]Config{
		"too small": {Interfaces: []Interface{{Name: "host"}}},
		"is the server's own": {Interfaces: []Interface{{Name: "eth0"}},
			Machines: []Machine{{Name: "a", Address: netip.MustParseAddr("fd00:99::1")}}},
		"contains the server's own address": {Interfaces: []Interface{{Name: "eth0"}},
			Networks: []Network{{Name: "n", Interface: "eth0", Subnets: []Subnet{{Prefix: netip.MustParsePrefix("fd00:99::/64"),
				Pools: testRangeOf("fd00:99::1", "fd00:99::9")}}}}},
	} {
		cards := map[string]network.Card{"eth0": testCards["eth0"],
			"host": {Prefixes: []netip.Prefix{netip.MustParsePrefix("fd00:99::1/128")}}}
		if _, err := network.NewSite(c, cards); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %q", c, err, want)
		}
	}
	if err := (&Config{}).Check(); err != nil {
		t.Errorf("the zero configuration: %v", err)
	}
}
