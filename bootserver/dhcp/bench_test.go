package dhcp

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// BenchmarkExchange is DISCOVER, OFFER, REQUEST, ACK of one card among 500
// others, without the disk.
func BenchmarkExchange(b *testing.B) {
	now := time.Unix(1000, 0)
	c := testConfig()
	r, err := ParseRange("10.99.0.2-10.99.3.254")
	if err != nil {
		b.Fatal(err)
	}
	c.Networks[0].Subnets[0] = Subnet{Prefix: netip.MustParsePrefix("10.99.0.0/22"), Pools: []Range{r}}
	s := serverOf(b, c, remembers(), scripted{}, &now)
	exchange := func(i int) {
		p, err := dhcpv4.NewDiscovery(net.HardwareAddr{0x52, 0x54, 0, 0, byte(i >> 8), byte(i)})
		if err != nil {
			b.Fatal(err)
		}
		r, err := dhcpv4.NewRequestFromOffer(handle(b, s, p))
		if err != nil {
			b.Fatal(err)
		}
		if ack := handle(b, s, r); ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
			b.Fatalf("exchange %d: %v", i, ack)
		}
	}
	for i := range 500 {
		exchange(i)
	}
	for b.Loop() {
		exchange(7)
	}
}
