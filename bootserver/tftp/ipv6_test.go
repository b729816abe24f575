package tftp

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pin/tftp/v3"
)

// TestFamilies: a socket of one address, and one of all addresses of both
// families, answer from the address that was asked.
func TestFamilies(t *testing.T) {
	for _, single := range []bool{false, true} {
		for _, c := range []struct{ listen, network, ask, client string }{
			{"[::1]:0", "udp6", "::1", "::1"},
			{"[::]:0", "udp", "::1", "::1"},
			{"[::]:0", "udp", "127.0.0.9", "127.0.0.1"},
			{"0.0.0.0:0", "udp4", "127.0.0.9", "127.0.0.1"},
		} {
			listening, err := (&net.ListenConfig{}).ListenPacket(t.Context(), c.network, c.listen)
			if err != nil {
				t.Fatal(err)
			}
			conn := listening.(*net.UDPConn)
			clients := make(chan netip.Addr, 1)
			s := &Server{
				Files: map[string][]byte{"a": []byte("x")}, SinglePort: single, Log: slog.New(slog.DiscardHandler),
				Served: func(a netip.Addr, _ string, _ int64) { clients <- a },
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- s.Serve(ctx, conn) }()
			at := netip.AddrPortFrom(netip.MustParseAddr(c.ask), uint16(conn.LocalAddr().(*net.UDPAddr).Port))
			client, err := tftp.NewClient(at.String()) // it hears answers of that address alone
			if err != nil {
				t.Fatal(err)
			}
			client.SetTimeout(5 * time.Second)
			var got bytes.Buffer
			r, err := client.Receive("a", "octet")
			if err == nil {
				_, err = r.WriteTo(&got)
			}
			if err != nil || got.String() != "x" {
				t.Errorf("asked at %s of %s, single port %v: %q, %v; want the file", c.ask, c.listen, single, &got, err)
			}
			select {
			case a := <-clients:
				if want := netip.MustParseAddr(c.client); a != want {
					t.Errorf("the client of %s, single port %v, is noted as %s; want %s", c.listen, single, a, want)
				}
			case <-time.After(5 * time.Second):
				t.Errorf("no transfer of %s, single port %v, was noted", c.listen, single)
			}
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
}
