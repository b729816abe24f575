package state

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

// Place is the position of a boot among those of its machine, or among all, in the order
// in which they began. It stays valid when the boot itself is removed. The zero Place is
// after the newest boot.
type Place struct{ key string }

// idDigits is the length of a boot's id.
const idDigits = 32

// PlaceOf returns the place of a boot among its machine's boots, or among all.
func PlaceOf(b fleet.Boot, all bool) Place {
	order := uint64(max(b.Number, 0))
	if all {
		order = timeOrder(b.Started)
	}
	return Place{string(binary.BigEndian.AppendUint64(nil, order)) + string(b.ID)}
}

// timeOrder sorts times as numbers, in nanoseconds since 1970.
func timeOrder(t time.Time) uint64 { return uint64(max(t.UnixNano(), 0)) }

// Key sorts places as bytes: 8 bytes, big-endian, of the boot's number or of its start in
// nanoseconds, and the boot's id. It is empty for the zero Place.
func (p Place) Key() string { return p.key }

// String returns a text for ParsePlace.
func (p Place) String() string {
	if p == (Place{}) {
		return ""
	}
	return hex.EncodeToString([]byte(p.key[:8])) + p.key[8:]
}

// ParsePlace reads what String wrote.
func ParsePlace(text string) (Place, error) {
	if text == "" {
		return Place{}, nil
	}
	if len(text) != 16+idDigits {
		return Place{}, fmt.Errorf("%w: %q", ErrPlace, text)
	}
	n, err := hex.DecodeString(text[:16])
	if err != nil {
		return Place{}, fmt.Errorf("%w: %q", ErrPlace, text)
	}
	return Place{string(n) + text[16:]}, nil
}

// IDOf returns the boot at the end of a key that ends as Place.Key does.
func IDOf(key []byte) ingot.BootID { return ingot.BootID(key[max(0, len(key)-idDigits):]) }
