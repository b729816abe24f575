// Package client describes a network-booting client: its firmware, loader and
// architecture, what it asks the server to boot, and the interface through which
// the DHCP servers of both families ask for the answer.
//
// Architecture types follow RFC 4578 section 2.1 and the IANA registry
// "Processor Architecture Types"; UUIDs follow SMBIOS (DSP0134 section 7.2.1).
//
// Left out: reading and writing packets, which packages dhcp4 and dhcp6 do, and
// the decision what a machine boots, which implementations of Booter make.
package client

import (
	"fmt"
	"net/netip"

	"ingot"
	"ingot/bootserver/fleet"
)

// Kind is the program that sent a packet.
type Kind uint8

// The kinds of clients.
const (
	System   Kind = iota // an operating system: gets an address, nothing to boot
	Firmware             // BIOS or UEFI, or the iPXE in a card's ROM: gets a loader
	Loader               // an iPXE that can run our script
	Init                 // ingot-init that looks for its server: gets the URL of its boot
)

// Client is what a packet says about its sender.
type Client struct {
	MAC      string // lower case with colons; empty if a DHCPv6 packet does not reveal it
	UUID     string // plausible SMBIOS UUID, or empty
	Kind     Kind
	Firmware ingot.Firmware
	IPXE     bool   // some build of iPXE
	HTTP     bool   // firmware that fetches by HTTP itself, and needs a URL
	Class    string // vendor class: option 60 of DHCP, option 16 of DHCPv6
	Quirk    string // name of its entry in dhcp4.Quirks
}

// InitClass identifies ingot-init: as vendor class in DHCP and as user class in
// DHCPv6. A system that was started from a UKI has no kernel arguments for this
// boot, so ingot-init asks for the URL of its boot.
const InitClass = "ingot-init"

// PortPXE is the UDP port of boot servers that stand beside another DHCP server
// (PXE 2.1 section 2.2.3, RFC 5970 section 3.1).
const PortPXE = 4011

// Sighting is a client that asks for something to boot.
type Sighting struct {
	Client
	Address netip.Addr // of the client; zero until another server has given it one
	Foreign bool       // another server gave the address, or the client's card is not known
	Origin  fleet.Origin
	Server  netip.Addr // of this server, as the client reaches it
	Port    fleet.SwitchPort
	Loaders []string // first stages to try, the preferred one first
	Proxy   bool     // another server gives the client its address
	Begins  bool     // the packet begins a conversation (DHCPDISCOVER, Solicit)
}

// Boot is what a client boots: a file by TFTP, or a URL. The zero Boot is nothing.
type Boot struct {
	Loader string // file name
	Size   int    // of the loader, in bytes
	URL    string
}

// String describes the boot in one line; it is empty for the zero Boot.
func (b Boot) String() string {
	if b.URL == "" && b.Loader != "" {
		return b.Loader + " by TFTP"
	}
	return b.URL
}

// Identity is what the fleet knows about the machine of a client. The zero
// Identity is an unknown machine.
type Identity struct {
	ID       ingot.MachineID
	Name     string
	UUID     string
	MACs     []string
	Approved bool
}

// Booter decides what clients boot.
type Booter interface {
	// Lookup returns the machine that has a MAC address or a UUID.
	Lookup(mac, uuid string) Identity
	// Observe records a client that is about to be answered, and returns what it
	// boots. What it returns is durable.
	Observe(Sighting) (Boot, error)
	// Took records that a client took the address of a Sighting from another server.
	Took(Sighting) error
	// WouldAnswer returns what Observe would, and records nothing.
	WouldAnswer(Sighting) (Boot, error)
}

// Packet is a packet that helps to explain a boot, and the client that sent it or
// that it was sent to, which need not be a known machine.
type Packet struct {
	fleet.Packet
	MAC  string // may be empty in DHCPv6
	UUID string
}

// FirmwareOf returns the firmware of a processor architecture type: option 93
// of DHCP, option 61 of DHCPv6. RFC 4578 was printed with 7 as EFI byte code
// and 9 as x64; its erratum, the registry and edk2 have it the other way round.
// Some firmware follows the printed RFC, so 9 is x64 as well.
func FirmwareOf(arch uint16) ingot.Firmware {
	switch arch {
	case 0: // x86 BIOS
		return ingot.FirmwareBIOS
	case 7, 9: // x64 UEFI, EBC
		return ingot.FirmwareUEFIx64
	case 11: // ARM 64-bit UEFI
		return ingot.FirmwareUEFIarm64
	case 16: // x64 UEFI boot from HTTP
		return ingot.FirmwareUEFIx64HTTP
	case 19: // ARM 64-bit UEFI boot from HTTP
		return ingot.FirmwareUEFIarm64HTTP
	}
	return ingot.FirmwareUnknown
}

