package dhcp

import (
	"net"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// BenchmarkExchange is DISCOVER, OFFER, REQUEST, ACK of one card among 500
// others, without the disk.
func BenchmarkExchange(b *testing.B) {
	now := time.Unix(1000, 0)
	s := newServer(book{}, &now)
	s.Range, _ = ParseRange("10.99.0.2-10.99.3.254")
	exchange := func(i int) {
		p, err := dhcpv4.NewDiscovery(net.HardwareAddr{0x52, 0x54, 0, 0, byte(i >> 8), byte(i)})
		if err != nil {
			b.Fatal(err)
		}
		offer, err := s.Handle(p)
		if err != nil {
			b.Fatal(err)
		}
		r, err := dhcpv4.NewRequestFromOffer(offer)
		if err != nil {
			b.Fatal(err)
		}
		if ack, err := s.Handle(r); err != nil || ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
			b.Fatalf("exchange %d: %v, %v", i, ack, err)
		}
	}
	for i := range 500 {
		exchange(i)
	}
	for b.Loop() {
		exchange(7)
	}
}
