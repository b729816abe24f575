package explain

import (
	"fmt"
	"time"

	"ingot"
	"ingot/bootserver/fleet"
)

// Hardware is what a machine reported at a boot.
type Hardware struct {
	At    time.Time
	Facts ingot.Facts
}

// lostMemory says how much memory a machine lost since its boot with the most; empty if it lost none.
func (s Story) lostMemory() string {
	lost := fleet.LostMemory(s.Most.Facts, s.Machine.Facts)
	if lost == "" || !sameBoard(s.Most.Facts, s.Machine.Facts) {
		return ""
	}
	return fmt.Sprintf("the machine %s since its boot at %s: a memory module may be broken, missing or disabled by the "+
		"firmware", lost, s.at(s.Most.At))
}

// sameBoard reports whether nothing that two boots reported says that the board was replaced.
func sameBoard(a, b ingot.Facts) bool {
	same := func(x, y string) bool { return x == "" || y == "" || x == y }
	return same(ingot.PlausibleUUID(a.UUID), ingot.PlausibleUUID(b.UUID)) &&
		same(ingot.PlausibleSerial(a.Serial), ingot.PlausibleSerial(b.Serial))
}
