package doctor

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/bootserver/api"
	"ingot/bootserver/dhcp4"
	"ingot/bootserver/dhcp6"
)

// asClient tries the running server from a client's place at each interface that it
// serves: DHCP arrives there as from the network, and what is offered is fetched.
func asClient(ctx context.Context, interfaces []api.NetworkInterface, http int) (list []Finding) {
	for _, i := range interfaces {
		switch {
		case !i.Served || i.Mode == string(dhcp4.Observe):
		case i.IPv6:
			list = append(list, asClient6(i))
		default:
			list = append(list, asClient4(ctx, i, http)...)
		}
	}
	return list
}

func asClient4(ctx context.Context, i api.NetworkInterface, http int) []Finding {
	c, err := plug(i.Name)
	if err != nil {
		return []Finding{noPlace("DHCP", i.Name, err)}
	}
	defer c.unplug()
	ask, err := dhcp4.NewTrial(c.mac)
	if err != nil {
		return []Finding{noPlace("DHCP", i.Name, err)}
	}
	var offer *dhcpv4.DHCPv4
	_, err = c.exchange([][]byte{dhcp4.Frame(ask)}, func(frame []byte) bool {
		p := dhcp4.ReadFrame(frame)
		if p == nil || p.TransactionID != ask.TransactionID || !bytes.Equal(p.ClientHWAddr, c.mac) {
			return false
		}
		offer = p
		return true
	})
	if err != nil {
		return []Finding{noPlace("DHCP", i.Name, err)}
	}
	list := []Finding{examineOffer(i, offer)}
	if offer != nil && offer.BootFileName != "" {
		list = append(list, reach(ctx, i.Addresses, http, offer.BootFileName)...)
	}
	return list
}

// noPlace is the finding when the server could not be tried.
func noPlace(protocol, iface string, err error) Finding {
	fix := "run it as root"
	if !errors.Is(err, errNoPlace) {
		fix = ""
	} else if strings.Contains(err.Error(), "not Ethernet") {
		fix = "switch a machine on there, and see: ingot network"
	}
	return found(protocol+" at "+iface, Skipped, fix, "the server was not tried from a client's place: %v", err)
}

// fixDeaf is what to do with a server that does not hear its clients.
const fixDeaf = "check the firewall (nft list ruleset), then: systemctl restart ingot"

// examineOffer judges what the server offers to a new machine at an interface; nil is no
// answer.
func examineOffer(i api.NetworkInterface, p *dhcpv4.DHCPv4) Finding {
	check := "DHCP at " + i.Name
	if p == nil {
		return found(check, Error, fixDeaf, "the server does not answer: a DHCPDISCOVER that arrives at %s, as from a "+
			"machine, gets no offer", i.Name)
	}
	server, _ := netip.AddrFromSlice(p.ServerIdentifier().To4())
	ip, _ := netip.AddrFromSlice(p.YourIPAddr.To4())
	switch why := p.Message(); {
	case !slices.Contains(i.Addresses, server):
		return found(check, Error, fixDeaf, "the answer comes from %s, which is not an address of %s", server, i.Name)
	case why != "":
		return found(check, Error, "ingot network", "a new machine would get no offer: %s", why)
	case p.BootFileName == "" && ip.IsUnspecified():
		return found(check, OK, "", "the server answers; a new machine gets nothing here")
	case p.BootFileName == "":
		return found(check, Error, "ingot loaders", "a new machine would get the address %s and nothing to boot", ip)
	case ip.IsUnspecified():
		return found(check, OK, "", "a new machine is offered %s", p.BootFileName)
	}
	return found(check, OK, "", "a new machine is offered %s and %s", ip, p.BootFileName)
}

// asClient6 tries DHCPv6. The server is reached from a link-local address, which its
// interface learns from a neighbour solicitation (RFC 4861 section 7.2.3).
func asClient6(i api.NetworkInterface) Finding {
	c, err := plug(i.Name)
	if err != nil {
		return noPlace("DHCPv6", i.Name, err)
	}
	defer c.unplug()
	ask, err := dhcp6.NewTrial()
	if err != nil {
		return noPlace("DHCPv6", i.Name, err)
	}
	local, err := linkLocal(i.Name)
	if err != nil {
		return noPlace("DHCPv6", i.Name, err)
	}
	client := linkLocalOf(c.mac)
	var duid string
	frames := [][]byte{neighbourSolicitation(c.mac, client, local), dhcp6.ClientFrame(c.mac, client, ask.ToBytes())}
	_, err = c.exchange(frames,
		func(frame []byte) bool {
			text, _, _ := dhcp6.ReadFrame(frame)
			m, err := dhcp6.ReadAnswer(text, ask)
			if err != nil || m.Options.ServerID() == nil {
				return false
			}
			duid = hex.EncodeToString(m.Options.ServerID().ToBytes())
			return true
		})
	switch {
	case err != nil:
		return noPlace("DHCPv6", i.Name, err)
	case duid == "":
		return found("DHCPv6 at "+i.Name, Error, fixDeaf, "the server does not answer: a DHCPv6 message that arrives at %s, "+
			"as from a machine, gets no reply", i.Name)
	}
	return found("DHCPv6 at "+i.Name, OK, "", "the server answers, with the DUID %s", duid)
}

// linkLocal returns the link-local address of an interface.
func linkLocal(name string) (netip.Addr, error) {
	card, _ := lookAt6(name)
	for _, a := range card.addresses {
		if a.Addr().IsLinkLocalUnicast() && !a.tentative {
			return a.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w: %s has no link-local address yet", errNoPlace, name)
}

// linkLocalOf is the link-local address of a card (RFC 4291 appendix A).
func linkLocalOf(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe,
		13: mac[3], 14: mac[4], 15: mac[5]})
}

// neighbourSolicitation asks for the card of an address, and says which card asks.
func neighbourSolicitation(mac net.HardwareAddr, from, of netip.Addr) []byte {
	target := of.As16()
	body := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, target[:]...)
	body = append(append(body, 1, 1), mac...)
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: target[13], 14: target[14], 15: target[15]})
	return dhcp6.MulticastFrame(mac, from, group, 58, 255, body, 2)
}

// reach asks the running server at its own addresses for what machines fetch there.
func reach(ctx context.Context, own []netip.Addr, http int, loader string) (list []Finding) {
	const fix = "ingot network says what is served; if it is served: systemctl restart ingot"
	for _, a := range own {
		web, loaders := "HTTP "+a.String(), "TFTP "+a.String()
		d := net.Dialer{Timeout: 2 * time.Second}
		if c, err := d.DialContext(ctx, "tcp", net.JoinHostPort(a.String(), strconv.Itoa(http))); err != nil {
			list = append(list, found(web, Error, fix, "the server does not answer: %v", err))
		} else {
			c.Close()
			list = append(list, found(web, OK, "", "the server answers"))
		}
		if err := askTFTP(a, loader); err != nil {
			list = append(list, found(loaders, Error, fix, "%v", err))
		} else {
			list = append(list, found(loaders, OK, "", "the server sends files"))
		}
	}
	return list
}
