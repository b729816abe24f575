// Package uuid derives UUIDs from digests, so that the same image has the same identifiers wherever
// it is made: version 8 of RFC 9562, section 5.8, whose value is what the application chooses.
package uuid

import (
	"encoding/hex"
	"fmt"

	"ingot"
)

// UUID is a UUID in network byte order.
type UUID [16]byte

// From returns the first 128 bits of a digest with version 8 and the variant of RFC 9562 set in it.
func From(d ingot.Digest) (u UUID) {
	_, _ = hex.Decode(u[:], []byte(d.Hex()[:32])) // cannot fail: a digest is hex digits
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return u
}

// String returns the UUID in lower case, "xxxxxxxx-xxxx-8xxx-xxxx-xxxxxxxxxxxx".
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
