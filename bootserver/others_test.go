package bootserver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/bootserver/config"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
)

// TestBesideConfig: the configuration that is printed for a refusal can be read, and has
// all that the interfaces had before, whatever they are called.
func TestBesideConfig(t *testing.T) {
	c := config.Config{DHCP: dhcp4.Config{Interfaces: []dhcp4.Interface{{Name: "eth1", Quiet: true},
		{Name: "7", Known: true, Probe: dhcp4.NoProbe}, {Name: "a:b, c}", Mode: dhcp4.Full, Probe: 5e8}, {Name: "eth3"}}},
		DHCP6: dhcp6.Config{Interfaces: []dhcp6.Interface{{Name: "eth1", Preference: 7, RapidCommit: true},
			{Name: "eth2", Preference: 9}}}}
	text := besideConfig(c, map[string]refusal{"eth1": {}, "eth3": {ingot: true}, "eth1 (IPv6)": {}})
	path := filepath.Join(t.TempDir(), "ingot.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := config.Load(path)
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	c.DHCP.Interfaces[0].Mode, c.DHCP.Interfaces[3].Mode = dhcp4.Proxy, dhcp4.Observe
	c.DHCP6.Interfaces[0] = dhcp6.Interface{Name: "eth1", Mode: dhcp6.Boot} // the others are of mode full
	if diff := cmp.Diff(c.DHCP.Interfaces, got.DHCP.Interfaces); diff != "" {
		t.Errorf("the interfaces of IPv4 differ: %s\n%s", diff, text)
	}
	if diff := cmp.Diff(c.DHCP6.Interfaces, got.DHCP6.Interfaces); diff != "" {
		t.Errorf("the interfaces of IPv6 differ: %s\n%s", diff, text)
	}
}
