package state

import (
	"net/netip"
	"testing"

	"ingot/bootserver/fleet"
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
		if err := s.Update(func(tx *Tx) error { tx.PutLease(l); return nil }); err != nil {
			b.Fatal(err)
		}
	}
}
