package fleet

import (
	"net/netip"
	"time"
)

// Other is a DHCP server that is not ours and answered a machine.
type Other struct {
	Address netip.Addr
	At      time.Time
}

// Story is all that an explanation is made of.
type Story struct {
	Machine    Machine
	Boots      []Boot           // the latest ones, oldest first
	Needed     map[string]int64 // bytes of kernel, initramfs and root of the latest boot's image
	Unservable string           // why what it is to boot cannot be served
	Others     []Other
	Policy     Policy
	Now        time.Time
}

// Why explains in a paragraph how a machine is, the cause first, and says what
// may be typed next.
func Why(s Story) (words string, next []string) { return "", nil }
