package network

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/sync/errgroup"

	"ingot/bootserver/client"
)

// Link is an interface with the open sockets of one family: for DHCP, and for boot
// servers beside another DHCP server.
type Link struct {
	Interface *net.Interface
	DHCP      *Socket
	PXE       *Socket // may be nil
}

// OpenLink opens the sockets of an interface: for the port of DHCP and, if pxe is
// set, for client.PortPXE.
func OpenLink(ctx context.Context, family Family, iface string, port int, pxe bool) (*Link, error) {
	i, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", iface, err)
	}
	l := &Link{Interface: i}
	if l.DHCP, err = Listen(ctx, family, i, port); err != nil {
		return nil, err
	}
	if pxe {
		if l.PXE, err = Listen(ctx, family, i, client.PortPXE); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// Close closes the sockets.
func (l *Link) Close() {
	l.DHCP.Close()
	l.PXE.Close()
}

// Socket returns the socket for a port.
func (l *Link) Socket(port uint16) *Socket {
	if port == client.PortPXE && l.PXE != nil {
		return l.PXE
	}
	return l.DHCP
}

// Receive calls handle with the packets of both sockets, see Socket.Receive, and
// whether they arrived on the one for client.PortPXE. It closes the link when it
// returns: when ctx ends or one of the sockets fails.
func (l *Link) Receive(ctx context.Context, size int, handle func(d Datagram, pxe bool), down func()) error {
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, l.Close)
	defer stop()
	g.Go(func() error {
		return l.DHCP.Receive(ctx, size, func(d Datagram) { handle(d, false) }, down)
	})
	if l.PXE != nil {
		g.Go(func() error {
			return l.PXE.Receive(ctx, size, func(d Datagram) { handle(d, true) }, down)
		})
	}
	return g.Wait()
}
