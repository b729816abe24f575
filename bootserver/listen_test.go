package bootserver

import (
	"net"
	"net/netip"
	"testing"
)

// TestWhichSocket: a socket that somebody passed serves the addresses that it
// is bound to, and of a socket for all of them those of its families.
func TestWhichSocket(t *testing.T) {
	four, six := netip.MustParseAddrPort("10.99.0.1:80"), netip.MustParseAddrPort("[fd00:99::1]:80")
	for _, c := range []struct {
		have        string
		only        bool
		four, other bool
	}{
		{"0.0.0.0:80", false, true, false}, {"[::]:80", false, true, true}, {"[::]:80", true, false,
			true}, {"[::]:81", false, false, false},
		{"10.99.0.1:80", false, true, false}, {"[fd00:99::1]:80", false, false, true}, {"[::ffff:10.99.0.1]:80",
			false, true, false},
	} {
		have := netip.MustParseAddrPort(c.have)
		if binds(have, four, c.only) != c.four || binds(have, six, c.only) != c.other {
			t.Errorf("%s (IPv6 only: %v) receives IPv4 %v, IPv6 %v; want %v, %v", c.have, c.only,
				binds(have, four, c.only), binds(have, six, c.only), c.four, c.other)
		}
	}
	for network, want := range map[string]wildcard{"tcp": {four: true, six: true}, "tcp4": {four: true},
		"tcp6": {six: true}} {
		l, err := (&net.ListenConfig{}).Listen(t.Context(), network, ":0")
		if err != nil {
			t.Fatal(err)
		}
		var w wildcard
		if w.add(l.Addr(), l); w != want {
			t.Errorf("a socket of all %s addresses serves %+v; want %+v", network, w, want)
		}
		l.Close()
	}
}
