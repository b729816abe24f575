package bolt

import (
	"net/netip"
	"sync/atomic"
	"testing"

	"ingot/bootserver/fleet"
	"ingot/bootserver/state"
)

// BenchmarkPutLease is one durable lease: what each DHCPACK waits for.
func BenchmarkPutLease(b *testing.B) {
	s, err := Open(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	l := fleet.Lease{MAC: "52:54:00:00:00:01", Address: netip.MustParseAddr("10.0.0.9")}
	for b.Loop() {
		if err := s.Update(func(tx state.Tx) error { tx.PutLease(l); return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPutLeaseTogether is what a lease costs when many wait at once.
func BenchmarkPutLeaseTogether(b *testing.B) {
	s, err := Open(b.Context(), b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	var n atomic.Uint32
	b.SetParallelism(256)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			l := fleet.Lease{MAC: "52:54:00:00:00:01",
				Address: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})}
			if err := s.Update(func(tx state.Tx) error { tx.PutLease(l); return nil }); err != nil {
				b.Error(err)
			}
		}
	})
}
