package config

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/bootserver/fleet"
	"ingot/internal/yamlfile"
)

// write makes a configuration of files and returns the path of ingot.yaml.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "ingot.yaml")
}

const good = `$schema: ./server.schema.json
store: /srv/ingot
dhcp:
  interfaces:
    - name: eth1
    - {name: eth2, mode: proxy}
  dns: [10.99.0.1]
  networks:
    - name: rack1
      interface: eth1
      routers: [10.99.0.1]
      subnets:
        - prefix: 10.99.0.0/24
          pools: [10.99.0.100-10.99.0.199]
          lease: 30m
  machines:
    - {mac: "52:54:00:12:00:01", address: 10.99.0.5, dns: [], loaders: [uki, ipxe.efi]}
http: {port: 8080, rate: 1GiB, transfers: 100}
tftp: {perClient: 4}
boots: {ticket: 90s, deadline: 5m, authenticated: required}
`

func TestLoad(t *testing.T) {
	file := write(t, map[string]string{"ingot.yaml": good,
		"ingot.d/20-more.yaml": "dhcp:\n  interfaces: [{name: eth3, mode: observe}]\n  dns: [10.99.0.2, 10.99.0.3]\nhttp: " +
			"{transfers: 200}\n",
		"ingot.d/10-less.yaml": "http: {transfers: 50, perBoot: 2}\n",
		"ingot.d/README":       "not read: ]["})
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(c.DHCP.Interfaces); n != 3 || c.DHCP.Interfaces[2].Name != "eth3" {
		t.Errorf("%d interfaces; want the drop-in's third added", n)
	}
	if len(c.DHCP.Options.DNS) != 2 || c.HTTP.Transfers != 200 || c.HTTP.PerBoot != 2 || c.HTTP.Port != 8080 {
		t.Errorf("dns %v, http %+v; want the later file's values, and those that it does not name kept",
			c.DHCP.Options.DNS, c.HTTP)
	}
	if c.Boots.Authenticated != AuthenticatedRequired {
		t.Errorf("authenticated = %q", c.Boots.Authenticated)
	}
	if m := c.DHCP.Machines[0]; m.DNS == nil || len(m.DNS) != 0 {
		t.Errorf("dns of the machine = %v; want an empty list, not none", m.DNS)
	} else if !slices.Equal(m.Loaders, []string{fleet.FirstUKI, "ipxe.efi"}) {
		t.Errorf("loaders of the machine = %q; want the UKI, then a loader", m.Loaders)
	}
	if s := c.DHCP.Networks[0].Subnets[0]; s.Options.Lease != 30*time.Minute || c.HTTP.Rate != 1<<30 ||
		time.Duration(c.Boots.Ticket) != 90*time.Second {
		t.Errorf("lease %s, rate %d, ticket %v", s.Options.Lease, c.HTTP.Rate, c.Boots.Ticket)
	}
	text, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Load(write(t, map[string]string{"ingot.yaml": string(text)}))
	if err != nil {
		t.Fatalf("what is shown cannot be read: %v\n%s", err, text)
	}
	c.Schema, again.Schema = "", ""
	same := cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
	if d := cmp.Diff(c, again, same); d != "" {
		t.Errorf("what is shown is read as something else:\n%s", d)
	}
}

