package doctor

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// cable is a client's place at an interface of this host: what is sent on it arrives at
// the interface like a frame from the network, and what the interface sends can be read.
// It is a pair of virtual interfaces; what arrives at one of them is redirected
// (tc-mirred(8)). The interface itself is not changed.
type cable struct {
	mac  net.HardwareAddr // of the client
	near netlink.Link     // the end at which frames are redirected
	send *packet.Conn
	read *packet.Conn
}

// errNoPlace: this host cannot act as a client of itself.
var errNoPlace = errors.New("acting as a client")

// plug makes a cable to an interface.
func plug(name string) (c *cable, err error) {
	at, err := net.InterfaceByName(name)
	switch {
	case err != nil:
		return nil, err
	case len(at.HardwareAddr) != 6:
		return nil, fmt.Errorf("%w: %s is not Ethernet", errNoPlace, name)
	}
	var random [5]byte
	_, _ = rand.Read(random[:]) // never fails, see crypto/rand
	id := hex.EncodeToString(random[:4])
	c = &cable{mac: append(net.HardwareAddr{2}, random[:]...)}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "ingot-" + id}, PeerName: "ingotp-" + id}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("%w: making a pair of interfaces: %w", errNoPlace, err)
	}
	c.near = pair
	defer func() {
		if err != nil {
			c.unplug()
		}
	}()
	if err := c.redirect(pair.Name, at.Index); err != nil {
		return nil, fmt.Errorf("%w: redirecting frames: %w", errNoPlace, err)
	}
	far, err := c.raise(pair.PeerName)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoPlace, err)
	}
	if c.send, err = packet.Listen(far, packet.Raw, unix.ETH_P_ALL, nil); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoPlace, err)
	}
	if c.read, err = packet.Listen(at, packet.Raw, unix.ETH_P_ALL, nil); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoPlace, err)
	}
	return c, nil
}

// redirect lets what arrives at the near end arrive at the interface with an index.
func (c *cable) redirect(name string, at int) error {
	if _, err := c.raise(name); err != nil {
		return err
	}
	index := c.near.Attrs().Index
	ingress := netlink.MakeHandle(0xffff, 0)
	if err := netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index,
		Parent: netlink.HANDLE_INGRESS, Handle: ingress}}); err != nil {
		return err
	}
	mirred := netlink.NewMirredAction(at)
	mirred.MirredAction = netlink.TCA_INGRESS_REDIR
	return netlink.FilterAdd(&netlink.U32{FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: ingress,
		Priority: 1, Protocol: unix.ETH_P_ALL}, Actions: []netlink.Action{mirred}})
}

// raise brings an end of the cable up, without IPv6: the kernel must not send on it.
func (c *cable) raise(name string) (*net.Interface, error) {
	off := "/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6"
	if err := os.WriteFile(off, []byte("1"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("switching IPv6 off: %w", err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, err
	}
	return net.InterfaceByName(name)
}

// unplug removes the cable.
func (c *cable) unplug() {
	for _, conn := range []*packet.Conn{c.send, c.read} {
		if conn != nil {
			_ = conn.Close() // nothing is sent any more
		}
	}
	_ = netlink.LinkDel(c.near) // the other end goes with it
}

// exchange sends frames, and again while there is no answer, and calls answered with the
// frames that the interface sends until it reports true. It reports whether it did.
func (c *cable) exchange(frames [][]byte, answered func(frame []byte) bool) (bool, error) {
	b := make([]byte, 1<<16)
	for _, wait := range []time.Duration{time.Second, 2 * time.Second} {
		for _, f := range frames {
			if _, err := c.send.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]}); err != nil {
				return false, fmt.Errorf("%w: %w", errNoPlace, err)
			}
		}
		if err := c.read.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return false, fmt.Errorf("%w: %w", errNoPlace, err)
		}
		for {
			n, _, err := c.read.ReadFrom(b)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return false, fmt.Errorf("%w: %w", errNoPlace, err)
			}
			if answered(b[:n]) {
				return true, nil
			}
		}
	}
	return false, nil
}
