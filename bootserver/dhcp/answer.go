package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot"
)

// Told is what a client is told of its network.
type Told struct {
	Server  netip.Addr // our address there
	Prefix  netip.Prefix
	Router  netip.Addr // zero: none
	DNS     []netip.Addr
	Lease   time.Duration
	Loaders map[ingot.Firmware]string // file names for TFTP
}

// Loaders are the file names of the first stage by firmware. UEFI gets
// snponly: it drives the card through the firmware's own driver, which works
// where iPXE's drivers do not.
var Loaders = map[ingot.Firmware]string{
	ingot.FirmwareBIOS:      "undionly.kpxe",
	ingot.FirmwareUEFIx64:   "snponly.efi",
	ingot.FirmwareUEFIarm64: "ipxe-arm64.efi",
}

// Answer makes the packet of a message type for a client. script is the URL
// for a loader; without one, firmware gets its loader.
func Answer(p *dhcpv4.DHCPv4, t dhcpv4.MessageType, c Client, n Told, ip netip.Addr, script string) (*dhcpv4.DHCPv4, error) {
	server := n.Server.AsSlice()
	mods := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(t),
		dhcpv4.WithServerIP(server),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)),
	}
	if ip.IsValid() {
		mods = append(mods, dhcpv4.WithYourIP(ip.AsSlice()), dhcpv4.WithLeaseTime(uint32(n.Lease.Seconds())))
	}
	mods = append(mods, dhcpv4.WithNetmask(net.CIDRMask(n.Prefix.Bits(), 32)))
	if n.Router.IsValid() {
		mods = append(mods, dhcpv4.WithRouter(n.Router.AsSlice()))
	}
	if len(n.DNS) > 0 {
		var dns []net.IP
		for _, a := range n.DNS {
			dns = append(dns, a.AsSlice())
		}
		mods = append(mods, dhcpv4.WithDNS(dns...))
	}
	a, err := dhcpv4.NewReplyFromRequest(p, mods...)
	if err != nil {
		return nil, fmt.Errorf("making the %s: %w", t, err)
	}
	// The relay's option goes back unchanged (RFC 3046 section 2.2), and a PXE
	// client's identifier too (RFC 4578 section 2.3).
	copyOption(a, p, dhcpv4.OptionRelayAgentInformation)
	if c.Kind != System {
		copyOption(a, p, dhcpv4.OptionClientMachineIdentifier)
		boot(a, c, n, script)
	}
	return a, nil
}

// boot adds what the client boots. The file name goes into the fixed field as
// well as into option 67: ROMs differ in where they look.
func boot(a *dhcpv4.DHCPv4, c Client, n Told, script string) {
	if script != "" {
		setFile(a, script)
		return
	}
	loader := n.Loaders[c.Firmware]
	if loader == "" {
		return
	}
	// PXE firmware ignores an offer that does not say PXEClient back, and takes
	// boot server discovery to be off with option 43.6 = 8 (PXE 2.1, table 2-2).
	a.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
	a.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255}))
	a.UpdateOption(dhcpv4.OptTFTPServerName(n.Server.String()))
	setFile(a, loader)
}

// maxFile is the room of the fixed field, with its final zero.
const maxFile = 127

func setFile(a *dhcpv4.DHCPv4, name string) {
	if name == "" {
		return
	}
	if len(name) <= maxFile {
		a.BootFileName = name
	}
	a.UpdateOption(dhcpv4.OptBootFileName(name))
}

func copyOption(to, from *dhcpv4.DHCPv4, code dhcpv4.OptionCode) {
	if v := from.Options.Get(code); v != nil {
		to.Options.Update(dhcpv4.OptGeneric(code, v))
	}
}

// Destination is where an answer goes (RFC 2131 section 4.1): to the relay, to
// the client's own address, to everybody, or to the address that the client is
// just being given, which needs its hardware address told to the kernel.
func Destination(p, a *dhcpv4.DHCPv4) (to netip.AddrPort, needsNeighbour bool) {
	addr := func(ip net.IP) netip.Addr { v, _ := netip.AddrFromSlice(ip.To4()); return v }
	broadcast := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), dhcpv4.ClientPort)
	switch {
	case p.GatewayIPAddr != nil && !p.GatewayIPAddr.IsUnspecified():
		return netip.AddrPortFrom(addr(p.GatewayIPAddr), dhcpv4.ServerPort), false
	case a.MessageType() == dhcpv4.MessageTypeNak:
		return broadcast, false
	case p.ClientIPAddr != nil && !p.ClientIPAddr.IsUnspecified():
		return netip.AddrPortFrom(addr(p.ClientIPAddr), dhcpv4.ClientPort), false
	case p.IsBroadcast() || a.YourIPAddr == nil || a.YourIPAddr.IsUnspecified():
		return broadcast, false
	}
	return netip.AddrPortFrom(addr(a.YourIPAddr), dhcpv4.ClientPort), true
}
