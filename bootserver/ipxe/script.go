// Package ipxe writes the scripts that iPXE runs (ipxe.org/scripting): boot
// scripts, and waiting screens that ask again by themselves.
package ipxe

import (
	"fmt"
	"strings"
)

// Boot is a script that starts Linux.
type Boot struct {
	Image     string // for people
	Kernel    string // URL
	Initramfs string // URL
	Arguments []string
	Again     string // URL of this script, for another try
}

// Text returns the script. The initramfs is handed over by iPXE itself, on BIOS
// in memory and on UEFI through the LoadFile2 protocol.
func (b Boot) Text() string {
	return fmt.Sprintf(`#!ipxe
echo ingot: booting %s
kernel %s %s || goto failed
initrd %s || goto failed
boot || goto failed
:failed
echo ingot: %s could not be loaded, trying again
sleep 5
chain --replace %s || reboot
`, word(b.Image), b.Kernel, strings.Join(b.Arguments, " "), b.Initramfs, word(b.Image), b.Again)
}

// Wait is a screen for a machine that an operator must do something about.
type Wait struct {
	Lines []string // what to read
	Again string   // URL to ask again; what SMBIOS says is added as its query
}

// Fields that a waiting machine tells with its question. They are in the query,
// since Debian's iPXE is built without the command that makes a form (PARAM_CMD).
const (
	FieldVendor  = "vendor"
	FieldProduct = "product"
	FieldSerial  = "serial"
)

// waitSeconds is the pause between two questions of a waiting machine.
const waitSeconds = 5

// Text returns the script. A server that is away is waited for; after a minute
// of silence the machine starts over, in case the server's address changed.
func (w Wait) Text() string {
	var s strings.Builder
	s.WriteString("#!ipxe\n")
	for _, l := range w.Lines {
		s.WriteString("echo " + word(l) + "\n")
	}
	var words []string
	for _, f := range [][2]string{{FieldVendor, "manufacturer"}, {FieldProduct, "product"}, {FieldSerial, "serial"}} {
		words = append(words, f[0]+"=${"+f[1]+":uristring}")
	}
	fmt.Fprintf(&s, "set tries:int32 0\n:again\nsleep %d\nchain --replace %s?%s ||\ninc tries\niseq ${tries} 12 && reboot ||\necho ingot: the server does not answer, asking again\ngoto again\n", waitSeconds, w.Again, strings.Join(words, "&"))
	return s.String()
}

// Autoexec is what a new iPXE asks for first, beside its own file on the TFTP
// server: it asks for an address once more, now as the iPXE that it is, and is
// told the URL of its script.
func Autoexec() string {
	return `#!ipxe
:again
dhcp || goto silence
isset ${filename} || goto silence
chain --replace ${filename} || goto silence
:silence
echo ingot: no answer, asking again
sleep 3
goto again
`
}

// word makes text harmless in a script: what iPXE would expand or take for a
// new command becomes a question mark.
func word(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune("$&|;#\\\"'`", r) {
			return '?'
		}
		return r
	}, s)
}
