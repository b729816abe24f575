package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

// TestWhichOther: the server that a machine obeyed is named, of those that
// answered the boot that is explained.
func TestWhichOther(t *testing.T) {
	boot := func(id byte, from, until string) fleet.Boot {
		b := recorded(id, fleet.ImageRef{}, from, ingot.StageDHCP)
		b.Accepted = time.Time{}
		if until != "" {
			b.Ended = clock(until)
		}
		return b
	}
	other := func(kind string, last byte, at string) fleet.Other {
		return fleet.Other{Kind: kind, Address: netip.AddrFrom4([4]byte{10, 0, 0, last}), At: clock(at)}
	}
	s := Story{Machine: node01(), Now: now, Others: []fleet.Other{other("DHCPACK", 5, "10:10:03"),
		other("DHCPREQUEST", 5, "10:10:02"), other("DHCPOFFER", 6, "10:10:04"),
		{Kind: "REQUEST", DUID: "0001", At: clock("10:05:01")}}}
	slices.SortFunc(s.Others, fleet.ByWeight)
	for _, c := range []struct {
		b    fleet.Boot
		want string
	}{
		{boot(1, "10:00:00", "10:02:00"), "the offer did not reach the machine"},
		{boot(2, "10:05:00", "10:06:00"), "another DHCP server, DUID 0001, answered"},
		{boot(3, "10:10:00", "10:11:00"), "another DHCP server, 10.0.0.5, answered"},
		{boot(4, "10:10:00", ""), "another DHCP server, 10.0.0.5, answered"},
		{boot(5, "10:10:04", ""), "another DHCP server, 10.0.0.6, answered"},
	} {
		if got := fmt.Sprint(unanswered(c.b, s)); !strings.Contains(got, c.want) {
			t.Errorf("boot %s is explained by %q; want %q", c.b.ID.Short(), got, c.want)
		}
	}
}
