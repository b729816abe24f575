package dhcp4

import (
	"bytes"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot"
	"ingot/bootserver/client"
)

// Quirk is a device that does not follow the standards.
type Quirk struct {
	Name   string
	Device string
	What   string // what it does, and what the server does about it
	Source string // how that is known
	is     func(c client.Client, p *dhcpv4.DHCPv4) bool
	client func(*client.Client)            // corrects what it says about itself
	answer func(a, request *dhcpv4.DHCPv4) // changes an answer to it
}

// Quirks is the list of known quirks. The first one that fits applies.
var Quirks = []Quirk{
	{
		Name:   "raspberry-pi",
		Device: "Raspberry Pi 3 to 5, boot ROM and EEPROM",
		What: "calls itself architecture 0 (BIOS) although it is arm64, and takes an offer only when option 43 holds a " +
			"menu named " +
			`"Raspberry Pi Boot". It cannot run a BIOS loader: it gets the menu, and arm64's loader once UEFI firmware asks`,
		Source: "Raspberry Pi documentation, \"Network boot flow\"; addresses by the IEEE registry",
		is: func(c client.Client, _ *dhcpv4.DHCPv4) bool {
			return !c.IPXE && c.Firmware == ingot.FirmwareBIOS && hasAnyPrefix(c.MAC, "b8:27:eb", "dc:a6:32", "e4:5f:01",
				"d8:3a:dd", "2c:cf:67", "28:cd:c1")
		},
		client: func(c *client.Client) { c.Firmware = ingot.FirmwareUnknown },
		answer: func(a, _ *dhcpv4.DHCPv4) {
			menu := []byte("\x00\x00\x11Raspberry Pi Boot")
			v := append([]byte{6, 1, 3, 10, 4, 0, 'P', 'X', 'E', 9, byte(len(menu))}, menu...)
			a.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
			a.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, append(v, 255)))
		},
	},
	{
		Name:   "arch-from-class",
		Device: "PXE ROMs that leave out option 93",
		What:   "name their architecture only in the text of option 60 (PXEClient:Arch:00007:…): it is read there",
		Source: "PXE 2.1 section 2.2.3.1 (option 60 carries it as well); the ROM is then not RFC 4578's",
		is: func(c client.Client, p *dhcpv4.DHCPv4) bool {
			return c.Firmware == ingot.FirmwareUnknown && !p.Options.Has(dhcpv4.OptionClientSystemArchitectureType) &&
				strings.Contains(c.Class, ":Arch:")
		},
		client: func(c *client.Client) {
			_, rest, _ := strings.Cut(c.Class, ":Arch:")
			switch code, _, _ := strings.Cut(rest, ":"); code {
			case "00000":
				c.Firmware = ingot.FirmwareBIOS
			case "00007", "00009":
				c.Firmware = ingot.FirmwareUEFIx64
			case "00011":
				c.Firmware = ingot.FirmwareUEFIarm64
			case "00016":
				c.Firmware = ingot.FirmwareUEFIx64HTTP
			case "00019":
				c.Firmware = ingot.FirmwareUEFIarm64HTTP
			}
		},
	},
	{
		Name:   "http-as-pxe",
		Device: "UEFI firmware with HTTP boot that announces the PXE architecture",
		What: "says HTTPClient in option 60 and 7, 9 or 11 in option 93: what it says in option 60 counts, since it " +
			"drops an offer without HTTPClient and a URL",
		Source: "UEFI 2.10 section 24.7.3.1 (the class identifier decides); IANA \"Processor Architecture Types\" 15 to 19",
		is: func(c client.Client, _ *dhcpv4.DHCPv4) bool {
			return c.HTTP && client.HTTPFirmware(c.Firmware) != c.Firmware
		},
		client: func(c *client.Client) { c.Firmware = client.HTTPFirmware(c.Firmware) },
	},
}

// unterminated returns a text without final zeros: some clients send the final zero of a C
// string in option 12, 60 or 77 (RFC 2132 section 2 requires servers to accept that).
func unterminated(b []byte) []byte { return bytes.TrimRight(b, "\x00") }

func hasAnyPrefix(s string, list ...string) bool {
	for _, p := range list {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// withQuirk corrects what a client that has a quirk says about itself.
func withQuirk(c client.Client, p *dhcpv4.DHCPv4) client.Client {
	for _, q := range Quirks {
		if q.is(c, p) {
			c.Quirk = q.Name
			if q.client != nil {
				q.client(&c)
			}
			return c
		}
	}
	return c
}

// applyQuirk changes an answer as the quirk of its client requires.
func applyQuirk(c client.Client, a, request *dhcpv4.DHCPv4) {
	for _, q := range Quirks {
		if q.Name == c.Quirk && q.answer != nil {
			q.answer(a, request)
		}
	}
}
