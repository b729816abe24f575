package network

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"ingot/bootserver/client"
)

// TestLink: packets of both sockets arrive with their addresses, and the end of ctx ends
// the link.
func TestLink(t *testing.T) {
	for family, loopback := range map[Family]string{IPv4: "127.0.0.1", IPv6: "::1"} {
		l, err := OpenLink(t.Context(), family, "lo", 0, true)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended, got := make(chan error, 1), make(chan Datagram, 1)
		go func() {
			ended <- l.Receive(ctx, 512, func(d Datagram, pxe bool) {
				if pxe {
					d.Payload = append([]byte(nil), d.Payload...)
					got <- d
				}
			}, func() {})
		}()
		own := netip.MustParseAddr(loopback)
		if err := l.Socket(client.PortPXE).Send([]byte("hello"), own, netip.AddrPortFrom(own, client.PortPXE)); err != nil {
			t.Fatal(err)
		}
		select {
		case d := <-got:
			if string(d.Payload) != "hello" || d.To != own || d.From != netip.AddrPortFrom(own, client.PortPXE) {
				t.Errorf("%s: %q arrived from %s to %s", family, d.Payload, d.From, d.To)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: nothing arrived", family)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("%s: Receive = %v after its end", family, err)
		}
	}
}

// TestLinkFails: when one socket fails, the other one is closed and the error returned.
func TestLinkFails(t *testing.T) {
	l, err := OpenLink(t.Context(), IPv4, "lo", 0, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.DHCP.four.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- l.Receive(t.Context(), 512, func(Datagram, bool) {}, func() {}) }()
	select {
	case err := <-ended:
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Receive = %v; want the failure of the socket", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Receive did not end")
	}
}
