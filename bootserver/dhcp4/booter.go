package dhcp4

import (
	"net/netip"

	"ingot"
	"ingot/bootserver/fleet"
)

// Booter decides what a client boots.
type Booter interface {
	// Who says what the fleet knows of a client, by card and UUID.
	Who(mac, uuid string) Who
	// Seen is told of every packet of firmware, loaders and ingot-init that will
	// be answered, and says what it boots. What it returns is durable.
	Seen(Sighting) (Boot, error)
	// Would says what Seen would, and records nothing.
	Would(Sighting) (Boot, error)
}

// Who is a machine of the fleet. The zero Who is a stranger.
type Who struct {
	ID       ingot.MachineID
	Name     string
	UUID     string
	MACs     []string
	Approved bool
}

// Sighting is a client that asks for something to boot.
type Sighting struct {
	Client
	Address netip.Addr // its own; zero while another server has not given it one
	Server  netip.Addr // ours, as it sees us
	Port    fleet.SwitchPort
	Loaders []string // first stages to try, the preferred one first
	Proxy   bool     // another server gives it its address
	Asks    bool     // it starts over (DHCPDISCOVER)
}

// Boot is what a client boots: a file by TFTP, or a URL.
type Boot struct {
	Loader string
	Size   int // of the loader, in bytes
	URL    string
}
