// Package dhcp6 answers DHCPv6 (RFC 8415) for the boot server. Each interface has a mode:
// full assigns addresses and offers what to boot, boot only offers what to boot on a
// network that has its addresses from router advertisements or another server, observe
// only listens. ingot sends no router advertisements: without those of a router no machine
// has a prefix or a default route.
//
// client.go reads what sent a packet, relay.go where the client is, request.go decides
// what is answered, association.go which addresses, answer.go encodes it. As in IPv4 a
// machine is identified by its card and its UUID, whatever identifier (DUID) its
// firmware, loader and system send.
//
// Left out: temporary addresses (IA_TA) and prefixes (IA_PD), which are refused by their
// status; more than one address for a card; reconfiguration; authentication; Server
// Unicast, so that every client sends by multicast.
package dhcp6

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"ingot"
	"ingot/bootserver/client"
)

// Client is what a packet says about its sender. Its MAC is empty if the packet does
// not reveal it.
type Client struct {
	client.Client
	DUID []byte
}

// intel is the enterprise number under which PXE's vendor classes are registered
// (UEFI 2.10 section 24.3.3; RFC 8415 section 21.16).
const intel = 343

// Parse reads what a message says about its sender. from is the sender's own address
// on its link: the packet's source, or what the relay there says.
func Parse(m *dhcpv6.Message, chain []relay, from netip.Addr) Client {
	var c Client
	if o := m.GetOneOption(dhcpv6.OptionClientID); o != nil {
		c.DUID = o.ToBytes()
	}
	c.MAC = macOf(m.Options.ClientID(), chain, from)
	c.Class, c.IPXE = vendorClassOf(m), hasUserClass(m, "iPXE")
	c.HTTP = strings.HasPrefix(c.Class, "HTTPClient")
	c.Firmware = firmware(m)
	c.UUID = uuid(c.DUID, c.Class != "" && !c.IPXE)
	switch {
	case hasUserClass(m, client.InitClass):
		c.Kind = client.Init
	case c.HTTP || c.IPXE || strings.HasPrefix(c.Class, "PXEClient"):
		// Unlike in DHCP, a loader does not list its features here: the Booter knows
		// whether it is ours by what the machine was offered before.
		c.Kind = client.Firmware
		if c.IPXE && c.Firmware == ingot.FirmwareUnknown {
			c.Firmware = ingot.FirmwareBIOS
		}
		if f := client.HTTPFirmware(c.Firmware); c.HTTP && f != c.Firmware {
			c.Firmware, c.Quirk = f, "http-as-pxe" // as in package dhcp4
		}
	}
	return c
}

// key identifies the client as fleet.Lease.Client does.
func (c Client) key() string {
	if c.MAC != "" {
		return c.MAC
	}
	return duidKey(c.DUID)
}

// duidKey is the key of a client, or of a configured machine, with a DUID.
func duidKey(duid []byte) string { return "duid:" + hex.EncodeToString(duid) }

// macOf finds the MAC address: as a relay saw it (RFC 6939), in the client's own address
// if that was made of it (RFC 4291 appendix A), else in its DUID, which may be of another
// card of the same machine.
func macOf(id dhcpv6.DUID, chain []relay, from netip.Addr) string {
	if len(chain) > 0 {
		if kind, mac := chain[len(chain)-1].Options.ClientLinkLayerAddress(); kind == iana.HWTypeEthernet && len(mac) == 6 {
			return mac.String()
		}
	}
	if mac := eui64(from); mac != nil {
		return mac.String()
	}
	var mac net.HardwareAddr
	switch d := id.(type) {
	case *dhcpv6.DUIDLLT:
		if d.HWType == iana.HWTypeEthernet {
			mac = d.LinkLayerAddr
		}
	case *dhcpv6.DUIDLL:
		if d.HWType == iana.HWTypeEthernet {
			mac = d.LinkLayerAddr
		}
	}
	if len(mac) != 6 {
		return ""
	}
	return mac.String()
}

// eui64 returns the MAC address that a link-local address was made of, nil for others.
func eui64(a netip.Addr) net.HardwareAddr {
	b := a.As16()
	if !a.IsLinkLocalUnicast() || !a.Is6() || b[11] != 0xff || b[12] != 0xfe {
		return nil
	}
	return net.HardwareAddr{b[8] ^ 2, b[9], b[10], b[13], b[14], b[15]}
}

// vendorClassOf returns the vendor class of firmware (option 16).
func vendorClassOf(m *dhcpv6.Message) string {
	for _, v := range m.Options.VendorClasses() {
		if v.EnterpriseNumber == intel && len(v.Data) > 0 {
			return client.Clip(string(bytes.TrimRight(v.Data[0], "\x00")))
		}
	}
	return ""
}

// hasUserClass reports whether a message has a user class (option 15).
func hasUserClass(m *dhcpv6.Message, class string) bool {
	for _, c := range m.Options.UserClasses() {
		if string(c) == class {
			return true
		}
	}
	return false
}

// firmware reads option 61 (RFC 5970 section 3.3), whose codes are those of
// option 93.
func firmware(m *dhcpv6.Message) ingot.Firmware {
	for _, a := range m.Options.ArchTypes() {
		if f := client.FirmwareOf(uint16(a)); f != ingot.FirmwareUnknown {
			return f
		}
	}
	return ingot.FirmwareUnknown
}

// duidUUID is the type of a DUID that holds a UUID (RFC 6355).
const duidUUID = 4

// uuid reads the SMBIOS UUID out of a DUID. RFC 6355 wants it in network order;
// UEFI copies it as SMBIOS has it (edk2, NetLibGetSystemGuid).
func uuid(duid []byte, smbios bool) string {
	if len(duid) != 18 || duid[0] != 0 || duid[1] != duidUUID {
		return ""
	}
	return ingot.PlausibleUUID(client.UUIDText([16]byte(duid[2:]), smbios))
}
