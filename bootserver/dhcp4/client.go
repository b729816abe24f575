// Package dhcp4 answers DHCP (RFC 2131) for the boot server. Each interface has a mode:
// full assigns addresses, proxy stands beside another server and only offers what to boot
// (PXE 2.1), observe only listens. Parsing, deciding and encoding are functions from
// values to values; Server receives and sends.
//
// client.go reads what sent a packet, relay.go where the client is, request.go and
// proxy.go decide what is answered, answer.go encodes it, quirks.go knows devices that
// need something else. Package lease assigns the addresses; leases are durable before
// they are acknowledged.
//
// Left out: BOOTP without DHCP (RFC 951), hardware addresses that are not 48 bits long,
// dynamic DNS, failover between servers, option overload in requests (RFC 2132 section
// 9.3; no known client sends it). IPv6 is package dhcp6.
package dhcp4

import (
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot"
	"ingot/bootserver/client"
)

// optIPXE holds encapsulated options of iPXE, among them one of value 1 for each feature
// that it was built with (iPXE, src/include/ipxe/features.h).
const optIPXE = 175

// Features that an iPXE needs to run the server's script. Its version reveals nothing:
// QEMU's ROM of 2019 and Debian's build of 2025 both call themselves 1.0.0 there [seen].
// The old ROM lacks HTTPS; an iPXE that has both needs no other loader.
const (
	featureHTTP  = 0x13
	featureHTTPS = 0x14
)

// Parse reads what a packet says about its sender.
func Parse(p *dhcpv4.DHCPv4) client.Client {
	c := client.Client{MAC: client.MACText(p.ClientHWAddr), UUID: uuid(p), Firmware: firmware(p), IPXE: isIPXE(p),
		Class: client.Clip(string(unterminated(p.Options.Get(dhcpv4.OptionClassIdentifier))))}
	c.HTTP = strings.HasPrefix(c.Class, "HTTPClient")
	switch {
	case c.Class == client.InitClass:
		c.Kind = client.Init
		return c
	case !strings.HasPrefix(c.Class, "PXEClient") && !c.HTTP && !c.IPXE:
		return c
	}
	c.Kind = client.Firmware
	c = withQuirk(c, p)
	if !c.IPXE {
		return c
	}
	if c.Firmware == ingot.FirmwareUnknown {
		c.Firmware = ingot.FirmwareBIOS
	}
	if f := features(p); f[featureHTTP] && f[featureHTTPS] {
		c.Kind = client.Loader
	}
	return c
}

func isIPXE(p *dhcpv4.DHCPv4) bool {
	// iPXE sends option 77 as plain text, not as RFC 3004 requires; accept both.
	return strings.Contains(string(p.Options.Get(dhcpv4.OptionUserClassInformation)), "iPXE")
}

// features reads the features in option 175.
func features(p *dhcpv4.DHCPv4) map[byte]bool {
	found := map[byte]bool{}
	data := p.Options.Get(dhcpv4.GenericOptionCode(optIPXE))
	for len(data) >= 2 {
		code, n := data[0], int(data[1])
		if code == 0 { // a pad has no length
			data = data[1:]
			continue
		}
		if len(data) < 2+n {
			break
		}
		if n == 1 && data[2] > 0 {
			found[code] = true
		}
		data = data[2+n:]
	}
	return found
}

// firmware reads option 93 (RFC 4578 section 2.1).
func firmware(p *dhcpv4.DHCPv4) ingot.Firmware {
	for _, a := range p.ClientArch() {
		if f := client.FirmwareOf(uint16(a)); f != ingot.FirmwareUnknown {
			return f
		}
	}
	return ingot.FirmwareUnknown
}

// uuid reads option 97 (RFC 4578 section 2.3): type 0 and the 16 bytes of the
// SMBIOS UUID.
func uuid(p *dhcpv4.DHCPv4) string {
	b := p.Options.Get(dhcpv4.OptionClientMachineIdentifier)
	if len(b) != 17 || b[0] != 0 {
		return ""
	}
	return ingot.PlausibleUUID(client.UUIDText([16]byte(b[1:]), true))
}
