package dhcp

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// Range is the addresses that may be lent, both ends included. Its text is
// "10.99.0.100-10.99.0.199".
type Range struct{ First, Last netip.Addr }

// ParseRange reads "10.99.0.100-10.99.0.199".
func ParseRange(s string) (Range, error) {
	a, b, ok := strings.Cut(s, "-")
	first, err1 := netip.ParseAddr(strings.TrimSpace(a))
	last, err2 := netip.ParseAddr(strings.TrimSpace(b))
	if !ok || err1 != nil || err2 != nil || !first.Is4() || !last.Is4() || last.Less(first) {
		return Range{}, fmt.Errorf("%q is not a range of addresses; write 10.99.0.100-10.99.0.199", s)
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

// size is the number of addresses.
func (r Range) size() int { return int(number(r.Last)-number(r.First)) + 1 }

func (r Range) overlaps(o Range) bool { return !r.Last.Less(o.First) && !o.Last.Less(r.First) }

// MaxPool is the most addresses of one range: it bounds what strangers can
// make us remember.
const MaxPool = 1 << 18

// inside checks that a range lies in a network and leaves out its first and
// last address, which are no machine's.
func (r Range) inside(prefix netip.Prefix) error {
	first, last := bounds(prefix)
	switch {
	case !r.First.IsValid():
		return fmt.Errorf("a pool is empty; write 10.99.0.100-10.99.0.199")
	case !prefix.Contains(r.First) || !prefix.Contains(r.Last):
		return fmt.Errorf("the range %s is not inside the network %s", r, prefix.Masked())
	case prefix.Bits() < 31 && (r.Contains(first) || r.Contains(last)):
		return fmt.Errorf("the range %s contains the network's or broadcast address of %s", r, prefix.Masked())
	case r.size() > MaxPool:
		return fmt.Errorf("the range %s has more than %d addresses", r, MaxPool)
	}
	return nil
}

// Within checks that the range lies in a network and leaves out our own address.
func (r Range) Within(prefix netip.Prefix, own netip.Addr) error {
	if err := r.inside(prefix); err != nil {
		return err
	}
	if r.Contains(own) {
		return fmt.Errorf("the range %s contains the server's own address %s", r, own)
	}
	return nil
}

// DefaultRange is the upper half of a network without its last address, or
// what of it lies after our own address.
func DefaultRange(prefix netip.Prefix, own netip.Addr) (Range, error) {
	if prefix.Bits() > 29 {
		return Range{}, fmt.Errorf("the network %s is too small to lend addresses; give --range", prefix.Masked())
	}
	start := number(prefix.Masked().Addr())
	size := uint32(1) << (32 - max(prefix.Bits(), 14))
	r := Range{addr4(start + size/2), addr4(start + size - 2)}
	if r.Contains(own) { // then the lower half is free of it
		r = Range{addr4(start + 1), addr4(start + size/2 - 1)}
	}
	return r, nil
}

// bounds are the first and the last address of a prefix.
func bounds(p netip.Prefix) (first, last netip.Addr) {
	start := number(p.Masked().Addr())
	return addr4(start), addr4(start + uint32(1<<(32-p.Bits())-1))
}

// number is an IPv4 address as a number, for counting in ranges.
func number(a netip.Addr) uint32 { b := a.As4(); return binary.BigEndian.Uint32(b[:]) }

func addr4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// canonicalMACPrefix returns the beginning of a MAC address, 1 to 6 bytes, in
// lower case with colons, or nothing when it is none.
func canonicalMACPrefix(s string) string {
	m := strings.ToLower(strings.ReplaceAll(strings.TrimRight(s, ":*-"), "-", ":"))
	if b, err := hex.DecodeString(strings.ReplaceAll(m, ":", "")); err != nil || len(b) == 0 || len(b) > 6 || len(m) != 3*len(b)-1 {
		return ""
	}
	return m
}

func unhex(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil {
		return nil, fmt.Errorf("%q is not hexadecimal", s)
	}
	return b, nil
}
