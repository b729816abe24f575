// Package ipxe writes the scripts that iPXE runs (ipxe.org/scripting): boot
// scripts, and waiting screens that repeat their request. Menus and logins are
// left out.
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
	Again     string // URL of this script, to try again
}

// Text returns the script. iPXE passes the initramfs to Linux: on BIOS in memory,
// on UEFI through the LoadFile2 protocol.
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

// Wait is the screen of a machine that waits for an operator.
type Wait struct {
	Lines []string // shown on the screen
	Again string   // URL to request again; values from SMBIOS are added as its query
}

// Fields that a waiting machine sends with its request. They are in the query,
// since Debian's iPXE is built without the command that posts forms (PARAM_CMD).
const (
	FieldVendor  = "vendor"
	FieldProduct = "product"
	FieldSerial  = "serial"
)

// waitSeconds is the pause between two requests of a waiting machine.
const waitSeconds = 5

// Text returns the script. It waits for a server that does not answer; after a
// minute without an answer the machine reboots, in case the server's address changed.
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
	fmt.Fprintf(&s, `set tries:int32 0
:again
sleep %d
chain --replace %s?%s ||
inc tries
iseq ${tries} 12 && reboot ||
echo ingot: the server does not answer, trying again
goto again
`, waitSeconds, w.Again, strings.Join(words, "&"))
	return s.String()
}

// Autoexec is the script that newer versions of iPXE request first, from the
// folder that they were loaded from. It runs DHCP again, now as iPXE, whose
// answer names the URL of the boot script.
func Autoexec() string {
	return `#!ipxe
:again
dhcp || goto silence
isset ${filename} || goto silence
chain --replace ${filename} || goto silence
:silence
echo ingot: no DHCP answer, trying again
sleep 3
goto again
`
}

// readable replaces characters of sentences that iPXE's screen cannot show or its scripts cannot hold.
var readable = strings.NewReplacer("; ", ", ", ";", ",", "\"", "", "'", "", "`", "", "“", "", "”", "", "‘", "", "’", "",
	"…", "...", "–", "-", "—", "-", "−", "-", "→", "->", "≤", "<=", "≥", ">=", "×", "x", "·", ".", "\n", " ", "\t", " ",
	"#", "no. ", "&&", "and", "&", "and", "\\", "/")

// word makes text safe in a script. What is left of characters that iPXE would expand or take for a new
// command become question marks.
func word(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune("$&|;#\\\"'`", r) {
			return '?'
		}
		return r
	}, readable.Replace(s))
}