// TestEveryFaultAtOnce: one run names all that is wrong, where, and the fix.
func TestEveryFaultAtOnce(t *testing.T) {
	for _, c := range []struct {
		files map[string]string
		want  []string
	}{
		{map[string]string{"ingot.yaml": "stroe: /x\nhttp:\n  port: 70000\n  rate: fast\ndhcp:\n  interfaces: eth1\n  " +
			"networks:\n    - name: a\n      mtu: big\n",
			"ingot.d/a.yaml": "boots: {approveAll: maybe}\n"}, []string{
			`ingot.d/a.yaml:1:21: approveAll is "maybe"; write true or false`,
			`ingot.yaml:1:1: unknown key "stroe"; write "store"`,
			`ingot.yaml:3:9: port is "70000"; write a whole number from 0 to 65535`,
			`ingot.yaml:4:9: rate: "fast" is not a size; write a number of bytes, or 512MiB, 2GiB`,
			`ingot.yaml:6:15: interfaces is a single value, not a list; write a list: [eth1]`,
			`ingot.yaml:9:12: mtu is "big"; write a whole number from 0`,
		}},
		{map[string]string{"ingot.yaml": strings.NewReplacer("10.99.0.5", "10.99.0.150", "mode: proxy", "mode: loud",
			"90s",
			"1s", "required", "optional", "/srv/ingot", "srv", "1GiB", "1").Replace(good),
			"ingot.d/a.yaml": "\ndhcp: {machines: [{mac: '52:54:00:12:00:01'}]}\n"}, []string{
			`ingot.d/a.yaml:2:19: machines[1] "52:54:00:12:00:01": the machine is listed twice`,
			`ingot.yaml:2:8: store: "srv" is not an absolute path; write it from the root: /srv`,
			`ingot.yaml:6:7: interfaces[1] "eth2": unknown mode "loud"; choose full, proxy or observe`,
			`ingot.yaml:17:7: machines[0] "52:54:00:12:00:01": the reserved address 10.99.0.150 is in the pool ` +
				`10.99.0.100-10.99.0.199 of network "rack1", which could assign it to others; move one of them`,
			`ingot.yaml:18:26: rate: 1 bytes per second are too few to boot a machine; write at least 64KiB, or nothing`,
			`ingot.yaml:20:17: ticket: 1s; write a time between 5s and 1h`,
			`ingot.yaml:20:50: authenticated: unknown value "optional"; write required, or remove it`,
		}},
		{map[string]string{"ingot.yaml": "api:\n  certificate: fullchain.pem\n"}, []string{
			`ingot.yaml:2:16: api.certificate: "fullchain.pem" is not an absolute path; write it from the root: /fullchain.pem`,
			`ingot.yaml:2:16: api.certificate: a certificate and its key belong together; write api.key beside it`,
		}},
		{map[string]string{"ingot.yaml": "api:\n  oidc:\n    issuer: http://login.example.org\n    scopes: ['a b']\n    " +
			"groups: " +
			"{ops: root}\n    clientSecretFile: secret\n"}, []string{
			`ingot.yaml:3:5: api.oidc.clientID: it is missing; write the name of this server as a client of the provider`,
			`ingot.yaml:3:5: api.oidc: the provider sends browsers back to a name of api.names at a port of api.listen`,
			`ingot.yaml:3:13: api.oidc.issuer: whoever is on the way to login.example.org could log in as anybody`,
			`ingot.yaml:4:14: api.oidc.scopes: "a b" is not a scope; write one scope for each entry`,
			`ingot.yaml:5:19: api.oidc.groups: ops has the scope "root"; write read, operate or admin`,
			`ingot.yaml:6:23: api.oidc.clientSecretFile: "secret" is not an absolute path; write it from the root: /secret`,
		}},
		{map[string]string{"ingot.yaml": "api:\n  listen: [':443']\n  names: [a]\n  oidc: {issuer: login, clientID: a}\n"},
			[]string{
				`ingot.yaml:4:9: api.oidc.groups: without groups, nobody can log in; write groups: {NAME: read}`,
				`ingot.yaml:4:18: api.oidc.issuer: "login" is not the address of a provider; write https://HOST/PATH`,
			}},
		{map[string]string{"ingot.yaml": "dhcp6:\n  interfaces: [{name: eth1}]\n  networks:\n    - name: a\n      " +
			"subnets: [{prefix: 10.99.0.0/24}]\n"}, []string{
			`ingot.yaml:4:7: networks[0] "a" subnet 10.99.0.0/24: it is not IPv6; write it under dhcp.networks`,
		}},
		{map[string]string{"ingot.yaml": "boots:\n  rules:\n    - {mac: '*', labels: foo}\n    - {mac: '*', labels: {gpu: " +
			"yes, [a]: b, rack: [r1], ok: x, ok: y}}\n    - {mac: '*', labels: {hot: true}}\n"}, []string{
			`ingot.yaml:3:26: labels is a single value, not a group of keys; write keys with values: {key: value}`,
			`ingot.yaml:4:37: a key of labels is a list; write one word`,
			`ingot.yaml:4:51: rack is a list; write one value`,
			`ingot.yaml:4:64: the key "ok" is written twice; keep one of them`,
			`ingot.yaml:5:32: hot is true or false, not text; write "true" in quotes if you mean the text`,
		}},
		{map[string]string{"ingot.yaml": "boots: {rules: [{mac: '*', labels: {'a b': c}}]}\n"},
			[]string{`ingot.yaml:1:17: rules[0]: `}},
		{map[string]string{"ingot.yaml": "a: b: c\n"}, []string{"ingot.yaml:1:5: mapping values"}},
		{map[string]string{"ingot.yaml": "boots:\n\tticket: 2m\n"},
			[]string{"ingot.yaml:2:1: a tab does not indent in YAML; indent with spaces"}},
		{map[string]string{"ingot.yaml": "store: /x\n---\nstore: /y\n"},
			[]string{"ingot.yaml:2:1: there is more than one YAML document; keep one document, without --- lines"}},
		{map[string]string{"ingot.yaml": "[]\n"},
			[]string{"ingot.yaml:1:1: the configuration is a list, not a group of keys"}},
	} {
		file := write(t, c.files)
		_, err := Load(file)
		var faults yamlfile.Faults
		if !errors.As(err, &faults) || len(faults) != len(c.want) {
			t.Errorf("Load = %v; want %d faults", err, len(c.want))
			continue
		}
		for i, f := range faults {
			got := strings.TrimPrefix(f.String(), filepath.Dir(file)+"/")
			if !strings.HasPrefix(got, c.want[i]) {
				t.Errorf("fault %d =\n%s; want\n%s", i, got, c.want[i])
			}
		}
	}
}

