package ingot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Errors that callers may test for with errors.Is.
var (
	// ErrBadDigest: the text is not "sha256:" followed by 64 lower-case hex digits.
	ErrBadDigest = errors.New("not a sha256 digest")
	// ErrBadName: the text is not PROFILE or PROFILE:VERSION.
	ErrBadName = errors.New("not an image name")
	// ErrBadBootKey: the text is not 64 lower-case hex digits.
	ErrBadBootKey = errors.New("not a boot key")
	// ErrBadMAC: the text is not a 48-bit hardware address.
	ErrBadMAC = errors.New("not a MAC address")
)

// Digest pins bytes: "sha256:" and 64 lower-case hex digits, the form of the
// OCI image specification (descriptor.md, section Digests).
type Digest string

var digestRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// ParseDigest accepts exactly the canonical form.
func ParseDigest(s string) (Digest, error) {
	if !digestRE.MatchString(s) {
		return "", fmt.Errorf("%w: %q", ErrBadDigest, s)
	}
	return Digest(s), nil
}

// DigestOf returns the digest of b.
func DigestOf(b []byte) Digest { return DigestFromSum(sha256.Sum256(b)) }

// DigestFromSum turns a finished SHA-256 sum into a Digest.
func DigestFromSum(sum [sha256.Size]byte) Digest {
	return Digest("sha256:" + hex.EncodeToString(sum[:]))
}

// Hex returns the 64 hex digits without the algorithm; empty for the zero Digest.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// Short returns the first 12 hex digits, for tables.
func (d Digest) Short() string {
	h := d.Hex()
	if len(h) > 12 {
		return h[:12]
	}
	return h
}

func (d Digest) String() string { return string(d) }

// Arch is a machine architecture by its Debian name.
type Arch string

// The architectures that ingot builds for.
const (
	AMD64 Arch = "amd64"
	ARM64 Arch = "arm64"
)

// Firmware is what started the machine, from DHCP option 93
// (RFC 4578 section 2.1; IANA "Processor Architecture Types").
type Firmware string

// The kinds of firmware that the boot server distinguishes.
const (
	FirmwareBIOS          Firmware = "bios"            // 0
	FirmwareUEFIx64       Firmware = "uefi-x64"        // 7 and 9
	FirmwareUEFIarm64     Firmware = "uefi-arm64"      // 11
	FirmwareUEFIx64HTTP   Firmware = "uefi-x64-http"   // 16
	FirmwareUEFIarm64HTTP Firmware = "uefi-arm64-http" // 19
	FirmwareUnknown       Firmware = ""
)

// ImageName is what people call an image: "node:2026.11.23-1". The name may
// move from digest to digest; assignments pin digests.
type ImageName struct {
	Profile string
	Version string // empty means the newest version
}

