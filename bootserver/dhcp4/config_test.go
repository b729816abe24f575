package dhcp4

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v4"

	"ingot/bootserver/network"
)

const goodConfig = `
interfaces:
  - name: eth1
  - {name: eth2, mode: proxy}
  - {name: eth3, mode: observe}
dns: [10.99.0.1]
domain: lab.example
networks:
  - name: rack1
    interface: eth1
    routers: [10.99.0.1]
    subnets:
      - prefix: 10.99.0.0/24
        pools: [10.99.0.100-10.99.0.199]
        mtu: 9000
  - name: far
    relays: [10.255.0.7]
    subnets:
      - prefix: 10.7.0.0/24
        pools: [10.7.0.10-10.7.0.99]
        routes: [{to: 192.168.0.0/16, via: 10.7.0.254}]
        lease: 30m
groups:
  - name: mellanox
    match: {macs: ["b8:59:9f"]}
    loaders: [ipxe.efi, snponly.efi]
machines:
  - mac: 52:54:00:12:00:01
    address: 10.99.0.5
    hostname: node01
    options: [{code: 150, addresses: [10.99.0.1]}, {code: 224, hex: "01:02"}]
    dns: []
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
	if o.MTU != 9000 || o.Domain != "lab.example" || len(o.Routers) != 1 || o.DNS == nil || len(o.DNS) != 0 ||
		len(o.Extra) != 2 {
		t.Errorf("options of node01 = %+v; want them inherited, and DNS switched off", o)
	}
	if got := c.Networks[1].Subnets[0].Options.Lease; got != 30*time.Minute {
		t.Errorf("lease = %s; want 30m", got)
	}
	if got := c.Networks[0].Subnets[0].Pools[0].String(); got != "10.99.0.100-10.99.0.199" {
		t.Errorf("pool = %s", got)
	}
}

// TestConfigFaults: whatever two machines could both get is refused, with the
// place and what to do.
func TestConfigFaults(t *testing.T) {
	for _, c := range []struct{ replace, by, want string }{
		{"address: 10.99.0.5", "address: 10.99.0.150",
			`machines[0] "52:54:00:12:00:01": the reserved address 10.99.0.150 is in the pool ` +
				`10.99.0.100-10.99.0.199 of network "rack1"`},
		{"address: 10.99.0.5", "address: 10.98.0.5", "is in none of the networks"},
		{"address: 10.99.0.5", "address: 10.99.0.255", "broadcast address"},
		{"pools: [10.99.0.100-10.99.0.199]", "pools: [10.99.0.100-10.99.0.199, 10.99.0.199-10.99.0.201]",
			"the pools 10.99.0.100-10.99.0.199 and 10.99.0.199-10.99.0.201 overlap"},
		{"pools: [10.99.0.100-10.99.0.199]", "pools: [10.99.0.1-10.99.0.199]", "contains the router"},
		{"pools: [10.99.0.100-10.99.0.199]", "pools: [10.98.0.1-10.98.0.199]", "not inside the network 10.99.0.0/24"},
		{"pools: [10.99.0.100-10.99.0.199]", "pools: [10.99.0.100-10.99.0.255]", "broadcast address"},
		{"[10.255.0.7]", "[10.7.0.50]", `networks[1] "far": the relay 10.7.0.50 is inside the pool 10.7.0.10-10.7.0.99`},
		{"[10.255.0.7]", "[10.99.0.0/24]", `is inside the pool 10.99.0.100-10.99.0.199 of network "rack1"`},
		{"[10.255.0.7]", `["fd00::7"]`, `"fd00::7" is not an IPv4 address of a relay`},
		{"relays: [10.255.0.7]", "snooping: true", "snooping: it is for the link of an interface"},
		{"dns: [10.99.0.1]", "dns: [10.99.0.1]\nrouters: [10.7.0.20]",
			"the pool 10.7.0.10-10.7.0.99 contains the router 10.7.0.20"},
		{"prefix: 10.7.0.0/24", "prefix: 10.99.0.0/16", "it overlaps the subnet 10.99.0.0/24"},
		{"prefix: 10.7.0.0/24", "prefix: 10.7.0.1/24", "write 10.7.0.0/24"},
		{"prefix: 10.7.0.0/24", "prefix: fd00::/64", "it is not IPv4; write it under dhcp6.networks"},
		{"mode: proxy", "mode: prox", `unknown mode "prox"; choose full, proxy or observe`},
		{"name: eth3", "name: eth1", "listed twice"},
		{"interface: eth1", "interface: eth9", `interface "eth9" is not listed`},
		{"name: eth1\n", "name: eth1\n    probe: 6s\n", "a probe of 6s is longer"},
		{"mtu: 9000", "mtu: 100", "an MTU of 100"},
		{"lease: 30m", "lease: 3s", "a lease of 3s"},
		{"code: 150", "code: 82", "option 82 cannot be set: it is set by relays"},
		{"code: 150", "code: 43",
			`machines[0] "52:54:00:12:00:01": option 43 cannot be set: it is decided by what machines boot; use ` + "`loaders`"},
		{"code: 150", "code: 60", "option 60 cannot be set: it is decided by what machines boot"},
		{"code: 150", "code: 66", "option 66 cannot be set: it is decided by what machines boot"},
		{"code: 150", "code: 67", "option 67 cannot be set: it is decided by what machines boot"},
		{"code: 150", "code: 175", "option 175 cannot be set: it is decided by what machines boot"},
		{`hex: "01:02"`, `hex: "01:0"`, "not hexadecimal"},
		{`hex: "01:02"`, `text: ""`, "needs one of text, hex and addresses"},
		{"mac: 52:54:00:12:00:01", "uuid: 00000000-0000-0000-0000-000000000000", "not a UUID that identifies a machine"},
		{"mac: 52:54:00:12:00:01", "hostname: x1", "exactly one of mac, uuid and name"},
		{`macs: ["b8:59:9f"]`, `macs: ["b8:5"]`, "not a MAC address"},
		{`match: {macs: ["b8:59:9f"]}`, `match: {}`, "it matches nothing"},
		{`loaders: [ipxe.efi,`, `loaders: [../ipxe.efi,`, "not the name of a loader"},
	} {
		text := strings.Replace(goodConfig, c.replace, c.by, 1)
		if c.by == "hostname: x1" {
			text = strings.Replace(text, "    hostname: node01\n", "", 1)
		}
		bad := load(t, text)
		err := bad.Check()
		if !errors.Is(err, network.ErrConfig) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Check = %v; want %q", c.by, err, c.want)
		}
	}
}

func TestExtraOptionsNearestWins(t *testing.T) {
	o := Options{Extra: []Option{{Code: 150, Text: "far"}, {Code: 151, Text: "kept"}}}.Override(
		Options{Extra: []Option{{Code: 150, Text: "near"}}})
	if d := cmp.Diff([]Option{{Code: 151, Text: "kept"}, {Code: 150, Text: "near"}}, o.Extra); d != "" {
		t.Errorf("extra options (-want +got):\n%s", d)
	}
}
