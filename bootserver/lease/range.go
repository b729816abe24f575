package lease

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"strings"
)

// Range is a range of addresses, both ends included. Its text is
// "10.99.0.100-10.99.0.199" or "fd00:99::1000-fd00:99::1fff".
type Range struct{ First, Last netip.Addr }

// ParseRange reads "10.99.0.100-10.99.0.199".
func ParseRange(s string) (Range, error) {
	a, b, ok := strings.Cut(s, "-")
	first, err1 := netip.ParseAddr(strings.TrimSpace(a))
	last, err2 := netip.ParseAddr(strings.TrimSpace(b))
	if !ok || err1 != nil || err2 != nil || first.Zone() != "" || first.BitLen() != last.BitLen() || first.Is4In6() ||
		last.Is4In6() || last.Less(first) {
		return Range{},
			fmt.Errorf("%q is not a range of addresses; write 10.99.0.100-10.99.0.199, or fd00:99::1000-fd00:99::1fff", s)
	}
	return Range{first, last}, nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Range) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRange(string(b))
	return err
}

// MarshalText implements encoding.TextMarshaler.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Contains reports whether ip is in the range.
func (r Range) Contains(ip netip.Addr) bool {
	return r.First.IsValid() && !ip.Less(r.First) && !r.Last.Less(ip)
}

func (r Range) String() string { return r.First.String() + "-" + r.Last.String() }

// Size returns the number of addresses, at most MaxPool+1.
func (r Range) Size() int {
	if d := distance(r.First, r.Last); d < MaxPool {
		return int(d) + 1
	}
	return MaxPool + 1
}

// Overlaps reports whether the ranges have an address in common.
func (r Range) Overlaps(o Range) bool { return !r.Last.Less(o.First) && !o.Last.Less(r.First) }

// index returns the place of an address in the range, and at the address of a place.
func (r Range) index(ip netip.Addr) int { return int(distance(r.First, ip)) }
func (r Range) at(index int) netip.Addr { return Plus(r.First, uint64(index)) }

// MaxPool is the largest size of a pool, in addresses: it bounds what unknown machines
// can make a Book remember.
const MaxPool = 1 << 18

// Inside checks that a range is in a network and leaves out the addresses that no
// machine can have: in IPv4 the first and the last one, in IPv6 the first one, which all
// routers have (RFC 4291 section 2.6.1).
func (r Range) Inside(prefix netip.Prefix) error {
	first, last := Bounds(prefix)
	four := prefix.Addr().Is4()
	switch {
	case !r.First.IsValid() && four:
		return fmt.Errorf("a pool is empty; write 10.99.0.100-10.99.0.199")
	case !r.First.IsValid():
		return fmt.Errorf("a pool is empty; write fd00:99::1000-fd00:99::1fff")
	case !prefix.Contains(r.First) || !prefix.Contains(r.Last):
		return fmt.Errorf("the range %s is not inside the network %s", r, prefix.Masked())
	case four && prefix.Bits() < 31 && (r.Contains(first) || r.Contains(last)):
		return fmt.Errorf("the range %s contains the network or broadcast address of %s", r, prefix.Masked())
	case !four && prefix.Bits() < 127 && r.Contains(first):
		return fmt.Errorf("the range %s contains %s, the address of all routers of %s", r, first, prefix.Masked())
	case r.Size() > MaxPool:
		return fmt.Errorf("the range %s has more than %d addresses", r, MaxPool)
	}
	return nil
}

// Within checks that a range is in a network and leaves out the server's own address.
func (r Range) Within(prefix netip.Prefix, own netip.Addr) error {
	if err := r.Inside(prefix); err != nil {
		return err
	}
	if r.Contains(own) {
		return fmt.Errorf("the range %s contains the server's own address %s", r, own)
	}
	return nil
}

// Default is the pool of a network when none is configured: in IPv4 the upper half
// without its last address, or the lower half if the server's own address is in the
// upper; in IPv6 65,536 addresses after as many that are left for numbering by hand.
func Default(prefix netip.Prefix, own netip.Addr) (Range, error) {
	first, _ := Bounds(prefix)
	if !prefix.Addr().Is4() {
		if prefix.Bits() > 108 {
			return Range{}, fmt.Errorf("the network %s is too small for a pool; give --range6", prefix.Masked())
		}
		r := Range{Plus(first, 1<<16), Plus(first, 1<<17-1)}
		if r.Contains(own) {
			r = Range{Plus(first, 1<<17), Plus(first, 1<<17+1<<16-1)}
		}
		return r, nil
	}
	if prefix.Bits() > 29 {
		return Range{}, fmt.Errorf("the network %s is too small for a pool; give --range", prefix.Masked())
	}
	size := uint64(1) << (32 - max(prefix.Bits(), 14))
	r := Range{Plus(first, size/2), Plus(first, size-2)}
	if r.Contains(own) { // then the lower half is free of it
		r = Range{Plus(first, 1), Plus(first, size/2-1)}
	}
	return r, nil
}

// Bounds returns the first and the last address of a prefix.
func Bounds(p netip.Prefix) (first, last netip.Addr) {
	first = p.Masked().Addr()
	b := first.AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ = netip.AddrFromSlice(b)
	return first, last
}

// distance returns by how many addresses b follows a, or more than any pool has.
func distance(a, b netip.Addr) uint64 {
	x, y := a.As16(), b.As16()
	high := binary.BigEndian.Uint64(y[:8]) - binary.BigEndian.Uint64(x[:8])
	low, from := binary.BigEndian.Uint64(y[8:]), binary.BigEndian.Uint64(x[8:])
	if high == 0 && low >= from || high == 1 && low < from {
		return low - from
	}
	return math.MaxUint64
}

// Plus returns the address n after another.
func Plus(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	low := binary.BigEndian.Uint64(b[8:]) + n
	if low < n {
		binary.BigEndian.PutUint64(b[:8], binary.BigEndian.Uint64(b[:8])+1)
	}
	binary.BigEndian.PutUint64(b[8:], low)
	sum := netip.AddrFrom16(b)
	if a.Is4() {
		return sum.Unmap()
	}
	return sum
}
