// Package dhcp4 answers DHCP (RFC 2131) for the boot server. Each interface has
// a mode: full lends addresses, proxy stands beside another server and says
// what to boot (PXE 2.1), observe only listens. What the client is, where it
// is, and which packet it gets are plain functions over values; Server receives
// and sends.
//
// client.go says what sent a packet, site.go where it is (package network),
// package lease which address it gets, handle.go what is answered, answer.go in
// which bytes, quirks.go for which odd devices otherwise. Leases are durable
// before they are acknowledged.
//
// Left out: BOOTP without DHCP (RFC 951), hardware addresses that are not 48
// bits long, dynamic DNS, failover between servers, option overload in requests
// (RFC 2132 section 9.3; no client that we know sends it). IPv6 is package dhcp6.
package dhcp4

import (
	"net"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot"
)

// Kind is what sent a packet.
type Kind uint8

// The kinds of clients.
const (
	System   Kind = iota // an operating system: gets an address, nothing to boot
	Firmware             // BIOS or UEFI, or the iPXE in a card's ROM: gets a loader
	Loader               // an iPXE that can run our script
	Init                 // ingot-init that looks for its server: gets the URL of its boot
)

// Client is what a packet tells of its sender.
type Client struct {
	MAC      string
	UUID     string // plausible SMBIOS UUID, or empty
	Kind     Kind
	Firmware ingot.Firmware
	IPXE     bool   // it is some iPXE
	HTTP     bool   // firmware that fetches by HTTP itself, and wants a URL
	Class    string // option 60
	Quirk    string // name of the Quirk that it has, see Quirks
}

// InitClass is the vendor class of ingot-init. A system that started from a
// UKI has no arguments of its own boot; it asks for them with a DHCPINFORM, or
// with its DHCPDISCOVER, and gets the URL of its boot as option 67.
const InitClass = "ingot-init"

// optIPXE holds encapsulated options of iPXE: among them one of value 1 for
// each feature that it was built with (iPXE, src/include/ipxe/features.h).
const optIPXE = 175

// Features that an iPXE needs to be trusted with our script. Its version says
// nothing: QEMU's ROM of 2019 and Debian's build of 2025 both call themselves
// 1.0.0 there [seen]. The old ROM lacks HTTPS; one that has both is as good as
// the loader that we would give it.
const (
	featureHTTP  = 0x13
	featureHTTPS = 0x14
)

// Parse tells what sent a packet.
func Parse(p *dhcpv4.DHCPv4) Client {
	c := Client{MAC: macText(p.ClientHWAddr), UUID: uuid(p), Firmware: firmware(p), IPXE: isIPXE(p), Class: clip(string(unterminated(p.Options.Get(dhcpv4.OptionClassIdentifier))))}
	c.HTTP = strings.HasPrefix(c.Class, "HTTPClient")
	switch {
	case c.Class == InitClass:
		c.Kind = Init
		return c
	case !strings.HasPrefix(c.Class, "PXEClient") && !c.HTTP && !c.IPXE:
		return c
	}
	c.Kind = Firmware
	c = c.odd(p)
	if !c.IPXE {
		return c
	}
	if c.Firmware == ingot.FirmwareUnknown {
		c.Firmware = ingot.FirmwareBIOS
	}
	if f := features(p); f[featureHTTP] && f[featureHTTPS] {
		c.Kind = Loader
	}
	return c
}

// macText is the canonical form of a MAC address.
func macText(a net.HardwareAddr) string {
	b := make([]byte, 0, 3*len(a))
	for i, v := range a {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, hexDigits[v>>4], hexDigits[v&15])
	}
	return string(b)
}

const hexDigits = "0123456789abcdef"

func isIPXE(p *dhcpv4.DHCPv4) bool {
	// iPXE writes option 77 as plain text, not as RFC 3004 asks; take both.
	return strings.Contains(string(p.Options.Get(dhcpv4.OptionUserClassInformation)), "iPXE")
}

// features reads the features out of option 175.
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
		if f := FirmwareOf(a); f != ingot.FirmwareUnknown {
			return f
		}
	}
	return ingot.FirmwareUnknown
}

// FirmwareOf is the firmware of a processor architecture type (IANA). RFC 4578
// was printed with 7 as EFI byte code and 9 as x64; its erratum, the registry and
// edk2 have it the other way round. Some firmware took the RFC by its letter, so
// 9 is x64 as well.
func FirmwareOf(a iana.Arch) ingot.Firmware {
	switch a {
	case iana.INTEL_X86PC:
		return ingot.FirmwareBIOS
	case iana.EFI_X86_64, iana.EFI_BC:
		return ingot.FirmwareUEFIx64
	case iana.EFI_ARM64:
		return ingot.FirmwareUEFIarm64
	case iana.EFI_X86_64_HTTP:
		return ingot.FirmwareUEFIx64HTTP
	case iana.EFI_ARM64_HTTP:
		return ingot.FirmwareUEFIarm64HTTP
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
	return ingot.PlausibleUUID(UUIDText([16]byte(b[1:]), true))
}

// UUIDText writes a UUID as Linux shows it in product_uuid. As SMBIOS has it its
// first three fields are little-endian (DSP0134 section 7.2.1).
func UUIDText(b [16]byte, smbios bool) string {
	order := [16]int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	if smbios {
		order = [16]int{3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15}
	}
	var s strings.Builder
	for i, at := range order {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			s.WriteByte('-')
		}
		s.WriteByte(hexDigits[b[at]>>4])
		s.WriteByte(hexDigits[b[at]&15])
	}
	return s.String()
}
