package fleet

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestPacketWords holds what people read of packets.
func TestPacketWords(t *testing.T) {
	ip, them := netip.MustParseAddr("10.99.0.101"), netip.MustParseAddr("10.0.0.3")
	for _, c := range []struct {
		p    Packet
		want string
		bad  bool
	}{
		{Packet{Kind: "DHCPOFFER", Address: ip}, "DHCPOFFER of 10.99.0.101", false},
		{Packet{Kind: "DHCPOFFER", Loader: "snponly.efi"}, "DHCPOFFER of snponly.efi, without an address", false},
		{Packet{Kind: "REPLY", Address: netip.MustParseAddr("fd00:99::1")}, "REPLY of fd00:99::1", false},
		{Packet{Kind: "DHCPRELEASE", Address: ip}, "DHCPRELEASE of 10.99.0.101", false},
		{Packet{Kind: "DHCPACK", Address: ip, Unsent: "network is down"},
			"DHCPACK of 10.99.0.101 could not be sent: network is down", true},
		{Packet{Kind: "DHCPNAK", Address: ip, Refused: "it is not an address in network lab"},
			"DHCPNAK for 10.99.0.101: it is not an address in network lab", true},
		{Packet{Kind: "DHCPDECLINE", Address: ip, Refused: "somebody else uses it"},
			"DHCPDECLINE for 10.99.0.101: somebody else uses it", true},
		{Packet{Kind: "DHCPDISCOVER", Refused: "every address is lent"},
			"no answer to its DHCPDISCOVER: every address is lent", true},
		{Packet{Kind: "SOLICIT", Refused: "disk full"}, "no answer to its SOLICIT: disk full", true},
		{Packet{Other: &Other{Kind: "DHCPACK", Given: ip, Address: them, MAC: "52:54:00:00:00:03"}},
			"DHCPACK of 10.99.0.101 by another server, 10.0.0.3 (MAC 52:54:00:00:00:03)", true},
		{Packet{Other: &Other{Kind: "DHCPOFFER", Address: them, File: "pxelinux.0"}},
			"DHCPOFFER by another server, 10.0.0.3, booting pxelinux.0", true},
		{Packet{Other: &Other{Kind: "DHCPREQUEST", Given: ip, Address: them}},
			"DHCPREQUEST for 10.99.0.101 to another server, 10.0.0.3", true},
		{Packet{Other: &Other{Kind: "REQUEST", DUID: "00010203"}}, "REQUEST to another server, DUID 00010203", true},
		{Packet{Other: &Other{Kind: "DHCPOFFER", Address: them, Expected: true}}, "DHCPOFFER by another server, 10.0.0.3",
			false},
	} {
		if text, bad := c.p.Words(); text != c.want || bad != c.bad {
			t.Errorf("Words(%+v) = %q, %v; want %q, %v", c.p, text, bad, c.want, c.bad)
		}
	}
}

// TestHear: what is said again is counted, what more servers say than there is
// room for is left out, and a list that others have stays as it is.
func TestHear(t *testing.T) {
	var list []Other
	for i := range 2 * MaxOthers {
		before, had := slices.Clone(list), list
		o := Other{Kind: "DHCPOFFER", Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), At: t0}
		var isNew bool
		if list, isNew = Hear(list, o); isNew != (i < MaxOthers) || !slices.Equal(before, had) {
			t.Errorf("the %dth server is new: %v; the list of before is %v, was %v", i, isNew, had, before)
		}
	}
	again, isNew := Hear(list, Other{Kind: "DHCPOFFER", Address: netip.MustParseAddr("10.0.0.1"),
		At: t0.Add(9 * time.Second), File: "x"})
	if o := again[1]; isNew || len(again) != MaxOthers || o.Times != 2 || o.First != t0 || o.At != t0.Add(9*time.Second) ||
		o.File != "x" || list[1].Times != 1 {
		t.Errorf("said again: %+v, new: %v, the list of before %+v", o, isNew, list[1])
	}
}