var (
	profileNameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
	versionRE     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$`)
)

// ValidProfileName reports whether s may name a profile: lower-case letters,
// digits and dashes, at most 63.
func ValidProfileName(s string) bool { return profileNameRE.MatchString(s) }

// ValidVersion reports whether s may be an image version. The form is that of
// OCI tags without leading punctuation, at most 64 characters.
func ValidVersion(s string) bool { return versionRE.MatchString(s) }

// ParseImageName reads PROFILE or PROFILE:VERSION.
func ParseImageName(s string) (ImageName, error) {
	p, v, hasVersion := strings.Cut(s, ":")
	if !ValidProfileName(p) || (hasVersion && !ValidVersion(v)) {
		return ImageName{}, fmt.Errorf("%w: %q (want PROFILE:VERSION such as node:2026.11.23-1)", ErrBadName, s)
	}
	return ImageName{Profile: p, Version: v}, nil
}

func (n ImageName) String() string {
	if n.Version == "" {
		return n.Profile
	}
	return n.Profile + ":" + n.Version
}

// MachineID is the server's own, stable name for one machine: "m-" and the 12
// hex digits of the MAC address it was first seen with. It does not change
// when the network card does.
type MachineID string

// MachineIDFromMAC makes the id for a machine first seen with this address.
func MachineIDFromMAC(mac string) (MachineID, error) {
	m, err := ParseMAC(mac)
	if err != nil {
		return "", err
	}
	return MachineID("m-" + strings.ReplaceAll(m, ":", "")), nil
}

var macRE = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)

// ParseMAC returns a MAC address in canonical form, lower case with colons.
// Dashes and upper case are accepted.
func ParseMAC(s string) (string, error) {
	m := strings.ToLower(strings.ReplaceAll(s, "-", ":"))
	if !macRE.MatchString(m) {
		return "", fmt.Errorf("%w: %q", ErrBadMAC, s)
	}
	return m, nil
}

// IsCard reports whether a MAC address in canonical form can be that of a network card: it is neither
// zero nor a group address, of which broadcast is one (IEEE 802-2014 section 8.2).
func IsCard(mac string) bool {
	return macRE.MatchString(mac) && strings.ContainsRune("02468ace", rune(mac[1])) && mac != "00:00:00:00:00:00"
}

// BootID names one boot of one machine: 32 lower-case hex digits (128 random
// bits). It is not a secret.
type BootID string

// Short returns the first 8 digits, for tables and logs.
func (b BootID) Short() string {
	if len(b) > 8 {
		return string(b[:8])
	}
	return string(b)
}

// BootKey is the bearer credential of one boot on the boot network: its BootID,
// and 32 more hex digits that only the server can make. It is in the URLs and
// kernel arguments of that boot, and belongs neither into logs nor into records.
type BootKey string

var bootKeyRE = regexp.MustCompile(`^[0-9a-f]{64}$`)

// ParseBootKey accepts exactly the canonical form. Its error does not repeat
// the text, which may be nearly right.
func ParseBootKey(s string) (BootKey, error) {
	if !bootKeyRE.MatchString(s) {
		return "", fmt.Errorf("%w: want 64 hex digits, got %d characters", ErrBadBootKey, len(s))
	}
	return BootKey(s), nil
}

// NewBootKey makes the key of a boot from 16 bytes that cannot be guessed.
func NewBootKey(b BootID, secret [16]byte) BootKey {
	return BootKey(string(b) + hex.EncodeToString(secret[:]))
}

// ID is the boot that the key is of.
func (k BootKey) ID() BootID { return BootID(k[:min(len(k), 32)]) }

var anyBootKeyRE = regexp.MustCompile(`(/b/|` + ArgBoot + `=)([0-9a-f]{8})[0-9a-f]{24,56}`)

// HideBootKeys shortens every boot key in a text: in URLs, and in kernel
// command lines, which kernels log.
func HideBootKeys(text string) string { return anyBootKeyRE.ReplaceAllString(text, "${1}${2}…") }

// NewBootID makes a BootID from 16 random bytes that the caller drew.
func NewBootID(random [16]byte) BootID { return BootID(hex.EncodeToString(random[:])) }

// sharedUUIDs are UUIDs, without dashes, that many boards have: vendors did not
// replace their template.
var sharedUUIDs = map[string]bool{
	"03000200040005000006000700080009": true, // AMI's template
	"00020003000400050006000700080009": true, // the same in network order
	"123456781234567890abcddeefaabbcc": true, // a template of several vendors
	"4c4c454400002010802080c04f202020": true, // Dell, with a blank service tag
}

// PlausibleUUID normalises an SMBIOS system UUID (DSP0134, section 7.2.1) to
// lower case and returns "" for those that boards are known to share: one byte
// repeated, as all zeros and all F, and the templates of vendors.
func PlausibleUUID(s string) string {
	u := strings.ToLower(strings.TrimSpace(s))
	digits := strings.ReplaceAll(u, "-", "")
	if len(digits) != 32 || strings.Trim(digits, "0123456789abcdef") != "" {
		return ""
	}
	if strings.Count(digits, digits[:2]) == 16 || sharedUUIDs[digits] {
		return ""
	}
	return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:]
}

// blankSerials are what vendors write where a serial number is missing, in
// lower case and without dots.
var blankSerials = map[string]bool{
	"none":                     true,
	"n/a":                      true,
	"na":                       true,
	"null":                     true,
	"unknown":                  true,
	"invalid":                  true,
	"default string":           true,
	"default":                  true,
	"not specified":            true,
	"not available":            true,
	"not applicable":           true,
	"not present":              true,
	"not defined":              true,
	"oem":                      true,
	"to be filled by oem":      true,
	"serial number":            true,
	"system serial number":     true,
	"chassis serial number":    true,
	"base board serial number": true,
	"0123456789":               true,
	"123456789":                true,
	"1234567890":               true,
	"12345678":                 true,
	"123456":                   true,
}

// PlausibleSerial returns "" for the placeholders that vendors write in place of
// serial numbers: known phrases, and one character repeated.
func PlausibleSerial(s string) string {
	t := strings.TrimSpace(s)
	plain := strings.ReplaceAll(strings.ToLower(t), ".", "")
	if plain == "" || blankSerials[plain] || strings.Trim(plain, plain[:1]) == "" {
		return ""
	}
	return t
}
