// Package dhcp answers DHCP (RFC 2131) for the boot server: it tells from a
// packet what the client is, and makes the packet that it gets. Both are plain
// functions; Server only receives and sends.
//
// It is a full server for one network: offers, leases that are durable before
// they are acknowledged, network boot by RFC 4578 options. Relays are answered
// (RFC 2131 section 4.1, RFC 3046). Proxy and observer modes, several networks
// and DHCPv6 are left out for now.
package dhcp

import (
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot"
)

// Kind is what sent a packet.
type Kind uint8

// The kinds of clients.
const (
	System   Kind = iota // an operating system or ingot-init: gets an address, nothing to boot
	Firmware             // BIOS or UEFI, or the iPXE in a card's ROM: gets a loader
	Loader               // an iPXE of our generation: gets a script
)

// Client is what a packet tells of its sender.
type Client struct {
	MAC      string
	UUID     string // plausible SMBIOS UUID, or empty
	Kind     Kind
	Firmware ingot.Firmware
	IPXE     string // version, of an iPXE: "1.21.1"
}

// Option codes that the library has no name for.
const (
	// optIPXE holds encapsulated options of iPXE (ipxe.org/howto/dhcpd).
	optIPXE = 175
	// ipxeVersion is the suboption with the version, three bytes.
	ipxeVersion = 235
	// ipxeHTTP is the suboption that is 1 when iPXE can fetch by HTTP.
	ipxeHTTP = 19
)

// leastIPXE is the first iPXE that we let run our script; an older one is the
// ROM of a network card and gets our loader instead.
var leastIPXE = [3]byte{1, 21, 0}

// Parse tells what sent a packet.
func Parse(p *dhcpv4.DHCPv4) Client {
	c := Client{MAC: strings.ToLower(p.ClientHWAddr.String()), UUID: uuid(p), Firmware: firmware(p)}
	class := p.ClassIdentifier()
	if !strings.HasPrefix(class, "PXEClient") && !strings.HasPrefix(class, "HTTPClient") && !isIPXE(p) {
		return c
	}
	c.Kind = Firmware
	if !isIPXE(p) {
		return c
	}
	if c.Firmware == ingot.FirmwareUnknown {
		c.Firmware = ingot.FirmwareBIOS
	}
	version, http := ipxe(p)
	c.IPXE = versionText(version)
	if http && !older(version, leastIPXE) {
		c.Kind = Loader
	}
	return c
}

func isIPXE(p *dhcpv4.DHCPv4) bool {
	// iPXE writes option 77 as plain text, not as RFC 3004 asks; take both.
	return strings.Contains(string(p.Options.Get(dhcpv4.OptionUserClassInformation)), "iPXE")
}

// ipxe reads option 175: version and whether HTTP is there.
func ipxe(p *dhcpv4.DHCPv4) (version [3]byte, http bool) {
	data := p.Options.Get(dhcpv4.GenericOptionCode(optIPXE))
	for len(data) >= 2 {
		code, n := data[0], int(data[1])
		if code == 0 {
			data = data[1:]
			continue
		}
		if len(data) < 2+n {
			break
		}
		value := data[2 : 2+n]
		switch {
		case code == ipxeVersion && n >= 3:
			version = [3]byte(value[:3])
		case code == ipxeHTTP && n == 1:
			http = value[0] == 1
		}
		data = data[2+n:]
	}
	return version, http
}

func versionText(v [3]byte) string {
	return strconv.Itoa(int(v[0])) + "." + strconv.Itoa(int(v[1])) + "." + strconv.Itoa(int(v[2]))
}

func older(v, than [3]byte) bool {
	for i := range v {
		if v[i] != than[i] {
			return v[i] < than[i]
		}
	}
	return false
}

// firmware reads option 93 (RFC 4578 section 2.1).
func firmware(p *dhcpv4.DHCPv4) ingot.Firmware {
	for _, a := range p.ClientArch() {
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
	}
	return ingot.FirmwareUnknown
}

// uuid reads option 97 (RFC 4578 section 2.3): type 0 and the 16 bytes of the
// SMBIOS UUID, of which the first three fields are little-endian (DSP0134
// section 7.2.1). The result is written as Linux shows it in product_uuid.
func uuid(p *dhcpv4.DHCPv4) string {
	b := p.Options.Get(dhcpv4.OptionClientMachineIdentifier)
	if len(b) != 17 || b[0] != 0 {
		return ""
	}
	const hex = "0123456789abcdef"
	order := [16]int{4, 3, 2, 1, 6, 5, 8, 7, 9, 10, 11, 12, 13, 14, 15, 16}
	var s strings.Builder
	for i, at := range order {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			s.WriteByte('-')
		}
		s.WriteByte(hex[b[at]>>4])
		s.WriteByte(hex[b[at]&15])
	}
	return ingot.PlausibleUUID(s.String())
}
