package lease

import (
	"net/netip"
	"strings"
	"testing"
)

func TestRanges(t *testing.T) {
	for _, bad := range []string{"", "10.0.0.1", "10.0.0.9-10.0.0.1", "a-b", "10.0.0.1-::2", "fe80::1%eth0-fe80::2%eth0",
		"::ffff:10.0.0.1-::ffff:10.0.0.9"} {
		if _, err := ParseRange(bad); err == nil {
			t.Errorf("ParseRange(%q) succeeds", bad)
		}
	}
	for prefix, want := range map[string]string{"10.99.0.1/24": "10.99.0.128-10.99.0.254",
		"10.99.0.200/24": "10.99.0.1-10.99.0.127", "192.168.4.1/29": "192.168.4.4-192.168.4.6",
		"fd00:99::1/64": "fd00:99::1:0-fd00:99::1:ffff", "fd00:99::1:5/64": "fd00:99::2:0-fd00:99::2:ffff",
		"2001:db8::ffff:1/96": "2001:db8::1:0-2001:db8::1:ffff"} {
		p := netip.MustParsePrefix(prefix)
		r, err := Default(p, p.Addr())
		if err != nil || r.String() != want || r.Within(p, p.Addr()) != nil {
			t.Errorf("Default(%s) = %s, %v; want %s", prefix, r, err, want)
		}
	}
	for text, why := range map[string]string{"fd00::-fd00::5": "the address of all routers",
		"fd00::1-fd00::4:0001": "more than", "fd01::1-fd01::2": "not inside", "fd00::1-fd00:0:0:1::": "not inside",
		"10.0.0.1-10.0.0.2": "not inside"} {
		r, err := ParseRange(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Inside(netip.MustParsePrefix("fd00::/64")); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("Inside of %s: %v; want %q", text, err, why)
		}
	}
}

// TestCounting: places in a range and addresses are each other's inverse, across
// the borders of bytes and of the halves of an address.
func TestCounting(t *testing.T) {
	for _, text := range []string{"10.0.255.250-10.1.0.5", "fd00::fff0-fd00::1:10",
		"fd00::ffff:ffff:ffff:fff0-fd00:0:0:1::10"} {
		r, err := ParseRange(text)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for ip := r.First; r.Contains(ip); ip = ip.Next() {
			if r.index(ip) != n || r.at(n) != ip {
				t.Fatalf("%s is at %d, and at %d is %s; want %d", ip, r.index(ip), n, r.at(n), n)
			}
			n++
		}
		if r.Size() != n {
			t.Errorf("%s has %d addresses; want %d", r, r.Size(), n)
		}
	}
	if r, _ := ParseRange("fd00::1-fd00::ffff:ffff:ffff:ffff"); r.Size() <= MaxPool {
		t.Errorf("a huge range has %d addresses; want more than any pool", r.Size())
	}
	first, last := Bounds(netip.MustParsePrefix("fd00:99::/60"))
	if first.String() != "fd00:99::" || last.String() != "fd00:99:0:f:ffff:ffff:ffff:ffff" {
		t.Errorf("Bounds = %s, %s", first, last)
	}
}
