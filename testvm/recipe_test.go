//go:build e2e

package testvm

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// recipe is a configuration that docs/NETWORKS.md tells operators to use.
func recipe(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile("../docs/NETWORKS.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?ms)^```\\w+ " + regexp.QuoteMeta(name) + "\n(.*?)^```$").FindSubmatch(b)
	if m == nil {
		t.Fatalf("docs/NETWORKS.md has no recipe %q", name)
	}
	return string(m[1])
}

// file writes a file into the scene's folder.
func (s *stage) file(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// beside starts dnsmasq on another host of the LAN, with a recipe, and our
// server as a proxy beside it.
func (s *stage) beside(conf string) {
	s.t.Helper()
	other, err := s.lan.NewHost(s.ctx, "other0", netip.MustParsePrefix("10.99.0.2/24"))
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := other.Command(context.Background(), "dnsmasq", "--keep-in-foreground",
		"--conf-file="+s.file("dnsmasq.conf", recipe(s.t, conf)), "--log-dhcp",
		"--log-facility="+filepath.Join(s.dir, "dnsmasq.log"), "--dhcp-leasefile="+filepath.Join(s.dir, "dnsmasq.leases"),
		"--pid-file=", "--user=root")
	if err := s.lan.Start(cmd); err != nil {
		s.t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }() // ends with the LAN
	s.serve("--config", s.file("ingot.yaml", "dhcp:\n  interfaces: [{name: br0, mode: proxy}]\n"), "--approve-all",
		"--image", "lab:v1")
}
