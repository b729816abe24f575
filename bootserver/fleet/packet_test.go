package fleet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
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
		{Packet{Kind: "DHCPACK", Address: ip, Unsent: "network is down"}, "DHCPACK of 10.99.0.101 could not be sent: network is down", true},
		{Packet{Kind: "DHCPNAK", Address: ip, Refused: "it is no address of network lab"}, "DHCPNAK for 10.99.0.101: it is no address of network lab", true},
		{Packet{Kind: "DHCPDECLINE", Address: ip, Refused: "somebody else uses it"}, "DHCPDECLINE for 10.99.0.101: somebody else uses it", true},
		{Packet{Kind: "DHCPDISCOVER", Refused: "every address is lent"}, "no answer to its DHCPDISCOVER: every address is lent", true},
		{Packet{Kind: "SOLICIT", Refused: "disk full"}, "no answer to its SOLICIT: disk full", true},
		{Packet{Other: &Other{Kind: "DHCPACK", Given: ip, Address: them, MAC: "52:54:00:00:00:03"}}, "DHCPACK of 10.99.0.101 by another server, 10.0.0.3 (MAC 52:54:00:00:00:03)", true},
		{Packet{Other: &Other{Kind: "DHCPOFFER", Address: them, File: "pxelinux.0"}}, "DHCPOFFER by another server, 10.0.0.3, booting pxelinux.0", true},
		{Packet{Other: &Other{Kind: "DHCPREQUEST", Given: ip, Address: them}}, "DHCPREQUEST for 10.99.0.101 to another server, 10.0.0.3", true},
		{Packet{Other: &Other{Kind: "REQUEST", DUID: "00010203"}}, "REQUEST to another server, DUID 00010203", true},
		{Packet{Other: &Other{Kind: "DHCPOFFER", Address: them, Expected: true}}, "DHCPOFFER by another server, 10.0.0.3", false},
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
		o := Other{Kind: "DHCPOFFER", Address: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), At: clock("10:00:00")}
		var isNew bool
		if list, isNew = Hear(list, o); isNew != (i < MaxOthers) || !slices.Equal(before, had) {
			t.Errorf("the %dth server is new: %v; the list of before is %v, was %v", i, isNew, had, before)
		}
	}
	again, isNew := Hear(list, Other{Kind: "DHCPOFFER", Address: netip.MustParseAddr("10.0.0.1"), At: clock("10:00:09"), File: "x"})
	if o := again[1]; isNew || len(again) != MaxOthers || o.Times != 2 || o.First != clock("10:00:00") || o.At != clock("10:00:09") || o.File != "x" || list[1].Times != 1 {
		t.Errorf("said again: %+v, new: %v, the list of before %+v", o, isNew, list[1])
	}
}

// TestWhichOther: the server that a machine obeyed is named, of those that
// answered the boot that is explained.
func TestWhichOther(t *testing.T) {
	boot := func(id byte, from, until string) Boot {
		b := recorded(id, ImageRef{}, from, ingot.StageDHCP)
		b.Told = time.Time{}
		if until != "" {
			b.Ended = clock(until)
		}
		return b
	}
	other := func(kind string, last byte, at string) Other {
		return Other{Kind: kind, Address: netip.AddrFrom4([4]byte{10, 0, 0, last}), At: clock(at)}
	}
	s := Story{Machine: node01(), Now: now, Others: []Other{other("DHCPACK", 5, "10:10:03"), other("DHCPREQUEST", 5, "10:10:02"), other("DHCPOFFER", 6, "10:10:04"), {Kind: "REQUEST", DUID: "0001", At: clock("10:05:01")}}}
	slices.SortFunc(s.Others, ByWeight)
	for _, c := range []struct {
		b    Boot
		want string
	}{
		{boot(1, "10:00:00", "10:02:00"), "the offer did not reach it"},
		{boot(2, "10:05:00", "10:06:00"), "another server, DUID 0001, answered"},
		{boot(3, "10:10:00", "10:11:00"), "another server, 10.0.0.5, answered"},
		{boot(4, "10:10:00", ""), "another server, 10.0.0.5, answered"},
		{boot(5, "10:10:04", ""), "another server, 10.0.0.6, answered"},
	} {
		if got := fmt.Sprint(unanswered(c.b, s)); !strings.Contains(got, c.want) {
			t.Errorf("boot %s is explained by %q; want %q", c.b.ID.Short(), got, c.want)
		}
	}
}
