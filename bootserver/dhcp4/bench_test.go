package dhcp4

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/fleet"
	"ingot/bootserver/lease"
	"ingot/bootserver/lease/leasetest"
	"ingot/bootserver/network"
	"ingot/bootserver/state"
	"ingot/bootserver/state/bolt"
)

// BenchmarkExchange is DISCOVER, OFFER, REQUEST, ACK of one card among 500
// others, without the disk.
func BenchmarkExchange(b *testing.B) {
	now := time.Unix(1000, 0)
	c := testConfig()
	r, err := lease.ParseRange("10.99.0.2-10.99.3.254")
	if err != nil {
		b.Fatal(err)
	}
	c.Networks[0].Subnets[0] = Subnet{Prefix: netip.MustParsePrefix("10.99.0.0/22"), Pools: []lease.Range{r}}
	s := serverOf(b, c, &leasetest.Store{}, scripted{}, &now)
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

// durable keeps leases in the server's real state, in a file: what others store costs them, too.
type durable struct{ state.Store }

func (d durable) PutLease(l fleet.Lease) func() error {
	return d.Begin(func(tx state.Tx) error { tx.PutLease(l); return nil })
}

// BenchmarkDurableExchange is the four packets of clients that come 256 at a
// time, with every lease on the disk before it is acknowledged: what the server
// could do if packets came by themselves.
func BenchmarkDurableExchange(b *testing.B) {
	st, err := bolt.Open(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	c := testConfig()
	r, err := lease.ParseRange("10.96.1.0-10.99.250.255")
	if err != nil {
		b.Fatal(err)
	}
	c.Networks[0].Subnets[0] = Subnet{Prefix: netip.MustParsePrefix("10.96.0.0/14"), Pools: []lease.Range{r}}
	cards := map[string]network.Card{"eth0": {Index: 2, MAC: testMAC,
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.96.0.1/14")}}}
	s, err := New(c, cards, "", network.Parts{Store: durable{st}, Booter: scripted{}})
	if err != nil {
		b.Fatal(err)
	}
	var n atomic.Uint32
	b.SetParallelism(128)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			if _, err := leaseTo(b, s, net.HardwareAddr{2, 0, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
