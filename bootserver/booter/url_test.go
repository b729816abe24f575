package booter

import (
	"net/netip"
	"testing"
)

func TestURLs(t *testing.T) {
	for _, c := range []struct {
		port     uint16
		at, want string
	}{
		{80, "10.99.0.1", "http://10.99.0.1"}, {8080, "10.99.0.1", "http://10.99.0.1:8080"},
		{80, "fd00:99::1", "http://[fd00:99::1]"}, {8080, "fd00:99::1", "http://[fd00:99::1]:8080"},
	} {
		if got := (&Booter{port: c.port}).ServerURL(netip.MustParseAddr(c.at)); got != c.want {
			t.Errorf("ServerURL(%s) at port %d = %q; want %q", c.at, c.port, got, c.want)
		}
	}
}
