package tftp

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestFamilies: a socket of one address, and one of all addresses of both
// families, answer from the address that was asked.
func TestFamilies(t *testing.T) {
	for _, c := range []struct{ listen, network, ask string }{
		{"[::1]:0", "udp6", "::1"}, {"[::]:0", "udp", "::1"}, {"[::]:0", "udp", "127.0.0.9"}, {"0.0.0.0:0", "udp4", "127.0.0.9"},
	} {
		listening, err := (&net.ListenConfig{}).ListenPacket(t.Context(), c.network, c.listen)
		if err != nil {
			t.Fatal(err)
		}
		conn := listening.(*net.UDPConn)
		clients := make(chan netip.Addr, 1)
		s := &Server{Files: map[string][]byte{"a": []byte("x")}, Log: slog.New(slog.DiscardHandler), Served: func(a netip.Addr, _ string, _ int64) { clients <- a }}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ctx, conn) }()
		at := netip.AddrPortFrom(netip.MustParseAddr(c.ask), uint16(conn.LocalAddr().(*net.UDPAddr).Port))
		client, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at)) // connected: it hears answers of that address alone
		if err != nil {
			t.Fatal(err)
		}
		_ = client.SetDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, 600)
		for _, say := range [][]byte{[]byte("\x00\x01a\x00octet\x00"), {0, 4, 0, 1}} {
			if _, err := client.Write(say); err != nil {
				t.Fatal(err)
			}
			if say[1] == 1 {
				if n, err := client.Read(b); err != nil || string(b[:n]) != "\x00\x03\x00\x01x" {
					t.Errorf("asked at %s of %s: %q, %v; want the file", c.ask, c.listen, b[:n], err)
				}
			}
		}
		select {
		case a := <-clients:
			if want := netip.MustParseAddrPort(client.LocalAddr().String()).Addr(); a != want {
				t.Errorf("the client of %s is noted as %s; want %s", c.listen, a, want)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("no transfer of %s was noted", c.listen)
		}
		client.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