// TestRulesOfTheManual: the example in docs/MACHINES.md is a configuration,
// says what it seems to, and is shown as the same.
func TestRulesOfTheManual(t *testing.T) {
	manual, err := os.ReadFile("../../docs/MACHINES.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(manual), "```yaml\nboots:\n  rules:\n")
	example, _, found := strings.Cut(example, "```")
	if !found {
		t.Fatal("docs/MACHINES.md has no example of rules")
	}
	c, err := Load(write(t, map[string]string{"ingot.yaml": "boots:\n  rules:\n" + example,
		"ingot.d/more.yaml": "boots: {rules: [{vendor: 'Dell*', labels: {a: '1', b: ''}}]}\n"}))
	if err != nil {
		t.Fatal(err)
	}
	want := []fleet.Rule{
		{Subnet: "10.1.0.0/24", Port: "Eth1/*", Approve: true, Labels: map[string]string{"rack": "r1"},
			Image: "node:7"},
		{MAC: "52:54:00:*", Labels: map[string]string{"kind": "virtual"}},
		{Vendor: "Dell*", Labels: map[string]string{"a": "1", "b": ""}},
	}
	if d := cmp.Diff(want, c.Boots.Rules); d != "" {
		t.Errorf("the rules are not what was written:\n%s", d)
	}
	shown, err := c.YAML()
	if err != nil {
		t.Fatal(err)
	}
	again, err := Load(write(t, map[string]string{"ingot.yaml": string(shown)}))
	if err != nil {
		t.Fatalf("what is shown cannot be read: %v\n%s", err, shown)
	}
	if d := cmp.Diff(want, again.Boots.Rules); d != "" {
		t.Errorf("what is shown is read as something else:\n%s", d)
	}
}

func TestAbsent(t *testing.T) {
	if _, err := Load(filepath.Join(t.TempDir(), "ingot.yaml")); !errors.Is(err, ErrAbsent) {
		t.Errorf("Load of nothing = %v; want ErrAbsent", err)
	}
	if _, err := Load(write(t, map[string]string{"ingot.yaml": ""})); err != nil {
		t.Errorf("Load of an empty file = %v; want all the defaults", err)
	}
}

func TestSchemaIsCurrent(t *testing.T) {
	want, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("server.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("server.schema.json is stale; run: bin/ingot config schema > bootserver/config/server.schema.json\n%s", d)
	}
}

// FuzzParse: any text, with any other as its drop-in, is a configuration or a
// list of faults with places, and what is shown of it is read again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(good), []byte("dhcp: {dns: []}"))
	for _, s := range []string{"", "a", "[]", "dhcp: {networks: [{subnets: [{prefix: 10.0.0.0/33, pools: [x, 1-2]}]}]}",
		"http: &a {rate: *a}", "x: !!binary y", "dhcp: {interfaces: [&i {name: a}, *i]}", "{? [a] : b}", "<<: {store: /x}",
		"boots: {rules: [{mac: '*', labels: {rack: r1, 'x': ''}}, {mac: '*', labels: foo}, {mac: '*', labels: &l {a: *l, " +
			"[b]: c}}]}"} {
		f.Add([]byte(s), []byte("dhcp: {interfaces: [{name: eth1}]}"))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		c, err := parse([]text{{"a.yaml", first}, {"b.yaml", second}})
		if err != nil {
			var faults yamlfile.Faults
			if !errors.As(err, &faults) || faults[0].Place.File == "" {
				t.Errorf("parse = %v; want faults with places", err)
			}
			return
		}
		shown, err := c.YAML()
		if err != nil {
			t.Fatalf("showing it: %v", err)
		}
		if _, err := parse([]text{{"shown.yaml", shown}}); err != nil {
			t.Errorf("what is shown cannot be read: %v\n%s", err, shown)
		}
	})
}

// TestOrigins: browsers are sent back to each name at each port, as they write it.
func TestOrigins(t *testing.T) {
	a := API{Names: []string{"Boot.example.org", "10.0.0.1", "fd00::1"}, Listen: []string{":7443", "10.0.0.1:443",
		"[::]:7443"}}
	want := []string{"https://boot.example.org:7443", "https://boot.example.org", "https://10.0.0.1:7443",
		"https://10.0.0.1", "https://[fd00::1]:7443", "https://[fd00::1]"}
	if got := a.Origins(); !slices.Equal(got, want) {
		t.Errorf("Origins = %q; want %q", got, want)
	}
}