// unsupported are the processor architecture types of firmware that ingot has no
// loader for, with their names in the registry.
var unsupported = map[uint16]string{
	1: "NEC PC98", 2: "EFI Itanium", 6: "32-bit x86 UEFI", 8: "EFI Xscale", 10: "32-bit ARM UEFI",
	12: "PowerPC Open Firmware", 13: "PowerPC ePAPR", 14: "POWER OPAL v3", 15: "32-bit x86 UEFI boot from HTTP",
	17: "EBC boot from HTTP", 18: "32-bit ARM UEFI boot from HTTP", 20: "BIOS boot from HTTP",
	21: "32-bit ARM U-Boot", 22: "64-bit ARM U-Boot", 27: "64-bit RISC-V UEFI",
}

// NothingFor explains why firmware with some processor architecture types, none if it
// sends none, is offered nothing to boot. It returns "" if there is a loader for one.
func NothingFor(archs []uint16) string {
	const remedy = "a loader of your own can be named for it: loaders: of a group"
	if len(archs) == 0 {
		return "it names no processor architecture (option 93), so its loader is not known; " + remedy
	}
	for _, a := range archs {
		if FirmwareOf(a) != ingot.FirmwareUnknown {
			return ""
		}
	}
	name := unsupported[archs[0]]
	if name == "" {
		name = "not in the registry that ingot knows"
	}
	return fmt.Sprintf("its processor architecture is %d (%s), for which ingot has no loader; %s", archs[0], name, remedy)
}

// HTTPFirmware returns the HTTP variant of UEFI firmware, which is the firmware
// itself where there is none.
func HTTPFirmware(f ingot.Firmware) ingot.Firmware {
	switch f {
	case ingot.FirmwareUEFIx64:
		return ingot.FirmwareUEFIx64HTTP
	case ingot.FirmwareUEFIarm64:
		return ingot.FirmwareUEFIarm64HTTP
	}
	return f
}

// DefaultLoaders are the first stages by firmware; the next one is for machines
// on which the one before stalls. UEFI gets snponly first: it drives the card
// through the firmware's own driver, which works where iPXE's drivers do not.
// Firmware that speaks HTTP needs no loader for an image with a UKI.
var DefaultLoaders = map[ingot.Firmware][]string{
	ingot.FirmwareBIOS:          {"undionly.kpxe", "ipxe.pxe"},
	ingot.FirmwareUEFIx64:       {"snponly.efi", "ipxe.efi"},
	ingot.FirmwareUEFIx64HTTP:   {fleet.FirstUKI, "snponly.efi", "ipxe.efi"},
	ingot.FirmwareUEFIarm64:     {"snponly-arm64.efi", "ipxe-arm64.efi"},
	ingot.FirmwareUEFIarm64HTTP: {fleet.FirstUKI, "snponly-arm64.efi", "ipxe-arm64.efi"},
}

const hexDigits = "0123456789abcdef"

// MACText formats a MAC address as lower-case hexadecimal bytes with colons.
func MACText(mac []byte) string {
	b := make([]byte, 0, 3*len(mac))
	for i, v := range mac {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, hexDigits[v>>4], hexDigits[v&15])
	}
	return string(b)
}

// UUIDText formats a UUID as Linux shows it in product_uuid. SMBIOS stores its
// first three fields in little-endian order (DSP0134 section 7.2.1).
func UUIDText(b [16]byte, smbios bool) string {
	if smbios {
		b = [16]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]}
	}
	text := make([]byte, 0, 36)
	for i, v := range b {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			text = append(text, '-')
		}
		text = append(text, hexDigits[v>>4], hexDigits[v&15])
	}
	return string(text)
}

// Readable returns bytes from a packet as text if they are printable ASCII, and
// as hexadecimal otherwise; both are shortened.
func Readable(b []byte) string {
	for _, c := range b {
		if c < ' ' || c > '~' {
			return fmt.Sprintf("0x%x", b[:min(len(b), 64)])
		}
	}
	return string(b[:min(len(b), 128)])
}

// Clip returns at most the first 64 bytes of a text from a packet.
func Clip(s string) string { return s[:min(len(s), 64)] }
