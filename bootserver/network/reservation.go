package network

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"ingot"
)

// Reservation is a machine that is known beforehand, by one of its identifiers or the name
// that operators gave it, and the address that is reserved for it.
type Reservation struct {
	MAC     string
	UUID    string // SMBIOS
	DUID    string // hexadecimal; of DHCPv6 alone
	Name    string
	Address netip.Addr // invalid: it gets one from a pool
}

// String returns how operators identify the machine.
func (r Reservation) String() string {
	for _, k := range []string{r.MAC, r.UUID, r.DUID} {
		if k != "" {
			return k
		}
	}
	return r.Name
}

// Key returns the key of the machine in a Site: the same for every spelling.
func (r Reservation) Key() string {
	switch {
	case r.MAC != "":
		if mac, err := ingot.ParseMAC(r.MAC); err == nil {
			return mac
		}
	case r.UUID != "":
		if u := ingot.PlausibleUUID(r.UUID); u != "" {
			return u
		}
	case r.DUID != "":
		return "duid:" + strings.ToLower(strings.ReplaceAll(r.DUID, ":", ""))
	}
	return strings.ToLower(r.String())
}

func (r Reservation) check(f *Faults, where string, family Family) {
	given := 0
	for _, k := range []string{r.MAC, r.UUID, r.DUID, r.Name} {
		if k != "" {
			given++
		}
	}
	switch {
	case given != 1 && family == IPv4:
		f.Add(where, "a machine needs exactly one of mac, uuid and name")
	case given != 1:
		f.Add(where, "a machine needs exactly one of mac, uuid, duid and name")
	}
	if _, err := ingot.ParseMAC(r.MAC); r.MAC != "" && err != nil {
		f.Add(where, "%w; write 52:54:00:12:34:56", err)
	}
	if r.UUID != "" && ingot.PlausibleUUID(r.UUID) == "" {
		f.Add(where, "%q is not a UUID that identifies a machine; use the MAC address", r.UUID)
	}
	if b, err := unhex(r.DUID); err != nil || r.DUID != "" && (len(b) < 3 || len(b) > 130) {
		f.Add(where, "%q is not a DUID; write 3 to 130 bytes in hexadecimal (RFC 8415 section 11)", r.DUID)
	}
}

func unhex(s string) ([]byte, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil {
		return nil, fmt.Errorf("%q is not hexadecimal", s)
	}
	return b, nil
}
